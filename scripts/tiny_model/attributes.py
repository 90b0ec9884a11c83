"""What a vision tower should know about every cell: look, rank among its like, neighbours, extent.

This stands in for what CLIP has learnt from the web before LLaVA ever sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava.data.refshapes.phrases import RELATION_MARGIN, SIDES, SIZE_RATIO, place, same_shape
from llava.data.refshapes.scene import COLOURS, SHAPES, TEXTURES, Scene

MAX_OBJECTS = 5
COLOUR_NAMES = list(COLOURS)
WORDS = COLOUR_NAMES + list(SHAPES)


@dataclass(frozen=True)
class Head:
    """One classification target: its name and number of classes."""

    name: str
    classes: int


OBJECT_HEADS = (
    Head("colour", len(COLOUR_NAMES)),
    Head("shape", len(SHAPES)),
    Head("texture", len(TEXTURES)),
    Head("size", 3),
    Head("count", MAX_OBJECTS),
    *(Head(f"rank_{side}", 4) for side in SIDES),
    *(Head(f"first_{side}", 2) for side in SIDES),
)
"""Targets that all cells of an object share."""


def patch_heads(patches: int, sub: int) -> tuple[Head, ...]:
    """Targets that differ from patch to patch.

    Args:
        patches: patches along each image side.
        sub: grid cells along each patch side. Extents are in cells; one more class is "none".
    """
    grid = patches * sub
    extents = ("top", "bottom", "left", "right")
    runs = [f"{end}_{row}" for row in range(sub) for end in ("start", "end")]
    return (
        Head("row", patches),
        Head("column", patches),
        *(Head(name, grid) for name in extents),
        *(Head(name, grid + 1) for name in runs),
    )


def object_attributes(scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Classes of every object, uint8 (5, heads), and its neighbours.

    Neighbours are uint8 (5, 4 * words) of 0/1: which colours and shapes lie to each side.
    """
    classes = np.zeros((MAX_OBJECTS, len(OBJECT_HEADS)), dtype=np.uint8)
    neighbours = np.zeros((MAX_OBJECTS, len(SIDES) * len(WORDS)), dtype=np.uint8)
    everything = list(range(len(scene.items)))
    for index, item in enumerate(scene.items):
        group = same_shape(scene, item.shape)
        others = [scene.items[other].diameter for other in group if other != index]
        size = 0
        if others and item.diameter >= SIZE_RATIO * max(others):
            size = 1
        elif others and item.diameter * SIZE_RATIO <= min(others):
            size = 2
        ranks = [_rank(scene, index, group, side) for side in SIDES]
        firsts = [int(_rank(scene, index, everything, side) == 0) for side in SIDES]
        look = [COLOUR_NAMES.index(item.colour), SHAPES.index(item.shape), TEXTURES.index(item.texture)]
        classes[index] = [*look, size, len(group) - 1, *(min(rank, 3) for rank in ranks), *firsts]
        neighbours[index] = _neighbours(scene, index)
    return classes, neighbours


def _rank(scene: Scene, index: int, group: list[int], side: str) -> int:
    axis, direction, _ = SIDES[side]
    own = direction * place(scene, index, axis)
    return sum(direction * place(scene, other, axis) < own for other in group)


def _neighbours(scene: Scene, index: int) -> NDArray[np.uint8]:
    seen = np.zeros((len(SIDES), len(WORDS)), dtype=np.uint8)
    for row, (axis, direction, _) in enumerate(SIDES.values()):
        for other, item in enumerate(scene.items):
            distance = direction * (place(scene, index, axis) - place(scene, other, axis))
            if other != index and distance >= RELATION_MARGIN:
                seen[row, [WORDS.index(item.colour), WORDS.index(item.shape)]] = 1
    return seen.ravel()


def patch_owners(cells: NDArray[np.uint8], sub: int) -> NDArray[np.uint8]:
    """Object that fills most of each patch, background where there is none, uint8 (n, patches, patches).

    Args:
        cells: uint8 (n, grid, grid), object of each cell, 0 = background.
        sub: grid cells along each patch side.
    """
    count, grid, _ = cells.shape
    patches = grid // sub
    blocks = (
        cells.reshape(count, patches, sub, patches, sub).swapaxes(2, 3).reshape(count, patches, patches, -1)
    )
    votes = np.stack([(blocks == number).sum(-1) for number in range(1, MAX_OBJECTS + 1)], axis=-1)
    return np.where(votes.any(-1), votes.argmax(-1) + 1, 0).astype(np.uint8)


def patch_attributes(cells: NDArray[np.uint8], sub: int) -> NDArray[np.uint8]:
    """Targets of every patch, uint8 (n, patches, patches, heads), in the order of `patch_heads`.

    Extents belong to the object that owns the patch and are 0 on background; `start_k` and `end_k` are its
    first and last column in cell row k of the patch, or the number of columns where it is not in that row.
    """
    count = len(cells)
    owners = patch_owners(cells, sub)
    patches = owners.shape[1]
    result = np.zeros((count, patches, patches, 6 + 2 * sub), dtype=np.uint8)
    result[..., 0] = np.arange(patches)[None, :, None]
    result[..., 1] = np.arange(patches)[None, None, :]
    for number in range(1, MAX_OBJECTS + 1):
        mask = cells == number
        columns = np.stack(_extent(mask, axis=2), axis=-1).reshape(count, patches, 2 * sub)
        box = np.stack([*_extent(mask.any(2), axis=1), *_extent(mask.any(1), axis=1)], axis=-1)
        values = np.concatenate([np.broadcast_to(box[:, None], (count, patches, 4)), columns], axis=-1)
        result[..., 2:] = np.where((owners == number)[..., None], values[:, :, None], result[..., 2:])
    return result


def _extent(mask: NDArray[np.bool_], axis: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """First and last true index along an axis; the axis length where there is none."""
    length = mask.shape[axis]
    found = mask.any(axis)
    first = np.where(found, mask.argmax(axis), length)
    last = np.where(found, length - 1 - np.flip(mask, axis).argmax(axis), length)
    return first.astype(np.uint8), last.astype(np.uint8)
