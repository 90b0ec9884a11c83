"""Paired bootstrap over images: how far apart two systems are, and how sure that is.

Every metric is a quotient of two sums over answers. Answers about one image are alike, so whole images are
drawn with replacement, as many as there are, the same for both systems; the quotients of each draw give the
distribution of their difference (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava.eval.definitions import PRECISIONS, Definition
from llava.eval.metrics import Overlap, Verdict, judge

FloatMatrix = NDArray[np.float64]

CONFIDENCE = 0.95
"""Share of the draws that an interval holds."""
DRAWS_AT_ONCE = 100
"""Draws whose weights are in memory together: 40 MB for 50 000 images."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two systems, in 0..1; None where there is nothing to divide by.

    Attributes:
        first: value of the first system.
        second: value of the second system.
        low: lower end of the interval of second minus first.
        high: upper end of it.
        above: share of the draws in which the second system is strictly better.
    """

    first: float | None
    second: float | None
    low: float | None = None
    high: float | None = None
    above: float | None = None

    @property
    def verdict(self) -> str:
        """What the second system is, "better" or "worse"; "" where the interval holds 0."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return ""
        return "better" if self.low > 0 else "worse"


def compare(
    first: Sequence[Overlap],
    second: Sequence[Overlap],
    images: Sequence[str],
    *,
    rules: Definition,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Every metric of a definition, by name.

    Args:
        first: counts of the first system's answers.
        second: counts of the second system's answers to the same questions.
        images: name of each answer's image.
        rules: what the counts are worth.
        draws: how many times images are drawn.
        seed: of the draws.

    Raises:
        ValueError: there is no answer, the lengths differ, or `draws` is below 1.
    """
    if not first or not len(first) == len(second) == len(images) or draws < 1:
        raise ValueError(
            f"{len(first)} and {len(second)} answers, {len(images)} images, {draws} draws: needed are as "
            "many images as answers of each system, and at least one draw"
        )
    systems = [_sums(overlaps, images, rules) for overlaps in (first, second)]
    whole = np.ones((1, systems[0].shape[1]))
    values = [_quotients(whole, sums)[0] for sums in systems]
    drawn = _draw(systems, draws, np.random.default_rng(seed))
    return {
        name: _comparison(values[0][place], values[1][place], drawn[:, place])
        for place, name in enumerate(rules.reports)
    }


def quotients(overlaps: Sequence[Overlap], rules: Definition) -> dict[str, float | None]:
    """Value of each metric, the quotient of the sums of `parts`."""
    sums = _sums(overlaps, [""] * len(overlaps), rules)
    values = _quotients(np.ones((1, 1)), sums)[0]
    return {name: _or_none(value) for name, value in zip(rules.reports, values, strict=True)}


def parts(verdict: Verdict) -> dict[str, tuple[float, float]]:
    """What one answer adds to numerator and denominator of each metric."""
    mean = (verdict.iou or 0.0, float(verdict.iou is not None))
    target = float(verdict.target)
    told = {"cIoU": (float(verdict.intersection), float(verdict.union)), "gIoU": mean, "mIoU": mean}
    hits = zip(PRECISIONS, verdict.hits, strict=True)
    told |= {name: (target * hit, target) for name, hit in hits}
    told["N_acc"] = ((1 - target) * verdict.rejected, 1 - target)
    told["T_acc"] = (target * (not verdict.rejected), target)
    told["box_acc"] = (float(bool(verdict.box)), float(verdict.box is not None))
    return told


def _sums(overlaps: Sequence[Overlap], images: Sequence[str], rules: Definition) -> FloatMatrix:
    """float64 (2, images, metrics): numerators and denominators, added up per image."""
    number = {image: place for place, image in enumerate(dict.fromkeys(images))}
    sums = np.zeros((2, len(number), len(rules.reports)))
    for one, image in zip(overlaps, images, strict=True):
        told = parts(judge(one, rules))
        sums[:, number[image]] += np.array([told[name] for name in rules.reports]).T
    return sums


def _quotients(weights: FloatMatrix, sums: FloatMatrix) -> FloatMatrix:
    """float64 (draws, metrics), NaN where nothing was drawn that could be measured."""
    numerators, denominators = weights @ sums[0], weights @ sums[1]
    empty = denominators == 0
    return np.where(empty, np.nan, numerators / np.where(empty, 1.0, denominators))


def _draw(systems: Sequence[FloatMatrix], draws: int, rng: np.random.Generator) -> FloatMatrix:
    """float64 (draws, metrics): second minus first system."""
    count = systems[0].shape[1]
    differences = []
    for start in range(0, draws, DRAWS_AT_ONCE):
        number = min(DRAWS_AT_ONCE, draws - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=number).astype(np.float64)
        differences.append(_quotients(weights, systems[1]) - _quotients(weights, systems[0]))
    return np.concatenate(differences)


def _comparison(first: float, second: float, drawn: FloatMatrix) -> Comparison:
    measured = drawn[~np.isnan(drawn)]
    if np.isnan(first) or np.isnan(second) or not measured.size:
        return Comparison(_or_none(first), _or_none(second))
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(end) for end in np.quantile(measured, (tail, 1 - tail)))
    return Comparison(float(first), float(second), low, high, float((measured > 0).mean()))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
