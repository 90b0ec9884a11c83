"""Which words may stand for a region in a mask text."""

from __future__ import annotations

import re

from llava.constants import BACKGROUND

UNNAMED = "object"
"""Stands for a label of which nothing is left."""

NAMED_OTHERS = f"the {BACKGROUND}"
"""Stands for a region that is itself called "others", which in a mask text means background."""

_SEPARATOR = re.compile(r"</?seg>|\|")
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and halves of a UTF-16 pair: nothing that a model writes on purpose."""

_MARKUP = re.compile(rf"</?(?:ref|box|seg)>|<[fb][0-9]+>|[<>]|{UNWRITABLE.pattern}")
COUNT_MARK = re.compile(r"(?<!\S)\*+")
"""Stars at the start of a word; in a mask text they announce a count."""


def clean_label(label: str, *, strict: bool = False, max_length: int = 200) -> str:
    """Label as it may be written in a mask text.

    The rule, in this order:

    1. `|`, `<seg>` and `</seg>` become a space;
    2. stars at the start of a word go, for " *" announces a count ("M*A*S*H" stays);
    3. line breaks, tabs and runs of spaces become one space, outer spaces go;
    4. the text is cut to `max_length` characters;
    5. if nothing is left the label is "object";
    6. "others" becomes "the others", for "others" is the background.

    A cleaned label is left alone when cleaned again.

    Args:
        label: what the region is called.
        strict: refuse a label that the rule would change.
        max_length: characters kept, at least as many as "the others" has.

    Returns:
        The cleaned label.

    Raises:
        ValueError: `strict` and the label is not clean, or `max_length` is too small.

    Example:
        >>> clean_label("cat|dog"), clean_label("5 *3 sign"), clean_label("others")
        ('cat dog', '5 3 sign', 'the others')

    Source: ours. Text4Seg (arXiv 2410.09855) writes labels as they come, and loses the mask of these.
    """
    if max_length < len(NAMED_OTHERS):
        raise ValueError(
            f"max_length {max_length}: at least {len(NAMED_OTHERS)}, the length of {NAMED_OTHERS!r}"
        )
    words = COUNT_MARK.sub("", _SEPARATOR.sub(" ", label)).split()
    cleaned = " ".join(words)[:max_length].rstrip() or UNNAMED
    if cleaned == BACKGROUND:
        cleaned = NAMED_OTHERS
    if strict and cleaned != label:
        raise ValueError(
            f"label {label[:max_length]!r} cannot stand in a mask text as it is; "
            f"write {cleaned!r}, or leave strict off to have that done"
        )
    return cleaned


def clean_reference(words: str, *, max_length: int = 200) -> str:
    """Words as they may stand between `<ref>` and `</ref>`.

    Tags, bricks, single angle brackets and control characters become a space, runs of white space become
    one, the text is cut, and if nothing is left it is "object". Words cleaned once are left alone after that.

    Args:
        words: what the target is called.
        max_length: characters kept, at least 1.

    Example:
        >>> clean_reference("a <box>  left of|the *3 sign")
        'a left of|the *3 sign'

    Source: ours; the paper (Text4Seg++, arXiv 2509.06321) does not say.
    """
    return " ".join(_MARKUP.sub(" ", words).split())[: max(max_length, 1)].rstrip() or UNNAMED
