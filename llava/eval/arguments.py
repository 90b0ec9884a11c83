"""Flags that every command which loads a checkpoint has."""

from __future__ import annotations

import argparse
from pathlib import Path

NO_REFINER = "none"
"""Value of --sam-path for coarse masks only."""


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """--model-path, --model-base, --sam-path and --device."""
    add = parser.add_argument
    add("--model-path", type=Path, required=True, help="checkpoint folder with segmentation.json")
    add(
        "--model-base",
        default=None,
        help="base model of an adapter checkpoint, where it names none or another",
    )
    add(
        "--sam-path",
        default=NO_REFINER,
        help=f"SAM that refines the masks, '{NO_REFINER}' for coarse masks only",
    )
    add("--device", default=None, help="for example cuda or cpu (default: cuda where there is one)")
