"""Draw random records of a file with the masks decoded from their own text. Look before you train.

    cd playground/data
    python create_json/show_json.py json_files/refcoco_train_16x16_r2_c2.json --image-folder refer_seg

writes one PNG for each drawn record: the image, and beside it one panel for each question with the mask of
the answer over the image and the cell borders, question and answer below.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from llava.codec import grid_to_mask, read_answer
from llava.constants import IMAGE_TOKEN, SEG_CLOSE, SEG_OPEN
from llava.data.records import Record, read_records
from llava.files import atomic_path
from llava.settings import CODECS
from llava.types import BoolArray

PANEL_WIDTH = 420
CAPTION_COLUMNS = 52
LINE_HEIGHT = 18
MARGIN = 8
TINT = np.array([255, 40, 40])
"""Colour of the mask, RGB."""

OPACITY = 0.35
DIMMED = 0.5
"""Brightness of what lies outside the mask, so that a red target stays visible."""

BORDER = (150, 150, 150)
FONT_SIZE = 13


def load_image(path: Path) -> Image.Image:
    """RGB image, upright, at panel width.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no readable image.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found - is --image-folder the folder that the records start from?"
        )
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a readable image ({error}); unpack it again") from error
    return image.resize((PANEL_WIDTH, max(1, round(image.height * PANEL_WIDTH / image.width))))


def overlay(image: Image.Image, mask: BoolArray, grid_hw: tuple[int, int]) -> Image.Image:
    """Image with a tinted mask (H, W) and the cell borders of the grid."""
    pixels = np.asarray(image, dtype=np.float64)
    tinted = np.where(mask[..., None], (1 - OPACITY) * pixels + OPACITY * TINT, DIMMED * pixels)
    drawn = Image.fromarray(tinted.astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    rows, columns = grid_hw
    for row in range(1, rows):
        pen.line([(0, row * drawn.height / rows), (drawn.width, row * drawn.height / rows)], BORDER)
    for column in range(1, columns):
        x = column * drawn.width / columns
        pen.line([(x, 0), (x, drawn.height)], BORDER)
    return drawn


def draw_record(record: Record, image: Image.Image, codec: str) -> tuple[Image.Image, list[str]]:
    """Sheet of one record (the image, then one panel for each round), and the faults of its answers."""
    values = [turn["value"] for turn in record["conversations"]]
    panels = [(image, f"{record['id']}\n{record.get('image', '')}")]
    faults: list[str] = []
    for question, answer in zip(values[::2], values[1::2], strict=True):
        panel, note = image, "no mask in this answer"
        if SEG_OPEN in answer and "height" in record:
            grid_hw = (record["height"], record["width"])
            read = read_answer(answer, grid_hw, codec=codec)
            panel = overlay(
                image, grid_to_mask(read.foreground, (image.height, image.width), method="nearest"), grid_hw
            )
            note = f"{read.outcome}: {int(read.foreground.sum())} of {grid_hw[0]}x{grid_hw[1]} cells"
            faults += [str(fault) for fault in read.faults]
        words = re.sub(f"{SEG_OPEN}.*?({SEG_CLOSE}|$)", "[mask]", answer, flags=re.DOTALL).replace("\n", " ")
        panels.append((panel, f"Q: {question.replace(IMAGE_TOKEN, '').strip()}\nA: {words}\n{note}"))
    return join_panels(panels), faults


def join_panels(panels: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Panels of one height side by side, each with its caption below."""
    height = panels[0][0].height
    captions = [
        [part for line in caption.split("\n") for part in textwrap.wrap(line, CAPTION_COLUMNS)]
        for _, caption in panels
    ]
    below = max(map(len, captions)) * LINE_HEIGHT + 2 * MARGIN
    sheet = Image.new(
        "RGB", ((PANEL_WIDTH + MARGIN) * len(panels) + MARGIN, height + MARGIN + below), "white"
    )
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for number, ((panel, _), lines) in enumerate(zip(panels, captions, strict=True)):
        left = MARGIN + number * (PANEL_WIDTH + MARGIN)
        sheet.paste(panel, (left, MARGIN))
        pen.multiline_text((left, height + 2 * MARGIN), "\n".join(lines), "black", font=font)
    return sheet


def show(path: Path, *, image_folder: Path, count: int, seed: int, codec: str, output: Path) -> list[str]:
    """Write the PNGs of some random records and say what each shows.

    Returns:
        One line for each record; faults of its answers follow indented.

    Raises:
        FileNotFoundError or ValueError: the file, an image or the count is wrong.
    """
    if count < 1:
        raise ValueError(f"count {count}: at least 1")
    records = read_records(path)
    chosen = sorted(random.Random(seed).sample(range(len(records)), min(count, len(records))))
    lines = []
    for number in chosen:
        record = records[number]
        if "image" not in record:
            lines.append(f"record {number} has no image")
            continue
        sheet, faults = draw_record(record, load_image(image_folder / record["image"]), codec)
        target = output / f"record_{number:06d}.png"
        with atomic_path(target) as temporary:
            sheet.save(temporary)
        lines += [f"record {number}: {target}", *(f"  fault: {fault}" for fault in faults)]
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Draw and print where the pictures are; 1 and a sentence on wrong input."""
    parser = argparse.ArgumentParser(
        description="Draw random records with the masks of their own text.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("records", type=Path, help="JSON or JSONL file of records")
    parser.add_argument("--image-folder", type=Path, required=True, help="where image paths start")
    parser.add_argument("--count", type=int, default=8, help="records to draw")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--codec", choices=CODECS, default="rrle", help="text form the file was built with")
    parser.add_argument("--output", type=Path, default=Path("results/show_json"), help="folder of the PNGs")
    arguments = parser.parse_args(argv)
    try:
        lines = show(
            arguments.records,
            image_folder=arguments.image_folder,
            count=arguments.count,
            seed=arguments.seed,
            codec=arguments.codec,
            output=arguments.output,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
