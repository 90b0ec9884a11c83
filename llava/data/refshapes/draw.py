"""Pixels of a scene."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from llava.data.refshapes.scene import COLOURS, Item, Scene

COLOUR_JITTER = 14
"""Largest change of an object's colour per channel, 0-255."""

TEXTURE_CONTRAST = 0.45
"""How far a stripe or dot moves from the object's colour towards black (towards white on dark objects)."""


def draw_scene(scene: Scene, rng: Generator) -> NDArray[np.uint8]:
    """Picture of a scene on a random background, uint8 (height, width, 3) RGB."""
    canvas = _background(scene.size_hw, rng)
    for item, mask in zip(scene.items, scene.masks, strict=True):
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        window = slice(y, y + height), slice(x, x + width)
        canvas[window][mask[window]] = _paint(item, (height, width), rng)[mask[window]]
    noise = rng.standard_normal((*scene.size_hw, 3), dtype=np.float32) * np.float32(rng.uniform(0, 7))
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)


def _background(size_hw: tuple[int, int], rng: Generator) -> NDArray[np.float32]:
    """Muted plain, graded, blotched or tiled ground, float32 (height, width, 3)."""
    height, width = size_hw
    ends = rng.uniform(95, 185) + rng.uniform(-28, 28, (2, 3))
    kind = rng.integers(4)
    if kind == 0:
        share: NDArray[Any] = np.zeros(size_hw)
    elif kind == 1:
        across, down = rng.uniform(-1, 1, 2)
        share = across * np.linspace(0, 1, width)[None] + down * np.linspace(0, 1, height)[:, None]
        share = (share - share.min()) / max(float(np.ptp(share)), 1e-6)
    elif kind == 2:
        share = cv2.resize(rng.random((5, 6)), (width, height), interpolation=cv2.INTER_CUBIC)
    else:
        tile = int(rng.integers(18, 48))
        share = ((np.arange(width)[None] // tile + np.arange(height)[:, None] // tile) % 2).astype(float)
    return (ends[0] + share[..., None] * (ends[1] - ends[0])).astype(np.float32)


def _paint(item: Item, size_hw: tuple[int, int], rng: Generator) -> NDArray[np.float32]:
    """The item's colour and texture over a window, float32 (height, width, 3)."""
    colour = np.array(COLOURS[item.colour]) + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, 3)
    if item.texture == "plain":
        return np.broadcast_to(colour, (*size_hw, 3)).astype(np.float32)
    accent = colour + TEXTURE_CONTRAST * ((255 if item.colour == "black" else 0) - colour)
    x, y = np.arange(size_hw[1], dtype=np.float32)[None], np.arange(size_hw[0], dtype=np.float32)[:, None]
    if item.texture == "striped":
        angle = rng.uniform(0, np.pi)
        marked = (x * np.cos(angle) + y * np.sin(angle)) % 22 < 10
    else:
        marked = ((x % 24) - 12) ** 2 + ((y % 24) - 12) ** 2 < 49
    return np.where(marked[..., None], accent, colour).astype(np.float32)
