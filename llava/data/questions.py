"""Words of a question: the fixed ones of evaluation, and how an expression becomes part of them."""

from __future__ import annotations

import re

from llava.constants import BRICK_TAGS, IMAGE_TOKEN
from llava.data.wording import CLASS_NAME, QUESTION, fill_places, load_wording

PLACEHOLDER = CLASS_NAME
"""Where a template takes the referring expression (Text4Seg)."""

QUESTION_PARTIAL = load_wording().question_partial
"""Questions about one expression. Training draws among them; evaluation uses `EVAL_QUESTION`."""

ANSWER_PARTIAL = load_wording().answer_partial
"""Sentences that stand before the mask text of one expression."""

EVAL_QUESTION = "Please segment only the [class_name] in the image."
"""The one fixed question of evaluation and inference, so that a score depends on no draw and no file."""

EVAL_WHOLE_QUESTION = f"{QUESTION} Please respond with a segmentation mask."
"""The one fixed form of evaluation for a whole question in the words of a dataset."""

EVAL_CLASSES = f"Please segment the image based on the category: {CLASS_NAME}."
"""The one fixed question of evaluation for a map of classes (Text4Seg), their names joined by `NAMES_BAR`."""

NAMES_BAR = "|"
"""Between the names of classes in a question (Text4Seg)."""

_TAGS = re.compile(rf"(?:\s*(?:{IMAGE_TOKEN}|{'|'.join(BRICK_TAGS)}|<[fb][0-9]{{1,2}}>)\s*)+", re.IGNORECASE)


def without_tags(text: str) -> str:
    """Text without tags of ours, which would be read as the place of an image, or as a mask or a part of one.

    Each (`<image>`, `<seg>`, `<box>`, `<ref>`, their ends, and bricks, in any case) becomes a space;
    spaces at either end go.
    """
    return _TAGS.sub(" ", text).strip()


def normalise_expression(text: str) -> str:
    """Expression as the model reads it: lower case, no space at either end, no tag of ours inside.

    Training records and evaluation both pass through here, so that they cannot differ.

    Example:
        >>> normalise_expression(" The Left dog ")
        'the left dog'
    """
    return without_tags(text.lower())


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
    return fill_places(template, {PLACEHOLDER: class_name})


def fill_whole_question(question: str) -> str:
    """Question of a dataset in the form that evaluation asks it.

    Raises:
        ValueError: the question is empty.

    Example:
        >>> fill_whole_question("What can one sit on?")
        'What can one sit on? Please respond with a segmentation mask.'
    """
    words = without_tags(question)
    if not words:
        raise ValueError("the question is empty; give one, for example 'What can one sit on?'")
    return fill_places(EVAL_WHOLE_QUESTION, {QUESTION: words})
