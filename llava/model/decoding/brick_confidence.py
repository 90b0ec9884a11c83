"""How sure a model was of each place of the image, from the probabilities of the bricks that it wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llava.codec.boxes import BOX_STEPS, Box
from llava.codec.bricks import BRICK, scan
from llava.constants import BOX_CLOSE, BOX_OPEN, SEG_OPEN
from llava.types import FloatArray

_BOX = re.compile(rf"{BOX_OPEN}\s*\((\d+),(\d+)\),\((\d+),(\d+)\){BOX_CLOSE}".encode())
_PIECE = re.compile(BRICK.pattern.encode() + rb"|\n")
_SEG = SEG_OPEN.encode()


def brick_confidence(
    text: bytes,
    spans: Sequence[tuple[int, float]],
    blocks: Sequence[tuple[int, int]],
    grid_hw: tuple[int, int],
    *,
    order: str = "raster",
) -> FloatArray:
    """Probability of each part of the image to be inside a box-wise mask.

    Bricks alternate, so that a brick decides the length of a run. A length of probability q leaves 1 - q to
    other lengths; half of that is given to a run shorter by one cell and half to a run longer by one, as in
    `cell_confidence`, where the cells before and behind the edge are neighbours. Foreground is believed as
    much as the token that opens the box, which decides that there is one; the numbers of a box are taken as
    written. Ours, the paper does not say.

    Args:
        text: bytes of the answer.
        spans: for each token, where its bytes start, and its probability.
        blocks: (start, end) of each finished block in `text`, without its first and last tag.
        grid_hw: rows and columns of the cells of a box, and of the result.
        order: in which order cells are written, one of `BRICK_ORDERS`.

    Returns:
        float32 (rows, columns) over the whole image: the mean over each part; of several blocks the highest
        value, all zero where there is none.
    """
    found = np.zeros(grid_hw)
    starts = np.array([start for start, _ in spans] or [0])
    chances = np.array([chance for _, chance in spans] or [1.0])
    for start, end in blocks:
        box = _BOX.search(text, start, end)
        if box is None:
            continue
        # The token that holds a byte is the last one that starts at it or before.
        opened = box.start() + len(BOX_OPEN)
        presence = chances[np.searchsorted(starts, opened, side="right") - 1]
        written = _written(text, text.find(_SEG, box.end(), end), end, grid_hw[1])
        places = np.searchsorted(starts, [place for *_, place in written], side="right") - 1
        runs = [(inside, cells) for inside, cells, _ in written]
        cells = presence * _cells(runs, chances[places], grid_hw, order)
        x0, y0, x1, y1 = (int(number) for number in box.groups())
        found = np.maximum(found, _spread(cells, (x0, y0, x1, y1)))
    return found.astype(np.float32)


def _written(text: bytes, start: int, end: int, width: int) -> list[tuple[bool, int, int]]:
    """Kind, cells and place of each brick; a line break stands for what its row of cells leaves unwritten."""
    runs: list[tuple[bool, int, int]] = []
    filled = lines = 0
    for match in _PIECE.finditer(text, start, end):
        if match[1]:
            inside, cells = match[1] == b"f", int(match[2])
        else:
            lines += 1
            inside, cells = False, lines * width - filled
        if cells:
            runs.append((inside, cells, match.start()))
        filled += cells
    return runs


def _cells(
    runs: Sequence[tuple[bool, int]], chances: NDArray[np.float64], grid_hw: tuple[int, int], order: str
) -> NDArray[np.float64]:
    """Probability of each cell of a box, (rows, columns); what is not written is background."""
    places = scan(grid_hw, order)
    levels = np.repeat([float(inside) for inside, _ in runs] or [0.0], [count for _, count in runs] or [0])
    visited = np.zeros(places.size)
    visited[: levels.size] = levels[: places.size]
    mixed = visited.copy()
    rows, columns = np.divmod(places, grid_hw[1])
    edge = 0
    for (_, count), chance in zip(runs, chances, strict=True):
        edge += count
        if edge >= places.size or visited[edge - 1] == visited[edge]:
            continue
        if abs(rows[edge] - rows[edge - 1]) + abs(columns[edge] - columns[edge - 1]) == 1:
            step = (1 - chance) / 2 * (visited[edge] - visited[edge - 1])
            mixed[edge - 1] += step
            mixed[edge] -= step
    cells = np.empty(places.size)
    cells[places] = mixed
    return cells.reshape(grid_hw)


def _spread(cells: NDArray[np.float64], box: Box) -> NDArray[np.float64]:
    """Mean over each part of the image, as many parts as a box has cells; zero outside the box."""
    x0, y0, x1, y1 = box
    down, across = (_shares(*side) for side in ((y0, y1, cells.shape[0]), (x0, x1, cells.shape[1])))
    spread: NDArray[np.float64] = down @ cells @ across.T
    return spread


def _shares(start: int, stop: int, count: int) -> NDArray[np.float64]:
    """Share of each part of the image's side that each cell of the box's side covers; (parts, cells)."""
    parts = np.arange(count + 1) * BOX_STEPS / count
    edges = start + np.arange(count + 1) * (stop - start) / count
    low, high = np.maximum(parts[:-1, None], edges[:-1]), np.minimum(parts[1:, None], edges[1:])
    return np.maximum(high - low, 0) * count / BOX_STEPS
