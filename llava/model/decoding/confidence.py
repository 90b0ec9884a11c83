"""How sure a model was of each cell, from the probabilities of the tokens that it wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava.constants import BACKGROUND
from llava.types import FloatArray

_PIECE = re.compile(rb"[^|\n]+")
_COUNT = re.compile(rb" \*([0-9]+)$")


class _Run(NamedTuple):
    """Cells of one label, with the probability of label and count."""

    inside: bool
    cells: int
    label_chance: float
    count_chance: float


def cell_confidence(
    text: bytes,
    spans: Sequence[tuple[int, float]],
    blocks: Sequence[tuple[int, int]],
    grid_hw: tuple[int, int],
) -> FloatArray:
    """Probability of each cell to be inside a region.

    A run is a decision for its label and one for its length. A label of probability p makes its cells inside
    with p, background with 1 - p. A length of probability q leaves 1 - q to other lengths; half of that is
    given to a run shorter by one cell and half to a run longer by one, so that the cells on both sides of an
    edge mix. A decision of several tokens has the product of their probabilities; a token that spans label
    and count decides the count.

    Args:
        text: bytes of the answer.
        spans: for each token, where its bytes start, and its probability.
        blocks: (start, end) of each finished mask in `text`, without tags.
        grid_hw: rows and columns of the grid.

    Returns:
        float32 (rows, columns); of several masks the highest value, all zero where there is none.
    """
    found = np.zeros(grid_hw[0] * grid_hw[1])
    starts = np.array([start for start, _ in spans] or [0])
    chances = np.array([chance for _, chance in spans] or [1.0])
    for start, end in blocks:
        runs = _runs(text[start:end], starts - start, chances)
        cells = _cells(runs, grid_hw[1])
        if cells.size == found.size:
            found = np.maximum(found, cells)
    return found.reshape(grid_hw).astype(np.float32)


def _runs(text: bytes, starts: NDArray[np.int64], chances: NDArray[np.float64]) -> list[_Run]:
    """Runs of a mask text; `starts` are the places of the tokens in it."""
    runs = []
    for piece in _PIECE.finditer(text):
        if not piece[0].strip():
            continue
        match = _COUNT.search(piece[0])
        digits = piece.start() + match.start(1) if match else piece.end()
        lead = len(piece[0]) - len(piece[0].lstrip(b" "))
        label_at = piece.start() + lead
        # The token that holds a byte is the last one that starts at it or before.
        first, count, last = np.searchsorted(starts, [label_at, digits, piece.end() - 1], side="right") - 1
        label = piece[0][: match.start() if match else None].strip()
        runs.append(
            _Run(
                label != BACKGROUND.encode(),
                int(match[1]) if match else 1,
                float(chances[first : count if match else last + 1].prod()),
                float(chances[count : last + 1].prod()) if match else 1.0,
            )
        )
    return runs


def _cells(runs: Sequence[_Run], width: int) -> NDArray[np.float64]:
    """Probability of each cell, row after row; edges mix where they do not fall on the end of a row."""
    if not runs:
        return np.zeros(0)
    levels = [run.label_chance if run.inside else 1 - run.label_chance for run in runs]
    cells = np.repeat(levels, [run.cells for run in runs])
    edge = 0
    for run, level, after in zip(runs, levels, levels[1:], strict=False):
        edge += run.cells
        if edge % width:
            other = (1 - run.count_chance) / 2
            cells[edge - 1] += other * (after - level)
            cells[edge] += other * (level - after)
    return cells
