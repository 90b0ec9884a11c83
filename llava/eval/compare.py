"""Two runs over the same samples, side by side: which is better, how sure that is, and what changed.

    python -m llava.eval.compare results/run_a results/run_b
    python -m llava.eval.compare results/run_a results/run_b --definition gsva --stage coarse --shared

Prints each metric of both runs, the difference with its 95 % interval (paired bootstrap over images, seeded)
and how many answers changed. Writes `compare.json`, the self-contained `compare.html` and its sheets of the
largest changes into --out. No model is needed; the sheets need the image files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llava.eval.bootstrap import Comparison, compare
from llava.eval.breakdown import CHANGE
from llava.eval.changes import Change, change_sheets, summary
from llava.eval.compare_page import COMPARE_PAGE, compare_table, render
from llava.eval.definitions import DEFINITIONS, MAIN, Definition, find_definition
from llava.eval.metrics import Overlap
from llava.eval.predictions import Record
from llava.eval.report import finished_records
from llava.eval.run import RunSettings, check_out, read_settings
from llava.eval.scoring import StageOverlaps, count_under
from llava.eval.sheets import check_data_root, last
from llava.files import write_text_atomic
from llava.types import Rle

COMPARE_FILE = "compare.json"
LAST = "last"
"""Stage of the masks that a run delivers: refined where there is a refiner, else coarse."""
STAGES = (LAST, "coarse", "refined")


@dataclass(frozen=True)
class Run:
    """A finished run that is compared.

    Attributes:
        folder: run folder.
        settings: of the run.
        records: answers to the samples that are compared.
    """

    folder: Path
    settings: RunSettings
    records: Sequence[Record]


def read_runs(folders: Sequence[Path], *, shared: bool = False) -> list[Run]:
    """Finished runs, their records in the same order.

    Args:
        folders: run folders.
        shared: take the samples that all of them have; False demands that all are in each.

    Raises:
        FileNotFoundError: a folder holds no run.
        ValueError: a run is not finished, the samples differ, or their truth does.
    """
    runs = []
    for folder in map(Path, folders):
        settings = read_settings(folder)
        runs.append(Run(folder, settings, finished_records(folder, settings)))
    known = [{record.id: record for record in run.records} for run in runs]
    common = [record.id for record in runs[0].records if all(record.id in index for index in known)]
    if not common or (not shared and any(len(index) != len(common) for index in known)):
        told = ", ".join(f"{run.folder} has {len(index)}" for run, index in zip(runs, known, strict=True))
        help_ = "--shared takes only those" if common else "evaluate the same splits with all"
        raise ValueError(f"samples: {told}, in common {len(common)}; {help_}")
    for one in common:
        if any(_truth(index[one]) != _truth(known[0][one]) for index in known):
            raise ValueError(
                f"{one}: the runs have different truths; one of them read other annotations, evaluate it "
                "again on the same data"
            )
    return [
        replace(run, records=[index[one] for one in common]) for run, index in zip(runs, known, strict=True)
    ]


def _truth(record: Record) -> tuple[Any, ...]:
    return record.truth, record.no_target, record.ignore, record.boxes_xyxy


def counts_of(run: Run, rules: Definition, stage: str) -> tuple[Sequence[Record], list[Overlap]]:
    """Answers of a run as a definition takes them, and their counts at one stage.

    Raises:
        ValueError: the run has no such stage.
    """
    records, overlaps = count_under(run.records, run.settings, rules)
    missing = [record.id for record, one in zip(records, overlaps, strict=True) if stage not in (LAST, *one)]
    if missing:
        raise ValueError(f"{run.folder}: {missing[0]} has no {stage} mask; compare --stage {LAST} or coarse")
    return records, [_at(one, stage) for one in overlaps]


def _at(stages: StageOverlaps, stage: str) -> Overlap:
    return last(stages) if stage == LAST else stages[stage]


def mask_at(record: Record, stage: str) -> Rle:
    """Mask of a record at one of `STAGES`."""
    return record.coarse if stage == "coarse" or record.refined is None else record.refined


def compare_runs(
    run_a: Run, run_b: Run, *, rules: Definition, stage: str, draws: int, seed: int
) -> tuple[dict[str, dict[str, Comparison]], list[Change]]:
    """Metrics by split under one definition, and all pairs of answers, the largest gain of B first."""
    (records_a, overlaps_a), (records_b, overlaps_b) = (
        counts_of(run, rules, stage) for run in (run_a, run_b)
    )
    told = {}
    for split in dict.fromkeys(record.split for record in records_a):
        places = [place for place, record in enumerate(records_a) if record.split == split]
        told[split] = compare(
            [overlaps_a[place] for place in places],
            [overlaps_b[place] for place in places],
            [records_a[place].image for place in places],
            rules=rules,
            draws=draws,
            seed=seed,
        )
    answers = zip(records_a, records_b, overlaps_a, overlaps_b, strict=True)
    changes = [
        Change(a, b, one.iou, other.iou, mask_at(a, stage), mask_at(b, stage)) for a, b, one, other in answers
    ]
    return told, sorted(changes, key=lambda one: (-one.gain, one.record_a.id))


def write_comparison(
    run_a: Run, run_b: Run, out: Path, *, options: argparse.Namespace, definitions: Sequence[Definition]
) -> str:
    """Compare, write everything into `out`, and return what a terminal shows.

    Raises:
        ValueError: the answers are maps of classes.
    """
    if any(record.regions for run in (run_a, run_b) for record in run.records):
        raise ValueError(
            f"{run_a.folder} and {run_b.folder} hold maps of classes, whose scores belong to no single "
            "answer; python -m llava.eval.overview prints their mean IoU side by side"
        )
    kind = {"stage": options.stage, "draws": options.draws, "seed": options.seed}
    told = {rules.name: compare_runs(run_a, run_b, rules=rules, **kind) for rules in definitions}
    compared = {name: metrics for name, (metrics, _) in told.items()}
    changes = told[definitions[0].name][1]
    counted = summary(changes)
    results = {
        "runs": [run.folder.as_posix() for run in (run_a, run_b)],
        **kind,
        "definitions": {name: _plain(metrics) for name, metrics in compared.items()},
        "changes": counted,
        "settings": differing(run_a.settings, run_b.settings),
        "samples": [
            {"id": one.record_a.id, "A": one.iou_a, "B": one.iou_b}
            for one in changes
            if abs(one.gain) > CHANGE
        ],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out / COMPARE_FILE, json.dumps(results, indent=1) + "\n")
    sheets = change_sheets(out, changes, options.data_root or run_a.settings.data_root)
    write_text_atomic(out / COMPARE_PAGE, render(results, compared, sheets))
    rest = ", ".join(f"{number} {name}" for name, number in counted.items())
    return f"{compare_table(compared)}\n{rest}\npage: {out / COMPARE_PAGE}\n"


def _plain(metrics: dict[str, dict[str, Comparison]]) -> dict[str, Any]:
    return {split: {name: asdict(one) for name, one in rows.items()} for split, rows in metrics.items()}


def differing(a: RunSettings, b: RunSettings) -> dict[str, tuple[Any, Any]]:
    """Settings that are not the same in both runs."""
    fields_a, fields_b = asdict(a), asdict(b)
    return {name: (fields_a[name], fields_b[name]) for name in fields_a if fields_a[name] != fields_b[name]}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of a comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run_a", type=Path, help="run folder with run.json and predictions.jsonl")
    add("run_b", type=Path, help="another one over the same samples")
    add(
        "--definition",
        action="append",
        metavar="NAME[:OPTION=VALUE,...]",
        help=f"rules of the scores, may be given again; names: {', '.join(DEFINITIONS)} "
        f"(default: {MAIN.name})",
    )
    add("--stage", choices=STAGES, default=LAST, help="masks to compare (default: what each run delivers)")
    add("--shared", action="store_true", help="compare only the samples that both runs have")
    add("--draws", type=int, default=1000, help="draws of the bootstrap (default: 1000)")
    add("--seed", type=int, default=0, help="of the draws")
    add("--data-root", default=None, help="where the images lie now (default: where run A had them)")
    add("--out", type=Path, default=None, help="folder for the page (default: compare_NAME in run B)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read both runs, compare, write, print."""
    options = parse(arguments)
    try:
        definitions = list(dict.fromkeys(find_definition(one) for one in options.definition or (MAIN.name,)))
        if options.draws < 1:
            raise ValueError(f"--draws {options.draws}: at least 1, for example 1000")
        check_data_root(options.data_root)
        run_a, run_b = read_runs([options.run_a, options.run_b], shared=options.shared)
        out = options.out or options.run_b / f"compare_{options.run_a.resolve().name}"
        check_out(out)
        shown = write_comparison(run_a, run_b, out, options=options, definitions=definitions)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    sys.stdout.write(shown)


if __name__ == "__main__":
    main()
