r"""Guesses at what a model will write next, made from what it has written: pure functions of text.

A guess costs one pass through the model however long it is, and is kept as far as the model agrees, so that a
wrong one changes no answer. Rows of a mask resemble the rows above them: a guessed row repeats the row above.
Where the row being written has already left the guess, the rest is taken from the same column on.

In masks of real objects most edges stay in their column from row to row, also after a row in which they
moved: guesses that follow their drift, or that widen both sides alike, take more passes than plain copies.
A region that begins is guessed to have one cell: two or three take more passes. It is guessed to have ended
below a row that lost half of its cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llava.constants import BACKGROUND, SEG_CLOSE, SEG_OPEN

_RUN = re.compile(r"(.+?) \*([0-9]+)")
"""A finished run in the spelling of `llava.codec.encode`."""

PROMPT_ROWS = 16
"""Rows that are guessed in the pass of the prompt, which is long anyway."""
FIRST_ROWS, MOST_ROWS = 4, 8
"""Rows of the first guess behind the prompt, and of the longest: more would cost more than a pass saves.

In answers about 117 real masks on 16x16 cells with the tokenizer of Llama 2, two rows at first take 11.5
passes, four 10.5, whole masks 10.0, and put in 2.4, 3.2 and 6.5 guessed tokens for each one written
(scripts/bench/replay.py).
"""


class Run(NamedTuple):
    """Cells of one label in a row, up to the column `end`."""

    label: str
    end: int


Row = tuple[Run, ...]


@dataclass(frozen=True)
class Hints:
    """What is known before the first token.

    Attributes:
        grid_hw: rows and columns of the mask.
        labels: what the mask may call its region, the most probable name first.
        sentences: sentences that may stand before the mask, line break included.
        lead: what the model writes between the prompt and the answer.
    """

    grid_hw: tuple[int, int]
    labels: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    lead: str = ""


def draft(text: str, hints: Hints, *, rows: int = 1) -> str:
    r"""Probable continuation of an answer in R-RLE form.

    Args:
        text: all that the answer has so far; may stop in the middle of a word or a number.
        hints: what is known of the answer.
        rows: how many rows to guess, the unfinished one counted; rows of background may be more.

    Returns:
        Text to put behind `text`; "" where there is no guess.

    Example:
        >>> draft("Sure:\n<seg>others *1| dog *2| others *1\n others *1| d", Hints((3, 4), ("dog",)))
        'og *2| others *1\n'
    """
    sentence, opened, inside = text.rpartition(SEG_OPEN)
    if opened and SEG_CLOSE in inside:
        return ""
    if opened:
        return draft_rows(inside, hints.grid_hw, labels=named(sentence, hints.labels), rows=rows)
    for whole in (*(f"{sentence}{SEG_OPEN}" for sentence in hints.sentences), behind_colon(text, SEG_OPEN)):
        if whole and whole.startswith(text):
            first = draft_rows("", hints.grid_hw, labels=named(whole, hints.labels), rows=rows)
            return whole[len(text) :] + first
    return ""


def behind_colon(text: str, tag: str) -> str:
    """A sentence of other words, with the tag that follows its colon; "" where there is no colon yet."""
    end = f":\n{tag}"
    for size in range(len(end) - 1, 0, -1):
        if text.endswith(end[:size]):
            return text[:-size] + end
    return ""


def named(sentence: str, labels: Sequence[str]) -> list[str]:
    """The labels, those first that the sentence has in quotes."""
    return sorted(labels, key=lambda label: f"'{label}'" not in sentence)


def rows_after(rows: int, *, drafted: int, accepted: int) -> int:
    """How many rows to guess next: more after a guess that held, fewer after one that soon failed."""
    if drafted and accepted == drafted:
        return min(2 * rows, MOST_ROWS)
    return max(rows // 2, FIRST_ROWS) if 2 * accepted < drafted else rows


def draft_rows(text: str, grid_hw: tuple[int, int], *, labels: Sequence[str] = (), rows: int = 1) -> str:
    r"""Probable continuation of a mask text in R-RLE form, its closing tag included.

    Args:
        text: the mask behind its `<seg>`; may stop in the middle of a word or a number.
        grid_hw: rows and columns of the mask.
        labels: names to try for a region that was not named yet.
        rows: how many rows to guess, the unfinished one counted; rows of background may be more.

    Returns:
        Text to put behind `text`; "" where the mask has an unknown spelling or starts a new label.
    """
    height, width = grid_hw
    *lines, tail = text.split("\n")
    done: list[Row] = []
    for line in lines:
        row = read_row(line)
        if row is None or row[-1].end != width:
            return ""
        done.append(row)
    written, start = "", len(done)
    while len(done) < height and (len(done) < start + rows or _stays_empty(done, start)):
        rest = _rest_of_row(tail, done, width, labels)
        if rest is None:
            return written
        written += rest + "\n"
        row = read_row(tail + rest)
        if row is None:
            return written
        done.append(row)
        tail = ""
    closed = len(done) >= height
    # What stands behind the last row can only be the closing tag, or a part of it.
    return written + SEG_CLOSE[len(tail) :] if closed and SEG_CLOSE.startswith(tail) else written


def read_row(line: str) -> Row | None:
    """Runs of a written row, or of its finished first runs; None where the spelling is another."""
    row: list[Run] = []
    end = 0
    for piece in line.split("|"):
        match = _RUN.fullmatch(piece.removeprefix(" "))
        if match is None:
            return None
        end += int(match[2])
        row.append(Run(match[1], end))
    return tuple(row)


def _stays_empty(done: Sequence[Row], start: int) -> bool:
    """Whether to guess one more row of background, which is few tokens, behind the guesses from `start` on.

    Above the regions there are `MOST_ROWS` at most. Below them mostly all rows are empty.
    """
    is_above = not any(map(_cells, done))
    return not _cells(done[-1]) and (len(done) < start + MOST_ROWS or not is_above)


def _cells(row: Row) -> int:
    """Cells of a row that are in regions."""
    starts = (0, *(run.end for run in row))
    return sum(run.end - start for run, start in zip(row, starts, strict=False) if run.label != BACKGROUND)


def _vanishes(done: Sequence[Row]) -> bool:
    """Whether the newest row is so much shorter than the one above that its regions mostly end with it."""
    before, newest = (_cells(row) for row in done[-2:]) if len(done) > 1 else (0, 0)
    return 0 < 2 * newest <= before and before - newest > 1


def _rest_of_row(tail: str, done: Sequence[Row], width: int, labels: Sequence[str]) -> str | None:
    """What is missing of the row whose first part is `tail`, without its line break; None: no guess."""
    *pieces, last = tail.split("|")
    row = read_row("|".join(pieces)) if pieces else ()
    if row is None or (row and row[-1].end >= width):
        return None
    begun = bool(tail.strip())
    guess = done[-1] if done and (begun or not _vanishes(done)) else (Run(BACKGROUND, width),)
    lead = " " if pieces or done else ""
    known = _known_labels(done, row, labels)
    text = ""
    while True:
        start = row[-1].end if row else 0
        run = _continued(last, lead, _options(guess, row, start, known), start, width)
        if run is None:
            return None
        text += f"{lead}{run.label} *{run.end - start}"[len(last) :]
        row = (*row, run)
        if run.end == width:
            return text
        text, last, lead = text + "|", "", " "


def _known_labels(done: Sequence[Row], row: Row, labels: Sequence[str]) -> list[str]:
    """Labels in the order in which to try them: the newest first, then the hints and the background."""
    used = [run.label for one in (*done, row) for run in one]
    return [*dict.fromkeys([*reversed(used), *labels, BACKGROUND])]


def _options(guess: Row, row: Row, start: int, known: Sequence[str]) -> Iterator[Run]:
    """Runs that may follow `row` at the column `start`, the most probable one first.

    A region that the guess does not know of begins with one cell; background in its place fills the row.
    """
    above = [run for run in guess if run.end > start]
    if row and above[0].label == row[-1].label:
        # The run before stopped early. It was expected up to here; what follows it comes sooner.
        above = above[1:]
    yield from above
    for label in known:
        if not row or label != row[-1].label:
            yield Run(label, guess[-1].end if row and label == BACKGROUND else start + 1)


def _continued(last: str, lead: str, options: Iterator[Run], start: int, width: int) -> Run | None:
    """The first option that the written part `last` of a run allows."""
    for run in options:
        name = f"{lead}{run.label} *"
        if name.startswith(last):
            return run
        if last.startswith(name):
            end = _nearest_end(last[len(name) :], run.end, start, width)
            return None if end is None else Run(run.label, end)
    return None


def _nearest_end(digits: str, expected: int, start: int, width: int) -> int | None:
    """Where a run ends whose count begins with `digits`: about where it is expected, or with the row.

    Counts far from the expected one mean that the row has lost its region, where they can mean that.
    """
    ends = [end for end in range(start + 1, width + 1) if str(end - start).startswith(digits)]
    if not ends:
        return None
    nearest = min(ends, key=lambda end: abs(end - expected))
    return width if abs(nearest - expected) > 1 and width in ends else nearest
