"""Scenes of coloured, sized, textured, partly overlapping shapes: what is where, before it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.random import Generator

from llava.types import BoolArray

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "green": (35, 150, 60),
    "blue": (40, 75, 205),
    "yellow": (240, 215, 50),
    "purple": (135, 50, 165),
    "orange": (240, 130, 25),
    "white": (245, 245, 245),
    "black": (20, 20, 22),
}
"""Colour words and their RGB values, 0-255."""

TEXTURES = ("plain", "striped", "dotted")
SHAPES = ("circle", "square", "triangle", "star", "cross")
"""Shapes of the standard benchmark."""

NEW_SHAPES = ("heart", "moon")
"""Shapes that the standard benchmark never shows: something new to fine-tune on."""

CANVASES_WH = ((320, 240), (240, 320), (304, 228), (228, 304), (256, 256))
"""Image sizes in pixels, landscape, portrait and square."""

DIAMETER_RANGE = (0.38, 0.68)
"""Diameter of an object as a share of the shorter image side."""

MIN_VISIBLE = 0.72
"""Share of an object that must stay visible under the objects drawn after it."""

MAX_ATTEMPTS = 40
"""Tries to place one more object before the scene is taken as full."""


@dataclass(frozen=True)
class Item:
    """One object: words, place and the polygon of its outline.

    Attributes:
        colour: key of `COLOURS`.
        shape: member of `SHAPES` or `NEW_SHAPES`.
        texture: member of `TEXTURES`.
        centre_xy: centre in pixels.
        diameter: in pixels.
        angle: rotation in radians.
    """

    colour: str
    shape: str
    texture: str
    centre_xy: tuple[float, float]
    diameter: float
    angle: float

    @cached_property
    def outline(self) -> np.ndarray:
        """Corner points, float (n, 2) pixels (x, y)."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = UNIT_OUTLINES[self.shape] @ np.array([[cos, sin], [-sin, cos]])
        return turned * (self.diameter / 2) + np.array(self.centre_xy)


@dataclass(frozen=True)
class Scene:
    """Objects in drawing order (the last one lies on top) on a canvas of `size_hw` pixels."""

    size_hw: tuple[int, int]
    items: tuple[Item, ...]

    @cached_property
    def masks(self) -> BoolArray:
        """Visible part of each object, bool (objects, height, width)."""
        masks = np.zeros((len(self.items), *self.size_hw), dtype=bool)
        for index, item in enumerate(self.items):
            full = fill_outline(item.outline, self.size_hw)
            masks[:index] &= ~full
            masks[index] = full
        return masks


def _unit_outlines() -> dict[str, np.ndarray]:
    """Outline of every shape in a circle of radius 1, y pointing down, float (n, 2)."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    arm = 0.36
    cross = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm), (arm, 1), (-arm, 1)]
    cross += [(-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)]
    spikes = np.pi * np.arange(10) / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.48)
    heart_x = np.sin(turn) ** 3
    heart_y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)) / 16
    outer = np.linspace(0.28 * np.pi, 1.72 * np.pi, 36)
    inner = np.stack([np.cos(outer[::-1]) * 0.8 + 0.42, np.sin(outer[::-1]) * 0.8], axis=1)
    side = 0.82
    return {
        "circle": circle,
        "square": side * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
        "triangle": np.array([(0, -0.95), (1, 0.8), (-1, 0.8)]),
        "star": np.stack([np.cos(spikes) * radius, np.sin(spikes) * radius], axis=1),
        "cross": np.array(cross),
        "heart": np.stack([heart_x, heart_y], axis=1),
        "moon": np.concatenate([np.stack([np.cos(outer), np.sin(outer)], axis=1), inner]),
    }


UNIT_OUTLINES = _unit_outlines()


def fill_outline(outline: np.ndarray, size_hw: tuple[int, int]) -> BoolArray:
    """Pixels inside a closed outline.

    Args:
        outline: float (n, 2) pixels (x, y).
        size_hw: height and width of the canvas.
    """
    canvas = np.zeros(size_hw, dtype=np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline).astype(np.int32)], 1)
    return canvas.astype(bool)


def sample_scene(rng: Generator, shapes: tuple[str, ...] = SHAPES) -> Scene:
    """Random scene of two to five objects, each at least `MIN_VISIBLE` visible, no two alike in all words.

    Half of the scenes repeat one shape, so that position, size and ordinal expressions are needed.
    """
    width, height = CANVASES_WH[rng.integers(len(CANVASES_WH))]
    wanted = int(rng.integers(2, 6))
    theme = str(rng.choice(shapes)) if rng.random() < 0.5 else None
    scene = Scene((height, width), ())
    for _ in range(MAX_ATTEMPTS):
        if len(scene.items) == wanted:
            break
        item = _sample_item(rng, (height, width), shapes, theme)
        if any((item.colour, item.shape) == (other.colour, other.shape) for other in scene.items):
            continue
        candidate = Scene(scene.size_hw, (*scene.items, item))
        if _all_visible(candidate):
            scene = candidate
    return scene


def _sample_item(
    rng: Generator, size_hw: tuple[int, int], shapes: tuple[str, ...], theme: str | None
) -> Item:
    height, width = size_hw
    diameter = float(rng.uniform(*DIAMETER_RANGE) * min(size_hw))
    margin = 0.42 * diameter
    shape = theme if theme and rng.random() < 0.7 else str(rng.choice(shapes))
    return Item(
        colour=str(rng.choice(list(COLOURS))),
        shape=shape,
        texture=str(rng.choice(TEXTURES, p=[0.6, 0.2, 0.2])),
        centre_xy=(float(rng.uniform(margin, width - margin)), float(rng.uniform(margin, height - margin))),
        diameter=diameter,
        angle=float(rng.uniform(-0.2, 0.2)),
    )


def _all_visible(scene: Scene) -> bool:
    """True when every object keeps enough of its outline's area and centres lie apart."""
    new = scene.items[-1]
    for other in scene.items[:-1]:
        gap = np.hypot(new.centre_xy[0] - other.centre_xy[0], new.centre_xy[1] - other.centre_xy[1])
        if gap <= 0.31 * (new.diameter + other.diameter):
            return False
    whole = [np.count_nonzero(fill_outline(item.outline, scene.size_hw)) for item in scene.items]
    return all(
        np.count_nonzero(mask) >= MIN_VISIBLE * area for mask, area in zip(scene.masks, whole, strict=True)
    )
