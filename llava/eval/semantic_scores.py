"""Scores of maps of classes: which label of an answer means which class, and mean IoU under named rules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llava.data.readers.classes import ClassName
from llava.data.rle import merge_rles, rle_area, rle_common
from llava.eval.metrics import ratio
from llava.eval.predictions import Record
from llava.eval.semantic import ClassSet, class_set
from llava.types import Rle

STAGES = ("coarse", "refined")
MOST_UNMATCHED = 20
"""How many of the unmatched labels the results name, the most frequent first."""


@dataclass(frozen=True)
class MapRules:
    """How a code base turns maps into mean IoU.

    Let T be the pixels that the truth gives to some class, B those that it gives to none, and V those without
    a decision. Every class counts its pixels over all images; its IoU is taken once, at the end.

    Attributes:
        name: what every number under these rules is called.
        source: whose rules these are.
        scored: pixels where a predicted class counts: "T", "T+B", or "text4seg": T and V where the data set
            has a background, else T.
        zero: the background is a class of its own.
        absent: IoU of a class that no truth and no answer has: None leaves it out of the mean.
        exact: a label means a class only when it is its first name, letter by letter.
    """

    name: str
    source: str
    scored: str
    zero: bool = False
    absent: float | None = None
    exact: bool = False


RULES = (
    MapRules("standard", "the field (mmsegmentation): classes alone, as in ADE20K-150, PC-59, PAS-20", "T"),
    MapRules("background", "PAS-21, PC-60: what belongs to no class is a class too", "T+B", zero=True),
    MapRules(
        "text4seg",
        "Text4Seg (arXiv 2410.09855): no class is wrong on the background, which is a class, always right; "
        "the border counts; an absent class has IoU 0",
        "text4seg",
        zero=True,
        absent=0.0,
        exact=True,
    ),
)
"""The first one is the main one. "background" needs a data set that decides what is background."""

_SPACES = re.compile(r"[\s_\-]+")
_ARTICLE = re.compile(r"^(?:the|an?) ")


def spelling(label: str) -> str:
    """Label as labels are compared: small letters, one space for blanks, "_" and "-", no leading article.

    Example:
        >>> spelling(" The Traffic-Light ")
        'traffic light'
    """
    return _ARTICLE.sub("", _SPACES.sub(" ", label.lower()).strip())


@cache
def _spellings(names: tuple[ClassName, ...]) -> Mapping[str, int]:
    """Number of each class by all that it is called; first names go before synonyms."""
    firsts = {spelling(each.name): number for number, each in enumerate(names)}
    others = {spelling(word): number for number, each in enumerate(names) for word in each.synonyms}
    return others | firsts


def match_label(label: str, names: tuple[ClassName, ...], *, exact: bool = False) -> int | None:
    """Place of the class that a label of an answer means, None for none.

    The rule: the `spelling` of the label is that of a class's first name, else of a synonym; else it is so
    once an "s" or "es" at its end is taken off, or an "s" is added. Nothing else matches: a guess by
    likeness would make the score depend on whatever measures it.

    Args:
        label: as the model wrote it.
        names: all classes.
        exact: the label must be a first name, letter by letter (Text4Seg).

    Example:
        >>> names = (ClassName("car", ("automobile",)), ClassName("stairs"))
        >>> [match_label(word, names) for word in ("the Cars", "automobile", "stair", "van")]
        [0, 0, 1, None]
    """
    if exact:
        return next((number for number, each in enumerate(names) if each.name == label), None)
    known, word = _spellings(names), spelling(label)
    forms = (word, word.removesuffix("s"), word.removesuffix("es"), f"{word}s")
    return next((known[form] for form in forms if form in known), None)


@dataclass
class MapCounts:
    """Pixels of each class over all images of a split; with a background it is the last class.

    Attributes:
        common: in truth and answer, by class.
        predicted: in the answer, where it counts.
        true: in the truth.
    """

    common: list[int]
    predicted: list[int]
    true: list[int]

    @classmethod
    def empty(cls, classes: int) -> MapCounts:
        """No pixel yet."""
        return cls(*([0] * classes for _ in range(3)))

    def compute(self, absent: float | None) -> dict[str, float | int | None]:
        """mIoU, mAcc (mean recall) and aAcc (share of right pixels) in 0..1, and classes in the mean.

        Args:
            absent: see `MapRules.absent`.
        """
        ious: list[float] = []
        recalls: list[float] = []
        for common, predicted, true in zip(self.common, self.predicted, self.true, strict=True):
            union = predicted + true - common
            iou = common / union if union else absent
            ious += [] if iou is None else [iou]
            recalls += [common / true] if true else []
        return {
            "classes": len(ious),
            "mIoU": ratio(sum(ious), len(ious)),
            "mAcc": ratio(sum(recalls), len(recalls)),
            "aAcc": ratio(sum(self.common), sum(self.true)),
        }


def add_map(
    counts: MapCounts,
    record: Record,
    predicted: Mapping[int, list[Rle]],
    *,
    rules: MapRules,
    classes: ClassSet,
) -> None:
    """Add the pixels of one image.

    Args:
        counts: of all images so far.
        record: with the true masks.
        predicted: disjoint masks of the answer by class.
        rules: which pixels count.
        classes: of the data set.
    """
    place = {each.name: number for number, each in enumerate(classes.names)}
    truth = {place[name]: rle for name, rle in record.regions["truth"].items()}
    size_hw = record.truth["size"][0], record.truth["size"][1]
    named = merge_rles(list(truth.values()), size_hw)
    void_area = rle_area(record.ignore) if record.ignore is not None else 0
    counts_void = rules.scored == "text4seg" and classes.background
    on_background = inside = 0
    for number, masks in predicted.items():
        mask = merge_rles(masks, size_hw)
        on_classes = rle_common(mask, named)
        on_void = rle_common(mask, record.ignore) if record.ignore is not None else 0
        elsewhere = rle_area(mask) - on_classes - on_void
        on_background += elsewhere
        scored = on_classes + elsewhere * (rules.scored == "T+B") + on_void * counts_void
        inside += scored
        counts.predicted[number] += scored
        counts.common[number] += rle_common(mask, truth[number]) if number in truth else 0
    for number, rle in truth.items():
        counts.true[number] += rle_area(rle)
    if rules.zero:
        open_ = void_area if classes.background else 0
        zero = size_hw[0] * size_hw[1] - rle_area(named) - open_
        right = zero - on_background * (rules.scored == "T+B")
        all_scored = rle_area(named) + zero + void_area * counts_void
        counts.common[-1] += right
        counts.predicted[-1] += all_scored - inside
        counts.true[-1] += zero


def score_maps(records: Sequence[Record]) -> dict[str, Any]:
    """Scores of all maps among the records, by split, stage and rules.

    Returns:
        For each split: "scores" (stage, rules, metric); "images"; "labels", "unmatched": how many labels the
        answers write, and how many of them mean no class under the main rule; "unmatched_labels": the most
        frequent ones with their numbers; "unmatched_pixels": their share of all labelled pixels.
    """
    by_split: dict[str, list[Record]] = {}
    for record in records:
        if record.regions:
            by_split.setdefault(record.split, []).append(record)
    return {split: _split_scores(chosen, class_set(split)) for split, chosen in by_split.items()}


def _split_scores(records: Sequence[Record], classes: ClassSet) -> dict[str, Any]:
    stages = [stage for stage in STAGES if all(stage in record.regions for record in records)]
    scores: dict[str, Any] = {stage: {} for stage in stages}
    for rules in RULES:
        if rules.name == "background" and not classes.background:
            continue
        for stage in stages:
            counts = MapCounts.empty(len(classes.names) + rules.zero)
            for record in records:
                predicted = _by_class(record.regions[stage], classes, exact=rules.exact)
                add_map(counts, record, predicted, rules=rules, classes=classes)
            scores[stage][rules.name] = counts.compute(rules.absent)
    return {"scores": scores, "images": len(records), **_unmatched(records, classes)}


def _by_class(regions: Mapping[str, Rle], classes: ClassSet, *, exact: bool) -> dict[int, list[Rle]]:
    found: dict[int, list[Rle]] = {}
    for label, rle in regions.items():
        number = match_label(label, classes.names, exact=exact)
        if number is not None:
            found.setdefault(number, []).append(rle)
    return found


def _unmatched(records: Iterable[Record], classes: ClassSet) -> dict[str, Any]:
    strange: Counter[str] = Counter()
    labels = area = lost = 0
    for record in records:
        for label, rle in record.regions["coarse"].items():
            pixels = rle_area(rle)
            labels, area = labels + 1, area + pixels
            if match_label(label, classes.names) is None:
                strange[label] += 1
                lost += pixels
    return {
        "labels": labels,
        "unmatched": strange.total(),
        "unmatched_pixels": ratio(lost, area),
        "unmatched_labels": dict(strange.most_common(MOST_UNMATCHED)),
    }
