"""Box of a mask in whole numbers, and the cells inside it.

A box is (x0, y0, x1, y1) in steps of 1/999 of the image: 0 is its left or top edge, 999 its right or bottom
edge, as Qwen2-VL writes boxes. Edges of objects are rounded outwards, so that the object lies inside. Cells
are read from, and drawn on, the box as it is written, not as it was annotated: writer and reader agree to the
last pixel. All of it is worked out in whole numbers. Ours; the paper says only that boxes are quantised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava.codec.grid import check_sides, tent_weights
from llava.settings import UPSAMPLING
from llava.types import BoolArray, IntArray

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1), each 0 to `BOX_STEPS`, x0 < x1 and y0 < y1."""

BOX_STEPS = 999
"""Number of the right and the bottom edge of an image."""

WHOLE_IMAGE: Box = (0, 0, BOX_STEPS, BOX_STEPS)

_SLACK = 1e-6
"""Steps that count as rounding of floats: whole pixels lie at least one part in the image's side apart."""


def quantise_box(edges_xyxy: tuple[float, float, float, float], size_hw: tuple[int, int]) -> Box:
    """Smallest box of whole steps around a box in pixels.

    Args:
        edges_xyxy: left, top, right, bottom edge in pixels; the right edge of pixel 9 is 10.
        size_hw: height and width of the image in pixels.

    Returns:
        Its box; `quantise_box(box_edges(box, size_hw), size_hw)` is `box` again.

    Raises:
        ValueError: the edges leave the image or enclose nothing.

    Example:
        >>> quantise_box((0, 10, 320, 480), (480, 640))
        (0, 20, 500, 999)
    """
    height, width = check_sides(size_hw, "size_hw")
    x0, y0, x1, y1 = edges_xyxy
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(
            f"box {tuple(edges_xyxy)}: (left, top, right, bottom) must enclose pixels of the "
            f"{height}x{width} image"
        )
    left, right = _quantise(x0, x1, width)
    top, bottom = _quantise(y0, y1, height)
    return left, top, right, bottom


def box_edges(box: Box, size_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom edge of a box in pixels.

    Args:
        box: its steps.
        size_hw: height and width of the image in pixels.

    Example:
        >>> box_edges((0, 0, 333, 999), (480, 640))[2:]
        (213.33333333333334, 480.0)
    """
    height, width = check_sides(size_hw, "size_hw")
    x0, y0, x1, y1 = box
    return x0 * width / BOX_STEPS, y0 * height / BOX_STEPS, x1 * width / BOX_STEPS, y1 * height / BOX_STEPS


def tight_box(mask: NDArray[Any]) -> tuple[int, int, int, int] | None:
    """Edges of the smallest box around a mask, (left, top, right, bottom) in pixels; None around nothing.

    Args:
        mask: (H, W), bool or numbers of which all but 0 are inside.

    Example:
        >>> tight_box(np.array([[0, 0, 0], [0, 1, 1]]))
        (1, 1, 3, 2)
    """
    mask = np.asarray(mask) != 0
    check_sides(mask.shape, "mask shape")
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    if not columns.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_centres(box: Box, size_hw: tuple[int, int], grid_hw: tuple[int, int]) -> tuple[IntArray, IntArray]:
    """Row of the pixel at the centre of each row of cells, and column for each column; int64 (cells,) each.

    Args:
        box: what the cells cover.
        size_hw: height and width of the image in pixels.
        grid_hw: rows and columns of cells.

    Raises:
        ValueError: the box is wrong.
    """
    down, across = _sides(box, size_hw, grid_hw)
    return down.centres(), across.centres()


def mask_in_box(mask: NDArray[Any], box: Box, grid_hw: tuple[int, int]) -> BoolArray:
    """Cells of a box that belong to a mask.

    A cell counts when the pixel at its centre does. Where that leaves none although the mask has pixels in
    the box, as for two dots far apart, the cell that holds most of them counts: nothing vanishes.

    Args:
        mask: (H, W), bool or numbers of which all but 0 are inside.
        box: what the cells cover.
        grid_hw: rows and columns of cells.

    Returns:
        bool (rows, columns).

    Raises:
        ValueError: the box or a side is wrong.

    Example:
        >>> mask_in_box(np.eye(4), (0, 0, 999, 999), (2, 2)).tolist()
        [[True, False], [False, True]]
    """
    mask = np.asarray(mask) != 0
    sides = _sides(box, check_sides(mask.shape, "mask shape"), check_sides(grid_hw, "grid_hw"))
    cells: BoolArray = mask[np.ix_(*(side.centres() for side in sides))]
    if not cells.any():
        down, across = (side.pixels for side in sides)
        part = mask[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
        row, column = (side.places // side.unit for side in sides)
        inside = (row[:, None] * cells.shape[1] + column)[part]
        if inside.size:
            cells.flat[int(np.bincount(inside).argmax())] = True
    return cells


def mask_from_box(
    cells: NDArray[Any], box: Box, size_hw: tuple[int, int], *, method: str = "bilinear"
) -> BoolArray:
    """Pixels that belong to the marked cells of a box.

    A pixel belongs to the box when its centre does; a box so thin that it holds no centre takes the pixels in
    its middle. Both methods are those of `grid_to_mask`, with pixels told by their centres: "nearest" takes
    the cell that the centre lies in, "bilinear" asks whether the cells around it weigh more than 0.5. Where
    that draws nothing although a cell is marked, the pixels at the centres of marked cells are drawn.

    Args:
        cells: (rows, columns), bool or numbers of which all but 0 are inside.
        box: what the cells cover.
        size_hw: height and width of the image in pixels.
        method: "bilinear" or "nearest".

    Returns:
        bool (height, width).

    Raises:
        ValueError: the box, a side or the method is wrong.

    Example:
        >>> mask_from_box(np.array([[1, 0]]), (0, 0, 500, 999), (1, 8)).tolist()
        [[True, True, False, False, False, False, False, False]]
    """
    if method not in UPSAMPLING:
        raise ValueError(f"unknown method {method!r} to draw a box; known: {', '.join(UPSAMPLING)}")
    cells = np.asarray(cells) != 0
    size_hw = check_sides(size_hw, "size_hw")
    sides = _sides(box, size_hw, check_sides(cells.shape, "cells shape"))
    if method == "nearest":
        part = cells[np.ix_(*(side.places // side.unit for side in sides))]
    else:
        down, across = (side.weights() for side in sides)
        part = 2 * (down @ cells @ across.T) > sides[0].unit * sides[1].unit
    mask = np.zeros(size_hw, bool)
    rows, columns = (side.pixels for side in sides)
    mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = part
    if cells.any() and not part.any():
        row, column = np.nonzero(cells)
        mask[sides[0].centres()[row], sides[1].centres()[column]] = True
    return mask


@dataclass(frozen=True)
class _Side:
    """One side of a box that lies on `length` pixels of the image and has `cells` cells.

    Attributes:
        start: first step.
        stop: last step.
        length: pixels of the image along the side.
        cells: cells along the side.
        pixels: int64 (n,), the pixels whose centres lie inside, at least one.
        places: int64 (n,), how far the centre of each is from the first edge; `unit` is one cell.
        unit: length of a cell in these whole numbers, even.
    """

    start: int
    stop: int
    length: int
    cells: int
    pixels: IntArray
    places: IntArray
    unit: int

    def centres(self) -> IntArray:
        """Pixel at the centre of each cell; int64 (cells,)."""
        steps = 2 * self.cells * self.start + (2 * np.arange(self.cells) + 1) * (self.stop - self.start)
        return steps * self.length // (2 * self.cells * BOX_STEPS)

    def weights(self) -> NDArray[np.float64]:
        """Weight of each cell in each pixel, times `unit`; (pixels, cells)."""
        return tent_weights(self.places - self.unit // 2, self.unit, self.cells)


def _sides(box: Box, size_hw: tuple[int, int], grid_hw: tuple[int, int]) -> tuple[_Side, _Side]:
    """Vertical and horizontal side of a box, or a ValueError that says what a box is."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= BOX_STEPS and 0 <= y0 < y1 <= BOX_STEPS):
        raise ValueError(f"box {tuple(box)}: needed are 0 <= x0 < x1 <= {BOX_STEPS}, and the same for y")
    return _side(y0, y1, size_hw[0], grid_hw[0]), _side(x0, x1, size_hw[1], grid_hw[1])


def _side(start: int, stop: int, length: int, cells: int) -> _Side:
    """A side with the pixels inside it, or with the one in its middle where it holds no pixel's centre."""
    unit = 2 * length * (stop - start)
    pixels = np.arange(length)
    places = ((2 * pixels + 1) * BOX_STEPS - 2 * length * start) * cells
    inside = (places >= 0) & (places < unit * cells)
    if not inside.any():
        inside[(start + stop) * length // (2 * BOX_STEPS)] = True
    places = np.clip(places[inside], 0, unit * cells - 1)
    return _Side(start, stop, length, cells, pixels[inside], places, unit)


def _quantise(low: float, high: float, length: int) -> tuple[int, int]:
    """Steps around two edges in pixels along a side of `length` pixels, at least one apart."""
    start = min(math.floor(low * BOX_STEPS / length + _SLACK), BOX_STEPS - 1)
    return start, max(math.ceil(high * BOX_STEPS / length - _SLACK), start + 1)
