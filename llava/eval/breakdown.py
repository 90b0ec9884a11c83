"""Where a run is good and where it is not, by size of object, length and class; and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from llava.data.rle import rle_area
from llava.eval.confidence import certainty, found_confidence
from llava.eval.predictions import Record
from llava.eval.scoring import STEPS, StageOverlaps, add_up, is_empty

NO_TARGET = "no target"
SIZES = ((0.005, "under 0.5 %"), (0.02, "0.5 to 2 %"), (0.08, "2 to 8 %"), (0.3, "8 to 30 %"))
"""Part of the image that a target covers: upper end and name. A 16x16 grid loses nearly half of the first."""
LARGEST = "30 % and more"

LENGTHS = ((2, "1 or 2 words"), (4, "3 or 4 words"), (7, "5 to 7 words"), (12, "8 to 12 words"))
"""RefCOCO has 3.6 words on average, RefCOCOg 8.4."""
LONGEST = "13 words and more"

CERTAINTIES = ((0.9, "under 0.9"), (0.95, "0.9 to 0.95"), (0.98, "0.95 to 0.98"), (0.995, "0.98 to 0.995"))
SUREST = "0.995 and more"

CATEGORIES = 20
"""Classes with a row of their own, the most frequent ones; all others share one."""
OTHER_CATEGORIES = "other classes"

CHANGE = 0.01
"""An IoU that moves by less is the same: a few pixels on the edge."""

Pairs = Sequence[tuple[Record, StageOverlaps]]


def size_of(record: Record) -> str:
    """Name of the size of a record's target."""
    if record.no_target:
        return NO_TARGET
    height, width = record.truth["size"]
    return _name(rle_area(record.truth) / (height * width), SIZES, LARGEST)


def length_of(record: Record) -> str:
    """Name of the length of a record's expression."""
    return _name(len(record.expression.split()), LENGTHS, LONGEST, inclusive=True)


def certainty_of(record: Record) -> str:
    """Name of how sure the answer is, "" where the system does not tell."""
    return "" if record.confidence is None else _name(certainty(record.confidence), CERTAINTIES, SUREST)


def confidence_of(record: Record) -> float | None:
    """`found_confidence` of a record's answer; None where it draws nothing or the system does not tell."""
    return None if record.confidence is None or is_empty(record) else found_confidence(record.confidence)


def _name(value: float, ends: Iterable[tuple[float, str]], last: str, *, inclusive: bool = False) -> str:
    return next((name for end, name in ends if value < end or (inclusive and value == end)), last)


def break_down(
    records: Sequence[Record], overlaps: Sequence[StageOverlaps]
) -> dict[str, list[dict[str, Any]]]:
    """Scores of parts of a run, all splits together, under the main definition.

    Returns:
        "size", "length", "category" and "certainty", each a list of rows {"name", "samples", "invalid",
        "confidence": mean of `confidence_of` or None, "scores" by stage}, in the order of the sizes, or from
        the most frequent class. A part that no record tells about is left out.
    """
    pairs = list(zip(records, overlaps, strict=True))
    frequent = _frequent(records)
    parts: tuple[tuple[str, Callable[[Record], str], list[str]], ...] = (
        ("size", size_of, [NO_TARGET, *(name for _, name in SIZES), LARGEST]),
        ("length", length_of, [*(name for _, name in LENGTHS), LONGEST]),
        ("category", lambda one: _category(one, frequent), [*frequent, OTHER_CATEGORIES]),
        ("certainty", certainty_of, [*(name for _, name in CERTAINTIES), SUREST]),
    )
    told = {
        part: [part_row(name, chosen) for name, chosen in _split(pairs, key, order)]
        for part, key, order in parts
    }
    return {part: rows for part, rows in told.items() if rows}


def _frequent(records: Iterable[Record]) -> list[str]:
    """The most frequent classes; equals by name."""
    seen = Counter(record.category for record in records if record.category)
    return [name for name, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:CATEGORIES]]


def _category(record: Record, frequent: Sequence[str]) -> str:
    if not record.category:
        return ""
    return record.category if record.category in frequent else OTHER_CATEGORIES


def _split(pairs: Pairs, key: Callable[[Record], str], order: Sequence[str]) -> Iterable[tuple[str, Pairs]]:
    """Name and members of each part that has some."""
    members: dict[str, list[tuple[Record, StageOverlaps]]] = {}
    for pair in pairs:
        members.setdefault(key(pair[0]), []).append(pair)
    return [(name, members[name]) for name in order if name in members]


def part_row(name: str, pairs: Pairs) -> dict[str, Any]:
    """Row of a part of a run, see `break_down`."""
    sure = [value for record, _ in pairs if (value := confidence_of(record)) is not None]
    return {
        "name": name,
        "samples": len(pairs),
        "invalid": sum(bool(record.faults) for record, _ in pairs),
        "confidence": sum(sure) / len(sure) if sure else None,
        "scores": add_up(stages for _, stages in pairs),
    }


def change_of(stages: StageOverlaps) -> float:
    """How much the refiner changed the IoU, 0 where none ran; -1..1."""
    return stages["refined"].iou - stages["coarse"].iou if "refined" in stages else 0.0


def refinement(records: Sequence[Record], overlaps: Sequence[StageOverlaps]) -> list[dict[str, Any]]:
    """How often the refiner helped or hurt, by size of object; empty where none ran.

    Returns:
        Rows of {"name", "samples", "helped", "hurt", "kept": masks that the refiner left alone, "change":
        mean change of IoU, "before" and "after": cIoU}, the last of them for all sizes. An IoU that moved by
        less than `CHANGE` is neither helped nor hurt.
    """
    pairs = [
        pair for pair in zip(records, overlaps, strict=True) if "refined" in pair[1] and not pair[0].no_target
    ]
    parts = [*_split(pairs, size_of, [*(name for _, name in SIZES), LARGEST]), ("all sizes", pairs)]
    return [_refined_row(name, chosen) for name, chosen in parts] if pairs else []


def _refined_row(name: str, pairs: Pairs) -> dict[str, Any]:
    changes = [change_of(stages) for _, stages in pairs]
    scores = add_up(stages for _, stages in pairs)
    return {
        "name": name,
        "samples": len(pairs),
        "helped": sum(change > CHANGE for change in changes),
        "hurt": sum(change < -CHANGE for change in changes),
        "kept": sum(bool(record.note) for record, _ in pairs),
        "change": sum(changes) / len(changes),
        "before": scores["coarse"]["cIoU"],
        "after": scores["refined"]["cIoU"],
    }


def costs(records: Sequence[Record]) -> dict[str, dict[str, dict[str, float]]]:
    """What the answers cost.

    Returns:
        "seconds" by step, and "text": letters of the answer and every number that the system told, such as
        tokens and passes; each with sum, mean, median, 95th percentile ("p95") and largest value.
    """
    names = list(dict.fromkeys(name for record in records for name in record.stats))
    counted = {"letters": [len(record.answer) for record in records]}
    counted |= {name: [one.stats[name] for one in records if name in one.stats] for name in names}
    spent = {step: [record.seconds.get(step, 0.0) for record in records] for step in STEPS}
    return {
        "seconds": {step: _spread(values) for step, values in spent.items()},
        "text": {name: _spread(values) for name, values in counted.items()},
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    middle, high, largest = (float(value) for value in np.quantile(values, (0.5, 0.95, 1.0)))
    total = float(sum(values))
    spread = {"sum": total, "mean": total / len(values), "median": middle, "p95": high, "max": largest}
    return {name: round(value, 6) for name, value in spread.items()}
