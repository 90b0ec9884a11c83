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
from transformers import LlavaProcessor

from llava.codec import clean_label, encode, mask_answer, mask_to_grid, sample_centres
from llava.codec.boxes import box_edges
from llava.codec.boxwise import Block, block_of, box_answer, write_block
from llava.constants import BACKGROUND, IGNORE_INDEX, IMAGE_TOKEN, SEG_OPEN
from llava.data.prompt import render
from llava.data.questions import ANSWER_PARTIAL, QUESTION_PARTIAL, fill, normalise_expression
from llava.data.refshapes.phrases import Expression, sample_absent, sample_several, sample_single
from llava.data.refshapes.scene import SHAPES, Scene
from llava.data.tokens import tokenize
from llava.settings import BRICKS, SegmentationSettings
from llava.types import BoolArray

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


@dataclass(frozen=True)
class Mask:
    """A mask as an answer writes it, with what its rows of cells show.

    Attributes:
        text: behind the sentence of the answer, tags included.
        lines: for each block of the answer the place of its rows of cells in the image, 0 (top) to 1.
    """

    text: str
    lines: tuple[tuple[float, ...], ...]


def write_mask(label: str, masks: BoolArray, settings: SegmentationSettings) -> Mask:
    """Mask text of an answer: cells of the whole image, or a block for each object from left to right.

    Args:
        label: name of the targets.
        masks: bool (targets, height, width).
        settings: text form and grid.
    """
    rows = settings.grid_hw[0]
    if settings.codec != BRICKS:
        grid = mask_to_grid(np.any(masks, axis=0), settings.grid_hw, policy=settings.cell_policy)
        text = encode(grid, (BACKGROUND, label), codec=settings.codec)
        return Mask(mask_answer("", text), (tuple((row + 0.5) / rows for row in range(rows)),))
    blocks = [block_of(label, mask, settings.grid_hw) for mask in masks if mask.any()]
    blocks.sort(key=lambda block: block.box or ())
    blocks = blocks or [block_of(label, np.zeros(masks.shape[1:], bool), settings.grid_hw)]
    texts = [write_block(one, order=settings.brick_order, tail=settings.brick_tail) for one in blocks]
    return Mask(box_answer("", texts), tuple(map(_lines, blocks)))


def _lines(block: Block) -> tuple[float, ...]:
    """Place of each row of a block in the image, 0 to 1."""
    if block.box is None:
        return ()
    _, top, _, bottom = box_edges(block.box, (1, 1))
    rows = len(block.cells)
    return tuple(top + (bottom - top) * (row + 0.5) / rows for row in range(rows))


def conversation(expression: Expression, mask: str, rng: Generator) -> list[tuple[str, bool]]:
    """Rendered pieces of one round.

    Args:
        expression: what is asked for.
        mask: what stands behind the sentence of the answer.
        rng: draws the wording.
    """
    text = normalise_expression(expression.text)
    question = draw_question(expression, rng)
    fixed = rng.random() < FIXED_SHARE
    answer = ANSWER_PARTIAL[0 if fixed else int(rng.integers(len(ANSWER_PARTIAL)))]
    return render("plain_v1", [(f"{IMAGE_TOKEN}\n{question}", f"{fill(answer, text)}{mask}")])


def draw_round(
    scene: Scene, rng: Generator, processor: LlavaProcessor, *, settings: SegmentationSettings, shown: Shown
) -> Round:
    """One tokenized question about a scene with its answer.

    Args:
        scene: the scene.
        rng: draws expression and wording.
        processor: of the model.
        settings: text form and grid.
        shown: what the training aids see of it.
    """
    expression = draw_expression(scene, rng)
    masks = scene.masks[list(expression.targets)]
    mask = write_mask(clean_label(normalise_expression(expression.text)), masks, settings)
    ids, labels = tokenize(conversation(expression, mask.text, rng), processor)
    pieces = [shown.texts[token] for token in ids]
    blocks, rows, columns = places_of(pieces, settings.grid_hw[1])
    seen: BoolArray = np.any(masks, axis=0)
    looks = np.zeros((len(ids), shown.patches**2), bool)
    for place, (block, row) in enumerate(zip(blocks, rows, strict=True)):
        lines = () if row == IGNORE_INDEX else mask.lines[block]
        if 0 <= row < len(lines):
            looks[place] = patches_at(seen, lines[row], shown.patches)
    cells = sample_centres(seen, (shown.grid, shown.grid))
    return Round(ids, labels, rows, columns, looks, cells)


@dataclass(frozen=True)
class Shown:
    """What the training aids see.

    Attributes:
        texts: text of each token id.
        patches: patches along each side of the image.
        grid: cells along each side of the image in which the box of the target is told.
    """

    texts: list[str]
    patches: int
    grid: int


def patches_at(mask: BoolArray, line: float, patches: int) -> BoolArray:
    """Patches that hold pixels of a mask on one line of the image, bool (patches * patches,).

    Args:
        mask: bool (height, width).
        line: place of the line, 0 (top) to 1 (bottom).
        patches: patches along each side.
    """
    height, width = mask.shape
    looks = np.zeros((patches, patches), bool)
    inside = mask[int(line * height)].nonzero()[0] * patches // width
    looks[int(line * patches), inside] = True
    return looks.ravel()


@dataclass
class Round:
    """One tokenized round.

    Attributes:
        ids: token ids, prefix included.
        labels: the same with `IGNORE_INDEX` where nothing is learnt.
        rows: row of the mask that follows each token, `IGNORE_INDEX` outside of its text.
        columns: cells of that row that are written by then, `IGNORE_INDEX` outside of the mask text.
        looks: bool (tokens, patches * patches), patches that this row shows the targets in.
        cells: bool (grid, grid), the targets in the cells of `Shown.grid`.
    """

    ids: list[int]
    labels: list[int]
    rows: list[int]
    columns: list[int]
    looks: BoolArray
    cells: BoolArray


@dataclass
class Part:
    """Rounds of similar length, without the prefix that each shares with others about its scene.

    Attributes:
        scenes: int64 (rounds,), row of `Batch.prefix` that each goes on from.
        tokens, labels, rows, columns: int64 (rounds, length), as in `Round`, filled up on the right.
        looks: bool (rounds, length, patches * patches).
        cells: bool (rounds, grid, grid).
    """

    scenes: torch.Tensor
    tokens: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    looks: torch.Tensor
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


_RUN = re.compile(r"\*(\d+)|<[fb](\d+)>")


def places_of(pieces: list[str], width: int) -> tuple[list[int], list[int], list[int]]:
    """Where each token of a conversation leaves the writing of a mask.

    Args:
        pieces: text of each token.
        width: cells in a row.

    Returns:
        Number of the mask in the answer; row of it that comes next, and cells of that row that are written by
        then, both `IGNORE_INDEX` outside of a mask text.
    """
    blocks, rows, columns = [], [], []
    block, cells, inside, tail = -1, 0, False, ""
    for piece in pieces:
        tail = (tail + piece)[-len(SEG_OPEN) :]
        if inside and "</" in piece:
            inside = False
        elif tail == SEG_OPEN:
            block, cells, inside = block + 1, 0, True
        elif inside:
            cells += sum(int(count or brick) for count, brick in _RUN.findall(piece))
        blocks.append(block)
        rows.append(cells // width if inside else IGNORE_INDEX)
        columns.append(cells % width if inside else IGNORE_INDEX)
    return blocks, rows, columns


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

    looks = [np.pad(one.looks[prefix:], ((0, length + prefix - len(one.ids)), (0, 0))) for _, one in group]
    return Part(
        torch.tensor([scene for scene, _ in group]),
        torch.tensor([filled(one.ids, pad) for _, one in group]),
        torch.tensor([filled(one.labels, IGNORE_INDEX) for _, one in group]),
        torch.tensor([filled(one.rows, IGNORE_INDEX) for _, one in group]),
        torch.tensor([filled(one.columns, IGNORE_INDEX) for _, one in group]),
        torch.from_numpy(np.stack(looks)),
        torch.from_numpy(np.stack([one.cells for _, one in group])),
    )
