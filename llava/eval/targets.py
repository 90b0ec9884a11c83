"""Questions about several targets, scored target by target.

PixelLM (arXiv 2312.02228) scores MUSE so: within a question, predicted and true masks are matched one to one;
a mask without a partner is paired with nothing; cIoU and gIoU are over the pairs. Two things differ here:

- It matches by the cross-entropy and dice of mask logits at random points. Masks written as text have no
  logits, so they are matched by the largest sum of their IoUs.
- It lets a language model (GPT-3.5) judge the words around each mask, and drops the intersection of pairs
  that it judges wrong. That step is left out, which can only raise scores.

Its gIoU divides the IoUs of an image by the larger number of masks, predicted or true, of all questions about
it together; here every pair counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from llava.codec.boxwise import read_boxes
from llava.data.rle import decode_rle
from llava.eval.predictions import Record
from llava.eval.run import RunSettings
from llava.eval.semantic import MASK_OPTIONS, label_masks
from llava.settings import BRICKS
from llava.types import BoolArray

TARGETS = "targets"
"""Name of these rules among the definitions of `Benchmark.compared`."""

STAGE = "coarse"
"""A refiner sees all targets of an answer as one mask, so its masks cannot be told apart."""


@dataclass(frozen=True)
class Pair:
    """A predicted and a true mask, or one of the two alone.

    Attributes:
        intersection: pixels in both.
        union: pixels in either, at least 1.
    """

    intersection: int
    union: int


def pair_masks(predicted: Sequence[BoolArray], true: Sequence[BoolArray]) -> list[Pair]:
    """Masks matched one to one so that their IoUs sum to the most, and those that are left over.

    Args:
        predicted: bool (height, width) each; empty ones are no masks.
        true: likewise.

    Example:
        >>> left, right = np.array([[True, False]]), np.array([[False, True]])
        >>> pair_masks([right], [left, right])
        [Pair(intersection=1, union=1), Pair(intersection=0, union=1)]
    """
    found = [mask for mask in predicted if mask.any()]
    wanted = [mask for mask in true if mask.any()]
    common = np.array([[int((one & other).sum()) for other in wanted] for one in found], dtype=np.int64)
    common = common.reshape(len(found), len(wanted))
    areas = [np.array([int(mask.sum()) for mask in masks], dtype=np.int64) for masks in (found, wanted)]
    union = areas[0][:, None] + areas[1][None] - common
    rows, columns = linear_sum_assignment(common / union, maximize=True)
    pairs = [Pair(int(common[place]), int(union[place])) for place in zip(rows, columns, strict=True)]
    for sizes, matched in zip(areas, (rows, columns), strict=True):
        pairs += [Pair(0, int(size)) for size in np.delete(sizes, matched)]
    return pairs


def parts_of(record: Record, settings: RunSettings) -> list[BoolArray]:
    """Masks that an answer tells apart, bool (height, width): each block of a box-wise one, else each label.

    Two targets of one label are one mask in an image-wise answer. An answer that names nothing, as of a
    system that writes no text, has its one mask.
    """
    size_hw = (record.truth["size"][0], record.truth["size"][1])
    known = {name: settings.options[name] for name in MASK_OPTIONS if name in settings.options}
    if known.get("codec") == BRICKS:
        read = read_boxes(
            record.answer,
            settings.grid_hw,
            order=known.get("brick_order", "raster"),
            tail=known.get("brick_tail", True),
        )
        method = known.get("upsample", "bilinear")
        masks = [block.mask(size_hw, method=method) for block in read.blocks if block.box is not None]
    else:
        masks = list(label_masks(record.answer, size_hw, grid_hw=settings.grid_hw, **known).values())
    return masks or [decode_rle(record.coarse)]


def score_targets(records: Sequence[Record], settings: RunSettings) -> dict[str, Any]:
    """Scores target by target of each split.

    Returns:
        For each split and `STAGE`: "questions"; "targets", true masks; "found", predicted ones; "cIoU" and
        "gIoU" in 0..1, None where there is no pair.
    """
    by_split: dict[str, list[Record]] = {}
    for record in records:
        by_split.setdefault(record.split, []).append(record)
    return {split: {STAGE: _scores(chosen, settings)} for split, chosen in by_split.items()}


def _scores(records: Sequence[Record], settings: RunSettings) -> dict[str, float | int | None]:
    pairs: list[Pair] = []
    targets = found = 0
    for record in records:
        predicted = parts_of(record, settings)
        true = [decode_rle(mask) for mask in record.targets or (record.truth,)]
        pairs += pair_masks(predicted, true)
        targets += sum(bool(mask.any()) for mask in true)
        found += sum(bool(mask.any()) for mask in predicted)
    union = sum(pair.union for pair in pairs)
    return {
        "questions": len(records),
        "targets": targets,
        "found": found,
        "cIoU": sum(pair.intersection for pair in pairs) / union if pairs else None,
        "gIoU": sum(pair.intersection / pair.union for pair in pairs) / len(pairs) if pairs else None,
    }
