"""Draw the picture "passes per mask" of README from the numbers of the replay.

python scripts/passes_figure.py passes.json

The numbers are those that scripts/bench/replay.py writes with --json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from llava.files import atomic_path
from llava.pictures import CARD, GAP, INK, LINE, REFINED, SOFT_INK

WIDTH, LEFT, RIGHT = 920, 300, 90
BAR, STEP, GROUP = 20, 27, 22
TITLE, TEXT = 21, 16
WAYS = {
    "full": "a label for each cell",
    "plain": "run lengths, token by token",
    "lookup": "with prompt lookup",
    "fast": "with --decoding fast",
}
"""Ways that are drawn, and what they are called."""


def figure(rows: Sequence[dict[str, Any]]) -> Image.Image:
    """Bars of every way, in groups by grid.

    Args:
        rows: as `scripts/bench/replay.py --json` writes them, of one set of masks and one tokenizer.

    Raises:
        ValueError: there is no row, or they mix sets or tokenizers.
    """
    sources = {(row["data"], row["tokenizer"]) for row in rows}
    if len(sources) != 1:
        raise ValueError(
            f"rows of {sorted(sources)}: needed are those of one set and one tokenizer; "
            "choose with --data and --tokenizer"
        )
    top = 3 * GAP + TITLE + TEXT
    picture = Image.new("RGB", (WIDTH, top + len(rows) * (len(WAYS) * STEP + GROUP) + GAP), CARD)
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, GAP), "Passes through the model for one answer", INK, ImageFont.load_default(TITLE))
    draw.text(
        (GAP, 2 * GAP + TITLE),
        f"mean over {rows[0]['answers']} expressions of {rows[0]['data']}, tokenizer {rows[0]['tokenizer']}",
        SOFT_INK,
        ImageFont.load_default(TEXT),
    )
    scale = (WIDTH - LEFT - RIGHT) / max(row["passes"][way] for row in rows for way in WAYS)
    for number, row in enumerate(rows):
        _group(draw, row, top + number * (len(WAYS) * STEP + GROUP), scale)
    return picture


def _group(draw: ImageDraw.ImageDraw, row: dict[str, Any], top: int, scale: float) -> None:
    """Bars of one grid; `scale` is pixels for each pass."""
    font, gain = ImageFont.load_default(TEXT), row["passes"]["plain"] / row["passes"]["fast"]
    draw.text((GAP, top), f"{row['grid']}x{row['grid']}", INK, ImageFont.load_default(TITLE))
    draw.line((LEFT, top - GROUP // 4, LEFT, top + len(WAYS) * STEP), fill=LINE)
    for place, (way, words) in enumerate(WAYS.items()):
        y, passes = top + place * STEP, row["passes"][way]
        draw.text((LEFT - GAP, y + BAR // 2), words, SOFT_INK, font, anchor="rm")
        end = LEFT + max(round(passes * scale), 1)
        draw.rectangle((LEFT, y, end, y + BAR), fill=REFINED if way == "fast" else LINE)
        told = f"{passes:.0f}" + (f"   {gain:.0f} times fewer than token by token" if way == "fast" else "")
        draw.text((end + GAP // 2, y + BAR // 2), told, INK, font, anchor="lm")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the numbers, draw, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", type=Path, help="what scripts/bench/replay.py --json wrote")
    parser.add_argument("--data", help="draw this set of masks, where there are several")
    parser.add_argument("--tokenizer", help="draw this tokenizer, where there are several")
    parser.add_argument("--out", type=Path, default=Path("images/passes.png"))
    options = parser.parse_args(argv)
    rows = [
        row
        for row in json.loads(options.numbers.read_text(encoding="utf-8"))
        if options.data in (None, row["data"]) and options.tokenizer in (None, row["tokenizer"])
    ]
    with atomic_path(options.out) as path:
        figure(rows).save(path, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
