"""Words of an expression after its image was mirrored left to right."""

from __future__ import annotations

import re

_PAIRS = (
    ("left", "right"),
    ("leftmost", "rightmost"),
    ("lefthand", "righthand"),
    ("leftward", "rightward"),
    ("leftwards", "rightwards"),
    ("lefty", "righty"),
    ("lefties", "righties"),
    ("lefts", "rights"),
)
SWAPPED = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
"""Words that change places; parts of hyphenated words ("left-hand", "top-right") are words too."""

_SIDE = re.compile(
    r"\b(?:on|to|from|far|upper|lower|top|bottom|middle|front|back)[ ]+(?:the[ ]+)?(?:left|right)\b",
    re.IGNORECASE,
)
"""Surely a side, whatever follows."""

_NO_SIDE_AFTER_RIGHT = (
    "about above across after ahead among angle angles answer around at away back before behind below "
    "beneath beside between by down here in next now off on onto out over there through to under "
    "underneath up way where"
)
_NO_SIDE_BEFORE_LEFT = (
    "is are was were be been being has have had get gets got only who nothing just what whats what's one's"
)
_NO_SIDE_AFTER_LEFT = "alone behind by in on open out over overs to unattended with without"
_UNSURE = (
    # "right behind the bus" is no side, and "right way up" none either; "right in" may be one.
    rf"right[ ]+(?:{_NO_SIDE_AFTER_RIGHT.replace(' ', '|')})\b",
    r"(?:all|just|not|quite)[ ]+right\b",
    # "the piece that is left", "left over", "left alone": what remains.
    rf"(?:{_NO_SIDE_BEFORE_LEFT.replace(' ', '|')})[ ]+left\b(?![ ]+of\b)",
    rf"left[ ]+(?:{_NO_SIDE_AFTER_LEFT.replace(' ', '|')})\b",
    r"leftovers?\b",
    # Abbreviations and slips of the pen, clocks, compass: not worth a guess.
    r"(?:l|r|lft|lt|rt|rght|rgt|lhs|rhs|lefft|rigth|rigt)\b",
    r"(?:counter|anti)?-?clockwise\b|o'?[ ]?clock\b",
    r"(?:north|south)?-?(?:east|west)(?:ern)?\b",
    r"starboard\b|(?:driver|passenger)(?:'s)?[ -]side\b",
    # Writing is mirrored with the image, and nobody reads it any more.
    r"(?:numbers?|numerals?|digits?|letters?|letter(?:ed|ing)|words?|text|writ(?:ten|ing)|logos?)\b",
    r"(?:initials?|says?|saying|said|spells?|spelling|labell?ed|read(?:s|ing)?|titled?)\b",
)
_UNSURE_PATTERN = re.compile(rf"(?<!\w)(?:{'|'.join(_UNSURE)})|[\"“”#]|(?<![\w.])\d+(?!\w)", re.IGNORECASE)
_GLUED = re.compile(r"[^\W_]*(?:left|right)[^\W_]*", re.IGNORECASE)
_NO_SIDE = re.compile(r"(?:al|b|copy|f|up|w)right\w*", re.IGNORECASE)
"""Words with "right" inside that say nothing about sides: bright, upright, …"""

_WORD = re.compile(
    rf"(?<![^\W_])(?:{'|'.join(sorted(SWAPPED, key=len, reverse=True))})(?![^\W_])", re.IGNORECASE
)


def mirror_words(text: str) -> str | None:
    """Text that is true of the mirrored image where `text` is true of the image.

    "left" and "right" and their kin change places word by word; capitals stay. A body's own sides change too:
    the mirrored left hand looks like a right hand.

    None where the swap may be wrong: "right" may mean straight or correct ("right behind the bus"), "left"
    may mean what remains ("the last slice left on the plate"); abbreviations ("guy on l"), words run together
    ("leftside", "topright"), clock and compass directions; writing and numbers, which a mirrored image shows
    the wrong way round. Such an expression is not used with a mirrored image. The rule prefers to give up too
    often.

    Example:
        >>> mirror_words("second from left, right-hand side"), mirror_words("dog right behind the bus")
        ('second from right, left-hand side', None)
    """
    if _UNSURE_PATTERN.search(_SIDE.sub("", text)):
        return None
    if any(word.lower() not in SWAPPED and not _NO_SIDE.fullmatch(word) for word in _GLUED.findall(text)):
        return None
    return _WORD.sub(lambda word: _like(word.group(), SWAPPED[word.group().lower()]), text)


def _like(pattern: str, word: str) -> str:
    """The word in the case of another one."""
    if pattern.isupper():
        return word.upper()
    return word.capitalize() if pattern[0].isupper() else word
