"""Drawn annotated images for tests: 32 x 48 pixels, masks as rectangles."""

import numpy as np

from llava.data.annotated import AnnotatedImage, Target
from llava.data.rle import empty_rle, encode_mask

SIZE_HW = (32, 48)


def rectangle(top, left, bottom, right, *, size_hw=SIZE_HW):
    """COCO RLE of a filled rectangle."""
    mask = np.zeros(size_hw, dtype=bool)
    mask[top:bottom, left:right] = True
    return encode_mask(mask)


LEFT = rectangle(8, 0, 24, 12)
RIGHT = rectangle(0, 36, 32, 48)
SMALL = rectangle(0, 0, 2, 2)
"""Covers no centre of a 4x4 grid."""
EMPTY = empty_rle(SIZE_HW)
"""An annotation that marks nothing."""


def target(number, names, mask=LEFT, **more):
    names = (names,) if isinstance(names, str) else tuple(names)
    return Target(f"d|train|{number}", names, mask, **more)


def image(*targets, family="referring", path="images/1.jpg", size_hw=SIZE_HW, **more):
    return AnnotatedImage(f"d|{path}", "d", family, path, size_hw, targets, **more)


def answers(record):
    return [turn["value"] for turn in record["conversations"][1::2]]


def questions(record):
    return [turn["value"].removeprefix("<image>\n") for turn in record["conversations"][::2]]
