"""Answers that differ between two runs: how many, and sheets of those that differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava.data.rle import decode_rle
from llava.eval.breakdown import CHANGE
from llava.eval.predictions import Record
from llava.eval.scoring import percent
from llava.eval.sheets import open_or_grey, truth_panel, write_sheet
from llava.pictures import COARSE, REFINED, Card, Panel
from llava.types import Rle

SHEET_CARDS = 8
"""Answers per sheet: two columns of four fill one screen."""


@dataclass(frozen=True)
class Change:
    """One question whose answer changed.

    Attributes:
        record_a: answer of the first run.
        record_b: answer of the second run.
        iou_a: IoU of the first answer under the main definition, 0..1.
        iou_b: IoU of the second answer, 0..1.
        mask_a: mask of the first answer at the compared stage.
        mask_b: mask of the second answer at the compared stage.
    """

    record_a: Record
    record_b: Record
    iou_a: float
    iou_b: float
    mask_a: Rle
    mask_b: Rle

    @property
    def gain(self) -> float:
        """Second IoU minus first."""
        return self.iou_b - self.iou_a


def summary(changes: Sequence[Change]) -> dict[str, int]:
    """How many answers gained, lost or kept their IoU (to within `CHANGE`), and how many texts are equal."""
    return {
        "samples": len(changes),
        "better": sum(one.gain > CHANGE for one in changes),
        "worse": sum(one.gain < -CHANGE for one in changes),
        "same mask": sum(one.mask_a == one.mask_b for one in changes),
        "same text": sum(one.record_a.answer == one.record_b.answer for one in changes),
        "only A invalid": sum(bool(one.record_a.faults) > bool(one.record_b.faults) for one in changes),
        "only B invalid": sum(bool(one.record_a.faults) < bool(one.record_b.faults) for one in changes),
    }


def change_sheets(folder: Path, changes: Sequence[Change], data_root: str) -> list[tuple[str, bytes]]:
    """Heading and PNG of the answers that gained and lost most; the pictures go into the folder too.

    Args:
        folder: where "better.png" and "worse.png" go.
        changes: all pairs, the largest gain first.
        data_root: folder below which the images lie.
    """
    better = [one for one in changes if one.gain > 0]
    worse = [one for one in reversed(changes) if one.gain < 0]
    sheets = []
    for name, chosen in (("better", better), ("worse", worse)):
        path = folder / f"{name}.png"
        if not chosen:
            path.unlink(missing_ok=True)
            continue
        write_sheet(path, [_card(one, data_root) for one in chosen[:SHEET_CARDS]])
        shown = min(len(chosen), SHEET_CARDS)
        sheets.append((f"B {name} than A ({shown} of {len(chosen)})", path.read_bytes()))
    return sheets


def _card(change: Change, data_root: str) -> Card:
    image = open_or_grey(change.record_a, data_root)
    panels = [truth_panel(change.record_a, image)]
    for name, record, iou, mask, colour in (
        ("A", change.record_a, change.iou_a, change.mask_a, COARSE),
        ("B", change.record_b, change.iou_b, change.mask_b, REFINED),
    ):
        answer = f"{name} no target" if record.absent else name
        panels.append(Panel(image, f"{answer}: IoU {percent(iou)}", decode_rle(mask), colour))
    return Card(change.record_a.expression, tuple(panels))
