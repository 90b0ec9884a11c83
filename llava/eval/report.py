"""Scores and pictures of a run from its records alone.

Rescore a run, without model or GPU, in seconds:

    python -m llava.eval.report results/tiny-llava-refshapes
    python -m llava.eval.report results/tiny-llava-refshapes --definition gsva --definition rela:side=480

Writes `results.json`, the self-contained `report.html` and its sheets (`random.png`, `worst.png`, `hurt.png`,
`faults.png`) into the run folder. The results hold the scores under every definition of
`llava.eval.definitions`; --definition chooses which of them the tables show, and adds one with changed
options. The pictures need the image files of the data set; where they have moved, name their root with
--data-root.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava.eval.benchmarks import benchmark_of
from llava.eval.breakdown import break_down, costs, refinement
from llava.eval.definitions import DEFINITIONS, MAIN, OPTIONS, Definition, find_definition
from llava.eval.page import render, text_table
from llava.eval.predictions import PREDICTIONS_FILE, Record, read_records, read_run
from llava.eval.ranking import risk_coverage
from llava.eval.run import RunSettings, check_records, read_settings
from llava.eval.scoring import score_records, summarise
from llava.eval.semantic_scores import score_maps
from llava.eval.sheets import check_data_root, draw_sheets
from llava.eval.tables import as_text, benchmark_tables
from llava.eval.targets import score_targets
from llava.files import write_text_atomic

RESULTS_FILE = "results.json"
REPORT_FILE = "report.html"
SHEET_CARDS = 8
"""Answers per sheet: two columns of four fill one screen."""


def write_report(
    folder: Path,
    *,
    records: Sequence[Record] | None = None,
    data_root: str | None = None,
    shown: Sequence[Definition] | None = None,
) -> dict[str, Any]:
    """Score a finished run and write results, sheets and page.

    Args:
        folder: run folder.
        records: its records where the caller has them already; None reads `predictions.jsonl`.
        data_root: where the images lie now; None takes the folder that the run used.
        shown: definitions whose scores the tables show; None takes those of the run's benchmark.

    Returns:
        Content of `results.json`.

    Raises:
        FileNotFoundError: the folder holds no run, or `data_root` is none.
        ValueError: predictions are missing, doubled or damaged, or of another version of the benchmark.
    """
    check_data_root(data_root)
    folder = Path(folder)
    settings = read_settings(folder)
    benchmark = benchmark_of(settings.options)
    records = finished_records(folder, settings) if records is None else records
    shown = _measured(benchmark.shown if benchmark else [MAIN], records) if shown is None else shown
    overlaps = score_records(records, settings)
    plain: dict[str, Any] = {**asdict(settings), "data_root": data_root or settings.data_root}
    parts = {
        "breakdown": break_down(records, overlaps),
        "refinement": refinement(records, overlaps),
        "ranking": risk_coverage(records, overlaps),
        "costs": costs(records),
        "benchmark": settings.options.get("benchmark"),
        "maps": score_maps(records),
        "targets": score_targets(records, settings) if benchmark and benchmark.by_target else {},
    }
    told = {**summarise(records, overlaps, settings, shown), **parts, "settings": plain}
    told["tables"] = benchmark_tables(benchmark, told, records, overlaps) if benchmark else []
    text = json.dumps(told, indent=1)
    write_text_atomic(folder / RESULTS_FILE, text + "\n")
    results: dict[str, Any] = json.loads(text)
    sheets = draw_sheets(
        folder,
        records,
        overlaps,
        data_root=plain["data_root"],
        seed=settings.seed,
        number=SHEET_CARDS,
    )
    invalid = [record for record in records if record.faults]
    write_text_atomic(folder / REPORT_FILE, render(results, sheets, invalid))
    return results


def _measured(definitions: Sequence[Definition], records: Sequence[Record]) -> list[Definition]:
    """Definitions without those of written boxes where no answer writes any."""
    write_boxes = any(record.boxes is not None for record in records)
    return [rules for rules in definitions if rules.box != "written" or write_boxes]


def finished_records(folder: Path, settings: RunSettings) -> list[Record]:
    """Records of a run in which every sample is answered exactly once.

    Raises:
        ValueError: a prediction is missing or doubled, with what to do.
    """
    path = folder / PREDICTIONS_FILE
    expected = settings.samples.get("count")
    if not path.is_file():
        raise ValueError(
            f"{folder} holds {len(read_run(folder))} of {expected} predictions; "
            "run the command that started it again, it resumes"
        )
    records = read_records(path)
    different = len({record.id for record in records})
    if len(records) != expected or different != expected:
        raise ValueError(
            f"{path} holds {len(records)} predictions for {different} samples, the run has {expected}; "
            "restore the file, or run the command that started it again"
        )
    check_records(folder, records, settings)
    return records


def told_in_text(results: dict[str, Any]) -> str:
    """Scores of a run for a terminal: of the shown definitions, then the tables of the benchmark."""
    return "\n\n".join(
        part for part in (text_table(results) if results["shown"] else "", as_text(results["tables"])) if part
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Score a finished run again from its predictions.")
    parser.add_argument("run_folder", type=Path, help="folder with run.json and predictions.jsonl")
    parser.add_argument(
        "--data-root", default=None, help="where the data lies now (default: where the run had it)"
    )
    parser.add_argument(
        "--definition",
        action="append",
        metavar="NAME[:OPTION=VALUE,...]",
        help=f"rules of the scores to show, may be given again; names: {', '.join(DEFINITIONS)}; "
        f"options: {', '.join(OPTIONS)} (default: those of the benchmark)",
    )
    options = parser.parse_args(arguments)
    try:
        shown = list(dict.fromkeys(find_definition(text) for text in options.definition or ()))
        results = write_report(options.run_folder, data_root=options.data_root, shown=shown or None)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    sys.stdout.write(f"{told_in_text(results)}\nreport: {options.run_folder / REPORT_FILE}\n")


if __name__ == "__main__":
    main()
