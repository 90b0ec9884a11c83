"""Plain questions about scenes, answered in a word: colour, count, position.

They ask for no mask. A model that learns masks should go on answering them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.random import Generator

from llava.constants import IMAGE_TOKEN
from llava.data.refshapes.phrases import RELATION_MARGIN, SIDES, name, order_along, place, same_shape
from llava.data.refshapes.scene import COLOURS, SHAPES, Scene, sample_scene
from llava.data.refshapes.split import scene_rng

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""What LLaVA-1.5 (arXiv 2310.03744) puts behind a question to get a short answer."""

PURPOSE = 7
"""Purpose of the random stream that draws the questions of a scene."""

COUNTS = tuple(str(number) for number in range(6))
"""Answers to a count: a scene has five objects at most."""

PLACES = ((0, "left", "right", "to the left or to the right of"), (1, "above", "below", "above or below"))
"""Axis (0 = x, 1 = y), the two answers, and the words of the question."""


@dataclass(frozen=True)
class SceneQuestion:
    """One question with its answer.

    Attributes:
        kind: "colour", "count" or "position".
        question: whole question with `SHORT_ANSWER`.
        answer: one of `options`.
        options: all answers that the question allows.
    """

    kind: str
    question: str
    answer: str
    options: tuple[str, ...]


def _asked(kind: str, words: str, answer: str, options: tuple[str, ...]) -> SceneQuestion:
    return SceneQuestion(kind, f"{words} {SHORT_ANSWER}", answer, options)


def _colours(scene: Scene, shapes: tuple[str, ...]) -> Iterator[SceneQuestion]:
    """The colour of every object that a shape or a place tells from the others."""
    for shape in shapes:
        group = same_shape(scene, shape)
        if len(group) == 1:
            yield _asked("colour", f"What colour is the {shape}?", _colour(scene, group[0]), tuple(COLOURS))
        for side, (_, _, phrases) in SIDES.items():
            ranked = order_along(scene, group, side)
            if ranked and len(ranked) > 1:
                words = f"What colour is {phrases[0].format(shape)}?"
                yield _asked("colour", words, _colour(scene, ranked[0]), tuple(COLOURS))


def _colour(scene: Scene, index: int) -> str:
    return scene.items[index].colour


def _counts(scene: Scene, shapes: tuple[str, ...]) -> Iterator[SceneQuestion]:
    """How many objects there are, and of each shape, those of shapes that are missing too."""
    yield _asked("count", "How many objects are in the image?", str(len(scene.items)), COUNTS)
    for shape in shapes:
        number = len(same_shape(scene, shape))
        yield _asked("count", f"How many {_plural(shape)} are in the image?", str(number), COUNTS)


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _positions(scene: Scene, shapes: tuple[str, ...]) -> Iterator[SceneQuestion]:
    """On which side of another object each object lies, where that is clear."""
    chosen = [index for index, item in enumerate(scene.items) if item.shape in shapes]
    for first in chosen:
        for second in chosen:
            for axis, low, high, words in PLACES:
                gap = place(scene, second, axis) - place(scene, first, axis)
                if first != second and abs(gap) >= RELATION_MARGIN:
                    one, other = name(scene.items[first]), name(scene.items[second])
                    answer = low if gap > 0 else high
                    yield _asked("position", f"Is the {one} {words} the {other}?", answer, (low, high))


KINDS: dict[str, Callable[[Scene, tuple[str, ...]], Iterator[SceneQuestion]]] = {
    "colour": _colours,
    "count": _counts,
    "position": _positions,
}
"""All questions of each kind that a scene allows."""


def scene_questions(
    scene: Scene, rng: Generator, *, each: int = 1, shapes: tuple[str, ...] = SHAPES
) -> list[SceneQuestion]:
    """Up to `each` different questions of every kind, drawn among those that the scene allows.

    Args:
        scene: what is asked about.
        rng: of the draw.
        each: questions of a kind.
        shapes: shapes that are asked about.
    """
    chosen: list[SceneQuestion] = []
    for ask in KINDS.values():
        possible = list(ask(scene, shapes))
        order = rng.permutation(len(possible))[:each]
        chosen += [possible[index] for index in order]
    return chosen


def question_records(
    split: str, scenes: int, *, seed: int = 0, each: int = 1, shapes: tuple[str, ...] = SHAPES
) -> list[dict[str, Any]]:
    """Conversations of plain questions about the scenes of a split, in LLaVA's form, to train on.

    Image paths are those of `write_refshapes`, relative to its root; equal arguments give equal records.

    Raises:
        ValueError: fewer than one scene, or fewer than one question of each kind.
    """
    if scenes < 1 or each < 1:
        raise ValueError(f"{scenes} scenes, {each} questions of each kind: at least 1 of both is needed")
    records = []
    for index in range(scenes):
        scene = sample_scene(scene_rng(seed, split, index), shapes)
        turns: list[dict[str, str]] = []
        for one in scene_questions(scene, scene_rng(seed, split, index, PURPOSE), each=each, shapes=shapes):
            question = one.question if turns else f"{IMAGE_TOKEN}\n{one.question}"
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": one.answer}]
        file_name = f"{split}_{index:06d}"
        records.append(
            {"id": file_name, "image": f"images/refshapes/{file_name}.jpg", "conversations": turns}
        )
    return records
