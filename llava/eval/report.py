"""Scores and pictures of a run from its records alone.

Rescore a run, without model or GPU, in seconds:

    python -m llava.eval.report results/tiny-llava-refshapes
    python -m llava.eval.report results/tiny-llava-refshapes --definition gsva --definition rela:side=480

Writes `results.json`, `random.png`, `worst.png` and the self-contained `report.html` into the run folder. The
results hold the scores under every definition of `llava.eval.definitions`; --definition chooses which of them
the tables show, and adds one with changed options. The pictures need the image files of the data set; where
they have moved, name their root with --data-root.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from llava.data.rle import decode_rle
from llava.eval.definitions import DEFINITIONS, MAIN, OPTIONS, Definition, find_definition
from llava.eval.images import load_image
from llava.eval.metrics import Overlap
from llava.eval.page import render, text_table
from llava.eval.predictions import PREDICTIONS_FILE, Record, read_records, read_run
from llava.eval.run import RunSettings, check_records, read_settings
from llava.eval.scoring import StageOverlaps, percent, score_records, summarise
from llava.files import atomic_path, write_text_atomic
from llava.pictures import COARSE, REFINED, SOFT_INK, TRUTH, Card, Panel, sheet

RESULTS_FILE = "results.json"
REPORT_FILE = "report.html"
SHEET_CARDS = 8
"""Answers per sheet: two columns of four fill one screen."""

MISSING_IMAGE = (148, 163, 184)
"""Grey that stands for an image file that is not there."""


def write_report(
    folder: Path,
    *,
    records: Sequence[Record] | None = None,
    data_root: str | None = None,
    shown: Sequence[Definition] = (MAIN,),
) -> dict[str, Any]:
    """Score a finished run and write results, sheets and page.

    Args:
        folder: run folder.
        records: its records where the caller has them already; None reads `predictions.jsonl`.
        data_root: where the images lie now; None takes the folder that the run used.
        shown: definitions whose scores the tables show.

    Returns:
        Content of `results.json`.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: predictions are missing, doubled or damaged.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    records = finished_records(folder, settings) if records is None else records
    overlaps = score_records(records, settings)
    plain: dict[str, Any] = {**asdict(settings), "data_root": data_root or settings.data_root}
    text = json.dumps({**summarise(records, overlaps, settings, shown), "settings": plain}, indent=1)
    write_text_atomic(folder / RESULTS_FILE, text + "\n")
    results: dict[str, Any] = json.loads(text)
    sheets = []
    for name, heading, chosen in (
        ("random", "Random answers", choose_random(records, settings.seed, SHEET_CARDS)),
        ("worst", "Worst answers", choose_worst(overlaps, settings.seed, SHEET_CARDS)),
    ):
        cards = [make_card(records[one], overlaps[one], plain["data_root"]) for one in chosen]
        with atomic_path(folder / f"{name}.png") as path:
            sheet(cards).save(path)
        png = (folder / f"{name}.png").read_bytes()
        sheets.append((f"{heading} ({len(cards)} of {len(records)})", png))
    invalid = [record for record in records if record.faults]
    write_text_atomic(folder / REPORT_FILE, render(results, sheets, invalid))
    return results


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


def choose_random(records: Sequence[Record], seed: int, number: int = SHEET_CARDS) -> list[int]:
    """Places of a seeded random choice of records, in order."""
    return sorted(random.Random(seed).sample(range(len(records)), min(number, len(records))))


def choose_worst(overlaps: Sequence[StageOverlaps], seed: int, number: int = SHEET_CARDS) -> list[int]:
    """Places of the lowest IoU at the last stage, worst first; equals in seeded random order."""
    draw = random.Random(seed)
    ranked = sorted((_last(stages).iou, draw.random(), place) for place, stages in enumerate(overlaps))
    return [place for _, _, place in ranked[:number]]


def _last(stages: StageOverlaps) -> Overlap:
    return stages["refined"] if "refined" in stages else stages["coarse"]


def make_card(record: Record, stages: StageOverlaps, data_root: str) -> Card:
    """Image, truth, coarse and refined mask of one answer, with the IoU of each."""
    image = open_or_grey(record, data_root)
    truth = "truth: no target" if record.no_target else "truth"
    panels = [
        Panel(image, record.group or "image", colour=SOFT_INK),
        Panel(image, truth, decode_rle(record.truth), TRUTH),
        Panel(image, _caption("coarse", record, stages), decode_rle(record.coarse), COARSE),
    ]
    if record.refined is not None:
        panels.append(Panel(image, _caption("refined", record, stages), decode_rle(record.refined), REFINED))
    return Card(record.expression, tuple(panels))


def _caption(stage: str, record: Record, stages: StageOverlaps) -> str:
    answer = "no target" if record.absent else f"{stage}"
    return f"{answer}: IoU {percent(stages[stage].iou)}"


def open_or_grey(record: Record, data_root: str) -> Image.Image:
    """Image of a record, or a grey one of the same size when its file is not there or damaged."""
    height, width = record.truth["size"]
    try:
        image = load_image(Path(data_root) / record.image)
    except (FileNotFoundError, ValueError):
        return Image.new("RGB", (width, height), MISSING_IMAGE)
    return image


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
        f"options: {', '.join(OPTIONS)} (default: {MAIN.name})",
    )
    options = parser.parse_args(arguments)
    try:
        shown = list(dict.fromkeys(find_definition(text) for text in options.definition or (MAIN.name,)))
        results = write_report(options.run_folder, data_root=options.data_root, shown=shown)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    sys.stdout.write(f"{text_table(results)}\nreport: {options.run_folder / REPORT_FILE}\n")


if __name__ == "__main__":
    main()
