"""Separate parts of a mask, for a prompt that can hold one object."""

from __future__ import annotations

import cv2
import numpy as np

from llava.model.refine.prompts import box_prompt
from llava.types import BoolArray

MOST_REGIONS = 8
"""Regions of one mask that are prompted; the specks beyond stay as they are."""

TOGETHER = 0.9
"""Two parts are one region where their boxes fill at least this share of the box around both."""


def split_regions(mask: BoolArray) -> list[BoolArray]:
    """Regions of a mask that are prompted one by one, the largest first.

    Connected parts (8 neighbours) whose boxes lie close together are one region: pieces of an object behind a
    post, not two objects. At most `MOST_REGIONS` are returned; the parts beyond are left out.

    Args:
        mask: bool (H, W).

    Returns:
        bool (H, W) masks that do not overlap; none for an empty mask.

    Source: the split-then-merge step of SAMRefiner (arXiv 2502.06756) for masks of several objects.
    """
    count, numbers, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.argsort(-areas, kind="stable")[: 4 * MOST_REGIONS]
    regions: list[BoolArray] = []
    for number in kept if count > 1 else ():
        part = numbers == number
        near = [region for region in regions if _close(region, part)]
        merged = np.logical_or.reduce([part, *near])
        regions = [region for region in regions if not any(region is one for one in near)] + [merged]
    return sorted(regions, key=lambda region: -int(region.sum()))[:MOST_REGIONS]


def _close(one: BoolArray, other: BoolArray) -> bool:
    boxes = np.stack([box_prompt(one), box_prompt(other)])
    around = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    return sum(_area(box) for box in boxes) >= TOGETHER * _area(around)


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
