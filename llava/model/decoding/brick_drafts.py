"""Guesses at what an answer with box-wise masks goes on with: pure functions of what is written.

A row of cells resembles the row above, so each cell is guessed to be what its neighbour is that was visited
first: the one above in raster order, the one to the left in columns. Where the newest run ended elsewhere
than that, the next run begins there and ends where it was expected to end.

On real masks an edge stays in its column more often than it moves by any other step, even behind a row in
which it moved: guesses that follow its drift take more passes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from llava.codec.bricks import BRICK, encode_bricks, scan
from llava.constants import LONGEST_BRICK, REF_OPEN, SEG_CLOSE
from llava.model.decoding.drafts import Hints, behind_colon, named

_Run = tuple[bool, int]
"""Whether a brick is foreground, and its cells."""


def draft_opening(text: str, hints: Hints) -> tuple[str, str] | None:
    r"""Rest of the sentence in front of a mask, and the words of the mask; None where there is no guess.

    Args:
        text: all that the answer has so far.
        hints: what is known of the answer.

    Example:
        >>> draft_opening("Here", Hints((8, 8), ("dog",), ("Sure:\n", "Here it is:\n")))
        (' it is:\n', 'dog')
    """
    for whole in (*(f"{sentence}{REF_OPEN}" for sentence in hints.sentences), behind_colon(text, REF_OPEN)):
        if whole and whole.startswith(text) and hints.labels:
            return whole[len(text) :].removesuffix(REF_OPEN), named(whole, hints.labels)[0]
    return None


def draft_bricks(text: str, grid_hw: tuple[int, int], *, order: str, tail: bool, rows: int) -> list[str]:
    r"""Probable next bricks of a mask with line breaks and closing tag; none where there is no guess.

    Args:
        text: all bricks so far.
        grid_hw: rows and columns of the box.
        order: one of `BRICK_ORDERS`.
        tail: whether the background behind the last foreground is written.
        rows: about how many rows, or columns, of cells to guess.

    Example:
        >>> draft_bricks("<b1><f2><b2>", (3, 4), order="raster", tail=False, rows=1)
        ['<f2>', '<b2>']
    """
    cells, last = _visited(text, grid_hw, order)
    place, total = len(cells), grid_hw[0] * grid_hw[1]
    earliest = earliest_neighbours(grid_hw, order)
    if not 0 < place < total or earliest[place] == place - 1:
        return _end(text, place, total)
    stride = grid_hw[0] if order == "columns" else grid_hw[1]
    if last is not None and last[1] < LONGEST_BRICK:
        _start_run(cells, earliest, not last[0], place + stride)
    while len(cells) < min(place + (rows + 1) * stride, total):
        cells.append(cells[earliest[len(cells)]])
    grid = np.zeros(total, bool)
    grid[scan(grid_hw, order)[: len(cells)]] = cells
    whole = encode_bricks(grid.reshape(grid_hw), order=order, tail=tail)
    if not whole.startswith(text):
        return []
    return _first(whole[len(text) :], rows * stride, ends=len(cells) == total)


@functools.lru_cache(maxsize=16)
def earliest_neighbours(grid_hw: tuple[int, int], order: str) -> list[int]:
    """For each visit the earliest visit among the cells above, below, left and right; -1 for the first visit.

    Example:
        >>> earliest_neighbours((2, 3), "raster")
        [-1, 0, 1, 0, 1, 2]
    """
    height, width = grid_hw
    visit = np.empty(height * width, np.int64)
    visit[scan(grid_hw, order)] = np.arange(visit.size)
    padded = np.pad(visit.reshape(grid_hw), 1, constant_values=visit.size)
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    first = np.minimum.reduce(around).ravel()[scan(grid_hw, order)]
    return [int(one) if one < own else own - 1 for own, one in enumerate(first.tolist())]


def _visited(text: str, grid_hw: tuple[int, int], order: str) -> tuple[list[bool], _Run | None]:
    """Cells that bricks say, in the order of the visit, and the brick after which a run must end."""
    cells: list[bool] = []
    run: _Run | None = None
    lines = text.split("\n") if order == "rows_separated" else [text]
    for number, line in enumerate(lines):
        for match in BRICK.finditer(line):
            run = match[1] == "f", int(match[2])
            cells += [run[0]] * run[1]
        if number < len(lines) - 1:
            cells += [False] * ((number + 1) * grid_hw[1] - len(cells))
    at_start = order.startswith("rows") and len(cells) % grid_hw[1] == 0
    return cells, None if at_start else run


def _start_run(cells: list[bool], earliest: Sequence[int], inside: bool, stop: int) -> None:
    """Begin a run where another was expected to go on: up to where that one was to end, else one cell."""
    expected: list[bool] = []
    stop = min(stop, len(earliest))
    for place in range(len(cells), stop):
        source = earliest[place]
        value = cells[source] if source < len(cells) else expected[source - len(cells)]
        if value == inside:
            cells += [inside] * len(expected)
            return
        expected.append(value)
    cells.append(inside)


def _end(text: str, place: int, total: int) -> list[str]:
    """The closing tag behind the last cell."""
    return [SEG_CLOSE] if text and place == total else []


def _first(rest: str, cells: int, *, ends: bool) -> list[str]:
    """Bricks of a text over some cells; with the closing tag where they are all of it and the mask `ends`."""
    found: list[str] = []
    place = covered = 0
    for match in BRICK.finditer(rest):
        if covered >= cells:
            return found
        found += [*rest[place : match.start()], match[0]]
        place = match.end()
        covered += int(match[2])
    if not ends:
        return found[:-1]
    return [*found, *rest[place:], SEG_CLOSE]
