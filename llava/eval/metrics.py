"""Scores of masks against the truth: whole counts per answer, added up exactly, divided once at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llava.codec.grid import sample_centres
from llava.eval.definitions import MAIN, PRECISIONS, THRESHOLDS_IN_TENTHS, Definition
from llava.eval.metrics_boxes import annotated_box_counts, mask_box_counts, written_box_counts
from llava.types import BoolArray

Scores = dict[str, float | int | None]


@dataclass(frozen=True)
class Overlap:
    """How one predicted mask meets its truth, in numbers of pixels (or cells).

    Attributes:
        intersection: in both masks.
        predicted: in the predicted mask.
        true: in the true mask.
        rejected: the answer says that the target is not there.
        no_target: the expression describes nothing in the image.
        ignored: without a decision; the three counts above leave these pixels out.
        ignored_predicted: without a decision, in the predicted mask.
        mask_box: intersection and union of the boxes of both masks.
        annotated_box: the same against the annotated box; None where there is not exactly one.
        written_box: of the box that the answer writes against that one; None where the system writes none.
    """

    intersection: int
    predicted: int
    true: int
    rejected: bool
    no_target: bool
    ignored: int = 0
    ignored_predicted: int = 0
    mask_box: tuple[int, int] = (0, 0)
    annotated_box: tuple[int, int] | None = None
    written_box: tuple[int, int] | None = None

    @property
    def union(self) -> int:
        """Pixels (or cells) in either mask."""
        return self.predicted + self.true - self.intersection

    @property
    def iou(self) -> float:
        """IoU in 0..1 under the main definition: a rejected target scores 0, a rejected no-target 1."""
        return judge(self, MAIN).iou or 0.0


def overlap(
    prediction: BoolArray,
    truth: BoolArray,
    *,
    rejected: bool | None = None,
    no_target: bool | None = None,
    ignore: BoolArray | None = None,
    boxes_xyxy: Sequence[Sequence[float]] = (),
    side: int = 0,
    written: Sequence[Sequence[float] | None] | None = None,
) -> Overlap:
    """Counts of one prediction.

    Args:
        prediction: bool (H, W).
        truth: bool (H, W).
        rejected: what the answer says; None takes an empty prediction for "not there".
        no_target: what the dataset says; None takes an empty truth for "nothing to find".
        ignore: bool (H, W), pixels without a decision, whatever the truth says there; None for none.
        boxes_xyxy: annotated boxes in pixels.
        side: masks are squashed to side x side pixels (nearest) and counted; boxes keep the image size; 0: as
            they are.
        written: box of the one target that the answer writes, in pixels, None in it for no box; None where
            the system writes no boxes.

    Raises:
        ValueError: the shapes differ, or `no_target` contradicts a truth that has pixels.

    Example:
        >>> overlap(np.array([[True, True]]), np.array([[True, False]])).iou
        0.5
    """
    ignore = np.zeros_like(truth) if ignore is None else ignore
    if not prediction.shape == truth.shape == ignore.shape:
        raise ValueError(
            f"prediction is {prediction.shape}, truth is {truth.shape}, ignore is {ignore.shape}; "
            "all must be (H, W) of one image"
        )
    truth = truth & ~ignore
    if no_target and truth.any():
        raise ValueError(
            f"no_target is set, but the truth has {int(truth.sum())} pixels; check the annotation"
        )
    masks = (prediction, truth, ignore)
    found, wanted, open_ = (sample_centres(one, (side, side)) if side else one for one in masks)
    decided = found & ~open_
    annotated = boxes_xyxy[0] if len(boxes_xyxy) == 1 else None
    return Overlap(
        intersection=int((decided & wanted).sum()),
        predicted=int(decided.sum()),
        true=int(wanted.sum()),
        rejected=not prediction.any() if rejected is None else bool(rejected),
        no_target=not truth.any() if no_target is None else bool(no_target),
        ignored=int(open_.sum()),
        ignored_predicted=int((found & open_).sum()),
        mask_box=mask_box_counts(prediction, truth),
        annotated_box=None if annotated is None else annotated_box_counts(prediction, annotated),
        written_box=None if annotated is None or not written else written_box_counts(written[0], annotated),
    )


def binarise(values: NDArray[np.floating | np.integer], tie: str) -> BoolArray:
    """Pixels above the threshold 0, those exactly on it by `Definition.tie`; same shape as `values`.

    Example:
        >>> [binarise(np.array([0, -1, 2]), tie).tolist() for tie in ("background", "target")]
        [[False, False, True], [True, False, True]]
    """
    above: BoolArray = np.asarray(values >= 0 if tie == "target" else values > 0)
    return above


@dataclass(frozen=True)
class Verdict:
    """One answer under one definition.

    Attributes:
        intersection: what it adds to the numerator of cIoU.
        union: what it adds to the denominator of cIoU.
        iou: what it adds to the mean IoU; None where it is left out of it.
        hits: for each of `THRESHOLDS_IN_TENTHS`, whether its IoU reaches it; decided in whole numbers.
        target: it counts as an expression with a target.
        rejected: it counts as "not there".
        box: its box is right; None where there is nothing to compare with.
    """

    intersection: int
    union: int
    iou: float | None
    hits: tuple[bool, ...]
    target: bool
    rejected: bool
    box: bool | None


_NO_HITS = (False,) * len(THRESHOLDS_IN_TENTHS)


def judge(one: Overlap, rules: Definition) -> Verdict:
    """What an answer adds to the scores of a definition."""
    intersection, predicted, true = _with_ignored(one, rules.ignore)
    too_small = predicted < rules.min_area
    rejected = one.rejected or too_small
    if too_small or (rejected and rules.rejected == "cleared"):
        intersection = predicted = 0
    drawn = not rejected if rules.box == "written" else predicted > 0
    box = _box_is_right(one, rules, drawn=drawn)
    if rules.told_by == "mask":
        rejected = predicted == 0
    if one.no_target and rules.no_target != "as_masks":
        scored = rules.no_target == "scored"
        union = predicted if scored and rules.false_area and not rejected else 0
        return Verdict(0, union, float(rejected) if scored else None, _NO_HITS, False, rejected, box)
    union = predicted + true - intersection
    if rejected and rules.rejected == "missed":
        intersection = 0
    hits = tuple(union > 0 and 10 * intersection >= tenths * union for tenths in THRESHOLDS_IN_TENTHS)
    iou = _guarded(intersection, union, rules) if union else float(rules.empty_iou)
    return Verdict(intersection, union, iou, hits, True, rejected, box)


def _with_ignored(one: Overlap, ignore: str) -> tuple[int, int, int]:
    """Intersection, predicted and true pixels, with the undecided ones as the definition wants them."""
    if ignore == "dropped":
        return one.intersection, one.predicted, one.true
    predicted = one.predicted + one.ignored_predicted
    if ignore == "target":
        return one.intersection + one.ignored_predicted, predicted, one.true + one.ignored
    return one.intersection, predicted, one.true


def _guarded(intersection: int, union: int, rules: Definition) -> float:
    """I / (U + epsilon), rounded once."""
    parts = rules.epsilon.denominator
    return parts * intersection / (parts * union + rules.epsilon.numerator)


def _box_is_right(one: Overlap, rules: Definition, *, drawn: bool) -> bool | None:
    kinds = {"mask": one.mask_box, "annotated": one.annotated_box, "written": one.written_box}
    counts = kinds[rules.box]
    if counts is None or one.no_target:
        return None
    intersection, union = counts
    if not drawn or not union:
        return False
    return 2 * intersection > union if rules.box == "mask" else 2 * intersection >= union


def ratio(numerator: float, denominator: float) -> float | None:
    """Quotient, or None where there is nothing to divide by."""
    return numerator / denominator if denominator else None


@dataclass
class RegionScores:
    """Scores of many answers. Order and splitting over processes change nothing, to the last bit.

    - gIoU, mIoU: mean IoU of the expressions that the definition lets into it.
    - cIoU: sum of intersections over sum of unions.
    - P@t: share of expressions with a target whose IoU is **>=** t.
    - N_acc: share of no-target expressions that were rejected.
    - T_acc: share of targets that were not rejected.
    - box_acc: share of boxes that are right, among the expressions that have one ("boxes" of them).

    Published code prints 0 where there is nothing to divide; here it is None.
    """

    overlaps: list[Overlap] = field(default_factory=list)

    def update(self, one: Overlap) -> None:
        """Add one answer."""
        self.overlaps.append(one)

    def merge(self, others: Iterable[RegionScores]) -> None:
        """Add the answers that other processes counted."""
        for other in others:
            self.overlaps.extend(other.overlaps)

    def compute(self, rules: Definition = MAIN) -> Scores:
        """Number of samples, and what the definition reports, in 0..1."""
        verdicts = [judge(one, rules) for one in self.overlaps]
        targets = [one for one in verdicts if one.target]
        absent = [one for one in verdicts if not one.target]
        ious = [one.iou for one in verdicts if one.iou is not None]
        boxes = [one.box for one in verdicts if one.box is not None]
        mean = ratio(math.fsum(ious), len(ious))
        scores: Scores = {
            "cIoU": ratio(sum(one.intersection for one in verdicts), sum(one.union for one in verdicts)),
            "gIoU": mean,
            "mIoU": mean,
        }
        for place, name in enumerate(PRECISIONS):
            scores[name] = ratio(sum(one.hits[place] for one in targets), len(targets))
        scores["N_acc"] = ratio(sum(one.rejected for one in absent), len(absent))
        scores["T_acc"] = ratio(sum(not one.rejected for one in targets), len(targets))
        scores["box_acc"] = ratio(sum(boxes), len(boxes))
        told: Scores = {"samples": len(verdicts)}
        if "box_acc" in rules.reports:
            told["boxes"] = len(boxes)
        return told | {name: value for name, value in scores.items() if name in rules.reports}
