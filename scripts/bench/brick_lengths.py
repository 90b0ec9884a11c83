"""What box-wise masks cost and carry: choose grid and order of the bricks by these tables.

    python scripts/bench/brick_lengths.py DATA --tokenizer FOLDER

DATA is a COCO folder with `instances*.json` or a root of REFER datasets, FOLDER a checkpoint's tokenizer, to
which the tokens of the bricks are added. Every object is written as an answer and read back. Three tables:

1. tokens of the bricks alone for every order, with and without the background at the end, tokens of a whole
   answer, and what a slip costs: IoU of the cells with the true ones after one brick grew or shrank by one
   cell, and after one was lost (drawn with seed 0), and how many of these slips and losses the reader sees.
   The length that the paper states stands below.
2. the IoU that a model could reach that never errs, by size of the object, against image-wise masks.
3. how many objects of an image fit into one answer, the largest first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from codec_ceiling import LONG, CountTokens, Row, overlap
from command import command
from masks import AnnotatedObject, load_objects
from tqdm import tqdm

from llava.codec import (
    Block,
    block_of,
    box_answer,
    decode_bricks,
    encode,
    encode_bricks,
    rle_to_grid,
    write_block,
)
from llava.codec.bricks import BRICK
from llava.constants import BACKGROUND, LONGEST_BRICK, SEG_CLOSE, SEG_OPEN
from llava.data.rle import decode_rle, union_rle
from llava.eval.breakdown import LARGEST, SIZES
from llava.model.new_tokens import add_brick_tokens
from llava.model.original_tokenizer import original_tokenizer
from llava.settings import BRICK_ORDERS, UPSAMPLING, SegmentationSettings
from llava.types import BoolArray

PAPER_TOKENS = 150.4
"""Mean length of a mask at 64x64 that the paper states (Text4Seg++, arXiv 2509.06321)."""

SENTENCE = "Sure, here is the segmentation mask for '{}':"
"""Words in front of the mask, of the length of those in training."""

Item = tuple[AnnotatedObject, BoolArray, dict[str, Any]]
"""An object with its true mask, bool (H, W), and the same as RLE."""


@dataclass
class Costs:
    """Measurements of one order on one grid.

    Attributes:
        bricks: tokens between the tags of each object.
        answers: tokens of the whole answer.
        slipped: IoU of the cells after one brick grew or shrank by a cell.
        lost: the same after one brick is gone.
        noticed: for each slip and each loss, whether reading told a fault.
    """

    bricks: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    slipped: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    noticed: list[bool] = field(default_factory=list)


def brick_counter(folder: Path) -> CountTokens:
    """Counts tokens with a folder's tokenizer and the tokens of the bricks.

    Raises:
        FileNotFoundError: the folder has no tokenizer.
    """
    tokenizer = original_tokenizer(folder)
    add_brick_tokens(tokenizer)
    return lambda texts: [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def load(folder: Path, *, referred: bool, limit: int) -> list[Item]:
    """Objects that have a pixel, with their masks."""
    items = []
    for item in load_objects(folder, referred=referred, limit=limit):
        rle, _ = union_rle(item.segmentation, item.size_hw)
        mask = decode_rle(rle) != 0
        if mask.any():
            items.append((item, mask, rle))
    return items


def measure_costs(
    items: Sequence[Item], grids: Sequence[int], count: CountTokens
) -> dict[tuple[str, bool, int], Costs]:
    """Length and frailty of every order on every grid, keyed by (order, tail, side)."""
    costs: dict[tuple[str, bool, int], Costs] = {
        (order, tail, side): Costs() for order in BRICK_ORDERS for tail in (False, True) for side in grids
    }
    rng = np.random.default_rng(0)
    for item, mask, _ in tqdm(items, desc="lengths", unit="object"):
        blocks = {side: block_of(item.label, mask, (side, side)) for side in grids}
        bricks = [encode_bricks(blocks[side].cells, order=order, tail=tail) for order, tail, side in costs]
        answers = [
            box_answer(SENTENCE.format(item.label), [write_block(blocks[side], order=order, tail=tail)])
            for order, tail, side in costs
        ]
        lengths = count([*bricks, *answers])
        for number, ((order, tail, side), row) in enumerate(costs.items()):
            row.bricks.append(lengths[number])
            row.answers.append(lengths[len(bricks) + number])
            for change, kept in ((slip, row.slipped), (lose, row.lost)):
                iou, noticed = read_damaged(change(bricks[number], rng), blocks[side], order, tail)
                kept.append(iou)
                row.noticed.append(noticed)
    return costs


def read_damaged(text: str, block: Block, order: str, tail: bool) -> tuple[float, bool]:
    """IoU of the cells that a damaged text describes with those of its block, and whether a fault is told."""
    cells, faults = decode_bricks(text, block.cells.shape, order=order, tail=tail)
    return float(np.sum(cells & block.cells) / np.sum(cells | block.cells)), bool(faults)


def slip(text: str, rng: np.random.Generator) -> str:
    """Text with one brick longer or shorter by one cell."""
    match = list(BRICK.finditer(text))[rng.integers(len(BRICK.findall(text)))]
    cells = int(match[2])
    step = int(rng.choice([-1, 1])) if 1 < cells < LONGEST_BRICK else 1 if cells == 1 else -1
    return f"{text[: match.start()]}<{match[1]}{cells + step}>{text[match.end() :]}"


def lose(text: str, rng: np.random.Generator) -> str:
    """Text without one of its bricks."""
    match = list(BRICK.finditer(text))[rng.integers(len(BRICK.findall(text)))]
    return text[: match.start()] + text[match.end() :]


def measure_ceilings(
    items: Sequence[Item],
    forms: Sequence[tuple[str, int]],
    count: CountTokens,
    settings: SegmentationSettings,
) -> dict[tuple[str, int], Row]:
    """Ceiling of every form, keyed by ("image" or "box", side); tokens are those of mask and tags."""
    rows = {form: Row() for form in forms}
    for item, mask, rle in tqdm(items, desc="ceilings", unit="object"):
        for (kind, side), row in rows.items():
            if kind == "image":
                grid = rle_to_grid(rle, (side, side))
                text = f"{SEG_OPEN}{encode(grid, (BACKGROUND, item.label))}{SEG_CLOSE}"
                overlaps = {method: overlap(grid != 0, mask, method) for method in UPSAMPLING}
                row.add(count([text])[0], overlaps, vanished=not grid.any())
                continue
            block = block_of(item.label, mask, (side, side))
            text = write_block(block, order=settings.brick_order, tail=settings.brick_tail)
            overlaps = {}
            for method in UPSAMPLING:
                drawn = block.mask(item.size_hw, method=method)
                overlaps[method] = int(np.sum(drawn & mask)), int(np.sum(drawn | mask))
            row.add(count([text])[0], overlaps, vanished=not overlaps["nearest"][0])
    return rows


def cost_table(costs: dict[tuple[str, bool, int], Costs], grids: Sequence[int], shown: int) -> str:
    """Markdown table of lengths, and of answers and slips on the grid `shown`."""
    head = ["order", "background at the end"]
    head += [f"{side}x{side} mean / p{LONG}" for side in grids]
    head += [f"answer {shown}x{shown} mean / p{LONG}", "IoU after a slip", "after a loss", "noticed"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for order in BRICK_ORDERS:
        for tail in (False, True):
            row = costs[order, tail, shown]
            lines.append(
                [order, "written" if tail else "left out"]
                + [_length(costs[order, tail, side].bricks) for side in grids]
                + [_length(row.answers)]
                + [f"{100 * np.mean(kept):.1f}" for kept in (row.slipped, row.lost, row.noticed)]
            )
    paper = [f"{PAPER_TOKENS}" if side == 64 else "" for side in grids]
    lines.append(["paper, order unknown", "", *paper, "", "", "", ""])
    return _markdown(lines)


def ceiling_table(rows: dict[tuple[str, int], Row], items: Sequence[Item]) -> str:
    """Markdown table of ceilings: all objects, then mean IoU by size of the object, drawn bilinear."""
    shares = np.array([mask.mean() for _, mask, _ in items])
    ends = np.array([end for end, _ in SIZES])
    places = np.digitize(shares, ends)
    names = [*(name for _, name in SIZES), LARGEST]
    head = ["mask", "grid", f"tokens mean / p{LONG}"]
    head += [f"{score} {method}" for score in ("cIoU", "gIoU") for method in UPSAMPLING] + ["vanished"]
    head += [f"{name} ({np.sum(places == place)})" for place, name in enumerate(names)]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for (kind, side), row in rows.items():
        ious = np.array([inside / union for inside, union in row.overlaps["bilinear"]])
        scores = [score(method) for score in (row.ciou, row.giou) for method in UPSAMPLING]
        scores.append(row.vanished / len(items))
        by_size = [ious[places == place] for place in range(len(names))]
        lines.append(
            [f"{kind}-wise", f"{side}x{side}", _length(row.lengths)]
            + [f"{100 * score:.1f}" for score in scores]
            + [f"{100 * some.mean():.1f}" if some.size else "–" for some in by_size]
        )
    return _markdown(lines)


def crowd_table(items: Sequence[Item], rows: dict[tuple[str, int], Row], budget: int) -> str:
    """Markdown table of the objects of an image that fit into `budget` tokens, the largest first."""
    areas = np.array([mask.sum() for _, mask, _ in items])
    images: dict[str, list[int]] = {}
    for place, (item, _, _) in enumerate(items):
        images.setdefault(item.image, []).append(place)
    crowd = max(images.values(), key=len)
    head = [
        "grid",
        f"objects in {budget:,} tokens",
        "images that fit whole",
        "objects that fit",
        "fullest image",
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for (kind, side), row in rows.items():
        if kind != "box":
            continue
        lengths = np.array(row.lengths)
        fit = {
            name: int(np.sum(np.cumsum(lengths[sorted(places, key=lambda at: -areas[at])]) <= budget))
            for name, places in images.items()
        }
        whole = sum(fit[name] == len(places) for name, places in images.items())
        lines.append(
            [
                f"{side}x{side}",
                f"{budget / lengths.mean():.0f}",
                f"{whole} of {len(images)}",
                f"{100 * sum(fit.values()) / len(items):.1f} %",
                f"{fit[items[crowd[0]][0].image]} of {len(crowd)}",
            ]
        )
    return _markdown(lines)


def _length(lengths: Sequence[int]) -> str:
    return f"{np.mean(lengths):.1f} / {np.percentile(lengths, LONG):.0f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="COCO folder or root of REFER datasets")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a checkpoint's tokenizer")
    parser.add_argument(
        "--grids", type=int, nargs="+", default=[32, 48, 64, 80], help="cells of a box's side"
    )
    parser.add_argument("--image-grids", type=int, nargs="*", default=[16, 24, 32, 64])
    parser.add_argument("--all-instances", action="store_true", help="leave refs out, take every instance")
    parser.add_argument("--budget", type=int, default=3072, help="tokens of one answer")
    parser.add_argument("--limit", type=int, default=0, help="draw so many objects; 0 takes all")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    arguments = parse(argv)
    count: Callable[[list[str]], list[int]] = brick_counter(arguments.tokenizer)
    items = load(arguments.data, referred=not arguments.all_instances, limit=arguments.limit)
    grids = sorted(arguments.grids)
    shown = 64 if 64 in grids else grids[-1]
    print(f"{len(items)} objects; lengths in tokens, IoU and shares in percent.\n")
    print(cost_table(measure_costs(items, grids, count), grids, shown), end="\n\n")
    forms = [*(("image", side) for side in arguments.image_grids), *(("box", side) for side in grids)]
    rows = measure_ceilings(items, forms, count, SegmentationSettings())
    print(ceiling_table(rows, items), end="\n\n")
    print(crowd_table(items, rows, arguments.budget))


if __name__ == "__main__":
    command(main)
