r"""What may come next inside a block of a box-wise mask, for decoding that cannot go wrong.

The language is exactly what `write_block` writes, and every block in it is read without a fault, also in
strict reading. Text is taken in pieces: a tag or a brick is one piece, everything else goes by characters, so
that the rules fit any tokenizer that has the tokens of `BRICK_TOKENS`:

    <ref>  words  </ref>  <box>  (x0,y0),(x1,y1) or nothing  </box>  <seg>  bricks or nothing  </seg>

One space in front of the words and of the box is let through, as some tokenizers write it behind a token.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

from llava.codec.boxes import BOX_STEPS
from llava.codec.bricks import check_order
from llava.codec.grid import check_sides
from llava.codec.labels import UNNAMED, UNWRITABLE
from llava.constants import (
    BACKGROUND_BRICKS,
    BOX_CLOSE,
    BOX_OPEN,
    BRICK_TOKENS,
    FOREGROUND_BRICKS,
    LONGEST_BRICK,
    REF_CLOSE,
    REF_OPEN,
    SEG_CLOSE,
    SEG_OPEN,
)

LONGEST_LABEL = 200
"""Most characters of the words of a block, as in `clean_reference`."""

_NOT_IN_WORDS = re.compile(rf"[<>]|[^\S ]|  |{UNWRITABLE.pattern}")

_PIECE = re.compile("|".join([*map(re.escape, BRICK_TOKENS), "(?s:.)"]))
_BRICKS = {
    token: (kind, cells)
    for kind, tokens in (("f", FOREGROUND_BRICKS), ("b", BACKGROUND_BRICKS))
    for cells, token in enumerate(tokens, start=1)
}
_SEPARATORS = ("(", ",", "),(", ",", ")")
_DIGITS = "0123456789"


@dataclass(frozen=True)
class BlockState:
    """How far a block is written.

    Attributes:
        part: "start" in front of `<ref>`, "ref", "box" or "seg" between the tags, "to_box", "to_seg" in front
            of an opening one, "end" behind `</seg>`.
        text: words or box so far.
        absent: the box is empty.
        line: lines of cells that are complete; raster-like orders have a single line.
        position: cells written in the line.
        last: kind of the last brick, "f" or "b"; behind a line break "f" if its line had foreground.
        full: the last brick has 63 cells, so that its own kind may follow.
        foreground: a foreground brick is written.
    """

    part: str = "start"
    text: str = ""
    absent: bool = False
    line: int = 0
    position: int = 0
    last: str = ""
    full: bool = False
    foreground: bool = False

    @property
    def letters(self) -> int:
        """Characters of the words so far, without the space that is let through in front of them."""
        return len(self.text.removeprefix(" "))


@dataclass(frozen=True)
class BlockRules:
    """The language of a block.

    Attributes:
        grid_hw: rows and columns of cells.
        order: one of `BRICK_ORDERS`.
        tail: whether the background behind the last foreground is written.

    Example:
        >>> rules = BlockRules((1, 4))
        >>> state = rules.advance(BlockState(), "<ref>dog</ref><box>(0,0),(9,9)</box><seg><b1>")
        >>> rules.tokens(state)
        ('<f1>', '<f2>', '<f3>')
        >>> rules.finish(state)
        '<f1><b2></seg>'

    Source: ours.
    """

    grid_hw: tuple[int, int]
    order: str = "raster"
    tail: bool = True

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "grid_hw", check_sides(self.grid_hw, "grid_hw"))
        check_order(self.order)

    @property
    def separated(self) -> bool:
        """Whether lines end with a line break."""
        return self.order == "rows_separated"

    @property
    def lines_wh(self) -> tuple[int, int]:
        """Cells of a line that no brick crosses the end of, and number of lines."""
        rows, columns = self.grid_hw
        return (columns, rows) if self.order in ("rows", "rows_separated") else (rows * columns, 1)

    def advance(self, state: BlockState, text: str) -> BlockState | None:
        """State behind a text, or None where the rules forbid it.

        Args:
            state: what is written so far.
            text: what comes next, any number of pieces.
        """
        after: BlockState | None = state
        for piece in _PIECE.findall(text):
            after = self._step(after, piece) if after else None
        return after

    def tokens(self, state: BlockState) -> tuple[str, ...]:
        """Tags and bricks that may come next, and the line break of "rows_separated"."""
        if state.part in _ONLY:
            return (_ONLY[state.part],)
        if state.part == "ref":
            return (REF_CLOSE,) if state.text.strip() else ()
        if state.part == "box":
            return (BOX_CLOSE,) if not state.text.strip() or not box_characters(state.text) else ()
        if state.part == "end":
            return ()
        inside, outside = self.longest_bricks(state)
        ends = (SEG_CLOSE,) * self._may_close(state) + ("\n",) * self._may_break(state)
        return (*FOREGROUND_BRICKS[:inside], *BACKGROUND_BRICKS[:outside], *ends)

    def forced(self, state: BlockState) -> str:
        """Tag, brick, line break or character that is the only one to come next; "" where there is a choice.

        The space that is let through in front of words and boxes counts as no choice.
        """
        tokens = self.tokens(state)
        characters = box_characters(state.text) if state.part == "box" else ""
        if state.part == "ref" and state.letters < LONGEST_LABEL:
            return ""
        options = (*tokens, *characters)
        return options[0] if len(options) == 1 else ""

    def longest_bricks(self, state: BlockState) -> tuple[int, int]:
        """Most cells of a foreground and of a background brick that may come next, 0 where none may."""
        width, lines = self.lines_wh
        left = width - state.position
        if state.part != "seg" or state.absent or state.line == lines or not left:
            return 0, 0
        # Background must leave room for a foreground that has to come behind it on the same line.
        is_last = state.line == lines - 1
        owed = self.separated or is_last if not self.tail else is_last and not state.foreground
        either = not state.position or state.full
        inside = min(left, LONGEST_BRICK) if either or state.last == "b" else 0
        outside = min(left - owed, LONGEST_BRICK) if either or state.last == "f" else 0
        return inside, outside

    def finish(self, state: BlockState) -> str:
        """Shortest text, in tokens, that ends the block: as an absent target where no box has begun."""
        if state.part == "start":
            return f"{REF_OPEN}{self.finish(BlockState('ref'))}"
        if state.part == "ref":
            return ("" if state.text.strip() else UNNAMED) + REF_CLOSE + self.finish(BlockState("to_box"))
        if state.part == "to_box":
            return BOX_OPEN + self.finish(BlockState("box"))
        if state.part == "box":
            rest = _box_rest(state.text) if state.text.strip() else ""
            return rest + BOX_CLOSE + self.finish(BlockState("to_seg", absent=not state.text.strip()))
        if state.part == "to_seg":
            return SEG_OPEN + self._finish_bricks(BlockState("seg", absent=state.absent))
        return self._finish_bricks(state) if state.part == "seg" else ""

    def _finish_bricks(self, state: BlockState) -> str:
        """Fewest bricks to the end: foreground only where the rules want it."""
        text = ""
        while not self._may_close(state):
            inside, outside = self.longest_bricks(state)
            if self._may_break(state) and (state.position or self.tail):
                piece = "\n"
            elif outside and (self.tail or not inside):
                piece = BACKGROUND_BRICKS[outside - 1]
            else:
                piece = FOREGROUND_BRICKS[0]
            state = self._behind(state, piece)
            text += piece
        return text + SEG_CLOSE

    def _step(self, state: BlockState, piece: str) -> BlockState | None:
        """State behind one piece."""
        if piece == "\n" or piece in _TAGS_AND_BRICKS:
            return self._behind(state, piece) if piece in self.tokens(state) else None
        if state.part == "box" and (piece in box_characters(state.text) or (piece == " " and not state.text)):
            return replace(state, text=state.text + piece)
        if state.part == "ref" and state.letters < LONGEST_LABEL and can_be_words(state.text[-1:] + piece):
            return replace(state, text=state.text + piece)
        return None

    def _behind(self, state: BlockState, token: str) -> BlockState:
        """State behind a tag, a brick or a line break that may come next."""
        if token in _BRICKS:
            return self._behind_brick(state, *_BRICKS[token])
        if token == "\n":
            last = "f" if state.position else ""
            return replace(state, line=state.line + 1, position=0, last=last, full=False)
        if token == BOX_CLOSE:
            return BlockState("to_seg", absent=not state.text.strip())
        if token == SEG_OPEN:
            return BlockState("seg", absent=state.absent)
        return BlockState(_AFTER[token])

    def _behind_brick(self, state: BlockState, kind: str, cells: int) -> BlockState:
        width, _ = self.lines_wh
        position, line = state.position + cells, state.line
        if position == width and not self.separated:
            position, line = 0, line + 1
        return replace(
            state,
            line=line,
            position=position,
            last=kind,
            full=cells == LONGEST_BRICK,
            foreground=state.foreground or kind == "f",
        )

    def _may_close(self, state: BlockState) -> bool:
        if state.part != "seg" or state.absent:
            return state.part == "seg"
        if state.line == self.lines_wh[1]:
            return True
        return not self.tail and state.last == "f" and not (self.separated and state.position)

    def _may_break(self, state: BlockState) -> bool:
        """Whether a line break may come next, in "rows_separated"."""
        width, lines = self.lines_wh
        if not self.separated or state.part != "seg" or state.absent or state.line == lines:
            return False
        if self.tail:
            return state.position == width
        return state.last == "f" if state.position else state.line < lines - 1


_ONLY = {"start": REF_OPEN, "to_box": BOX_OPEN, "to_seg": SEG_OPEN}
_AFTER = {REF_OPEN: "ref", REF_CLOSE: "to_box", BOX_OPEN: "box", SEG_CLOSE: "end"}
_TAGS_AND_BRICKS = frozenset(BRICK_TOKENS)


def can_be_words(text: str) -> bool:
    """Whether this may stand inside the words of a block: what `clean_reference` leaves as it is.

    Example:
        >>> can_be_words("d\u00f6g 's"), can_be_words("a  b"), can_be_words("a>")
        (True, False, False)
    """
    return not _NOT_IN_WORDS.search(text)


@functools.lru_cache(maxsize=4096)
def box_characters(text: str) -> str:
    """Characters that may come next in a box: digits and separators; "" behind a complete box.

    Args:
        text: the box so far, as these rules allow it.

    Example:
        >>> box_characters("(12,34),(1"), box_characters("(12,34),(13,9")
        ('0123456789', '0123456789')
        >>> box_characters("(600,34),("), box_characters("(0,0),(9,99)")
        ('6789', '')
    """
    text = text.lstrip()
    numbers: list[int] = []
    for separator in _SEPARATORS:
        if len(text) < len(separator):
            return separator[len(text)]
        text = text[len(separator) :]
        digits = re.match("[0-9]*", text)
        written = digits[0] if digits else ""
        text = text[len(written) :]
        if not text and len(numbers) < 4:
            low, high = _span(numbers)
            further = "".join(digit for digit in _DIGITS if _leads_to(written + digit, low, high))
            done = bool(written) and low <= int(written) <= high
            return further + (_SEPARATORS[len(numbers) + 1][0] if done else "")
        numbers.append(int(written or 0))
    return ""


def _span(numbers: list[int]) -> tuple[int, int]:
    """Least and greatest value of the next number of a box."""
    return (numbers[len(numbers) - 2] + 1, BOX_STEPS) if len(numbers) >= 2 else (0, BOX_STEPS - 1)


def _leads_to(written: str, low: int, high: int) -> bool:
    """Whether digits begin, or are, a number from `low` to `high` without a leading zero."""
    if written[0] == "0":
        return written == "0" and low == 0
    value, most = int(written), len(str(high)) - len(written)
    return any(value * 10**more <= high and (value + 1) * 10**more > low for more in range(most + 1))


def _box_rest(text: str) -> str:
    """Shortest end of a box that has begun: separators first, then the smallest number that fits."""
    rest = ""
    while characters := box_characters(text + rest):
        separators = characters.strip(_DIGITS)
        rest += separators or _quickest(text + rest, characters)
    return rest


def _quickest(text: str, digits: str) -> str:
    """Digit that ends a number soonest, the smallest of equals."""
    ends = [digit for digit in digits if box_characters(text + digit).strip(_DIGITS)]
    return (ends or list(digits))[0]
