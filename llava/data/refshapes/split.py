"""Which scene stands where: every scene is drawn from (seed, split, index) alone."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from llava.data.refshapes.draw import draw_scene
from llava.data.refshapes.scene import SHAPES, Scene, sample_scene

SPLIT_CODES = {"train": 0, "val": 1, "testA": 2, "testB": 3}
"""Splits of the benchmark and their place in the random seed."""


def scene_rng(seed: int, split: str, index: int, purpose: int = 0) -> Generator:
    """Independent random stream of one scene; `purpose` keeps wording apart from drawing.

    Raises:
        ValueError: a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed {seed}: a whole number from 0")
    return np.random.default_rng([seed, SPLIT_CODES[split], index, purpose])


def render(
    seed: int, split: str, index: int, shapes: tuple[str, ...] = SHAPES
) -> tuple[Scene, NDArray[np.uint8]]:
    """A scene and its picture, uint8 (height, width, 3) RGB; the same for the same arguments."""
    rng = scene_rng(seed, split, index)
    scene = sample_scene(rng, shapes)
    return scene, draw_scene(scene, rng)
