"""Draw the picture of README: a question, the model's answer, the cells it describes, the refined mask.

python scripts/readme_figure.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from llava.codec import grid_to_mask, read_answer
from llava.data.images import load_image
from llava.files import atomic_path
from llava.model.refine import SamRefiner
from llava.model.segmenter import load_segmenter
from llava.pictures import CARD, COARSE, GAP, INK, LINE, PAGE, REFINED, SOFT_INK, overlay
from llava.settings import SegmentationSettings
from llava.types import Query

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "playground" / "checkpoints"
HEIGHT = 300
TEXT_WIDTH = 330
TITLE, TEXT = 19, 15


def text_panel(lines: list[str]) -> Image.Image:
    """White panel with small lines of text."""
    panel = Image.new("RGB", (TEXT_WIDTH, HEIGHT), CARD)
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(TEXT)
    step = min(TEXT + 3, (HEIGHT - 16) / max(len(lines), 1))
    for number, line in enumerate(lines):
        draw.text((GAP, 8 + number * step), line, SOFT_INK, font)
    return panel


def with_grid(image: Image.Image, grid_hw: tuple[int, int]) -> Image.Image:
    """Copy of a picture with the lines of the cell grid."""
    picture = image.copy()
    draw = ImageDraw.Draw(picture)
    for row in range(1, grid_hw[0]):
        y = row * picture.height / grid_hw[0]
        draw.line((0, y, picture.width, y), fill=LINE)
    for column in range(1, grid_hw[1]):
        x = column * picture.width / grid_hw[1]
        draw.line((x, 0, x, picture.height), fill=LINE)
    return picture


def figure(image: Image.Image, query: str, checkpoint: Path, sam: Path) -> Image.Image:
    """The whole picture: question, answer, cells, refined mask, each with a caption."""
    grid_hw = SegmentationSettings.load(checkpoint).grid_hw
    (prediction,) = load_segmenter(checkpoint).segment([Query([image], [query])])
    refined = SamRefiner(sam).refine(image, prediction.masks[0]).masks[0]
    cells = grid_to_mask(
        read_answer(prediction.text, grid_hw).foreground, (image.height, image.width), method="nearest"
    )
    scale = HEIGHT / image.height
    size = (round(image.width * scale), HEIGHT)
    mask_text = prediction.text.partition("<seg>")[2]
    lines = ["<seg>" + mask_text.split("\n")[0], *mask_text.split("\n")[1:]]
    panels = [
        (f"“{query}”", image.resize(size, Image.Resampling.BICUBIC)),
        ("answer", text_panel(lines)),
        ("its cells", with_grid(overlay(image, cells, colour=COARSE).resize(size), grid_hw)),
        ("refined by SAM", overlay(image, refined, colour=REFINED).resize(size, Image.Resampling.BICUBIC)),
    ]
    return beside(panels)


def beside(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    """Panels in one row on a page, each with its caption below."""
    width = sum(panel.width for _, panel in panels) + GAP * (len(panels) + 1)
    page = Image.new("RGB", (width, HEIGHT + 3 * GAP + TITLE), PAGE)
    draw, left = ImageDraw.Draw(page), GAP
    for caption, panel in panels:
        page.paste(panel, (left, GAP))
        middle = left + panel.width // 2
        draw.text(
            (middle, HEIGHT + 2 * GAP + TITLE), caption, INK, ImageFont.load_default(TITLE), anchor="ms"
        )
        left += panel.width + GAP
    return page


def main() -> None:
    """Answer, draw, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-file", type=Path, default=ROOT / "images" / "shapes.jpg", help="image")
    parser.add_argument("--query", default="the purple object", help="what to segment")
    parser.add_argument("--model-path", type=Path, default=CHECKPOINTS / "tiny-llava-refshapes", help="LLaVA")
    parser.add_argument("--sam-path", type=Path, default=CHECKPOINTS / "tiny-sam-refshapes", help="SAM")
    parser.add_argument("--out", type=Path, default=ROOT / "images" / "readme" / "answer.png", help="picture")
    args = parser.parse_args()
    picture = figure(load_image(args.image_file), args.query, args.model_path, args.sam_path)
    with atomic_path(args.out) as path:
        picture.save(path, optimize=True)
    print(f"wrote {args.out}: {np.asarray(picture).shape[1]} x {picture.height} pixels")


if __name__ == "__main__":
    main()
