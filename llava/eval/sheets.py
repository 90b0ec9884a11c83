"""Sheets of answers for people: which ones, and what is drawn of each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from llava.data.images import load_image
from llava.data.rle import decode_rle
from llava.eval.breakdown import CHANGE, change_of
from llava.eval.metrics import Overlap
from llava.eval.predictions import Record
from llava.eval.scoring import StageOverlaps, percent
from llava.files import atomic_path
from llava.pictures import COARSE, REFINED, SOFT_INK, TRUTH, Card, Panel, sheet

MISSING_IMAGE = (148, 163, 184)
"""Grey that stands for an image file that is not there."""


def draw_sheets(
    folder: Path,
    records: Sequence[Record],
    overlaps: Sequence[StageOverlaps],
    *,
    data_root: str,
    seed: int,
    number: int,
) -> list[tuple[str, bytes]]:
    """Heading and PNG of each sheet; the pictures are written into the folder too.

    A sheet without an answer is left out, and an old picture of it removed.

    Args:
        folder: where "random.png", "worst.png", "hurt.png" and "faults.png" go.
        records: of the run.
        overlaps: counts of each record.
        data_root: folder below which the images lie.
        seed: of what is drawn at random.
        number: most answers of a sheet.
    """
    faulty = [place for place, record in enumerate(records) if record.faults]
    hurt = choose_hurt(overlaps)
    chosen = (
        ("random", "Random answers", len(records), choose_random(records, seed, number)),
        ("worst", "Worst answers", len(records), choose_worst(overlaps, seed, number)),
        ("hurt", "Answers that the refiner made worse", len(hurt), hurt[:number]),
        ("faults", "Invalid answers", len(faulty), _some(faulty, seed, number)),
    )
    drawn = []
    for name, heading, total, places in chosen:
        path = folder / f"{name}.png"
        if not places:
            path.unlink(missing_ok=True)
            continue
        write_sheet(path, [make_card(records[one], overlaps[one], data_root) for one in places])
        drawn.append((f"{heading} ({len(places)} of {total})", path.read_bytes()))
    return drawn


def check_data_root(data_root: str | None) -> None:
    """Raise FileNotFoundError when a folder of images is named that is not there: all would be grey."""
    if data_root is not None and not Path(data_root).is_dir():
        raise FileNotFoundError(f"--data-root {data_root} is no folder; leave it out for that of the run")


def write_sheet(path: Path, cards: Sequence[Card]) -> None:
    """Draw cards into a PNG file, whole or not at all."""
    with atomic_path(path) as temporary:
        sheet(cards).save(temporary)


def choose_random(records: Sequence[Record], seed: int, number: int) -> list[int]:
    """Places of a seeded random choice of records, in order."""
    return _some(range(len(records)), seed, number)


def _some(places: Sequence[int], seed: int, number: int) -> list[int]:
    return sorted(random.Random(seed).sample(places, min(number, len(places))))


def choose_worst(overlaps: Sequence[StageOverlaps], seed: int, number: int) -> list[int]:
    """Places of the lowest IoU at the last stage, worst first; equals in seeded random order."""
    draw = random.Random(seed)
    ranked = sorted((last(stages).iou, draw.random(), place) for place, stages in enumerate(overlaps))
    return [place for _, _, place in ranked[:number]]


def choose_hurt(overlaps: Sequence[StageOverlaps]) -> list[int]:
    """Places of all answers whose IoU the refiner lowered by more than `CHANGE`, the largest loss first."""
    lost = sorted((change_of(stages), place) for place, stages in enumerate(overlaps))
    return [place for change, place in lost if change < -CHANGE]


def last(stages: StageOverlaps) -> Overlap:
    """Counts of the mask that a run delivers: the refined one where there is one."""
    return stages["refined"] if "refined" in stages else stages["coarse"]


def make_card(record: Record, stages: StageOverlaps, data_root: str) -> Card:
    """Image, truth, coarse and refined mask of one answer, with the IoU of each; its first fault, if any."""
    image = open_or_grey(record, data_root)
    panels = [
        Panel(image, record.group or "image", colour=SOFT_INK),
        truth_panel(record, image),
        Panel(image, _caption("coarse", record, stages), decode_rle(record.coarse), COARSE),
    ]
    if record.refined is not None:
        panels.append(Panel(image, _caption("refined", record, stages), decode_rle(record.refined), REFINED))
    title = f"{record.expression} ({record.faults[0]})" if record.faults else record.expression
    return Card(title, tuple(panels))


def truth_panel(record: Record, image: Image.Image) -> Panel:
    """The true mask over its image."""
    return Panel(image, "truth: no target" if record.no_target else "truth", decode_rle(record.truth), TRUTH)


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
