"""What a mask text can carry at best, and what it costs: choose codec and grid by this table.

    python scripts/bench/codec_ceiling.py DATA --tokenizer FOLDER

DATA is a COCO folder with `instances*.json` or a root of REFER datasets. Every object is written as text and
read back; the IoU with its true mask is what a model could reach that never errs. Labels are the first
sentence about an object, or its class where there are no sentences.

Prints a markdown table. cIoU is the sum of intersections over the sum of unions, gIoU the mean IoU. Tokens
are those of the mask text with its tags. An object vanishes when it marks no cell; it counts with IoU 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from command import command
from masks import AnnotatedObject, load_objects
from tokenizers import Tokenizer
from tqdm import tqdm

from llava.codec import clean_label, decode, encode, grid_to_mask, rle_to_grid
from llava.constants import BACKGROUND, SEG_CLOSE, SEG_OPEN
from llava.data.rle import decode_rle, union_rle
from llava.settings import CELL_POLICIES, CODECS, UPSAMPLING
from llava.types import BoolArray

LONG = 95
"""Percentile of lengths that the table gives beside the mean."""

CountTokens = Callable[[list[str]], list[int]]


@dataclass
class Row:
    """Measurements of one codec on one grid.

    Attributes:
        lengths: tokens of each mask text.
        overlaps: for each way of drawing the cells, (intersection, union) in pixels of each object.
        vanished: objects without a cell.
    """

    lengths: list[int] = field(default_factory=list)
    overlaps: dict[str, list[tuple[int, int]]] = field(
        default_factory=lambda: {method: [] for method in UPSAMPLING}
    )
    vanished: int = 0

    def add(self, length: int, overlaps: dict[str, tuple[int, int]], *, vanished: bool) -> None:
        """Take in one object."""
        self.lengths.append(length)
        for method, pixels in overlaps.items():
            self.overlaps[method].append(pixels)
        self.vanished += vanished

    def ciou(self, method: str) -> float:
        """Summed intersection over summed union."""
        intersections, unions = np.sum(self.overlaps[method], axis=0)
        return float(intersections / unions)

    def giou(self, method: str) -> float:
        """Mean IoU."""
        return float(np.mean([inside / union for inside, union in self.overlaps[method]]))


def token_counter(folder: Path) -> CountTokens:
    """Counts tokens with the tokenizer of a checkpoint folder, or with a bare SentencePiece file.

    Raises:
        FileNotFoundError: the folder has neither.
    """
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return lambda texts: [len(each) for each in tokenizer.encode_batch(texts, add_special_tokens=False)]
    if (folder / "tokenizer.model").is_file():
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        return lambda texts: [len(ids) for ids in pieces.encode(texts)]
    raise FileNotFoundError(
        f"{folder} has no tokenizer.json or tokenizer.model; give the folder of a checkpoint's tokenizer"
    )


def measure(
    objects: Sequence[AnnotatedObject],
    rows: dict[tuple[int, str], Row],
    *,
    policy: str,
    count: CountTokens,
) -> int:
    """Write and read every object in the form of every row, which are keyed by (grid side, codec).

    Returns:
        Number of objects left out because their annotation marks no pixel.
    """
    empty = 0
    for item in tqdm(objects, desc="objects", unit="object"):
        rle, _ = union_rle(item.segmentation, item.size_hw)
        truth = decode_rle(rle)
        if not truth.any():
            empty += 1
            continue
        cells = {side: rle_to_grid(rle, (side, side), policy=policy) for side, _ in rows}
        names = (BACKGROUND, item.label)
        texts = [encode(cells[side], names, codec=codec) for side, codec in rows]
        lengths = count([f"{SEG_OPEN}{text}{SEG_CLOSE}" for text in texts])
        # Texts that say the same are drawn once.
        drawn: dict[tuple[int, bytes], dict[str, tuple[int, int]]] = {}
        for (side, codec), row, text, length in zip(rows, rows.values(), texts, lengths, strict=True):
            read = decode(text, (side, side), codec=codec).grid != 0
            said = (side, read.tobytes())
            if said not in drawn:
                drawn[said] = {method: overlap(read, truth, method) for method in UPSAMPLING}
            row.add(length, drawn[said], vanished=not read.any())
    return empty


def overlap(cells: BoolArray, truth: BoolArray, method: str) -> tuple[int, int]:
    """Intersection and union in pixels of drawn cells, bool (rows, columns), and a mask, bool (H, W)."""
    mask = grid_to_mask(cells, truth.shape, method=method)
    return int(np.count_nonzero(mask & truth)), int(np.count_nonzero(mask | truth))


def table(rows: dict[tuple[int, str], Row], unit: str) -> str:
    """Markdown table of all rows, IoU and shares in percent."""
    head = ["grid", "codec", f"{unit} mean", f"{unit} p{LONG}"]
    head += [f"{score} {method}" for score in ("cIoU", "gIoU") for method in UPSAMPLING] + ["vanished"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for (side, codec), row in rows.items():
        scores = [score(method) for score in (row.ciou, row.giou) for method in UPSAMPLING]
        scores.append(row.vanished / len(row.lengths))
        lengths = (np.mean(row.lengths), np.percentile(row.lengths, LONG))
        lines.append(
            [f"{side}x{side}", codec]
            + [f"{length:.0f}" for length in lengths]
            + [f"{100 * score:.1f}" for score in scores]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="COCO folder or root of REFER datasets")
    parser.add_argument("--tokenizer", type=Path, help="checkpoint folder; without it characters are counted")
    parser.add_argument("--grids", type=int, nargs="+", default=[16, 24, 32, 64], help="sides of the grids")
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=list(CODECS))
    parser.add_argument("--cell-policy", choices=CELL_POLICIES, default=CELL_POLICIES[0])
    parser.add_argument("--all-instances", action="store_true", help="leave refs out, take every instance")
    parser.add_argument("--limit", type=int, default=0, help="draw so many objects; 0 takes all")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    arguments = parse(argv)
    objects = load_objects(arguments.data, referred=not arguments.all_instances, limit=arguments.limit)
    count: CountTokens = token_counter(arguments.tokenizer) if arguments.tokenizer else _characters
    rows = {(side, codec): Row() for side in arguments.grids for codec in arguments.codecs}
    empty = measure(objects, rows, policy=arguments.cell_policy, count=count)
    labels = count([clean_label(item.label) for item in objects])
    unit = "tokens" if arguments.tokenizer else "characters"
    print(
        f"{len(objects) - empty} objects ({empty} more have no pixel), cell policy {arguments.cell_policy}; "
        f"a label has {np.mean(labels):.1f} {unit} on average. IoU and shares in percent.\n"
    )
    print(table(rows, unit))


def _characters(texts: list[str]) -> list[int]:
    """Length of each text."""
    return [len(text) for text in texts]


if __name__ == "__main__":
    command(main)
