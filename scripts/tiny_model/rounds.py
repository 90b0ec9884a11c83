"""Training rounds of the tiny LLaVA: several questions about one scene share one picture.

The picture's tokens come first; they are read once and every round goes on from there by itself. So one pass
trains several single-round conversations, as evaluation asks them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator

from llava.codec import clean_label, encode, mask_answer
from llava.constants import BACKGROUND, IGNORE_INDEX, IMAGE_TOKEN
from llava.data.prompt import render
from llava.data.questions import ANSWER_PARTIAL, QUESTION_PARTIAL, fill, normalise_expression
from llava.data.refshapes.phrases import Expression, sample_absent, sample_several, sample_single
from llava.data.refshapes.scene import SHAPES, Scene

SEVERAL_SHARE = 0.09
ABSENT_SHARE = 0.15
FIXED_SHARE = 0.6
"""Share of rounds with the first question and answer wording, the one that evaluation asks with."""


def draw_expression(scene: Scene, rng: Generator) -> Expression:
    """One expression about the scene: single target, several, or none."""
    draw = rng.random()
    if draw < ABSENT_SHARE:
        return sample_absent(scene, rng, SHAPES)
    several = sample_several(scene, rng) if draw < ABSENT_SHARE + SEVERAL_SHARE else None
    if several:
        return several
    index = int(rng.integers(len(scene.items)))
    return sample_single(scene, index, rng, count=1)[0]


def target_cells(expression: Expression, cells: np.ndarray) -> np.ndarray:
    """Cells of all targets, bool (grid, grid), from the object of each cell."""
    return np.isin(cells, [target + 1 for target in expression.targets])


def draw_question(expression: Expression, rng: Generator) -> str:
    """Question about an expression, mostly in the wording of evaluation."""
    fixed = rng.random() < FIXED_SHARE
    question = QUESTION_PARTIAL[0 if fixed else int(rng.integers(len(QUESTION_PARTIAL)))]
    return fill(question, normalise_expression(expression.text))


def conversation(expression: Expression, wanted: np.ndarray, rng: Generator) -> list[tuple[str, bool]]:
    """Rendered pieces of one round.

    Args:
        expression: what is asked for.
        wanted: bool (grid, grid), cells of all targets.
        rng: draws the wording.
    """
    text = normalise_expression(expression.text)
    question = draw_question(expression, rng)
    fixed = rng.random() < FIXED_SHARE
    answer = ANSWER_PARTIAL[0 if fixed else int(rng.integers(len(ANSWER_PARTIAL)))]
    mask = encode(wanted.astype(np.int64), (BACKGROUND, clean_label(text)))
    rounds = [(f"{IMAGE_TOKEN}\n{question}", mask_answer(fill(answer, text), mask))]
    return render("plain_v1", rounds)


@dataclass
class Round:
    """One tokenized round.

    Attributes:
        ids: token ids, prefix included.
        labels: the same with `IGNORE_INDEX` where nothing is learnt.
        rows: row of the mask text that follows each token, `IGNORE_INDEX` outside of it.
        columns: cells of that row that are written by then, `IGNORE_INDEX` outside of the mask text.
        cells: bool (grid, grid), cells of the targets.
    """

    ids: list[int]
    labels: list[int]
    rows: list[int]
    columns: list[int]
    cells: np.ndarray


@dataclass
class Part:
    """Rounds of similar length, without the prefix that each shares with others about its scene.

    Attributes:
        scenes: int64 (rounds,), row of `Batch.prefix` that each goes on from.
        tokens, labels, rows, columns: int64 (rounds, length), as in `Round`, filled up on the right.
        cells: bool (rounds, grid, grid).
    """

    scenes: torch.Tensor
    tokens: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    cells: torch.Tensor


@dataclass
class Batch:
    """Rounds of some scenes.

    Attributes:
        prefix: int64 (scenes, prefix), up to the last image token; an image is one token id per patch.
        parts: the rest of all rounds, short ones apart from long ones so that little is filled up.
    """

    prefix: torch.Tensor
    parts: list[Part]


def places_of(pieces: list[str]) -> tuple[list[int], list[int]]:
    """Row of the mask text that follows each token, and how many cells of it are written by then.

    Args:
        pieces: text of each token of a conversation.
    """
    rows, columns = [], []
    row, column, inside = 0, 0, False
    for place, piece in enumerate(pieces):
        if inside and "</" in piece:
            inside = False
        elif piece == ">" and pieces[place - 1] == "seg" and pieces[place - 2] == "<":
            inside = True
        elif inside:
            column += sum(int(count) for count in re.findall(r"\*(\d+)", piece))
            if "\n" in piece:
                row, column = row + 1, 0
        rows.append(row if inside else IGNORE_INDEX)
        columns.append(column if inside else IGNORE_INDEX)
    return rows, columns


def pack(rounds: list[list[Round]], prefix: int, pad: int, parts: int = 3) -> Batch:
    """Split the rounds of every scene into what they share and the rest.

    Args:
        rounds: the rounds of each scene, all with the same first `prefix` tokens.
        prefix: number of tokens up to and including the last image token.
        pad: id that fills short rows.
        parts: groups of similar length.
    """
    flat = [(scene, one) for scene, row in enumerate(rounds) for one in row]
    flat.sort(key=lambda pair: len(pair[1].ids))
    size = -(-len(flat) // parts)
    groups = [flat[start : start + size] for start in range(0, len(flat), size)]
    return Batch(
        torch.tensor([row[0].ids[:prefix] for row in rounds]),
        [_fill_up(group, prefix, pad) for group in groups],
    )


def _fill_up(group: list[tuple[int, Round]], prefix: int, pad: int) -> Part:
    length = len(group[-1][1].ids) - prefix

    def filled(values: list[int], fill: int) -> list[int]:
        return values[prefix:] + [fill] * (length + prefix - len(values))

    return Part(
        torch.tensor([scene for scene, _ in group]),
        torch.tensor([filled(one.ids, pad) for _, one in group]),
        torch.tensor([filled(one.labels, IGNORE_INDEX) for _, one in group]),
        torch.tensor([filled(one.rows, IGNORE_INDEX) for _, one in group]),
        torch.tensor([filled(one.columns, IGNORE_INDEX) for _, one in group]),
        torch.from_numpy(np.stack([one.cells for _, one in group])),
    )
