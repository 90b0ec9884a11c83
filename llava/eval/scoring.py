"""From records to scores: nothing but the records and the settings of the run is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from tqdm import tqdm

from llava.codec import mask_to_grid
from llava.codec.grid import sample_centres
from llava.data.rle import decode_rle, rle_area
from llava.eval.definitions import DEFINITIONS, MAIN, Definition
from llava.eval.merged import merge_answers
from llava.eval.metrics import Overlap, RegionScores, Scores, overlap
from llava.eval.predictions import Record
from llava.eval.run import RunSettings
from llava.types import BoolArray

STAGES = ("grid", "coarse", "refined")
"""The answer in its own cells, as a mask of the image, and after the refiner."""

STEPS = ("generate", "decode", "refine", "score")

PIXELS_ONLY = ("N_acc", "T_acc", "box_acc")
"""What cells cannot say: rejections are no matter of cells, and boxes are measured in pixels."""

MEANS = ("cIoU", "gIoU", "mIoU", "box_acc")
"""Metrics that papers average over the splits."""

StageOverlaps = dict[str, Overlap]


def score_record(
    record: Record, cells_hw: tuple[int, int] | None, cell_policy: str = "centre", *, side: int = 0
) -> StageOverlaps:
    """Counts of one answer at each stage; "refined" only where a refiner ran.

    Stage "grid" compares cells with cells, what the model was trained for. A target too small to own a cell
    has an empty truth there and counts as no target; the other stages know nothing of cells. There is no such
    stage without `cells_hw`, where cells are those of boxes. With `side`, masks are squashed to side x side
    pixels first; the cells stay as they are. A box that the answer writes belongs to stage "coarse": no
    refiner changes it.
    """
    truth, coarse = decode_rle(record.truth), decode_rle(record.coarse)
    ignore = None if record.ignore is None else decode_rle(record.ignore)
    stages = {}
    if cells_hw is not None:
        stages["grid"] = overlap(
            _cells(coarse, cells_hw, cell_policy),
            _cells(truth, cells_hw, cell_policy),
            rejected=record.absent,
            ignore=None if ignore is None else sample_centres(ignore, cells_hw),
        )
    refined = {} if record.refined is None else {"refined": decode_rle(record.refined)}
    for stage, mask in {"coarse": coarse, **refined}.items():
        stages[stage] = overlap(
            mask,
            truth,
            rejected=record.absent,
            no_target=record.no_target,
            ignore=ignore,
            boxes_xyxy=record.boxes_xyxy,
            side=side,
            written=record.boxes if stage == "coarse" else None,
        )
    return stages


def _cells(mask: BoolArray, grid_hw: tuple[int, int], cell_policy: str) -> BoolArray:
    return mask_to_grid(mask, grid_hw, policy=cell_policy) > 0


def score_records(records: Sequence[Record], settings: RunSettings, *, side: int = 0) -> list[StageOverlaps]:
    """`score_record` of every record, with a progress bar."""
    bar = tqdm(records, desc="score", unit="sample", mininterval=1)
    return [score_record(record, settings.cells_hw, settings.cell_policy, side=side) for record in bar]


def is_empty(record: Record) -> bool:
    """The coarse mask has no pixel."""
    return not rle_area(record.coarse)


def add_up(overlaps: Iterable[StageOverlaps], rules: Definition = MAIN) -> dict[str, Scores]:
    """Scores per stage.

    At stage "grid", `PIXELS_ONLY` are None and no mask is too small; a definition that reports nothing else
    has no such stage.
    """
    totals: dict[str, RegionScores] = {}
    for stages in overlaps:
        for stage, one in stages.items():
            totals.setdefault(stage, RegionScores()).update(one)
    for_cells = replace(rules, min_area=0)
    scores = {
        stage: totals[stage].compute(for_cells if stage == "grid" else rules)
        for stage in STAGES
        if stage in totals
    }
    if set(rules.reports) <= set(PIXELS_ONLY):
        scores.pop("grid", None)
    if "grid" in scores:
        scores["grid"].pop("boxes", None)
        scores["grid"] |= {name: None for name in PIXELS_ONLY if name in rules.reports}
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
            "grid" in stages and stages["grid"].no_target and not record.no_target
            for record, stages in zip(records, overlaps, strict=True)
        ),
        "kept_coarse": dict(sorted(Counter(record.note for record in records if record.note).items())),
    }


def summarise(
    records: Sequence[Record],
    overlaps: Sequence[StageOverlaps],
    settings: RunSettings,
    shown: Sequence[Definition] = (MAIN,),
) -> dict[str, Any]:
    """Content of `results.json`. Scores are in 0..1; None where nothing could be measured.

    "scores", "groups" and "mean" follow the definition named by "definition". "definitions" holds the rules
    and scores of every named one, and of those in `shown`, which tables show. Seconds are added up over all
    answers, so with several processes they are process seconds.
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
        "definition": MAIN.name,
        "shown": [rules.name for rules in shown],
        "splits": splits,
        "mean": mean_over_splits(splits),
        "definitions": under_definitions(records, overlaps, settings, shown=shown),
        "counts": count(records, overlaps),
        "seconds": {step: round(sum(one.seconds.get(step, 0.0) for one in records), 3) for step in STEPS},
    }


def under_definitions(
    records: Sequence[Record],
    overlaps: Sequence[StageOverlaps],
    settings: RunSettings,
    *,
    shown: Sequence[Definition] = (),
) -> dict[str, Any]:
    """Scores under every named definition, and under those in `shown`.

    Answers are counted again only for a definition that squashes the masks or merges the sentences.

    Args:
        records: of finished answers.
        overlaps: counts of each record at image size.
        settings: of the run.
        shown: further definitions, named ones with changed options.

    Returns:
        For each name: "rules", "splits" (split, stage, metric) and "mean" (stage, metric).
    """
    counted = {MAIN.protocol: (records, overlaps)}
    told: dict[str, Any] = {}
    for rules in {rules.name: rules for rules in (*DEFINITIONS.values(), *shown)}.values():
        if rules.protocol not in counted:
            counted[rules.protocol] = count_under(records, settings, rules)
        by_split: dict[str, list[StageOverlaps]] = {}
        for record, stages in zip(*counted[rules.protocol], strict=True):
            by_split.setdefault(record.split, []).append(stages)
        scores = {split: add_up(chosen, rules) for split, chosen in by_split.items()}
        told[rules.name] = {
            "rules": {**asdict(rules), "epsilon": float(rules.epsilon)},
            "splits": scores,
            "mean": mean_over_splits({split: {"scores": stages} for split, stages in scores.items()}),
        }
    return told


def count_under(
    records: Sequence[Record], settings: RunSettings, rules: Definition
) -> tuple[Sequence[Record], list[StageOverlaps]]:
    """Answers as a definition takes them, sentence by sentence or merged, and the counts of each."""
    answers = merge_answers(records, rules.tie) if rules.query == "merged" else records
    return answers, score_records(answers, settings, side=rules.side)


def mean_over_splits(splits: dict[str, Any]) -> dict[str, Any]:
    """Plain mean of `MEANS` over the splits, as papers print it; empty for a single split."""
    if len(splits) < 2:
        return {}
    means: dict[str, Any] = {}
    for stage in STAGES:
        found = [split["scores"][stage] for split in splits.values() if stage in split["scores"]]
        means[stage] = {}
        for name in (name for name in MEANS if any(name in scores for scores in found)):
            values = [scores[name] for scores in found if scores[name] is not None]
            means[stage][name] = sum(values) / len(values) if values and len(values) == len(splits) else None
    return {
        stage: scores
        for stage, scores in means.items()
        if any(value is not None for value in scores.values())
    }


class RunningScores:
    """Scores of what is answered so far, for the progress bar."""

    def __init__(self, cells_hw: tuple[int, int] | None, cell_policy: str) -> None:
        self.cells_hw = cells_hw
        self.cell_policy = cell_policy
        self.overlaps: list[StageOverlaps] = []
        self.invalid = 0

    def update(self, record: Record) -> None:
        """Add one record."""
        self.invalid += bool(record.faults)
        self.overlaps.append(score_record(record, self.cells_hw, self.cell_policy))

    def line(self) -> str:
        """For example "rela: coarse cIoU 71.2 gIoU 65.0, refined cIoU 75.1 gIoU 70.3, invalid 0.4%"."""
        scores = add_up(self.overlaps)
        parts = [
            f"{stage} cIoU {percent(scores[stage]['cIoU'])} gIoU {percent(scores[stage]['gIoU'])}"
            for stage in STAGES[1:]
            if stage in scores
        ]
        return f"{MAIN.name}: " + ", ".join(
            [*parts, f"invalid {percent(self.invalid / max(len(self.overlaps), 1))}%"]
        )


def percent(value: float | None, digits: int = 1) -> str:
    """Share as a percentage without its sign; a dash where nothing was measured."""
    return "–" if value is None else f"{100 * value:.{digits}f}"
