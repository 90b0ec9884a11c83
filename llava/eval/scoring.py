"""From records to scores: nothing but the records and the settings of the run is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm

from llava.codec import mask_to_grid
from llava.data.rle import decode_rle, rle_area
from llava.eval.metrics import Overlap, RegionScores, overlap
from llava.eval.predictions import Record
from llava.eval.run import RunSettings
from llava.types import BoolArray

STAGES = ("grid", "coarse", "refined")
"""The answer in its own cells, as a mask of the image, and after the refiner."""

STEPS = ("generate", "decode", "refine", "score")

StageOverlaps = dict[str, Overlap]


def score_record(record: Record, grid_hw: tuple[int, int], cell_policy: str = "centre") -> StageOverlaps:
    """Overlap of one answer at each stage; "refined" only where a refiner ran.

    Stage "grid" compares cells with cells, what the model was trained for. A target too small to own a cell
    has an empty truth there and counts as no target; the other stages know nothing of cells.
    """
    truth, coarse = decode_rle(record.truth), decode_rle(record.coarse)
    stages = {
        "grid": overlap(
            _cells(coarse, grid_hw, cell_policy), _cells(truth, grid_hw, cell_policy), rejected=record.absent
        ),
        "coarse": overlap(coarse, truth, rejected=record.absent, no_target=record.no_target),
    }
    if record.refined is not None:
        stages["refined"] = overlap(
            decode_rle(record.refined), truth, rejected=record.absent, no_target=record.no_target
        )
    return stages


def _cells(mask: BoolArray, grid_hw: tuple[int, int], cell_policy: str) -> BoolArray:
    return mask_to_grid(mask, grid_hw, policy=cell_policy) > 0


def score_records(records: Sequence[Record], settings: RunSettings) -> list[StageOverlaps]:
    """`score_record` of every record, with a progress bar."""
    bar = tqdm(records, desc="score", unit="sample", mininterval=1)
    return [score_record(record, settings.grid_hw, settings.cell_policy) for record in bar]


def is_empty(record: Record) -> bool:
    """The coarse mask has no pixel."""
    return not rle_area(record.coarse)


def add_up(overlaps: Iterable[StageOverlaps]) -> dict[str, dict[str, Any]]:
    """Scores per stage. Rejections are no matter of cells, so N_acc and T_acc are None at stage "grid"."""
    totals: dict[str, RegionScores] = {}
    for stages in overlaps:
        for stage, one in stages.items():
            totals.setdefault(stage, RegionScores()).update(one)
    scores = {stage: totals[stage].compute() for stage in STAGES if stage in totals}
    if "grid" in scores:
        scores["grid"] |= {"N_acc": None, "T_acc": None}
    return scores


def count(records: Sequence[Record], overlaps: Sequence[StageOverlaps]) -> dict[str, Any]:
    """Counts of a set of answers.

    Returns:
        samples, images, no_target; invalid: answers with at least one fault; empty: answers without a
        region; without_mask: empty ones that do not say "not there" either; vanished: targets too small to
        own a cell; kept_coarse: why the refiner left a mask alone, with numbers.
    """
    empty = [record for record in records if is_empty(record)]
    return {
        "samples": len(records),
        "images": len({record.image for record in records}),
        "no_target": sum(record.no_target for record in records),
        "invalid": sum(bool(record.faults) for record in records),
        "empty": len(empty),
        "without_mask": sum(not record.absent for record in empty),
        "vanished": sum(
            stages["grid"].no_target and not record.no_target
            for record, stages in zip(records, overlaps, strict=True)
        ),
        "kept_coarse": dict(sorted(Counter(record.note for record in records if record.note).items())),
    }


def summarise(
    records: Sequence[Record], overlaps: Sequence[StageOverlaps], settings: RunSettings
) -> dict[str, Any]:
    """Content of `results.json`. Scores are in 0..1; None where nothing could be measured.

    Seconds are added up over all answers, so with several processes they are process seconds.
    """
    pairs = list(zip(records, overlaps, strict=True))
    splits: dict[str, Any] = {}
    for split in dict.fromkeys(record.split for record in records):
        chosen = [pair for pair in pairs if pair[0].split == split]
        groups = sorted({record.group for record, _ in chosen if record.group})
        splits[split] = {
            "scores": add_up(stages for _, stages in chosen),
            "counts": count([record for record, _ in chosen], [stages for _, stages in chosen]),
            "groups": {
                group: add_up(stages for record, stages in chosen if record.group == group)
                for group in groups
            },
        }
    return {
        "checkpoint": settings.checkpoint,
        "mode": "+".join(sorted({record.mode for record in records})),
        "code": list(settings.code),
        "splits": splits,
        "mean": mean_over_splits(splits),
        "counts": count(records, overlaps),
        "seconds": {step: round(sum(one.seconds.get(step, 0.0) for one in records), 3) for step in STEPS},
    }


def mean_over_splits(splits: dict[str, Any]) -> dict[str, Any]:
    """Plain mean of cIoU and gIoU over the splits, as papers print it; empty for a single split."""
    if len(splits) < 2:
        return {}
    means: dict[str, Any] = {}
    for stage in STAGES:
        found = [split["scores"][stage] for split in splits.values() if stage in split["scores"]]
        means[stage] = {}
        for name in ("cIoU", "gIoU"):
            values = [scores[name] for scores in found if scores[name] is not None]
            means[stage][name] = sum(values) / len(values) if values and len(values) == len(splits) else None
    return {
        stage: scores
        for stage, scores in means.items()
        if any(value is not None for value in scores.values())
    }


class RunningScores:
    """Scores of what is answered so far, for the progress bar."""

    def __init__(self, grid_hw: tuple[int, int], cell_policy: str) -> None:
        self.grid_hw = grid_hw
        self.cell_policy = cell_policy
        self.overlaps: list[StageOverlaps] = []
        self.invalid = 0

    def update(self, record: Record) -> None:
        """Add one record."""
        self.invalid += bool(record.faults)
        self.overlaps.append(score_record(record, self.grid_hw, self.cell_policy))

    def line(self) -> str:
        """For example "coarse cIoU 71.2 gIoU 65.0, refined cIoU 75.1 gIoU 70.3, invalid 0.4%"."""
        scores = add_up(self.overlaps)
        parts = [
            f"{stage} cIoU {percent(scores[stage]['cIoU'])} gIoU {percent(scores[stage]['gIoU'])}"
            for stage in STAGES[1:]
            if stage in scores
        ]
        return ", ".join([*parts, f"invalid {percent(self.invalid / max(len(self.overlaps), 1))}%"])


def percent(value: float | None, digits: int = 1) -> str:
    """Share as a percentage without its sign; a dash where nothing was measured."""
    return "–" if value is None else f"{100 * value:.{digits}f}"
