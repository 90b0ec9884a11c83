"""Questions and answers about one view of an image, for each family of datasets.

The forms and their shares are those of Text4Seg (arXiv 2410.09855) and its builders, with these differences:

- After a question about everything the reference means to ask for some classes or for a list, with equal
  chance, but by a slip always asks for a list; here both come.
- A class that is in the image and covers no cell of the view is neither asked for nor named as absent.
- Two classes that go by one name are asked for and marked together.
- Absent names never are names of something in the image.
- In bricks an answer has at most `DrawSettings.max_blocks` targets: a question with more is left out, and
  classes or parts are asked for by name where all of them are too many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

from llava.codec import clean_label
from llava.constants import BACKGROUND
from llava.data.annotated import CONVERSATION, object_name, part_phrase, unit_name
from llava.data.mirror import mirror_words
from llava.data.questions import NAMES_BAR, fill, normalise_expression
from llava.data.view import VANISHED, WITHOUT_PIXEL, View, can_flip, pick, words_of
from llava.data.wording import CLASS_NAME, OBJECT, PART, QUESTION, fill_places

Item = TypeVar("Item")
Rounds = list[tuple[str, str]]
"""(question, answer) of each round."""

PARTS_BAR = "| "
"""Between the names of parts in a question (Text4Seg)."""

ALL_UNTIL, PARTIAL_UNTIL = 0.1, 0.4
"""Semantic sets ask for everything in 10 % of the rounds, for some classes in 30 %, else for a list."""

AFTER_ALL_PARTIAL_UNTIL = 0.55
"""After a round about everything, drawn from 10 % on: some classes or a list with equal chance."""

SAY_OTHERS, ADD_ABSENT = 0.5, 0.9
"""Share of lists that name the background "others", and share that name absent classes."""

OBJECT_ALL_UNTIL, OBJECT_PARTIAL_UNTIL = 0.5, 0.6
"""Part sets ask for all parts in 50 % of the rounds, by plain names in 10 %, for parts of an object else."""

ONE_PART, MOST_PARTS, MOST_PHRASES = 0.8, 4, 3
"""Share of part questions about a single part; else up to four parts, or up to three phrases."""

ADD_ABSENT_PARTS, MOST_ABSENT_PARTS = 0.2, 2
"""Share of part questions that name one or two parts that are not there."""

PART_FIRST = 0.7
"""Share of phrases "handle of the mug"; the others say "mug handle" (the reference for PACO)."""

WHOLE_OBJECT = 0.5
"""Share of rounds by plain names that ask for the whole object, where its mask is known; ours."""

NOTHING_VISIBLE, WITHOUT_WORDS, NOT_MIRRORED = "nothing visible", "without words", "not to be mirrored"
TOO_MANY = "more targets than blocks"
"""Why there is no round, besides the faults of a target in `llava.data.view`."""


def draw_rounds(
    view: View, anchor: int, *, rng: np.random.Generator, classes: tuple[str, ...]
) -> tuple[Rounds, str]:
    """Rounds of a conversation about a view, the first about the anchor.

    Args:
        view: the image as the record shows it.
        anchor: index of a target, see `llava.data.annotated.anchors`.
        rng: of all draws.
        classes: names that may be asked for although they are absent; in part sets "part of the object".

    Returns:
        The rounds, empty when there is nothing to teach; and why that is, in a few words.
    """
    return _FAMILIES[view.image.family](view, anchor, rng, classes)


def _conversation(
    view: View, anchor: int, rng: np.random.Generator, classes: tuple[str, ...]
) -> tuple[Rounds, str]:
    """A conversation as it is."""
    return list(view.image.conversations), ""


def _asked(view: View, anchor: int, rng: np.random.Generator, classes: tuple[str, ...]) -> tuple[Rounds, str]:
    """Expressions and whole questions: first the anchor's, then drawn ones of the image."""
    targets = view.image.targets
    units: dict[str, list[int]] = {}
    for index, target in enumerate(targets):
        units.setdefault(unit_name(target, view.image.family), []).append(index)
    own = units[unit_name(targets[anchor], view.image.family)]
    fault = _fault(view, own)
    if not _is_taught(view, fault):
        return [], fault
    rounds = [_ask(view, own, rng)]
    drawn = list(units.values())
    while len(rounds) < view.settings.rounds:
        shuffled = (drawn[place] for place in rng.permutation(len(drawn)))
        unit = next(unit for unit in shuffled if _is_taught(view, _fault(view, unit)))
        rounds.append(_ask(view, unit, rng))
    return rounds, ""


def _fault(view: View, indices: Sequence[int]) -> str:
    """Why targets that belong to one question cannot be shown, "" when they can."""
    if not all(words_of(view.image.targets[index], flip=False) for index in indices):
        return WITHOUT_WORDS
    if view.flip and not can_flip(view.image, indices):
        return NOT_MIRRORED
    if len(indices) > view.settings.most_targets:
        return TOO_MANY
    return next((fault for index in indices if (fault := view.fault(index))), "")


def _is_taught(view: View, fault: str) -> bool:
    """Whether targets with a fault, or none, are asked for."""
    return not fault or (view.settings.vanished == "keep" and fault in (VANISHED, WITHOUT_PIXEL))


def _ask(view: View, indices: Sequence[int], rng: np.random.Generator) -> tuple[str, str]:
    """Question and answer about one expression, or about all targets of one question."""
    wording = view.settings.wording
    target = view.image.targets[indices[0]]
    labelled = [(pick(rng, view.names(index)), index) for index in indices]
    if not target.question:
        name = labelled[0][0]
        question = fill(pick(rng, wording.question_partial), name)
        sentence = view.said(target.answer) or fill(pick(rng, wording.answer_partial), name)
        return question, view.answer(sentence, labelled)
    absent = all(view.image.targets[index].mask is None for index in indices)
    template = pick(rng, wording.answer_reasoning_absent if absent else wording.answer_reasoning)
    question = fill_places(pick(rng, wording.question_reasoning), {QUESTION: view.said(target.question)})
    answers = dict.fromkeys(view.said(view.image.targets[index].answer) for index in indices)
    sentence = " ".join(answer for answer in answers if answer) or template
    return question, view.answer(sentence, labelled)


def _semantic(
    view: View, anchor: int, rng: np.random.Generator, classes: tuple[str, ...]
) -> tuple[Rounds, str]:
    """Everything, some classes, or a list of classes that may be absent."""
    visible = view.visible
    if not visible:
        return [], NOTHING_VISIBLE
    absent = _absent_classes(view, classes)
    rounds: Rounds = []
    after_all = False
    for _ in range(view.settings.rounds):
        share = rng.uniform(ALL_UNTIL, 1.0) if after_all else rng.random()
        partial_until = AFTER_ALL_PARTIAL_UNTIL if after_all else PARTIAL_UNTIL
        after_all = share < ALL_UNTIL and len(visible) <= view.settings.most_targets
        if after_all:
            rounds.append(_everything(view, rng))
        elif share < partial_until:
            rounds.append(_some_classes(view, rng))
        else:
            rounds.append(_class_list(view, rng, absent))
    return rounds, ""


def _everything(view: View, rng: np.random.Generator) -> tuple[str, str]:
    """All visible classes, not named in the question."""
    wording = view.settings.wording
    labelled = _with_namesakes(view, view.visible, rng)
    return pick(rng, wording.question_all), view.answer(pick(rng, wording.answer_all), labelled)


def _some_classes(view: View, rng: np.random.Generator) -> tuple[str, str]:
    """Some visible classes by name, the rest is background."""
    wording = view.settings.wording
    labelled = _with_namesakes(view, _subset(view, rng), rng)
    names = NAMES_BAR.join(dict.fromkeys(name for name, _ in labelled))
    question, sentence = (
        fill(pick(rng, templates), names) for templates in (wording.question_partial, wording.answer_partial)
    )
    return question, view.answer(sentence, labelled)


def _class_list(view: View, rng: np.random.Generator, absent: Sequence[str]) -> tuple[str, str]:
    """A list with some visible classes, often absent ones, sometimes the background."""
    wording = view.settings.wording
    labelled = _with_namesakes(view, _subset(view, rng), rng)
    listed = list(dict.fromkeys(name for name, _ in labelled))
    if rng.random() < SAY_OTHERS:
        listed.append(BACKGROUND)
    most = min(len(absent), view.settings.distractors)
    if most and rng.random() < ADD_ABSENT:
        listed += _draw(absent, int(rng.integers(1, most + 1)), rng)
    names = {CLASS_NAME: NAMES_BAR.join(_draw(listed, len(listed), rng))}
    question = fill_places(pick(rng, wording.question_condition), names)
    sentence = fill_places(pick(rng, wording.answer_condition), names)
    return question, view.answer(sentence, labelled)


def _draw(items: Sequence[Item], count: int, rng: np.random.Generator) -> list[Item]:
    """So many different items, in drawn order."""
    return [items[place] for place in rng.permutation(len(items))[:count]]


def _subset(view: View, rng: np.random.Generator) -> list[int]:
    """From one visible target to as many as an answer takes, each number alike likely, in their order."""
    most = min(len(view.visible), view.settings.most_targets)
    return sorted(_draw(view.visible, int(rng.integers(1, most + 1)), rng))


def _with_namesakes(view: View, indices: Sequence[int], rng: np.random.Generator) -> list[tuple[str, int]]:
    """(drawn name, index) of some targets and of every visible target that may go by one of these names."""
    labelled = [(view.surface(index, rng), index) for index in indices]
    drawn = {name for name, _ in labelled}
    for index in view.visible:
        if index not in indices:
            shared = [name for name in map(clean_label, view.names(index)) if name in drawn]
            labelled += [(name, index) for name in shared[:1]]
    return labelled


def _absent_classes(view: View, classes: tuple[str, ...]) -> list[str]:
    """Names of classes that nothing in the image goes by, whether the view shows it or not."""
    present = {clean_label(name) for target in view.image.targets for name in words_of(target, flip=False)}
    absent = [name for name in _cleaned(classes) if name not in present]
    return [swapped for name in absent if (swapped := mirror_words(name))] if view.flip else absent


@lru_cache(maxsize=16)
def _cleaned(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Class names as a question says them, each once, without the background."""
    cleaned = dict.fromkeys(clean_label(normalise_expression(name)) for name in classes if name != BACKGROUND)
    return tuple(cleaned)


def _parts(view: View, anchor: int, rng: np.random.Generator, classes: tuple[str, ...]) -> tuple[Rounds, str]:
    """Objects with their parts: first the anchor's object, then drawn ones of the image."""
    objects: dict[str, list[int]] = {}
    for index in view.visible:
        objects.setdefault(object_name(view.image.targets[index]), []).append(index)
    name = object_name(view.image.targets[anchor])
    if name not in objects:
        return [], NOTHING_VISIBLE
    rounds: Rounds = []
    while len(rounds) < view.settings.rounds:
        rounds.append(_object_round(view, name, objects[name], rng=rng, classes=classes))
        name = pick(rng, list(objects))
    return rounds, ""


def _object_round(
    view: View, name: str, indices: Sequence[int], *, rng: np.random.Generator, classes: tuple[str, ...]
) -> tuple[str, str]:
    """Question and answer about one object: all parts, the object or parts by plain names, or some parts."""
    wording = view.settings.wording
    parts = [index for index in indices if view.image.targets[index].part_of]
    wholes = [index for index in indices if not view.image.targets[index].part_of]
    said = clean_label(normalise_expression(view.said(name)))
    share = rng.random()
    if not parts or OBJECT_ALL_UNTIL <= share < OBJECT_PARTIAL_UNTIL:
        whole = wholes and (not parts or rng.random() < WHOLE_OBJECT)
        labelled = [(said, index) for index in wholes] if whole else _phrases(view, said, parts, rng)
        names = PARTS_BAR.join(dict.fromkeys(label for label, _ in labelled))
        question, sentence = (
            fill(pick(rng, templates), names)
            for templates in (wording.question_partial, wording.answer_partial)
        )
        return question, view.answer(sentence, labelled)
    values = {OBJECT: said}
    if share < OBJECT_ALL_UNTIL and len(parts) <= view.settings.most_targets:
        labelled = [(view.surface(index, rng), index) for index in parts]
        templates = (wording.question_object_all, wording.answer_object_all)
    else:
        labelled = _some_parts(view, parts, MOST_PARTS, rng)
        absent = _absent_parts(view, name, classes) if rng.random() < ADD_ABSENT_PARTS else []
        listed = [label for label, _ in labelled]
        listed += _draw(absent, int(rng.integers(1, MOST_ABSENT_PARTS + 1)), rng)
        values[PART] = PARTS_BAR.join(dict.fromkeys(_draw(listed, len(listed), rng)))
        templates = (wording.question_object_part, wording.answer_object_part)
    question, sentence = (fill_places(pick(rng, entries), values) for entries in templates)
    return question, view.answer(sentence, labelled)


def _some_parts(
    view: View, parts: Sequence[int], most: int, rng: np.random.Generator
) -> list[tuple[str, int]]:
    """(name, index) of one part, sometimes of more."""
    most = min(most, view.settings.most_targets)
    count = 1 if rng.random() < ONE_PART else int(rng.integers(1, most + 1))
    return [(view.surface(index, rng), index) for index in _draw(parts, count, rng)]


def _phrases(view: View, name: str, parts: Sequence[int], rng: np.random.Generator) -> list[tuple[str, int]]:
    """(phrase, index) of some parts, each with the object that it belongs to."""
    return [
        (part_phrase(part, name) if rng.random() < PART_FIRST else f"{name} {part}", index)
        for part, index in _some_parts(view, parts, MOST_PHRASES, rng)
    ]


def _absent_parts(view: View, name: str, classes: tuple[str, ...]) -> list[str]:
    """Parts that such objects have and that the annotation does not find in this image."""
    ending = part_phrase("", clean_label(normalise_expression(name)))
    present = {
        clean_label(word)
        for target in view.image.targets
        if object_name(target) == name and target.part_of
        for word in words_of(target, flip=False)
    }
    known = [entry.removesuffix(ending) for entry in _cleaned(classes) if entry.endswith(ending)]
    absent = [part for part in known if part not in present]
    return [swapped for part in absent if (swapped := mirror_words(part))] if view.flip else absent


_FAMILIES: dict[str, Callable[[View, int, np.random.Generator, tuple[str, ...]], tuple[Rounds, str]]] = {
    "referring": _asked,
    "reasoning": _asked,
    "semantic": _semantic,
    "parts": _parts,
    CONVERSATION: _conversation,
}
