"""Tables of a benchmark: scores of a run beside the published ones, as data for terminal, file and page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llava.data.readers.refer_sources import REFER_DATASETS
from llava.eval.anchors import JOINS, MEAN, published
from llava.eval.benchmarks import Benchmark
from llava.eval.definitions import find_definition
from llava.eval.predictions import Record
from llava.eval.scoring import StageOverlaps, add_up, percent
from llava.eval.targets import TARGETS

Table = dict[str, Any]
""""title", "header", "rows" and "note", all text."""

Columns = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Column, stage, metric: a score in 0..1."""

NOTHING = "No published numbers for these splits."
NAMED_LABELS, LABEL_LETTERS = 5, 30
"""How many unmatched labels a table names, and how much of each; `results.json` holds more."""

MAP_METRICS = ("mIoU", "mAcc", "aAcc")


def benchmark_tables(
    benchmark: Benchmark,
    results: Mapping[str, Any],
    records: Sequence[Record],
    overlaps: Sequence[StageOverlaps],
) -> list[Table]:
    """Tables of a finished run.

    Args:
        benchmark: what was run.
        results: with "definitions" of `summarise`, "maps" of `score_maps`, "targets" of `score_targets`, and
            "settings".
        records: all answers.
        overlaps: counts of each at image size.
    """
    scores: dict[str, Columns] = {name: told["splits"] for name, told in results["definitions"].items()}
    if benchmark.by_group:
        for name in benchmark.definitions:
            scores[name] = {**scores[name], **_by_group(records, overlaps, name)}
    maps, limit = results["maps"], results["settings"]["limit"]
    if targets := results["targets"]:
        scores[TARGETS] = targets
        return [_target_scores(targets), *_compare(benchmark, scores, limit)]
    if not maps:
        return _compare(benchmark, scores, limit)
    rules = dict.fromkeys(
        name for told in maps.values() for found in told["scores"].values() for name in found
    )
    scores = {
        name: {
            split: {stage: found[name] for stage, found in told["scores"].items() if name in found}
            for split, told in maps.items()
        }
        for name in rules
    }
    return [_map_scores(maps), _unmatched(maps), *_compare(benchmark, scores, limit)]


def _by_group(records: Sequence[Record], overlaps: Sequence[StageOverlaps], definition: str) -> Columns:
    """Scores of each kind of expression in each split; none where a split has one kind only."""
    groups: dict[str, dict[str, list[StageOverlaps]]] = {}
    for record, stages in zip(records, overlaps, strict=True):
        groups.setdefault(record.split, {}).setdefault(record.group, []).append(stages)
    return {
        f"{split}|{group}": add_up(chosen, find_definition(definition))
        for split, found in groups.items()
        if len(found) > 1
        for group, chosen in sorted(found.items(), reverse=True)
    }


def _map_scores(maps: Mapping[str, Any]) -> Table:
    rows = [
        [split, stage, rules, str(found["classes"]), *(percent(found[name], 2) for name in MAP_METRICS)]
        for split, told in maps.items()
        for stage, by_rules in told["scores"].items()
        for rules, found in by_rules.items()
    ]
    return {
        "title": "Maps of classes, percent",
        "header": ["split", "stage", "definition", "classes", *MAP_METRICS],
        "rows": rows,
        "note": "classes: how many the mean is over. mAcc: mean recall. aAcc: share of right pixels.",
    }


def _target_scores(targets: Mapping[str, Any]) -> Table:
    counts, metrics = ("questions", "targets", "found"), ("gIoU", "cIoU")
    rows = [
        [split, stage, *(str(found[name]) for name in counts), *(percent(found[name]) for name in metrics)]
        for split, stages in targets.items()
        for stage, found in stages.items()
    ]
    return {
        "title": "Target by target, percent",
        "header": ["split", "stage", *counts, *metrics],
        "rows": rows,
        "note": "found: masks that the answers tell apart. Other tables take all targets as one mask.",
    }


def _unmatched(maps: Mapping[str, Any]) -> Table:
    rows = [
        [
            split,
            *(str(told[name]) for name in ("images", "labels", "unmatched")),
            percent(told["unmatched_pixels"]),
            ", ".join(map(_counted, list(told["unmatched_labels"].items())[:NAMED_LABELS])),
        ]
        for split, told in maps.items()
    ]
    return {
        "title": "Labels of the answers that name no class",
        "header": ["split", "images", "labels", "unmatched", "% of labelled pixels", "most frequent"],
        "rows": rows,
        "note": "",
    }


def _counted(pair: tuple[str, int]) -> str:
    label, number = pair
    return f"{number} x {label if len(label) <= LABEL_LETTERS else label[:LABEL_LETTERS] + '…'}"


def _compare(benchmark: Benchmark, scores: Mapping[str, Columns], limit: int | None) -> list[Table]:
    """Tables of `Benchmark.compared` that hold what no other table does; a note where there is none."""
    told = []
    for definition, metric in benchmark.compared:
        if definition in scores:
            table = _beside(benchmark, definition, metric, scores[definition], limit=limit)
            by_group = benchmark.by_group and JOINS not in metric
            told += [table] if by_group or not table["note"].endswith(NOTHING) else []
    nothing = {"title": f"{benchmark.label}: published numbers", "header": [], "rows": [], "note": NOTHING}
    return told or [nothing]


def _averaged(scores: Mapping[str, float | None], metric: str) -> float | None:
    """A metric, or the mean of several that "+" joins; None where one of them was not measured."""
    parts = [scores.get(name) for name in metric.split(JOINS)]
    known = [part for part in parts if part is not None]
    return sum(known) / len(known) if len(known) == len(parts) else None


def _beside(
    benchmark: Benchmark, definition: str, metric: str, columns: Columns, *, limit: int | None
) -> Table:
    """Scores of this run, each stage a row, and the published numbers that may stand below them."""
    averaged = JOINS in metric
    names = [name for name in columns if not averaged or name.rpartition("|")[0] not in columns]
    whole = (benchmark.has_mean or averaged) and len(names) > 1 and set(names) == set(benchmark.splits)
    shown = [*names, MEAN] if whole else names
    rows = []
    for stage in dict.fromkeys(stage for found in columns.values() for stage in found if stage != "grid"):
        found = {name: _averaged(columns[name].get(stage, {}), metric) for name in names}
        percents = {name: 100 * value for name, value in found.items() if value is not None}
        rows.append([f"this run, {stage}", *_cells(percents, shown), ""])
    notes = {f"This run scored a random choice of {limit} samples of each split.": limit is not None}
    others = published(benchmark.name, definition, metric, shown)
    for row in others:
        told = f"{row.source}; {row.how}" if row.how else row.source
        rows.append([row.method, *_cells(row.values, shown), told])
    notes[NOTHING] = not others
    title = f"mean of {metric.replace(JOINS, ' and ')}" if averaged else metric
    return {
        "title": f"{benchmark.label}: {title} under {definition}, percent",
        "header": ["", *_short(shown), "source"],
        "rows": rows,
        "note": " ".join(note for note, holds in notes.items() if holds),
    }


def _short(splits: Sequence[str]) -> list[str]:
    """Names of columns, without the split_by where that leaves them different."""
    parts = [split.split("|") for split in splits]
    short = [" ".join((each[0], *each[2:]) if each[0] in REFER_DATASETS else each) for each in parts]
    return short if len(set(short)) == len(short) else [" ".join(each) for each in parts]


def _cells(values: Mapping[str, float], columns: Sequence[str]) -> list[str]:
    """Percent of each column; the mean is worked out where it is not given and all others are."""
    known = dict(values)
    others = [name for name in columns if name != MEAN]
    if MEAN not in known and set(others) <= known.keys():
        known[MEAN] = sum(known[name] for name in others) / len(others)
    return [f"{known[name]:.1f}" if name in known else "–" for name in columns]


def as_text(tables: Iterable[Table]) -> str:
    """Tables for a terminal, an empty line between two."""
    return "\n\n".join(_one_as_text(table) for table in tables)


def _one_as_text(table: Table) -> str:
    rows = [table["header"], *table["rows"]]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table["header"]))]
    last = len(widths) - 1
    lines = [
        "  ".join(
            cell.ljust(width) if place in (0, last) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(line for line in (table["title"], *lines, table["note"]) if line)
