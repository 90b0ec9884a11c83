"""Masks of annotations, with everything wrong about them told by file and record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from llava.data.problems import Problems
from llava.data.rle import MIN_POLYGON_NUMBERS, union_rle
from llava.types import IntArray, Rle

FAR_SHARE = 0.1
"""A corner farther outside the image than this share of its longer side is damage, not a loose click."""

SHORT_POLYGONS = "polygons that enclose nothing"


def polygon_fault(numbers: Sequence[Any], size_hw: tuple[int, int]) -> tuple[str, str] | None:
    """Kind and description of what is wrong with a polygon, None if nothing is.

    Args:
        numbers: [x0, y0, x1, y1, …] in pixels.
        size_hw: height and width of the image in pixels.
    """
    for value in numbers:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return "polygon of other things than numbers", f"a polygon holds {value!r}, needed pixels"
    if len(numbers) % 2:
        return "odd polygon", f"a polygon has {len(numbers)} numbers, needed pairs of x and y"
    slack = FAR_SHARE * max(size_hw)
    for values, side, name in ((numbers[::2], size_hw[1], "x"), (numbers[1::2], size_hw[0], "y")):
        for value in values:
            if not -slack <= value <= side + slack:
                return (
                    "polygon outside the image",
                    f"a polygon has a corner at {name} {value:g}, the image reaches from 0 to {side}",
                )
    return None


def checked_union(
    segmentation: Any,  # noqa: ANN401 - raw JSON
    size_hw: tuple[int, int],
    *,
    problems: Problems,
    place: str,
) -> Rle | None:
    """Union of all parts of one COCO `segmentation` entry, None after a report when it cannot be used.

    Polygons of fewer than three corners enclose nothing: they are left out and noted, as published loaders
    do. Everything else that is wrong makes the record unusable.

    Args:
        segmentation: what `llava.data.rle.union_rle` takes.
        size_hw: height and width of the image in pixels.
        problems: takes what is wrong.
        place: annotation file and record, for the report.
    """
    if segmentation is not None and not isinstance(segmentation, (dict, list, tuple)):
        given = f"a segmentation is {str(segmentation)[:40]!r}, needed polygons or run lengths"
        problems.report("damaged segmentation", place, given)
        return None
    parts = [segmentation] if isinstance(segmentation, dict) else list(segmentation or ())
    polygons = [part for part in parts if isinstance(part, (list, tuple))]
    if polygons and len(polygons) != len(parts):
        problems.report("mixed encodings", place, "a segmentation mixes polygons and run lengths, needed one")
        return None
    for polygon in polygons:
        fault = polygon_fault(polygon, size_hw)
        if fault is not None:
            problems.report(fault[0], place, fault[1])
            return None
    short = sum(len(polygon) < MIN_POLYGON_NUMBERS for polygon in polygons)
    if short:
        problems.note(SHORT_POLYGONS, f"{place}: {short} of {len(polygons)} polygons")
    try:
        return union_rle([list(part) for part in polygons] or parts, size_hw)[0]
    except ValueError as error:
        problems.report("damaged segmentation", place, str(error))
        return None


def masks_by_value(values: IntArray) -> dict[int, Rle]:
    """COCO RLE of the pixels of each value in a map of labels or segments.

    The map is looked at once, as runs down its columns; no mask is painted.

    Args:
        values: any integers, (H, W).
    """
    flat = values.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [flat.size]])
    present, place = np.unique(flat[starts], return_inverse=True)
    order = np.argsort(place, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(place))[:-1])
    masks: dict[int, Rle] = {}
    for value, runs in zip(present.tolist(), groups, strict=True):
        borders = np.stack([starts[runs], ends[runs]], axis=1).reshape(-1)
        lengths = np.diff(borders, prepend=0, append=flat.size).tolist()
        counts = lengths if lengths[-1] else lengths[:-1]
        encoded = coco_mask.frPyObjects({"size": list(values.shape), "counts": counts}, *values.shape)
        masks[value] = {
            "size": [int(side) for side in values.shape],
            "counts": encoded["counts"].decode("ascii"),
        }
    return masks
