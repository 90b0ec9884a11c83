"""Wording of questions and answers around a mask text.

The first three entries of each list are those of Text4Seg (arXiv 2410.09855), word for word, because public
checkpoints were trained on them. The other entries are our own words.
"""

from __future__ import annotations

import re

from llava.constants import IMAGE_TOKEN, SEG_CLOSE, SEG_OPEN

PLACEHOLDER = "[class_name]"
"""Where a template takes the referring expression (Text4Seg)."""

QUESTION_PARTIAL = (
    "Please segment only the [class_name] in the image.",
    "Can you segment the [class_name] in the image?",
    "Where is the [class_name] in this picture? Please respond with segmentation mask.",
    "Mark the region of '[class_name]' in this image with a mask.",
    "Which part of the image shows '[class_name]'? Answer with a segmentation mask.",
    "I need a mask of the [class_name], and of nothing else.",
)
"""Questions about one expression. Training draws among them; evaluation uses `EVAL_QUESTION`."""

ANSWER_PARTIAL = (
    "Sure, here is the segmentation mask for '[class_name]':",
    "Here is the segmentation map focusing on the [class_name]:",
    "The segmentation mask for '[class_name]' is shown below:",
    "Of course, this mask covers the [class_name]:",
    "This is the mask of '[class_name]':",
    "The [class_name] takes up this part of the image:",
    "Done, the region of '[class_name]' is marked here:",
    "Below you find the mask that belongs to '[class_name]':",
    "I have marked only the [class_name]:",
)
"""Sentences that stand before the mask text of one expression."""

EVAL_QUESTION = QUESTION_PARTIAL[0]
"""The one fixed question of evaluation and inference, so that a score does not depend on a draw."""

_ARTICLE = "the "
_TAGS = re.compile(rf"(?:\s*(?:{IMAGE_TOKEN}|{SEG_OPEN}|{SEG_CLOSE})\s*)+")


def normalise_expression(text: str) -> str:
    """Expression as the model reads it: lower case, no space at either end, no tag of ours inside.

    Training records and evaluation both pass through here, so that they cannot differ. A tag (`<image>`,
    `<seg>`, `</seg>`) inside an expression would be read as the place of an image or a mask; it becomes a
    space.

    Example:
        >>> normalise_expression(" The Left dog ")
        'the left dog'
    """
    return _TAGS.sub(" ", text.lower()).strip()


def fill(template: str, class_name: str) -> str:
    """Template with the expression in every placeholder.

    An expression that brings its own "the" does not repeat the one in front of the placeholder.

    Args:
        template: text with at least one `[class_name]`.
        class_name: what to put there; taken as it is, apart from the article.

    Raises:
        ValueError: the template has no placeholder, or the expression is empty.

    Example:
        >>> fill("Please segment only the [class_name] in the image.", "the left dog")
        'Please segment only the left dog in the image.'
    """
    if PLACEHOLDER not in template:
        raise ValueError(f"template {template!r} has no {PLACEHOLDER}; put it where the expression belongs")
    if not class_name.strip():
        raise ValueError("the expression is empty; name what to segment, for example 'the red car'")
    bare = class_name[len(_ARTICLE) :].lstrip() if class_name.lower().startswith(_ARTICLE) else ""
    parts = template.split(PLACEHOLDER)
    text = parts[0]
    for part in parts[1:]:
        repeated = bare and _ends_with_article(text)
        text += (bare if repeated else class_name) + part
    return text


def _ends_with_article(text: str) -> bool:
    """True where the text so far ends in the word "the" and a space."""
    return text.lower() == _ARTICLE or text.lower().endswith(" " + _ARTICLE)
