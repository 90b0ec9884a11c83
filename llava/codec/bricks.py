"""Cells of a box to semantic bricks, and back.

A brick is one token for a run of 1 to 63 cells, `<f12>` inside and `<b12>` outside. What a run is depends on
the order in which the cells are visited. The paper (Text4Seg++, arXiv 2509.06321) leaves that open; ours are:

    raster          row after row, runs cross from one row into the next
    rows            row after row, runs end where a row ends
    rows_separated  the same with a line break behind each row
    columns         raster of the transposed cells
    snake           row after row, every second one backwards
    hilbert         a Hilbert curve over the smallest square of 2^k cells that covers the grid

A run of more than 63 cells is written as bricks of 63 and then the rest. The background behind the last
foreground is written by default: it costs one token, and the sum of the bricks then tells every slip. Chosen
by `scripts/bench/brick_lengths.py`: at 64x64 raster takes 161 tokens on 67 objects of RefCOCO and 141 on 334
of COCO (the paper says 150), columns 160 and 145, snake 162 and 142, hilbert 191 and 180, rows 212 and 195,
rows_separated 218 and 198 without the background at the end, more where a line break takes two tokens. Only
rows_separated keeps a slip to its row: a brick a cell too long costs 4 IoU points in raster, 0.1 there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava.codec.grid import check_sides
from llava.codec.runs import Fault, quote
from llava.constants import BACKGROUND_BRICKS, FOREGROUND_BRICKS, LONGEST_BRICK
from llava.settings import BRICK_ORDERS
from llava.types import BoolArray, IntArray

BRICK = re.compile(r"<([fb])([0-9]+)>")
"""A brick of any length, known or not."""

_KINDS = (BACKGROUND_BRICKS, FOREGROUND_BRICKS)
_DIGITS = 12


def encode_bricks(cells: NDArray[Any], *, order: str = "raster", tail: bool = True) -> str:
    r"""Bricks that describe the cells of a box.

    Args:
        cells: (rows, columns), bool or numbers of which all but 0 are inside.
        order: one of `BRICK_ORDERS`.
        tail: write the background behind the last foreground; in "rows_separated" of every row.

    Returns:
        The text between `<seg>` and `</seg>`.

    Raises:
        ValueError: the cells are no grid, or the order is unknown.

    Example:
        >>> cells = np.array([[0, 1, 1], [1, 0, 0]])
        >>> encode_bricks(cells), encode_bricks(cells, order="rows_separated", tail=False)
        ('<b1><f3><b2>', '<b1><f2>\n<f1>\n')
    """
    cells = np.asarray(cells) != 0
    grid_hw = check_sides(cells.shape, "cells shape")
    visited = cells.ravel()[scan(grid_hw, order)]
    if order not in ("rows", "rows_separated"):
        return _write_line(visited, tail)
    rows = list(visited.reshape(grid_hw))
    while rows and not tail and not rows[-1].any():
        rows.pop()
    if order == "rows_separated":
        return "".join(f"{_write_line(row, tail)}\n" for row in rows)
    return "".join(_write_line(row, tail or row is not rows[-1]) for row in rows)


def decode_bricks(
    text: str, grid_hw: tuple[int, int], *, order: str = "raster", tail: bool = True, strict: bool = False
) -> tuple[BoolArray, tuple[Fault, ...]]:
    r"""Cells that a text of bricks describes. Reads any text; what is wrong with it is told in the faults.

    Inverse of `encode_bricks`. Spaces between bricks carry no meaning, nor do line breaks but those of
    "rows_separated". Cells of which nothing is said are background, cells too many are cut.

    Args:
        text: model text between the tags.
        grid_hw: rows and columns of the box.
        order: one of `BRICK_ORDERS`.
        tail: whether the writer writes the last background; then its lack is a fault.
        strict: also name neighbouring bricks that `encode_bricks` would have written as one.

    Returns:
        bool (rows, columns), and what was wrong.

    Raises:
        ValueError: `grid_hw` or `order` is wrong.

    Example:
        >>> cells, faults = decode_bricks("<b1><f3><b9>", (2, 3))
        >>> cells.tolist(), str(faults[0])
        ([[False, True, True], [True, False, False]], 'many_cells: bricks describe 13 cells, needed 6')
    """
    grid_hw = check_sides(grid_hw, "grid_hw")
    places = scan(grid_hw, order)
    visited = np.zeros(places.size, bool)
    faults: list[Fault] = []
    if order == "rows_separated":
        lines = text.removesuffix("\n").split("\n") if text.strip() else []
        for row, line in enumerate(lines[: grid_hw[0]]):
            _read_line(line, visited.reshape(grid_hw)[row], row=row, tail=tail, faults=faults)
        if len(lines) > grid_hw[0] or (tail and len(lines) < grid_hw[0]):
            kind = "few_rows" if len(lines) < grid_hw[0] else "many_rows"
            faults.append(Fault(kind, None, f"the bricks have {len(lines)} rows, needed {grid_hw[0]}"))
    else:
        _read_line(text, visited, row=None, tail=tail, faults=faults)
        lines = [text]
    if strict and order != "rows":
        faults += [fault for line in lines for fault in _split_runs(line)]
    cells = np.zeros(places.size, bool)
    cells[places] = visited
    return cells.reshape(grid_hw), tuple(faults)


@functools.lru_cache(maxsize=64)
def scan(grid_hw: tuple[int, int], order: str) -> IntArray:
    """Flat index of each cell in the order of the visit; int64 (rows * columns,), read-only.

    Raises:
        ValueError: the order is unknown.

    Example:
        >>> scan((2, 3), "snake").tolist()
        [0, 1, 2, 5, 4, 3]
    """
    check_order(order)
    places: IntArray = np.arange(grid_hw[0] * grid_hw[1]).reshape(grid_hw)
    if order == "columns":
        places = places.T
    elif order == "snake":
        places[1::2] = places[1::2, ::-1].copy()
    elif order == "hilbert":
        ys, xs = hilbert_curve((max(grid_hw) - 1).bit_length())
        inside = (ys < grid_hw[0]) & (xs < grid_hw[1])
        places = places[ys[inside], xs[inside]]
    places = places.ravel()
    places.setflags(write=False)
    return places


def hilbert_curve(level: int) -> tuple[IntArray, IntArray]:
    """Rows and columns of a Hilbert curve through 2^level x 2^level cells, from a corner along the top.

    Built by doubling: the curve is four copies of the smaller one, the first and the last transposed.

    Returns:
        Two int64 (4^level,).

    Example:
        >>> [axis.tolist() for axis in hilbert_curve(1)]
        [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    ys = xs = np.zeros(1, np.int64)
    for done in range(level):
        side = 1 << done
        far = 2 * side - 1
        ys, xs = (
            np.concatenate([xs, ys + side, ys + side, side - 1 - xs]),
            np.concatenate([ys, xs, xs + side, far - ys]),
        )
    return ys, xs


def brick_lengths(run: int) -> list[int]:
    """Cells of the bricks of one run: 63 as often as it goes, then the rest."""
    full, rest = divmod(run, LONGEST_BRICK)
    return [LONGEST_BRICK] * full + [rest] * (rest > 0)


def _write_line(visited: BoolArray, tail: bool) -> str:
    """Bricks of cells in the order of the visit."""
    edges = np.concatenate([[0], np.flatnonzero(visited[1:] != visited[:-1]) + 1, [visited.size]])
    kinds = visited[edges[:-1]].tolist()
    runs = list(zip(kinds, np.diff(edges).tolist(), strict=True))
    if not tail and not kinds[-1]:
        runs.pop()
    return "".join(_KINDS[kind][length - 1] for kind, run in runs for length in brick_lengths(run))


def _read_line(text: str, visited: BoolArray, *, row: int | None, tail: bool, faults: list[Fault]) -> None:
    """Mark the foreground of a line of bricks in `visited`, bool (cells,), and add what is wrong."""
    position = 0
    for kind, count in _read_bricks(text, row, faults):
        if kind == "f":
            visited[position : position + count] = True
        position += count
    if position > visited.size or (tail and position < visited.size):
        name = "many_cells" if position > visited.size else "few_cells"
        faults.append(Fault(name, row, f"bricks describe {position} cells, needed {visited.size}"))


def _read_bricks(text: str, row: int | None, faults: list[Fault]) -> Iterator[tuple[str, int]]:
    """Kind and cells of each readable brick; the others and what stands between them become faults."""
    end = 0
    for match in BRICK.finditer(text):
        _between(text[end : match.start()], row, faults)
        end = match.end()
        count = int(match[2][:_DIGITS])
        if match[2].startswith("0") or not 1 <= count <= LONGEST_BRICK:
            detail = f"{quote(match[0])} is no brick of 1 to {LONGEST_BRICK} cells"
            faults.append(Fault("unknown_brick", row, detail))
        else:
            yield match[1], count
    _between(text[end:], row, faults)


def _between(text: str, row: int | None, faults: list[Fault]) -> None:
    if text.strip():
        faults.append(Fault("unreadable_run", row, f"has no brick in {quote(text.strip())}"))


def _split_runs(line: str) -> Iterator[Fault]:
    """Neighbours of one kind where the first could have held more."""
    for (kind, count), (following, _) in pairwise(BRICK.findall(line)):
        if kind == following and count != str(LONGEST_BRICK):
            yield Fault("split_run", None, f"<{kind}{count}> stands before another {kind} brick")


def check_order(order: str) -> None:
    """Refuse an unknown order of bricks and name the known ones."""
    if order not in BRICK_ORDERS:
        raise ValueError(f"unknown brick order {order!r}; known: {', '.join(BRICK_ORDERS)}")
