"""What the model is trained to write: supervised tokens green, all others grey.

    python -m llava.train.show_labels --model_name_or_path BASE --data_path train.json --image_folder DIR

--data_path takes what the training takes; records of a store or a mixture are those of the first epoch.
No weights are read. Image tokens are shown once with their number.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN
from llava.data.mixture_file import is_mixture
from llava.data.prompt import PROMPTS, render
from llava.data.records import Record
from llava.data.tokens import tokenize
from llava.model.checkpoint import load_processor
from llava.model.new_tokens import add_brick_tokens
from llava.settings import BRICKS, SegmentationSettings
from llava.train.arguments import ModelArguments
from llava.train.data import open_draws
from llava.train.dataset import image_tokens_of, load_records, open_image, rounds_of
from llava.train.resolve import read_base, resolve

GREEN, GREY, PLAIN = "\x1b[32m", "\x1b[90m", "\x1b[0m"


def coloured(ids: Sequence[int], labels: Sequence[int], processor: Any) -> str:  # noqa: ANN401
    """The text of a sample with ANSI colours, one colour code per run of equal kind.

    Args:
        ids: token ids.
        labels: the same ids where supervised, `IGNORE_INDEX` elsewhere.
        processor: the checkpoint's.
    """
    shown = []
    kinds = [
        (label != IGNORE_INDEX, token == processor.image_token_id)
        for token, label in zip(ids, labels, strict=True)
    ]
    for (supervised, is_image), run in groupby(zip(kinds, ids, strict=True), key=lambda entry: entry[0]):
        tokens = [token for _, token in run]
        text = f"{IMAGE_TOKEN}×{len(tokens)}" if is_image else processor.tokenizer.decode(tokens)
        shown.append(f"{GREEN if supervised else GREY}{text}{PLAIN}")
    return "".join(shown)


def _image_line(record: Record, folder: Path) -> str:
    """Name and size of a record's image."""
    if "image" not in record:
        return "without image"
    image = open_image(folder / record["image"])
    shown = f"{record['image']}  {image.width}x{image.height} pixels"
    shown += f", cropped to {record['crop_size']}" if record.get("crop_size") else ""
    return shown + (", mirrored" if record.get("flip") else "")


def _choose(given: argparse.Namespace, settings: SegmentationSettings) -> list[Record]:
    """Some records of the data paths, drawn by the seed."""
    folder, draw = Path(given.image_folder), random.Random(given.seed)
    if any(is_mixture(path) for path in given.data_path):
        draws = open_draws(given.data_path, image_folder=folder, settings=settings, seed=given.seed)
        print(draws.mixture.table(), end="\n\n")
        return [
            draws.record(0, index) for index in draw.sample(range(len(draws)), min(given.count, len(draws)))
        ]
    records = load_records(given.data_path, image_folder=folder, settings=settings)
    return draw.sample(records, min(given.count, len(records)))


def main(argv: Sequence[str] | None = None) -> None:
    """Print some records of the given files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", required=True, help="checkpoint whose tokenizer is used")
    parser.add_argument(
        "--data_path", required=True, nargs="+", help="record files, stores, or a mixture file"
    )
    parser.add_argument("--image_folder", required=True, help="folder that their image paths start from")
    parser.add_argument("--version", choices=list(PROMPTS), help="prompt; default: the checkpoint's")
    parser.add_argument("--grid", help="label grid, 16 or 12x16; default: the checkpoint's")
    parser.add_argument("--codec", help="text form of masks; default: the checkpoint's")
    parser.add_argument("--count", type=int, default=3, help="records to show")
    parser.add_argument("--seed", type=int, default=0, help="seed of their choice")
    given = parser.parse_args(argv)
    model = ModelArguments(
        given.model_name_or_path, version=given.version, grid=given.grid, codec=given.codec
    )
    try:
        settings = resolve(model, read_base(given.model_name_or_path)).settings
        processor = load_processor(given.model_name_or_path)
        records = _choose(given, settings)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    if settings.codec == BRICKS:
        add_brick_tokens(processor.tokenizer)
    for record in records:
        count = image_tokens_of(record, Path(given.image_folder), processor, settings)
        ids, labels = tokenize(render(settings.prompt, rounds_of(record)), processor, image_tokens=count)
        supervised = sum(label != IGNORE_INDEX for label in labels)
        print(f"record {record['id']}  {_image_line(record, Path(given.image_folder))}")
        print(coloured(ids, labels, processor))
        print(f"{supervised} of {len(ids)} tokens supervised\n")


if __name__ == "__main__":
    main()
