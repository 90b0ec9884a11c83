"""Segmentations of COCO files as one run-length mask: polygons, run lengths, unions of parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from llava.codec import run_lengths
from llava.types import BoolArray, IntArray, Rle

MIN_POLYGON_NUMBERS = 6
"""Three corners. Shorter lists enclose nothing (the gRefCOCO reader drops them too)."""

MAX_COORDINATE = 1e5
"""Larger polygon coordinates are damage: no image of these datasets has a side above some thousand pixels."""


def empty_rle(size_hw: tuple[int, int]) -> Rle:
    """Mask without a single pixel, as COCO RLE of `size_hw` = (height, width)."""
    return _as_text(coco_mask.encode(np.zeros(size_hw, dtype=np.uint8, order="F")))


def encode_mask(mask: BoolArray) -> Rle:
    """COCO RLE of a bool mask (H, W)."""
    return _as_text(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode_rle(rle: Rle) -> BoolArray:
    """Bool mask (H, W) of a compressed COCO RLE with text or bytes counts.

    Raises:
        ValueError: the run lengths do not fill the size that the RLE states.
    """
    height, width = (int(side) for side in rle["size"])
    lengths = run_lengths(rle["counts"])
    _check_total(lengths, (height, width))
    values = np.arange(len(lengths)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, lengths).reshape(width, height).T)


def union_rle(segmentation: Any, size_hw: tuple[int, int]) -> tuple[Rle, int]:  # noqa: ANN401 - raw JSON
    """Union of all parts of one COCO `segmentation` entry.

    A pixel that several parts cover belongs to the mask once; adding up the parts and casting, as published
    loaders do, loses it.

    Args:
        segmentation: list of polygons [x0, y0, x1, y1, …] in pixels; or one RLE; or a list of RLEs (RefCLEF).
            RLE counts may be a list of lengths, text, or bytes. Empty or None: no pixel.
        size_hw: height and width of the image in pixels.

    Returns:
        Compressed COCO RLE with text counts, and the number of polygons left out because they have fewer than
        six numbers, an odd count of numbers, or a coordinate that is no sensible number.

    Raises:
        ValueError: a part is neither polygon nor RLE, or an RLE does not fit the image size.
    """
    parts = [segmentation] if isinstance(segmentation, dict) else list(segmentation or [])
    rles: list[Rle] = []
    polygons: list[list[float]] = []
    dropped = 0
    for part in parts:
        if isinstance(part, dict):
            rles.append(_checked(part, size_hw))
        elif not isinstance(part, list):
            raise ValueError(f"segmentation part {str(part)[:40]!r} is neither a polygon nor an RLE")
        elif _is_polygon(part):
            polygons.append(part)
        else:
            dropped += 1
    if polygons:
        rles += coco_mask.frPyObjects(polygons, *size_hw)
    if not rles:
        return empty_rle(size_hw), dropped
    return _as_text(rles[0] if len(rles) == 1 else coco_mask.merge(rles, intersect=False)), dropped


def merge_rles(rles: list[Rle], size_hw: tuple[int, int]) -> Rle:
    """Union of compressed COCO RLEs of one size; an empty list gives the empty mask."""
    if not rles:
        return empty_rle(size_hw)
    return _as_text(coco_mask.merge([_as_bytes(rle) for rle in rles], intersect=False))


def rle_area(rle: Rle) -> int:
    """Number of pixels of a compressed COCO RLE."""
    return int(coco_mask.area(_as_bytes(rle)))


def rle_common(one: Rle, other: Rle) -> int:
    """Number of pixels that two compressed COCO RLEs of one size share."""
    return int(coco_mask.area(coco_mask.merge([_as_bytes(one), _as_bytes(other)], intersect=True)))


def rle_box_xyxy(rle: Rle) -> tuple[float, float, float, float]:
    """Tight box (x0, y0, x1, y1) in pixels of a compressed COCO RLE; all zeros for the empty mask."""
    x, y, width, height = (float(side) for side in coco_mask.toBbox(_as_bytes(rle)))
    return x, y, x + width, y + height


def _is_polygon(part: list[Any]) -> bool:
    """True for at least three corners with finite coordinates of an image's order of magnitude."""
    if len(part) < MIN_POLYGON_NUMBERS or len(part) % 2 or not {*map(type, part)} <= {int, float}:
        return False
    # A NaN escapes min and max, unless it comes first, but never a sum.
    return -MAX_COORDINATE <= min(part) and max(part) <= MAX_COORDINATE and math.isfinite(sum(part))


def _checked(rle: dict[str, Any], size_hw: tuple[int, ...]) -> Rle:
    """RLE in the compressed bytes form, after a look at its size and total length.

    pycocotools itself hands out uninitialised memory for run lengths that are too short.
    """
    given, counts = rle.get("size"), rle.get("counts")
    size = tuple(given) if isinstance(given, (list, tuple)) else ()
    if size != tuple(size_hw):
        raise ValueError(f"an RLE states the size {size}, the image has (height, width) {tuple(size_hw)}")
    if isinstance(counts, (str, bytes)):
        _check_total(run_lengths(counts), size)
        return _as_bytes({"size": size, "counts": counts})
    if not isinstance(counts, (list, tuple)):
        raise ValueError(
            f"RLE counts are {type(counts).__name__}; known are a list of lengths, text and bytes"
        )
    if not {*map(type, counts)} <= {int}:
        raise ValueError(f"RLE counts {str(counts)[:40]} hold other things than whole numbers")
    lengths = list(counts)
    _check_total(lengths, size)
    return coco_mask.frPyObjects({"size": list(size), "counts": lengths}, *size)


def _check_total(lengths: Sequence[int] | IntArray, size_hw: tuple[int, ...]) -> None:
    """Refuse run lengths that do not fill a mask exactly."""
    height, width = size_hw
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        raise ValueError(
            f"RLE run lengths add up to {sum(lengths)}, a {height}x{width} mask has {height * width}"
        )


def _as_text(rle: dict[str, Any]) -> Rle:
    """The same RLE with text counts and plain integers, ready for JSON."""
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def _as_bytes(rle: Rle) -> dict[str, Any]:
    """The same RLE with bytes counts, as pycocotools takes them."""
    counts = rle["counts"]
    return {
        "size": list(rle["size"]),
        "counts": counts.encode("ascii") if isinstance(counts, str) else counts,
    }
