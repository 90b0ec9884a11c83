"""Scores of masks against the truth: counts per answer, added up exactly, divided once at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from llava.types import BoolArray

THRESHOLDS_IN_TENTHS = (5, 6, 7, 8, 9)
"""P@0.5 … P@0.9, as integers so that an IoU of exactly 0.7 is compared without rounding (LAVT, ReLA)."""


@dataclass(frozen=True)
class Overlap:
    """How one predicted mask meets its truth.

    Attributes:
        intersection: pixels (or cells) in both.
        union: pixels (or cells) in either.
        rejected: the answer says that the target is not there.
        no_target: the expression describes nothing in the image.
    """

    intersection: int
    union: int
    rejected: bool
    no_target: bool

    @property
    def iou(self) -> float:
        """IoU in 0..1 with the gRefCOCO rules.

        A target: intersection over union, 0 when it was rejected or when both masks are empty.
        No target: 1 when it was rejected, 0 otherwise, whatever the mask shows.
        """
        if self.no_target:
            return float(self.rejected)
        if self.rejected or not self.union:
            return 0.0
        return self.intersection / self.union


def overlap(
    prediction: BoolArray, truth: BoolArray, *, rejected: bool | None = None, no_target: bool | None = None
) -> Overlap:
    """Counts of one prediction.

    Args:
        prediction: bool (H, W).
        truth: bool (H, W).
        rejected: what the answer says; None takes an empty prediction for "not there".
        no_target: what the dataset says; None takes an empty truth for "nothing to find".

    Raises:
        ValueError: the shapes differ, or `no_target` contradicts a truth that has pixels.

    Example:
        >>> overlap(np.array([[True, True]]), np.array([[True, False]])).iou
        0.5
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction is {prediction.shape}, truth is {truth.shape}; both must be (H, W) of one image"
        )
    if no_target and truth.any():
        raise ValueError(
            f"no_target is set, but the truth has {int(truth.sum())} pixels; check the annotation"
        )
    return Overlap(
        intersection=int((prediction & truth).sum()),
        union=int((prediction | truth).sum()),
        rejected=not prediction.any() if rejected is None else bool(rejected),
        no_target=not truth.any() if no_target is None else bool(no_target),
    )


def ratio(numerator: float, denominator: float) -> float | None:
    """Quotient, or None where there is nothing to divide by."""
    return numerator / denominator if denominator else None


@dataclass
class RegionScores:
    """Scores of many answers. Order and splitting over processes change nothing, to the last bit.

    With O the set of expressions, I and U the pixel counts of one of them:

    - gIoU: mean of `Overlap.iou` over O.
    - cIoU: sum of I over sum of U. A rejected target adds 0 to I and its U; a target that is not there adds
      nothing when rejected and the predicted pixels to U when not.
    - P@t: share of expressions with a target whose IoU is **>=** t.
    - N_acc: share of no-target expressions that were rejected.
    - T_acc: share of targets that were not rejected.

    Without no-target expressions this is the cIoU and gIoU of RefCOCO papers (LISA, GSVA, Text4Seg).

    Source: evaluator of ReLA (GRES, arXiv 2306.00968), from its definition. It scores masks squashed to
    480x480; here they have the size of the image. It prints 0 where there is nothing to divide; here None.
    """

    overlaps: list[Overlap] = field(default_factory=list)

    def update(self, one: Overlap) -> None:
        """Add one answer."""
        self.overlaps.append(one)

    def merge(self, others: Iterable[RegionScores]) -> None:
        """Add the answers that other processes counted."""
        for other in others:
            self.overlaps.extend(other.overlaps)

    def compute(self) -> dict[str, float | int | None]:
        """Scores in 0..1: cIoU, gIoU, P@0.5 … P@0.9, N_acc, T_acc; and the number of samples."""
        targets = [one for one in self.overlaps if not one.no_target]
        absent = [one for one in self.overlaps if one.no_target]
        found = [one for one in targets if not one.rejected]
        intersection = sum(one.intersection for one in found)
        union = sum(one.union for one in targets) + sum(one.union for one in absent if not one.rejected)
        scores: dict[str, float | int | None] = {
            "samples": len(self.overlaps),
            "cIoU": ratio(intersection, union),
            "gIoU": ratio(math.fsum(one.iou for one in self.overlaps), len(self.overlaps)),
        }
        for tenths in THRESHOLDS_IN_TENTHS:
            hits = sum(one.union > 0 and 10 * one.intersection >= tenths * one.union for one in found)
            scores[f"P@0.{tenths}"] = ratio(hits, len(targets))
        scores["N_acc"] = ratio(sum(one.rejected for one in absent), len(absent))
        scores["T_acc"] = ratio(len(found), len(targets))
        return scores
