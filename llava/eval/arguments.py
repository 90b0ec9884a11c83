"""Flags that every command which loads a checkpoint has: of the checkpoint, and of what refines its masks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llava.model.decoding import DECODINGS
from llava.refiners import NO_REFINER, REFINER_OPTIONS, refiner_options
from llava.types import Refiner


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """--model-path, --model-base, --device and --decoding, and the flags of the refiner."""
    add = parser.add_argument
    add("--model-path", type=Path, required=True, help="checkpoint folder with segmentation.json")
    add(
        "--model-base",
        default=None,
        help="base model of an adapter checkpoint, where it names none or another",
    )
    add("--device", default=None, help="for example cuda or cpu (default: cuda where there is one)")
    add(
        "--decoding",
        choices=list(DECODINGS),
        default="fast",
        help=f"how answers are written (default: fast); {'; '.join(map(': '.join, DECODINGS.items()))}",
    )
    add_refiner_arguments(parser)


def add_refiner_arguments(parser: argparse.ArgumentParser) -> None:
    """--refiner and --sam-*: which way refines the masks, with which SAM, and how."""
    add = parser.add_argument
    add(
        "--refiner",
        choices=sorted(REFINER_OPTIONS),
        default=None,
        help="way to refine the masks (default: sam, Text4Seg's, where --sam-path is given)",
    )
    add(
        "--sam-path",
        default=NO_REFINER,
        help=f"SAM, SAM-HQ or SAM 2 that refines the masks, '{NO_REFINER}' for coarse masks only",
    )
    add("--sam-iterations", type=int, default=None, help="passes through SAM (default: 3; samrefiner 5)")
    add("--sam-points", type=int, default=None, help="points inside, and as many outside (sam; default: 10)")
    add("--sam-box", action="store_true", help="give SAM the box of the coarse mask too (sam)")
    add(
        "--sam-guard",
        type=float,
        default=None,
        help="keep the coarse mask where the IoU of the refined one with it is lower (default: 0.1)",
    )
    add(
        "--soft-prompts",
        action="store_true",
        help="prompt SAM with the probability of each cell, where the model tells it, in place of the mask",
    )


def chosen_refiner(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Name of the way and all its options, from the parsed flags.

    Raises:
        ValueError: a way without a SAM, or a flag that the way does not have.
    """
    name = options.refiner or (NO_REFINER if options.sam_path == NO_REFINER else "sam")
    if name != NO_REFINER and options.sam_path == NO_REFINER:
        raise ValueError(
            f"--refiner {name} needs --sam-path: folder of a SAM, SAM-HQ or SAM 2, or a hub name"
        )
    if name == NO_REFINER and options.soft_prompts:
        raise ValueError("--soft-prompts without a refiner changes nothing; give --sam-path, or leave it out")
    return name, refiner_options(
        name,
        iterations=options.sam_iterations,
        points=options.sam_points,
        use_box=options.sam_box or None,
        min_agreement=options.sam_guard,
    )


def describe_refiner(options: argparse.Namespace) -> str:
    """One line for people, for example "samrefiner (checkpoints/sam: iterations 5, min_agreement 0.1)"."""
    name, chosen = chosen_refiner(options)
    if name == NO_REFINER:
        return NO_REFINER
    told = [f"{key} {value}" for key, value in chosen.items()]
    told += ["soft prompts"] if options.soft_prompts else []
    return f"{name} ({options.sam_path}: {', '.join(told)})"


def load_refiner(options: argparse.Namespace, device: str | None, *, seed: int = 0) -> Refiner | None:
    """Refiner that the flags ask for, on a device; None for coarse masks only.

    Raises:
        FileNotFoundError: a missing folder or file.
        ValueError: flags or a folder that do not fit.
    """
    from llava.model.refine import make_refiner

    name, chosen = chosen_refiner(options)
    return make_refiner(name, options.sam_path, device=device, seed=seed, **chosen)
