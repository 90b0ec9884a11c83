"""Boxes of masks against boxes of the data set, in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llava.types import BoolArray

UNITS_PER_PIXEL = 100
"""COCO writes its boxes with two decimals, so hundredths of a pixel hold them exactly."""

IntBox = tuple[int, int, int, int]
"""x0, y0, x1, y1."""


def first_to_last(mask: BoolArray) -> IntBox | None:
    """Indices of the first and last column and row with a pixel, as (x0, y0, x1, y1); None for an empty mask.

    Example:
        >>> first_to_last(np.array([[False, True, True]]))
        (1, 0, 2, 0)
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def box_counts(one: IntBox | None, other: IntBox | None) -> tuple[int, int]:
    """Area of intersection and of union of two boxes; (0, 0) where one is missing."""
    if one is None or other is None:
        return 0, 0
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    return common, _area(one) + _area(other) - common


def _area(box: IntBox) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def mask_box_counts(prediction: BoolArray, truth: BoolArray) -> tuple[int, int]:
    """`box_counts` of the boxes of two masks, from first to last index, in square pixels.

    A box one pixel wide has no area, and two of them never match, as in the evaluation of Text4Seg.
    """
    return box_counts(first_to_last(prediction), first_to_last(truth))


def annotated_box_counts(prediction: BoolArray, box_xyxy: Sequence[float]) -> tuple[int, int]:
    """`box_counts` of a mask's box and an annotated one, in squares of hundredths of a pixel.

    Args:
        prediction: bool (H, W); its box reaches to the far edge of its last pixels.
        box_xyxy: x0, y0, x1, y1 in pixels.
    """
    found = first_to_last(prediction)
    edges = None if found is None else (found[0], found[1], found[2] + 1, found[3] + 1)
    return written_box_counts(edges, box_xyxy)


def written_box_counts(written: Sequence[float] | None, box_xyxy: Sequence[float]) -> tuple[int, int]:
    """`box_counts` of a box that an answer writes and an annotated one, in squares of hundredths of a pixel.

    Args:
        written: x0, y0, x1, y1 in pixels; None where the answer has no box.
        box_xyxy: the annotated one, likewise.

    Example:
        >>> written_box_counts((0, 0, 1, 1), (0, 0, 2, 1))
        (10000, 20000)
    """
    return box_counts(None if written is None else _hundredths(written), _hundredths(box_xyxy))


def _hundredths(box_xyxy: Sequence[float]) -> IntBox:
    x0, y0, x1, y1 = (round(UNITS_PER_PIXEL * side) for side in box_xyxy)
    return x0, y0, x1, y1
