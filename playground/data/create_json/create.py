"""Command line of every create_*.py: all take the same arguments and differ in dataset and defaults.

    python playground/data/create_json/create_cocostuff.py --split train --format store

`--format json` writes conversation records with grid, codec, crop and wording drawn once, in the schema that
LLaVA's trainers read; `--codec bricks` writes masks box by box, on 64x64 cells unless told otherwise.
`--format store` keeps masks and words; everything else is drawn anew in every epoch.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.data.annotated import CONVERSATION
from llava.data.build import (
    DATA,
    DEFAULTS,
    FORMATS,
    LLAVA,
    BuildOptions,
    Defaults,
    build,
    default_output,
    default_root,
    parts_of,
)
from llava.data.draw import VANISHED_POLICIES, DrawSettings
from llava.data.problems import ON_ERROR, Problems
from llava.data.readers import DATASETS
from llava.data.wording import load_wording
from llava.settings import ALL_CODECS, BRICK_GRID, BRICK_ORDERS, BRICKS, CELL_POLICIES

_MASKS_ONLY = "a store keeps masks and words only"
NOT_IN_A_STORE = {
    **dict.fromkeys(
        ("grid", "codec", "brick_order", "brick_tail"), f"comes from the checkpoint, {_MASKS_ONLY}"
    ),
    "wording": f"belongs under `draw` of the mixture file, {_MASKS_ONLY}",
    "seed": f"belongs into the mixture file, {_MASKS_ONLY}",
}
"""Arguments that shape records and say nothing about a store."""

OF_BRICKS = dict.fromkeys(("brick_order", "brick_tail", "max_blocks"), f"goes with --codec {BRICKS}")
NOT_OF_BRICKS = {"cell_policy": "bricks have the cells of a box, which zooms in"}
WHOLE_IMAGE = {"crop": "expressions and questions tell their target apart within the whole image"}
AS_THEY_ARE = dict.fromkeys(
    ("grid", "codec", "cell_policy", "rounds", "copies", "crop", "flip", "vanished", "wording", "seed"),
    "conversations are taken as they are",
)
INSTEAD = dict.fromkeys(("dataset", "split"), "--spec says what is read")
"""Arguments without effect beside others, and why."""

KEEP_HELP = (
    "leave nothing out; otherwise training splits over COCO images go without the images of every val and "
    "test split of RefCOCO, +, g, gRefCOCO and Ref-ZOM that is found under the root or its refer_seg"
)


TAIL_HELP = "write the background behind the last foreground of a box"


def parse_grid(text: str) -> tuple[int, int]:
    """Rows and columns from "16" or "12x16".

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) >= 1 for side in sides):
        raise argparse.ArgumentTypeError(f"grid {text!r}: give one side as 16, or rows x columns as 12x16")
    return int(sides[0]), int(sides[-1])


def build_parser(dataset: str, *, prog: str | None = None, codec: str = "rrle") -> argparse.ArgumentParser:
    """Command line with the defaults of one dataset, and of a codec where it needs another grid."""
    usual = DEFAULTS.get(dataset, Defaults())
    grid = BRICK_GRID if codec == BRICKS else usual.grid
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Build conversation records, or a store that they are drawn from.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--root", type=Path, default=default_root(dataset), help="folder that dataset and images lie in")
    add("--dataset", default=dataset, help=f"one of {', '.join((*DATASETS, LLAVA))}")
    add("--split", nargs="+", default=[usual.split], help="one or more splits; of llava: files of the root")
    add("--spec", nargs="+", help="splits as dataset|split, instead of the two options above")
    add("--format", choices=FORMATS, default="json", help="records, or a store they are drawn from")
    add("--output", type=Path, help=f"default: named by its settings, under {DATA}")
    add("--image-folder", type=Path, help="where image paths start; default: the root")
    add("--on-error", choices=ON_ERROR, default="stop", help="at a wrong record: stop, or skip and count it")
    add("--keep-test-images", action="store_true", help=KEEP_HELP)
    add("--grid", type=parse_grid, default=grid, help="cells: 16, or rows x columns: 12x16")
    add("--codec", choices=ALL_CODECS, default="rrle", help=f"text form of a mask; {BRICKS}: box by box")
    add("--brick-order", choices=BRICK_ORDERS, default=DrawSettings.brick_order, help="of the cells of a box")
    add(
        "--brick-tail", action=argparse.BooleanOptionalAction, default=DrawSettings.brick_tail, help=TAIL_HELP
    )
    add("--max-blocks", type=int, default=DrawSettings.max_blocks, help="most boxes of an answer")
    add("--cell-policy", choices=CELL_POLICIES, default="centre", help="how a mask becomes cells")
    add("--rounds", type=int, default=usual.rounds, help="questions in one conversation")
    add("--copies", type=int, default=usual.copies, help="conversations of each target, question or image")
    add("--crop", type=float, default=usual.crop, help="share of records that show a part of the image")
    add("--flip", type=float, default=0.0, help="share of records that mirror the image")
    add("--vanished", choices=VANISHED_POLICIES, default="skip", help="targets that cover no cell")
    add("--wording", type=Path, help="YAML file with questions and answers; default: llava/data/wording.yaml")
    add("--seed", type=int, default=0, help="of every draw")
    return parser


def parse(dataset: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, with the defaults of the dataset that they name."""
    naming = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    naming.add_argument("--dataset", default=dataset)
    naming.add_argument("--spec", nargs="+")
    naming.add_argument("--codec", default="rrle")
    named, _ = naming.parse_known_args(argv)
    name = named.spec[0].partition("|")[0].strip() if named.spec else named.dataset
    parser = build_parser(name, codec=named.codec)
    arguments = parser.parse_args(argv)
    arguments.told = {name for name, value in vars(arguments).items() if value != parser.get_default(name)}
    return arguments


def without_effect(arguments: argparse.Namespace, specs: Sequence[str]) -> dict[str, str]:
    """Arguments that were given and change nothing in a build of these specs, with the reason."""
    families = {part.family for part in parts_of(specs)}
    reasons = dict(INSTEAD) if arguments.spec else {}
    if not families & {"semantic", "parts"}:
        reasons |= WHOLE_IMAGE
    if arguments.format == "store":
        reasons |= NOT_IN_A_STORE
    else:
        reasons |= NOT_OF_BRICKS if arguments.codec == BRICKS else OF_BRICKS
    if families == {CONVERSATION}:
        reasons |= AS_THEY_ARE
    return {name: why for name, why in reasons.items() if name in arguments.told}


def options_of(arguments: argparse.Namespace, command: str) -> BuildOptions:
    """What the arguments ask for, checked as far as it can be without reading data."""
    settings = DrawSettings(
        grid_hw=arguments.grid,
        codec=arguments.codec,
        cell_policy=arguments.cell_policy,
        brick_order=arguments.brick_order,
        brick_tail=arguments.brick_tail,
        max_blocks=arguments.max_blocks,
        rounds=arguments.rounds,
        vanished=arguments.vanished,
        crop=arguments.crop,
        flip=arguments.flip,
        wording=load_wording(arguments.wording),
    )
    specs = tuple(arguments.spec or (f"{arguments.dataset}|{split}" for split in arguments.split))
    usual = default_output(specs, arguments.format, settings, arguments.copies)
    return BuildOptions(
        specs=specs,
        root=arguments.root,
        image_folder=arguments.image_folder or arguments.root,
        output=arguments.output or usual,
        form=arguments.format,
        settings=settings,
        copies=arguments.copies,
        seed=arguments.seed,
        keep_test_images=arguments.keep_test_images,
        command=command,
    )


def main(dataset: str, argv: Sequence[str] | None = None) -> int:
    """Read, build, write, print the summary; 1 and a sentence on wrong input."""
    logging.basicConfig(format="%(message)s")
    arguments = parse(dataset, argv)
    problems = Problems(arguments.on_error)
    command = shlex.join([Path(sys.argv[0]).name, *(sys.argv[1:] if argv is None else argv)])
    try:
        options = options_of(arguments, command)
        useless = without_effect(arguments, options.specs)
        told = build(options, problems)
    except (ValueError, OSError) as error:
        if problems.counts:
            print(problems, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, why in useless.items():
        print(f"no effect      --{name.replace('_', '-')}: {why}")
    print(told)
    return 0
