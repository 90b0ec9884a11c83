r"""Label grid to text, and back.

Three forms of the same 2x3 grid (arXiv 2410.09855 calls them R-RLE, full-length descriptors and I-RLE):

    rrle   "dog *2| others *1\n others *3\n"                     runs of each row, rows on lines
    full   "dog| dog| others| others| others| others"            every cell
    irle   "dog *2| others *4"                                   runs of the whole grid, row after row
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava.codec.grid import check_sides
from llava.codec.labels import COUNT_MARK, clean_label
from llava.constants import BACKGROUND
from llava.settings import CODECS
from llava.types import IntArray

FAULTS = {
    "no_mask": "the answer has no <seg>",
    "unclosed": "a <seg> has no </seg>; what is there was read",
    "few_rows": "rows are missing at the end; they were filled with background",
    "many_rows": "rows are left over at the end; they were dropped",
    "few_cells": "a row or the grid is too short; its end was filled with background",
    "many_cells": "a row or the grid is too long; its end was cut",
    "unreadable_run": "a run is not of the known form; it was left out",
    "bad_count": "a run has no cells or less than none; it was left out",
    "empty_label": "a run has no label; it was read as background",
    "unknown_brick": "a brick is of no known length; it was left out",
    "split_run": "neighbouring bricks of one kind could be one; told in strict reading only",
    "no_label": "a block has no words; it was called object",
    "no_box": "a block has no box; the whole image was taken",
    "unreadable_box": "a box is not four numbers; the whole image was taken",
    "box_spelling": "the four numbers of a box are not written as (x0,y0),(x1,y1); they were read",
    "box_outside": "a box leaves 0 to 999; it was cut",
    "box_inverted": "a box ends before it starts; its sides were swapped",
    "box_flat": "a box has no width or height; it was widened by one",
    "no_seg": "a block has no <seg>; it was left out",
    "unclosed_tag": "a <ref> or <box> has no end; what is there was read",
    "unopened": "a box or bricks stand outside of their tags; they were read",
    "no_foreground": "a box has no foreground inside; it marks nothing",
    "bricks_without_box": "bricks stand in a block whose box is empty; they were left out",
}
"""What can be wrong with an answer, and what was made of it."""

_RUN = re.compile(r"(.*)\*\s*([+-]?)([0-9]+)")
_DIGITS = 12
_QUOTED = 60


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a mask text.

    Attributes:
        kind: a key of `FAULTS`.
        row: row of the grid, from 0; None when the fault is not one row's.
        detail: what was found, in words.
    """

    kind: str
    row: int | None
    detail: str

    def __str__(self) -> str:
        place = "" if self.row is None else f"row {self.row + 1} "
        return f"{self.kind}: {place}{self.detail}"


@dataclass(frozen=True)
class Decoded:
    """What a mask text says.

    Attributes:
        grid: int64 (rows, columns), indices into `labels`.
        labels: "others", then the labels of the grid in order of first use.
        faults: what was wrong with the text; empty when nothing was.
    """

    grid: IntArray
    labels: tuple[str, ...]
    faults: tuple[Fault, ...] = ()


def encode(grid: IntArray, labels: Sequence[str], *, codec: str = "rrle", strict: bool = False) -> str:
    r"""Text that describes a label grid.

    Args:
        grid: int (rows, columns), indices into `labels`.
        labels: names of the regions; the first is "others", the rest go through `clean_label`.
            Labels that become equal by cleaning become one region.
        codec: "rrle", "full" or "irle".
        strict: refuse labels that would have to be cleaned.

    Returns:
        The text, without tags.

    Raises:
        ValueError: the grid is no such array, the labels do not fit it, or the codec is unknown.

    Example:
        >>> encode(np.array([[0, 1, 1], [0, 0, 0]]), ("others", "dog"))
        'others *1| dog *2\n others *3\n'

    Source: Text4Seg (arXiv 2410.09855), byte for byte, for "rrle". The other two follow its ablation.
    """
    check_codec(codec)
    grid = np.asarray(grid)
    check_sides(grid.shape, "grid shape")
    if not labels or labels[0] != BACKGROUND:
        raise ValueError(
            f"labels {list(labels)}: the first must be {BACKGROUND!r}, the name of the background"
        )
    if grid.dtype.kind not in "iu" or grid.min() < 0 or grid.max() >= len(labels):
        raise ValueError(
            f"grid of {grid.dtype} from {grid.min()} to {grid.max()}: "
            f"needed are whole numbers from 0 to {len(labels) - 1}, one for each label"
        )
    names = [BACKGROUND, *(clean_label(label, strict=strict) for label in labels[1:])]
    if codec == "full":
        return "| ".join([names[index] for index in grid.ravel().tolist()])
    if len(set(names)) < len(names):
        grid = np.array([names.index(name) for name in names])[grid]
    if codec == "irle":
        return _write_runs(grid.reshape(1, -1), names)
    return _write_runs(grid, names) + "\n"


def _write_runs(grid: IntArray, names: Sequence[str]) -> str:
    """Runs of each row of a grid of indices into different names, rows parted by line breaks."""
    is_start = np.empty(grid.shape, bool)
    is_start[:, 0] = True
    np.not_equal(grid[:, 1:], grid[:, :-1], out=is_start[:, 1:])
    starts = is_start.ravel().nonzero()[0]
    ends = np.empty_like(starts)
    ends[:-1], ends[-1] = starts[1:], grid.size
    # A run is what leads it in, by its name and by whether it starts a row, and its count.
    leads = [lead for name in names for lead in (f"| {name} *", f"\n {name} *")]
    which = grid.take(starts).astype(np.int64) * 2 + (starts % grid.shape[1] == 0)
    runs = [
        f"{leads[lead]}{count}" for lead, count in zip(which.tolist(), (ends - starts).tolist(), strict=True)
    ]
    return "".join(runs)[len("\n ") :]


def decode(text: str, grid_hw: tuple[int, int], *, codec: str = "rrle") -> Decoded:
    r"""Label grid that a text describes. Reads any text; what is wrong with it is told in the faults.

    Inverse of `encode` for every label that `clean_label` leaves alone. Repairs stay inside their row and
    never invent foreground: a cell of which nothing readable is said is background. Each becomes a fault.
    Spacing carries no meaning, so its variants ("dog*4", "dog * 4", "a *1|b *1", no space after a line break,
    empty lines) are read without a fault. In "full" and "irle" a line break separates like a bar.
    A half-written last run is left out, or read with the digits that it has. A row missing in the middle
    cannot be told from one missing at the end: the rows after it move up.

    Args:
        text: model text between the tags.
        grid_hw: rows and columns that the grid must have.
        codec: "rrle", "full" or "irle".

    Returns:
        The grid with its labels and faults.

    Raises:
        ValueError: `grid_hw` or `codec` is wrong.

    Example:
        >>> decoded = decode("others *1| dog *1\n dog *3\n", (2, 2))
        >>> decoded.grid.tolist(), str(decoded.faults[0])
        ([[0, 1], [1, 1]], "many_cells: row 2 describes 3 cells, needed 2: 'dog *3'")

    Source: Text4Seg (arXiv 2410.09855). Its decoder joins all rows before it counts, so that one wrong count
    shifts every later row, and drops the whole mask when one run cannot be read; ours does neither.
    """
    check_codec(codec)
    height, width = check_sides(grid_hw, "grid_hw")
    reader = _Reader(codec)
    if codec != "rrle":
        cells = np.zeros(height * width, np.int64)
        reader.fill(cells, text.strip().replace("\n", "|"), None)
        return reader.decoded(cells.reshape(height, width))
    grid = np.zeros((height, width), np.int64)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    for row, line in enumerate(lines[:height]):
        reader.fill(grid[row], line, row)
    if len(lines) != height:
        kind = "few_rows" if len(lines) < height else "many_rows"
        reader.fault(kind, None, f"the text has {len(lines)} rows, needed {height}")
    return reader.decoded(grid)


class _Reader:
    """Labels and faults met so far in one text."""

    def __init__(self, codec: str) -> None:
        self.counted = codec != "full"
        self.ids = {BACKGROUND: 0}
        self.faults: list[Fault] = []

    def fault(self, kind: str, row: int | None, detail: str) -> None:
        self.faults.append(Fault(kind, row, detail))

    def decoded(self, grid: IntArray) -> Decoded:
        return Decoded(grid, tuple(self.ids), tuple(self.faults))

    def fill(self, cells: IntArray, line: str, row: int | None) -> None:
        """Write the runs of one line into its cells, int64 (cells,) of zeros, from the left."""
        position = 0
        for piece in line.split("|") if line else ():
            label, count = self.read_run(piece, row)
            if count and position < cells.size:
                cells[position : position + count] = self.ids.setdefault(label, len(self.ids))
            position += count
        if position != cells.size:
            kind = "few_cells" if position < cells.size else "many_cells"
            self.fault(kind, row, f"describes {position} cells, needed {cells.size}: {quote(line)}")

    def read_run(self, piece: str, row: int | None) -> tuple[str, int]:
        """Label and number of cells of one run; no cells when it cannot be read."""
        match = _RUN.fullmatch(piece.rstrip()) if self.counted else None
        label = " ".join((match[1] if match else piece).split())
        if (self.counted and not match) or COUNT_MARK.search(label):
            self.fault("unreadable_run", row, f"has a run that cannot be read: {quote(piece)}")
            return BACKGROUND, 0
        # Twelve digits exceed any grid; int() itself refuses some thousands of them.
        count = int(match[3].lstrip("0")[:_DIGITS] or 0) if match else 1
        if not count or (match and match[2] == "-"):
            self.fault("bad_count", row, f"has a run without cells: {quote(piece)}")
            return BACKGROUND, 0
        if not label:
            self.fault("empty_label", row, f"has a run without a label: {quote(piece)}")
        return label or BACKGROUND, count


def quote(text: str) -> str:
    """Model text for a fault's detail, cut."""
    return repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "…")


def check_codec(codec: str) -> None:
    """Refuse an unknown codec and name the known ones."""
    if codec not in CODECS:
        raise ValueError(f"unknown codec {codec!r}; known: {', '.join(CODECS)}")
