"""Referring expressions for a scene, unambiguous by construction: each fits its targets and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from llava.data.refshapes.scene import COLOURS, TEXTURES, Item, Scene

LOOKS = ("colour", "texture", "shape")
"""Kinds that name an object by its own look."""

COMPARISONS = ("size", "position", "ordinal", "relation")
"""Kinds that compare an object with the others."""

KIND_WEIGHTS = {
    "colour": 0.34,
    "texture": 0.12,
    "shape": 0.12,
    "size": 0.1,
    "position": 0.14,
    "ordinal": 0.09,
    "relation": 0.09,
}
"""How often each kind is drawn, where the scene allows it."""

SIZE_RATIO = 1.2
"""The largest object must be this much larger than the next one to be called so."""

PLACE_MARGIN = 0.07
"""Centres must differ by this share of the image side to be put in order."""

RELATION_MARGIN = 0.13
"""Distance, as a share of the image side, from which one object counts as left of (above, …) another."""

SIDES = {
    "left": (0, 1, ("the leftmost {}", "the {} on the left", "{} on the far left")),
    "right": (0, -1, ("the rightmost {}", "the {} on the right", "{} on the far right")),
    "top": (1, 1, ("the topmost {}", "the {} at the top", "the highest {}")),
    "bottom": (1, -1, ("the bottommost {}", "the {} at the bottom", "the lowest {}")),
}
"""Side: axis (0 = x, 1 = y), direction that sorts the side's own object first, phrasings."""

RELATIONS = {
    "left": ("the {} to the left of the {}", "{} left of the {}"),
    "right": ("the {} to the right of the {}", "{} right of the {}"),
    "top": ("the {} above the {}", "{} higher than the {}"),
    "bottom": ("the {} below the {}", "{} lower than the {}"),
}

ORDINALS = ("first", "second", "third", "fourth")

TEXTURE_PHRASES = {
    "plain": ("the plain {}", "{} in one plain colour"),
    "striped": ("the striped {}", "{} with stripes"),
    "dotted": ("the dotted {}", "{} with dots"),
}


@dataclass(frozen=True)
class Expression:
    """One referring expression.

    Attributes:
        text: the words.
        targets: indices into `Scene.items`; empty when nothing fits.
        kind: key of `KIND_WEIGHTS`, or "all", "both" (several targets), or "absent".
    """

    text: str
    targets: tuple[int, ...]
    kind: str


def place(scene: Scene, index: int, axis: int) -> float:
    """Centre of an object as a share of the image side; axis 0 = x, 1 = y."""
    return scene.items[index].centre_xy[axis] / scene.size_hw[1 - axis]


def same_shape(scene: Scene, shape: str) -> list[int]:
    """Indices of all objects of a shape."""
    return [index for index, item in enumerate(scene.items) if item.shape == shape]


def order_along(scene: Scene, group: Sequence[int], side: str) -> list[int] | None:
    """Objects of a group sorted from a side, or None when two centres are too close to call."""
    axis, direction, _ = SIDES[side]
    ranked = sorted(group, key=lambda index: direction * place(scene, index, axis))
    values = [place(scene, index, axis) for index in ranked]
    return None if any(abs(a - b) < PLACE_MARGIN for a, b in itertools.pairwise(values)) else ranked


def in_relation(scene: Scene, anchor: int, group: Sequence[int], side: str) -> list[int] | None:
    """Members of a group on one side of an anchor object, or None when one of them is too close to call."""
    axis, direction, _ = SIDES[side]
    found = []
    for index in group:
        distance = direction * (place(scene, anchor, axis) - place(scene, index, axis))
        if distance >= RELATION_MARGIN:
            found.append(index)
        elif distance > 0:
            return None
    return found


def name(item: Item) -> str:
    """Colour and shape: unique in a scene by construction."""
    return f"{item.colour} {item.shape}"


def _by_colour(scene: Scene, index: int) -> Iterator[str]:
    item = scene.items[index]
    yield from (f"the {name(item)}", name(item), f"{item.shape} that is {item.colour}")
    if sum(other.colour == item.colour for other in scene.items) == 1:
        yield f"the {item.colour} object"


def _by_texture(scene: Scene, index: int) -> Iterator[str]:
    item = scene.items[index]
    group = same_shape(scene, item.shape)
    if len(group) > 1 and sum(scene.items[other].texture == item.texture for other in group) == 1:
        yield from (phrase.format(item.shape) for phrase in TEXTURE_PHRASES[item.texture])


def _by_shape(scene: Scene, index: int) -> Iterator[str]:
    shape = scene.items[index].shape
    if len(same_shape(scene, shape)) == 1:
        yield from (f"the {shape}", shape, f"the only {shape}")


def _by_size(scene: Scene, index: int) -> Iterator[str]:
    item = scene.items[index]
    others = [scene.items[other].diameter for other in same_shape(scene, item.shape) if other != index]
    if others and item.diameter >= SIZE_RATIO * max(others):
        yield from (f"the largest {item.shape}", f"the biggest {item.shape}")
    if others and item.diameter * SIZE_RATIO <= min(others):
        yield from (f"the smallest {item.shape}", f"the littlest {item.shape}")


def _by_position(scene: Scene, index: int) -> Iterator[str]:
    shape = scene.items[index].shape
    for group, noun in ((same_shape(scene, shape), shape), (range(len(scene.items)), "object")):
        for side, (_, _, phrases) in SIDES.items():
            ranked = order_along(scene, group, side)
            if ranked and len(ranked) > 1 and ranked[0] == index:
                yield from (phrase.format(noun) for phrase in phrases)


def _by_ordinal(scene: Scene, index: int) -> Iterator[str]:
    shape = scene.items[index].shape
    group = same_shape(scene, shape)
    for side in SIDES:
        ranked = order_along(scene, group, side)
        if ranked and 2 < len(ranked) <= len(ORDINALS):
            yield f"the {ORDINALS[ranked.index(index)]} {shape} from the {side}"


def _by_relation(scene: Scene, index: int) -> Iterator[str]:
    shape = scene.items[index].shape
    for anchor, item in enumerate(scene.items):
        group = [other for other in same_shape(scene, shape) if other != anchor]
        if anchor == index:
            continue
        for side, phrases in RELATIONS.items():
            if in_relation(scene, anchor, group, side) == [index]:
                yield from (phrase.format(shape, name(item)) for phrase in phrases)


PHRASERS: dict[str, Callable[[Scene, int], Iterator[str]]] = {
    "colour": _by_colour,
    "texture": _by_texture,
    "shape": _by_shape,
    "size": _by_size,
    "position": _by_position,
    "ordinal": _by_ordinal,
    "relation": _by_relation,
}


def sample_single(
    scene: Scene, index: int, rng: Generator, *, count: int, kinds: Sequence[str] = tuple(KIND_WEIGHTS)
) -> list[Expression]:
    """Up to `count` different expressions for one object, of kinds drawn by weight.

    A kind may come twice with two phrasings; the list is shorter when the scene allows no more.
    """
    options = {kind: sorted(set(PHRASERS[kind](scene, index))) for kind in kinds}
    chosen: list[Expression] = []
    for _ in range(count):
        open_kinds = [kind for kind, texts in options.items() if texts]
        if not open_kinds:
            break
        weights = np.array([KIND_WEIGHTS[kind] for kind in open_kinds])
        kind = str(rng.choice(open_kinds, p=weights / weights.sum()))
        text = options[kind].pop(int(rng.integers(len(options[kind]))))
        chosen.append(Expression(text, (index,), kind))
    return chosen


def sample_several(scene: Scene, rng: Generator) -> Expression | None:
    """Expression with two or more targets, or None when the draw finds none in this scene."""
    if rng.random() < 0.5:
        shape = str(rng.choice([item.shape for item in scene.items]))
        group = same_shape(scene, shape)
        if len(group) < 2:
            return None
        texts = [f"all {shape}s", f"every {shape}"] + ([f"both {shape}s"] if len(group) == 2 else [])
        return Expression(str(rng.choice(texts)), tuple(group), "all")
    if len(scene.items) < 2:
        return None
    first, second = (int(index) for index in rng.choice(len(scene.items), 2, replace=False))
    text = f"the {name(scene.items[first])} and the {name(scene.items[second])}"
    return Expression(text, tuple(sorted((first, second))), "both")


def sample_absent(scene: Scene, rng: Generator, shapes: Sequence[str]) -> Expression:
    """Expression that fits nothing in the scene, built from words that do occur there where it can be."""
    present = {name(item) for item in scene.items}
    candidates = [
        f"the {colour} {shape}"
        for colour in COLOURS
        for shape in shapes
        if f"{colour} {shape}" not in present
    ]
    draw = rng.random()
    if draw < 0.5:
        shown_colours = {item.colour for item in scene.items}
        shown_shapes = {item.shape for item in scene.items}
        close = [
            text
            for text in candidates
            if text.split()[1] in shown_colours and text.split()[2] in shown_shapes
        ]
        candidates = close or candidates
    elif draw < 0.75:
        candidates = list(_absent_comparisons(scene, shapes)) or candidates
    return Expression(str(rng.choice(candidates)), (), "absent")


def _absent_comparisons(scene: Scene, shapes: Sequence[str]) -> Iterator[str]:
    """Missing shapes and textures, ordinals beyond the count, relations that nothing stands in."""
    for shape in shapes:
        group = same_shape(scene, shape)
        if not group:
            yield f"the {shape}"
            continue
        for texture in TEXTURES:
            if all(scene.items[index].texture != texture for index in group):
                yield TEXTURE_PHRASES[texture][0].format(shape)
        if len(group) < len(ORDINALS):
            yield from (f"the {ORDINALS[len(group)]} {shape} from the {side}" for side in SIDES)
        for anchor, item in enumerate(scene.items):
            others = [index for index in group if index != anchor]
            for side, phrases in RELATIONS.items():
                if others and in_relation(scene, anchor, others, side) == []:
                    yield phrases[0].format(shape, name(item))
