"""Draw random records with the masks decoded from their own text. Look before you train.

    cd playground/data
    python create_json/show_json.py json_files/refcoco_train_16x16_r2_c2.json --image-folder refer_seg
    python create_json/show_json.py stores/cocostuff_train --image-folder . --grid 32 --crop 0.5 --flip 0.5
    python create_json/show_json.py ../../scripts/v1_5/mixtures/text4seg.yaml --image-folder .

writes one PNG for each drawn record: the image as the model gets it (cropped and mirrored where the record
says so), and beside it one panel for each question with the cells of the answer in one colour for each label,
question and answer below. Answers in bricks show their boxes, each with what its bricks mark, instead of the
cells. Records of a store or a mixture are drawn as training draws them.
"""

from __future__ import annotations

import argparse
import colorsys
import random
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from create import TAIL_HELP, parse_grid
from PIL import Image, ImageDraw, ImageFont

from llava.codec import Answer, grid_to_mask, read_answer
from llava.codec.boxes import box_edges
from llava.codec.boxwise import BoxAnswer, read_boxes
from llava.constants import IMAGE_TOKEN, REF_OPEN, SEG_CLOSE, SEG_OPEN
from llava.data.draw import DrawSettings
from llava.data.mixture import MixtureDataset
from llava.data.mixture_file import is_mixture, open_mixture
from llava.data.record_form import Form, form_of
from llava.data.record_index import RecordFile
from llava.data.records import Record
from llava.files import atomic_path
from llava.settings import ALL_CODECS, BRICK_GRID, BRICK_ORDERS, BRICKS, CELL_POLICIES
from llava.train.dataset import open_image, rounds_of
from llava.types import BoolArray

PANEL_WIDTH = 420
CAPTION_COLUMNS = 52
CAPTION_LINES = 8
"""Most lines of one question or answer below a panel; lists of classes are longer."""

LINE_HEIGHT = 18
MARGIN = 8
MARK = 11
"""Side in pixels of the colour mark before a label."""

OPACITY = 0.45
DIMMED = 0.5
"""Brightness of what no label covers, so that a red target stays visible."""

BORDER = (150, 150, 150)
FONT_SIZE = 13
GOLDEN = 0.618034
"""Share of the colour circle between two labels, so that no two of the first dozen look alike."""

_MASK = re.compile(f"({REF_OPEN}|{SEG_OPEN}).*?({SEG_CLOSE}|$)", re.DOTALL)
"""Text of a mask, with its words and its box where it has some."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet with the lines below it, each with a colour mark or None."""

    image: Image.Image
    lines: tuple[tuple[str, Colour | None], ...]


def label_colour(number: int) -> Colour:
    """Colour of the n-th label of an answer, RGB; the first is red."""
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1.0, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def tint(image: Image.Image, masks: Sequence[BoolArray]) -> Image.Image:
    """Image with one colour for each mask (H, W); the rest is dimmed."""
    pixels = np.asarray(image, dtype=np.float64)
    drawn = DIMMED * pixels
    for number, mask in enumerate(masks):
        colour = np.array(label_colour(number), dtype=np.float64)
        drawn[mask] = (1 - OPACITY) * pixels[mask] + OPACITY * colour
    return Image.fromarray(drawn.astype(np.uint8))


def draw_grid(picture: Image.Image, grid_hw: tuple[int, int]) -> None:
    """Draw the cell borders of a grid over the whole picture."""
    pen = ImageDraw.Draw(picture)
    rows, columns = grid_hw
    for row in range(1, rows):
        pen.line([(0, row * picture.height / rows), (picture.width, row * picture.height / rows)], BORDER)
    for column in range(1, columns):
        x = column * picture.width / columns
        pen.line([(x, 0), (x, picture.height)], BORDER)


def answer_panel(image: Image.Image, read: Answer) -> tuple[Image.Image, list[tuple[str, Colour | None]]]:
    """Image with the cells of an answer, and one line for each label."""
    cells = {
        label: np.any([block.grid == block.labels.index(label) for block in blocks], axis=0)
        for label in dict.fromkeys(label for block in read.blocks for label in block.labels[1:])
        if (blocks := [block for block in read.blocks if label in block.labels])
    }
    size_hw = (image.height, image.width)
    picture = tint(image, [grid_to_mask(grid, size_hw, method="nearest") for grid in cells.values()])
    draw_grid(picture, read.grid_hw)
    rows, columns = read.grid_hw
    lines: list[tuple[str, Colour | None]] = [
        (f"{read.outcome}: {int(read.foreground.sum())} of {rows}x{columns} cells", None)
    ]
    lines += [
        (f"{label}: {int(grid.sum())}", label_colour(number))
        for number, (label, grid) in enumerate(cells.items())
    ]
    return picture, lines


def box_panel(image: Image.Image, read: BoxAnswer) -> tuple[Image.Image, list[tuple[str, Colour | None]]]:
    """Image with the boxes of an answer and the pixels that it marks in them, and one line for each label."""
    size_hw = (image.height, image.width)
    labels = list(dict.fromkeys(block.label for block in read.blocks))
    masks = [
        np.any([block.mask(size_hw) for block in read.blocks if block.label == label], axis=0)
        for label in labels
    ]
    picture = tint(image, masks)
    pen = ImageDraw.Draw(picture)
    rows, columns = read.grid_hw
    lines: list[tuple[str, Colour | None]] = [
        (f"{read.outcome}, boxes of {rows}x{columns} cells: {len(read.blocks)}", None)
    ]
    for number, label in enumerate(labels):
        boxes = [block.box for block in read.blocks if block.label == label and block.box is not None]
        for box in boxes:
            left, top, right, bottom = box_edges(box, size_hw)
            corners = (left, top, max(left, right - 1), max(top, bottom - 1))
            pen.rectangle(corners, outline=label_colour(number))
        lines.append((f"{label}, boxes: {len(boxes)}", label_colour(number)))
    return picture, lines


def read_in_form(answer: str, form: Form, codec: str) -> Answer | BoxAnswer:
    """Masks of an answer; the codec is that of image-wise forms."""
    if form.brick_order:
        return read_boxes(answer, form.grid_hw, order=form.brick_order, tail=form.brick_tail)
    return read_answer(answer, form.grid_hw, codec=codec)


def wrapped(text: str) -> list[tuple[str, Colour | None]]:
    """Lines of a text, cut where it is too long."""
    lines = textwrap.wrap(text, CAPTION_COLUMNS, max_lines=CAPTION_LINES, placeholder=" …")
    return [(line, None) for line in lines]


def draw_sheet(record: Record, image: Image.Image, codec: str) -> tuple[Image.Image, list[str]]:
    """Sheet of one record (the image, then one panel for each round), and the faults of its answers.

    Args:
        record: with an image.
        image: as the record shows it.
        codec: text form of image-wise answers; records in bricks say so.
    """
    height = max(1, round(image.height * PANEL_WIDTH / image.width))
    shown = image.resize((PANEL_WIDTH, height))
    lines = [*wrapped(str(record["id"])), *wrapped(record["image"])]
    if "crop_size" in record:
        lines += wrapped(f"cropped to {record['crop_size']} (left, top, right, bottom)")
    if record.get("flip"):
        lines += wrapped("mirrored")
    panels = [Panel(shown, tuple(lines))]
    faults: list[str] = []
    for question, answer in rounds_of(record):
        panel, marks = shown, wrapped("no mask in this answer")
        form = form_of(record)
        if SEG_OPEN in answer and form is not None:
            read = read_in_form(answer, form, codec)
            panel, marks = (
                box_panel(shown, read) if isinstance(read, BoxAnswer) else answer_panel(shown, read)
            )
            faults += [str(fault) for fault in read.faults]
        words = _MASK.sub("[mask]", answer).replace("\n", " ")
        # A space behind each bar, so that a list of names has places to break at.
        asked, said = question.replace(IMAGE_TOKEN, "").strip().replace("|", "| "), words.replace("|", "| ")
        panels.append(Panel(panel, (*wrapped(f"Q: {asked}"), *wrapped(f"A: {said}"), *marks)))
    return join_panels(panels), faults


def join_panels(panels: Sequence[Panel]) -> Image.Image:
    """Panels of one height side by side, each with its lines below."""
    height = panels[0].image.height
    below = max(len(panel.lines) for panel in panels) * LINE_HEIGHT + 2 * MARGIN
    size_wh = ((PANEL_WIDTH + MARGIN) * len(panels) + MARGIN, height + MARGIN + below)
    sheet = Image.new("RGB", size_wh, "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for number, panel in enumerate(panels):
        left = MARGIN + number * (PANEL_WIDTH + MARGIN)
        sheet.paste(panel.image, (left, MARGIN))
        for row, (text, colour) in enumerate(panel.lines):
            top = height + 2 * MARGIN + row * LINE_HEIGHT
            if colour is not None:
                pen.rectangle((left, top + 3, left + MARK, top + 3 + MARK), colour)
            pen.text((left + (MARK + MARGIN) * (colour is not None), top), text, "black", font=font)
    return sheet


def open_records(
    path: Path, settings: DrawSettings, *, seed: int, epoch: int
) -> tuple[int, Callable[[int], Record]]:
    """How many records a file, a store or a mixture has, and a function that gives one by number.

    Raises:
        FileNotFoundError or ValueError: there is no such source, or it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} not found - make it with playground/data/create_json/create_*.py")
    if is_mixture(path):
        dataset = MixtureDataset(open_mixture([path]), settings, seed)
        return len(dataset), lambda number: dataset.record(epoch, number)
    records = RecordFile(path)
    return len(records), records.__getitem__


def show(arguments: argparse.Namespace) -> list[str]:
    """Write the PNGs of some random records and say what each shows.

    Returns:
        One line for each record; faults of its answers follow indented.

    Raises:
        FileNotFoundError or ValueError: the source, an image or the count is wrong.
    """
    for name, least in (("count", 1), ("seed", 0), ("epoch", 0)):
        if getattr(arguments, name) < least:
            raise ValueError(f"{name} {getattr(arguments, name)}: at least {least}")
    settings = DrawSettings(
        grid_hw=arguments.grid or (BRICK_GRID if arguments.codec == BRICKS else (16, 16)),
        codec=arguments.codec,
        cell_policy=arguments.cell_policy,
        brick_order=arguments.brick_order,
        brick_tail=arguments.brick_tail,
        rounds=arguments.rounds,
        crop=arguments.crop,
        flip=arguments.flip,
    )
    total, get = open_records(arguments.records, settings, seed=arguments.seed, epoch=arguments.epoch)
    lines = []
    for number in sorted(random.Random(arguments.seed).sample(range(total), min(arguments.count, total))):
        record = get(number)
        if "image" not in record:
            lines.append(f"record {number} has no image")
            continue
        path = arguments.image_folder / record["image"]
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} not found - is --image-folder the folder that the records start from?"
            )
        image = open_image(path, crop=record.get("crop_size"), flip=record.get("flip", False))
        sheet, faults = draw_sheet(record, image, arguments.codec)
        target = arguments.output / f"record_{number:06d}.png"
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
    add = parser.add_argument
    add("records", type=Path, help="JSON or JSONL file of records, folder of a store, or mixture file")
    add("--image-folder", type=Path, required=True, help="where image paths start")
    add("--count", type=int, default=8, help="records to draw")
    add("--seed", type=int, default=0, help="which ones, and of their draws")
    add("--codec", choices=ALL_CODECS, default="rrle", help="form the file was built with, or to draw in")
    add("--output", type=Path, default=Path("results/show_json"), help="folder of the PNGs")
    live = parser.add_argument_group("only where records are drawn from a store; a mixture file may say else")
    live.add_argument("--epoch", type=int, default=0, help="of training; each draws anew")
    live.add_argument("--grid", type=parse_grid, help=f"cells: 16, or 12x16; default: 16, with {BRICKS} 64")
    order = DrawSettings.brick_order
    live.add_argument("--brick-order", choices=BRICK_ORDERS, default=order, help="of the cells of a box")
    tail = DrawSettings.brick_tail
    live.add_argument("--brick-tail", action=argparse.BooleanOptionalAction, default=tail, help=TAIL_HELP)
    live.add_argument("--cell-policy", choices=CELL_POLICIES, default="centre", help="how masks become cells")
    live.add_argument("--rounds", type=int, default=2, help="questions in one conversation")
    live.add_argument("--crop", type=float, default=0.0, help="share of records that show a part")
    live.add_argument("--flip", type=float, default=0.0, help="share of records that mirror the image")
    try:
        lines = show(parser.parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
