"""Several runs over the same samples in one table: scores, boxes, sizes of object, and what answers cost.

    python -m llava.eval.overview results/rows_16 results/rows_32 results/bricks_32

Prints markdown tables for each split: scores of every run and stage, and gIoU by size of the target. Tokens
and passes are means per answer; boxes are those of the masks against the annotated ones (definition `rec`)
and, where answers write a box themselves, that one (`rec:box=written`). Questions about several targets are
also scored target by target; maps of classes have their mean IoU instead. No model is needed. For two runs,
`llava.eval.compare` says how sure a difference is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava.eval.benchmarks import benchmark_of
from llava.eval.breakdown import LARGEST, SIZES, size_of
from llava.eval.compare import Run, read_runs
from llava.eval.definitions import DEFINITIONS, MAIN, PRECISIONS, Definition, find_definition
from llava.eval.predictions import Record
from llava.eval.scoring import StageOverlaps, add_up, count_under, percent
from llava.eval.semantic_scores import score_maps
from llava.eval.tables import MAP_METRICS
from llava.eval.targets import score_targets

COSTS = ("tokens", "passes")
BOXES = tuple(find_definition(name) for name in ("rec", "rec:box=written"))
BOX = "box_acc"
IOUS = ("cIoU", "gIoU")
NOTHING = "–"

Answers = Sequence[tuple[Record, StageOverlaps]]
Table = list[list[str]]
"""A header and rows of cells."""


def overview(runs: Sequence[Run], rules: Definition = MAIN) -> dict[str, dict[str, Table]]:
    """For each split, its tables by their titles.

    Args:
        runs: finished runs over the same samples, see `read_runs`.
        rules: definition of the scores.

    Raises:
        ValueError: the definition has no mean IoU, or merges sentences and so belongs to no single answer.
    """
    if rules.query == "merged" or not {"gIoU", "mIoU"} & set(rules.reports):
        raise ValueError(
            f"definition {rules.name}: has no mean IoU of single answers; take for example {MAIN.name}"
        )
    splits = dict.fromkeys(record.split for record in runs[0].records)
    return {split: _tables([_of_split(run, split) for run in runs], rules) for split in splits}


def _of_split(run: Run, split: str) -> Run:
    return replace(run, records=[record for record in run.records if record.split == split])


def _tables(runs: Sequence[Run], rules: Definition) -> dict[str, Table]:
    """Tables of runs of one split."""
    maps = [score_maps(run.records) for run in runs]
    if all(maps):
        return {"maps of classes, percent": _map_table(runs, maps)}
    scores, by_size = _mask_tables(runs, rules)
    tables = {
        f"{rules.name}, percent": scores,
        "mean IoU by size of the target, part of the image": by_size,
    }
    benchmark = benchmark_of(runs[0].settings.options)
    if benchmark and benchmark.by_target:
        tables["target by target, percent"] = _target_table(runs)
    return tables


def _map_table(runs: Sequence[Run], maps: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [_name(run), stage, rules, *(percent(found[name], 2) for name in MAP_METRICS)]
        for run, splits in zip(runs, maps, strict=True)
        for told in splits.values()
        for stage, by_rules in told["scores"].items()
        for rules, found in by_rules.items()
    ]
    return [["run", "stage", "definition", *MAP_METRICS], *rows]


def _target_table(runs: Sequence[Run]) -> Table:
    rows = [
        [_name(run), stage, str(found["targets"]), str(found["found"]), *map(percent, map(found.get, IOUS))]
        for run in runs
        for stages in score_targets(run.records, run.settings).values()
        for stage, found in stages.items()
    ]
    return [["run", "stage", "targets", "found", *IOUS], *rows]


def _name(run: Run) -> str:
    return run.folder.as_posix()


def _mask_tables(runs: Sequence[Run], rules: Definition) -> tuple[Table, Table]:
    """Scores of each run and stage, and their mean IoU by size of the target."""
    answers = {
        _name(run): list(zip(*count_under(run.records, run.settings, rules), strict=True)) for run in runs
    }
    first = next(iter(answers.values()))
    sizes = [name for name in (*(name for _, name in SIZES), LARGEST) if any(_of_size(first, name))]
    shown = [name for name in rules.reports if name not in PRECISIONS]
    scores: Table = [["run", "stage", *COSTS, "invalid", *shown, *(f"{BOX} ({one.name})" for one in BOXES)]]
    by_size: Table = [["run", "stage", *(f"{name} ({len(list(_of_size(first, name)))})" for name in sizes)]]
    for name, pairs in answers.items():
        told, boxes = _scores(pairs, rules), [_scores(pairs, one) for one in BOXES]
        found = [_scores(_of_size(pairs, size), rules) for size in sizes]
        costs = [
            *(_mean(pairs, cost) for cost in COSTS),
            str(sum(bool(record.faults) for record, _ in pairs)),
        ]
        for stage in (stage for stage in told if stage != "grid"):
            values = [told[stage][metric] for metric in shown]
            values += [one.get(stage, {}).get(BOX) for one in boxes]
            scores.append([name, stage, *costs, *map(percent, values)])
            by_size.append([name, stage, *(percent(_mean_iou(one[stage])) for one in found)])
    return _without_empty(scores), by_size


def _of_size(pairs: Answers, size: str) -> Iterable[tuple[Record, StageOverlaps]]:
    return (pair for pair in pairs if size_of(pair[0]) == size)


def _scores(
    pairs: Iterable[tuple[Record, StageOverlaps]], rules: Definition
) -> dict[str, dict[str, float | None]]:
    return add_up((stages for _, stages in pairs), rules)


def _mean_iou(scores: dict[str, float | None]) -> float | None:
    return scores.get("gIoU", scores.get("mIoU"))


def _mean(pairs: Answers, cost: str) -> str:
    known = [record.stats[cost] for record, _ in pairs if cost in record.stats]
    return f"{sum(known) / len(known):.1f}" if known else NOTHING


def _without_empty(rows: Table) -> Table:
    """Without the columns in which nothing was measured."""
    kept = [place for place in range(len(rows[0])) if any(row[place] != NOTHING for row in rows[1:])]
    return [[row[place] for place in kept] for row in rows]


def markdown(rows: Table) -> str:
    """A table in markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with run.json and predictions.jsonl")
    parser.add_argument(
        "--definition",
        default=MAIN.name,
        metavar="NAME[:OPTION=VALUE,...]",
        help=f"rules of the scores; names: {', '.join(DEFINITIONS)} (default: {MAIN.name})",
    )
    parser.add_argument("--shared", action="store_true", help="take only the samples that all runs have")
    options = parser.parse_args(arguments)
    try:
        rules = find_definition(options.definition)
        told = overview(read_runs(options.runs, shared=options.shared), rules)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    for split, tables in told.items():
        for title, table in tables.items():
            sys.stdout.write(f"{split}, {title}\n\n{markdown(table)}\n\n")


if __name__ == "__main__":
    main()
