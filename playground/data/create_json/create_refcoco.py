"""Turn RefCOCO, RefCOCO+, RefCOCOg, RefCLEF (and the generated RefShapes) into conversation records.

    python playground/data/create_json/create_refcoco.py --dataset refcoco --split train

writes playground/data/json_files/refcoco_train_16x16_r2_c2.json and prints what was taken and left out. Two
cores need about two minutes for the 42,404 refs of RefCOCO train.

Text4Seg (arXiv 2410.09855) builds 16x16 grids, two rounds and two copies of every ref; these are the
defaults. Several splits, also of several datasets, go into one file with --spec:

    python playground/data/create_json/create_refcoco.py --spec "refcoco|unc|val" "refcocog|umd|test"
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.data.annotated import AnnotatedImage, collect
from llava.data.draw import VANISHED_POLICIES, DrawSettings
from llava.data.readers import DATASETS
from llava.data.readers.refer import REFER_DATASETS, ReferSpec, parse_spec, read_refer
from llava.data.records import BuildSummary, records_of, write_records
from llava.settings import CELL_POLICIES, CODECS
from llava.types import Sample

DATA = Path(__file__).resolve().parents[1]


def parse_grid(text: str) -> tuple[int, int]:
    """Rows and columns from "16" or "12x16".

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) >= 1 for side in sides):
        raise argparse.ArgumentTypeError(f"grid {text!r}: give one side as 16, or rows x columns as 12x16")
    return int(sides[0]), int(sides[-1])


def build_parser(*, dataset: str, grid_hw: tuple[int, int], copies: int) -> argparse.ArgumentParser:
    """Command line with the defaults of one dataset family."""
    parser = argparse.ArgumentParser(
        description="Build conversation records from referring-expression files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=DATA / "refer_seg", help="folder of datasets and images")
    parser.add_argument("--dataset", default=dataset, help=f"one of {', '.join(REFER_DATASETS)}")
    parser.add_argument("--split-by", help="who made the splits; default: the one that papers report")
    parser.add_argument("--split", nargs="+", default=["train"], help="one or more splits")
    parser.add_argument(
        "--spec", nargs="+", help="splits as dataset|split_by|split, instead of the three options above"
    )
    parser.add_argument(
        "--grid", type=parse_grid, default=grid_hw, help="cells: 16, or rows x columns: 12x16"
    )
    parser.add_argument("--rounds", type=int, default=2, help="questions in one conversation")
    parser.add_argument("--copies", type=int, default=copies, help="conversations of each ref")
    parser.add_argument("--seed", type=int, default=0, help="of every draw")
    parser.add_argument(
        "--cell-policy", choices=CELL_POLICIES, default="centre", help="how a mask becomes cells"
    )
    parser.add_argument("--codec", choices=CODECS, default="rrle", help="text form of a mask")
    parser.add_argument(
        "--vanished", choices=VANISHED_POLICIES, default="skip", help="targets that cover no cell of the grid"
    )
    parser.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="SPEC",
        help="leave out images of these splits, as refcocog|umd|val: the datasets share images, and train "
        "images of one are test images of another",
    )
    parser.add_argument("--image-folder", type=Path, help="where image paths start; default: the root")
    parser.add_argument(
        "--output", type=Path, help="default: named by its settings, in playground/data/json_files"
    )
    return parser


def asked_specs(arguments: argparse.Namespace) -> list[ReferSpec]:
    """Splits that --spec names, else --dataset, --split-by and --split."""
    split_by = [arguments.split_by] if arguments.split_by else []
    usual = ["|".join([arguments.dataset, *split_by, split]) for split in arguments.split]
    return [parse_spec(spec) for spec in arguments.spec or usual]


def read_splits(arguments: argparse.Namespace) -> list[Sample]:
    """Samples of all asked splits, without images of the excluded ones."""
    for spec in arguments.exclude:
        parse_spec(spec)
    samples = [sample for spec in asked_specs(arguments) for sample in read_refer(arguments.root, str(spec))]
    excluded = {
        sample.image_path for spec in arguments.exclude for sample in read_refer(arguments.root, spec)
    }
    kept = [sample for sample in samples if sample.image_path not in excluded]
    if arguments.exclude:
        dropped = len(samples) - len(kept)
        print(f"excluded       {dropped} expressions on images of {', '.join(arguments.exclude)}")
    return kept


def annotated_images(samples: Sequence[Sample], image_folder: Path) -> list[AnnotatedImage]:
    """Samples by dataset and image."""
    by_dataset: dict[str, list[Sample]] = {}
    for sample in samples:
        by_dataset.setdefault(sample.id.partition("|")[0], []).append(sample)
    return [
        image for name, group in by_dataset.items() for image in collect(group, DATASETS[name], image_folder)
    ]


def default_output(arguments: argparse.Namespace) -> Path:
    """Output file named by the settings that shape it."""
    rows, columns = arguments.grid
    specs = asked_specs(arguments)
    parts = list(dict.fromkeys(spec.dataset for spec in specs)) + list(
        dict.fromkeys(spec.split for spec in specs)
    )
    parts += [f"{rows}x{columns}", f"r{arguments.rounds}", f"c{arguments.copies}"]
    parts += [arguments.codec] if arguments.codec != "rrle" else []
    return DATA / "json_files" / ("_".join(parts) + ".json")


def main(
    argv: Sequence[str] | None = None,
    *,
    dataset: str = "refcoco",
    grid_hw: tuple[int, int] = (16, 16),
    copies: int = 2,
) -> int:
    """Read, build, write, print the summary; 1 and a sentence on wrong input."""
    logging.basicConfig(format="%(message)s")
    arguments = build_parser(dataset=dataset, grid_hw=grid_hw, copies=copies).parse_args(argv)
    image_folder = arguments.image_folder or arguments.root
    try:
        output = arguments.output or default_output(arguments)
        settings = DrawSettings(
            grid_hw=arguments.grid,
            rounds=arguments.rounds,
            cell_policy=arguments.cell_policy,
            codec=arguments.codec,
            vanished=arguments.vanished,
        )
        summary = BuildSummary(settings)
        images = annotated_images(read_splits(arguments), image_folder)
        records = records_of(images, settings, copies=arguments.copies, seed=arguments.seed, summary=summary)
        write_records(output, records)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(summary)
    print(f"written        {output}\ntrain with     --data_path {output} --image_folder {image_folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
