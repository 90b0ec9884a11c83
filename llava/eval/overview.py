"""Several runs over the same samples in one table: scores, boxes, sizes of object, and what answers cost.

    python -m llava.eval.overview results/rows_16 results/rows_32 results/bricks_32

Prints two markdown tables for each split: scores of every run and stage, and gIoU by size of the target.
Tokens and passes are means per answer; boxes are those of the masks against the annotated ones (definition
`rec`) and, where answers write a box themselves, that one (`rec:box=written`). No model is needed. For two
runs, `llava.eval.compare` says how sure a difference is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from llava.eval.breakdown import LARGEST, SIZES, size_of
from llava.eval.compare import Run, read_runs
from llava.eval.definitions import DEFINITIONS, MAIN, PRECISIONS, Definition, find_definition
from llava.eval.predictions import Record
from llava.eval.scoring import StageOverlaps, add_up, count_under, percent

COSTS = ("tokens", "passes")
BOXES = tuple(find_definition(name) for name in ("rec", "rec:box=written"))
BOX = "box_acc"
NOTHING = "–"

Answers = Sequence[tuple[Record, StageOverlaps]]
Table = list[list[str]]
"""A header and rows of cells."""


def overview(runs: Sequence[Run], rules: Definition = MAIN) -> dict[str, tuple[Table, Table]]:
    """For each split, the table of scores and that of mean IoU by size of the target.

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
    counted = [list(zip(*count_under(run.records, run.settings, rules), strict=True)) for run in runs]
    splits = dict.fromkeys(record.split for record in runs[0].records)
    return {
        split: _tables(
            {
                _name(run): [pair for pair in answers if pair[0].split == split]
                for run, answers in zip(runs, counted, strict=True)
            },
            rules,
        )
        for split in splits
    }


def _name(run: Run) -> str:
    return run.folder.as_posix()


def _tables(answers: dict[str, Answers], rules: Definition) -> tuple[Table, Table]:
    """Tables of one split, of the answers of each run."""
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
    for split, (scores, by_size) in told.items():
        sys.stdout.write(f"{split}, {rules.name}, percent\n\n{markdown(scores)}\n\n")
        sys.stdout.write(f"mean IoU by size of the target, part of the image\n\n{markdown(by_size)}\n\n")


if __name__ == "__main__":
    main()
