"""Training rounds of the tiny LLaVA: several questions about one scene share one picture.

The picture's tokens come first and every round sees them and itself only, at the positions it would have as a
first round. So one pass trains several single-round conversations, as evaluation asks them.
"""

from __future__ import annotations

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


def conversation(expression: Expression, cells: np.ndarray, rng: Generator) -> list[tuple[str, bool]]:
    """Rendered pieces of one round.

    Args:
        expression: what is asked for.
        cells: uint8 (grid, grid), object of each cell, 0 = background.
        rng: draws the wording.
    """
    text = normalise_expression(expression.text)
    fixed = rng.random() < FIXED_SHARE
    question = QUESTION_PARTIAL[0 if fixed else int(rng.integers(len(QUESTION_PARTIAL)))]
    answer = ANSWER_PARTIAL[0 if fixed else int(rng.integers(len(ANSWER_PARTIAL)))]
    grid = np.isin(cells, [target + 1 for target in expression.targets]).astype(np.int64)
    mask = encode(grid, (BACKGROUND, clean_label(text)))
    rounds = [(f"{IMAGE_TOKEN}\n{fill(question, text)}", mask_answer(fill(answer, text), mask))]
    return render("plain_v1", rounds)


@dataclass
class Batch:
    """Packed rounds of some scenes.

    Attributes:
        scenes: int64 (n,), rows of the scene arrays.
        tokens: int64 (n, length); the image stands in as one token id per patch.
        labels: int64 (n, length), `IGNORE_INDEX` where nothing is learnt.
        positions: int64 (n, length), restarting behind the picture for every round.
        owners: int64 (n, length); 0 = shared prefix, k = round k, -1 = padding.
    """

    scenes: torch.Tensor
    tokens: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    owners: torch.Tensor

    def mask(self) -> torch.Tensor:
        """Which token sees which, bool (n, 1, length, length)."""
        length = self.tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        own = self.owners[:, :, None] == self.owners[:, None, :]
        shared = (self.owners == 0)[:, None, :]
        return (causal & (own | shared))[:, None]


def pack(scenes: list[int], rounds: list[list[tuple[list[int], list[int]]]], prefix: int, pad: int) -> Batch:
    """Put the rounds of every scene behind one shared prefix.

    Args:
        scenes: rows of the scene arrays.
        rounds: for each scene its tokenized rounds (ids, labels), each with the same first `prefix` tokens.
        prefix: number of tokens up to and including the last image token.
        pad: id that fills short rows.
    """
    rows = []
    for row in rounds:
        tokens, labels, positions, owners = (
            [list(row[0][0][:prefix])],
            [[IGNORE_INDEX] * prefix],
            [range(prefix)],
            [[0] * prefix],
        )
        for number, (ids, targets) in enumerate(row, start=1):
            tokens.append(ids[prefix:])
            labels.append(targets[prefix:])
            positions.append(range(prefix, len(ids)))
            owners.append([number] * (len(ids) - prefix))
        rows.append(
            [
                np.concatenate([np.asarray(part) for part in parts])
                for parts in (tokens, labels, positions, owners)
            ]
        )
    length = max(len(row[0]) for row in rows)
    fills = (pad, IGNORE_INDEX, 0, -1)
    columns = [
        torch.from_numpy(
            np.stack([np.pad(row[k], (0, length - len(row[k])), constant_values=fills[k]) for row in rows])
        ).long()
        for k in range(4)
    ]
    return Batch(torch.tensor(scenes), *columns)
