"""How one record shows an image: settings of the draw, crop and mirror, targets as cells, names to say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np

from llava.codec import clean_label, encode, mask_answer
from llava.codec.box_from_rle import rle_block, rle_tight_box
from llava.codec.boxwise import Block, box_answer, write_block
from llava.codec.from_rle import Crop, rle_to_grid
from llava.constants import BACKGROUND
from llava.data.annotated import AnnotatedImage, Target
from llava.data.mirror import mirror_words
from llava.data.questions import normalise_expression, without_tags
from llava.data.rle import merge_rles, rle_area
from llava.data.wording import Wording, load_wording
from llava.settings import ALL_CODECS, BRICK_ORDERS, BRICKS, CELL_POLICIES, SegmentationSettings
from llava.types import IntArray, Rle

VANISHED_POLICIES = ("skip", "keep")
"""What becomes of an expression whose target covers no cell: left out, or taught as an empty mask."""

VANISHED, WITHOUT_PIXEL = "vanished", "without pixel"
"""Why a target cannot be shown: it covers no cell, or its annotation marks no pixel."""

Item = TypeVar("Item")


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of some items, all alike likely."""
    return items[int(rng.integers(len(items)))]


@dataclass(frozen=True)
class DrawSettings:
    """How records are drawn from annotated images.

    Attributes:
        grid_hw: rows and columns of the label grid, with "bricks" of each box.
        codec: text form of a mask, one of `ALL_CODECS`.
        cell_policy: how a mask becomes cells, see `llava.codec.mask_to_grid`; "bricks" need none.
        rounds: questions in one conversation.
        vanished: what becomes of expressions and questions whose target covers no cell, one of
            `VANISHED_POLICIES`. Classes and parts that cover no cell are not asked for in either case.
        crop: share of draws of semantic and parts sets that show a square part of the image. Expressions and
            questions tell their target apart within the whole image and never get a part.
        flip: share of draws that mirror the image left to right, where the words allow it.
        synonyms: share of class names that are said by a synonym.
        distractors: most absent classes that one question names; all 847 of ADE20K fill 2,500 tokens.
        brick_order: of the cells in bricks, one of `BRICK_ORDERS`.
        brick_tail: whether bricks of the background behind the last foreground are written.
        max_blocks: most boxes of one answer in bricks, see `View.blocks`. A question with more targets is not
            asked. On 29 images of COCO Panoptic a box takes about 200 tokens, and answers of 12 boxes stay
            below 2,900; of 16 boxes, 7 % are longer than 3,072.
        wording: templates of questions and answers.
    """

    grid_hw: tuple[int, int]
    codec: str = "rrle"
    cell_policy: str = "centre"
    rounds: int = 2
    vanished: str = "skip"
    crop: float = 0.0
    flip: float = 0.0
    synonyms: float = 0.8
    distractors: int = 170
    brick_order: str = SegmentationSettings.brick_order
    brick_tail: bool = SegmentationSettings.brick_tail
    max_blocks: int = 12
    wording: Wording = field(default_factory=load_wording, repr=False)

    def __post_init__(self) -> None:
        """Check every setting and report all problems at once."""
        problems = [
            f"{name} {value!r}: known are {', '.join(known)}"
            for name, value, known in (
                ("cell_policy", self.cell_policy, CELL_POLICIES),
                ("codec", self.codec, ALL_CODECS),
                ("vanished", self.vanished, VANISHED_POLICIES),
                ("brick_order", self.brick_order, BRICK_ORDERS),
            )
            if value not in known
        ]
        if len(self.grid_hw) != 2 or min(self.grid_hw) < 1:
            problems.append(f"grid_hw {tuple(self.grid_hw)}: two sides, both at least 1")
        counts = (("rounds", self.rounds, 1), ("max_blocks", self.max_blocks, 1))
        for name, count, least in (*counts, ("distractors", self.distractors, 0)):
            if type(count) is not int:
                problems.append(f"{name} {count!r}: a whole number, at least {least}")
            elif count < least:
                problems.append(f"{name} {count}: at least {least}")
        shares = {"crop": self.crop, "flip": self.flip, "synonyms": self.synonyms}
        problems += [
            f"{name} {share!r}: from 0 to 1"
            for name, share in shares.items()
            if not (isinstance(share, (int, float)) and 0 <= share <= 1)
        ]
        if problems:
            raise ValueError("draw settings: " + "; ".join(problems))

    @property
    def most_targets(self) -> int:
        """Most targets that one answer has room for."""
        return self.max_blocks if self.codec == BRICKS else sys.maxsize


@dataclass(frozen=True)
class View:
    """One image as one record shows it.

    Attributes:
        image: the annotated image.
        settings: of the draw.
        crop: visible part, (left, top, right, bottom) in pixels of the image; None is all of it.
        flip: whether the visible part is mirrored left to right.
    """

    image: AnnotatedImage
    settings: DrawSettings
    crop: Crop | None = None
    flip: bool = False
    _grids: dict[int, IntArray] = field(default_factory=dict, repr=False)

    def grid(self, index: int) -> IntArray:
        """Cells of a target, int64 (rows, columns) of 0 and 1; without a cell when it is not in the image."""
        if index not in self._grids:
            mask = self.image.targets[index].mask
            self._grids[index] = (
                np.zeros(self.settings.grid_hw, dtype=np.int64)
                if mask is None
                else rle_to_grid(
                    mask,
                    self.settings.grid_hw,
                    policy=self.settings.cell_policy,
                    crop=self.crop,
                    flip=self.flip,
                )
            )
        return self._grids[index]

    def shows(self, index: int) -> bool:
        """Whether a target covers a cell; in bricks a pixel is enough, as a box zooms in."""
        mask = self.image.targets[index].mask
        if self.settings.codec != BRICKS or mask is None:
            return bool(self.grid(index).any())
        return self._has_pixel(mask)

    def fault(self, index: int) -> str:
        """Why an existing target cannot be shown: `VANISHED`, `WITHOUT_PIXEL`, or "" when it can.

        A target that is not in the image has no fault: its empty mask is the truth.
        """
        mask = self.image.targets[index].mask
        if mask is None or self.shows(index):
            return ""
        return VANISHED if rle_area(mask) else WITHOUT_PIXEL

    @cached_property
    def visible(self) -> tuple[int, ...]:
        """Targets that `shows` is true of, as indices."""
        return tuple(index for index in range(len(self.image.targets)) if self.shows(index))

    def names(self, index: int) -> list[str]:
        """What a target may be called here, the dataset's own name first."""
        return words_of(self.image.targets[index], flip=self.flip)

    def surface(self, index: int, rng: np.random.Generator) -> str:
        """Drawn class name, clean for a mask text: a synonym with the share that the settings give."""
        names = self.names(index)
        synonym = len(names) > 1 and rng.random() < self.settings.synonyms
        return clean_label(pick(rng, names[1:]) if synonym else names[0])

    def said(self, text: str) -> str:
        """Text of the dataset as the model reads it, mirrored with the view; its case stays."""
        return (mirror_words(without_tags(text)) or "") if self.flip else without_tags(text)

    def answer(self, sentence: str, labelled: Sequence[tuple[str, int]]) -> str:
        """A sentence with the masks of some targets behind it.

        Args:
            sentence: in front of them.
            labelled: (label, index of the target) of each.
        """
        if self.settings.codec != BRICKS:
            return mask_answer(sentence, self._cells_text(labelled))
        order, tail = self.settings.brick_order, self.settings.brick_tail
        blocks = [write_block(block, order=order, tail=tail) for block in self.blocks(labelled)]
        return box_answer(sentence, blocks)

    def blocks(self, labelled: Sequence[tuple[str, int]]) -> list[Block]:
        """Boxes of several targets, target after target, each with its cells.

        A target has one box for each of its objects in view where the dataset tells them apart, from left to
        right; else one around it all. What is not in view has an empty block. Boxes may overlap. Where there
        are more objects than `max_blocks`, the smallest of each target are joined into its last block, so
        that the blocks of a target always cover it. Ours; the paper does not say.

        Args:
            labelled: (label, index of the target) of each.
        """
        objects = [self._objects(index) for _, index in labelled]
        alone = _largest(objects, self.settings.max_blocks)
        blocks: list[Block] = []
        for place, ((label, _), found) in enumerate(zip(labelled, objects, strict=True)):
            own = [self._block(label, mask) for number, mask in enumerate(found) if (place, number) in alone]
            rest = [mask for number, mask in enumerate(found) if (place, number) not in alone]
            blocks += sorted(own, key=lambda block: block.box or ())
            if rest or not found:
                blocks.append(self._block(label, merge_rles(rest, self.image.size_hw)))
        return blocks

    def _objects(self, index: int) -> list[Rle]:
        """Masks of the objects of a target that are in view, those of the whole image."""
        target = self.image.targets[index]
        masks = target.instances or ((target.mask,) if target.mask is not None else ())
        return [mask for mask in masks if self._has_pixel(mask)]

    def _has_pixel(self, mask: Rle) -> bool:
        """Whether any pixel of a mask is in view."""
        return rle_area(mask) > 0 if self.crop is None else rle_tight_box(mask, crop=self.crop) is not None

    def _block(self, label: str, mask: Rle) -> Block:
        """Box around what is in view of a mask, and its cells."""
        return rle_block(label, mask, self.settings.grid_hw, crop=self.crop, flip=self.flip)

    def _cells_text(self, labelled: Sequence[tuple[str, int]]) -> str:
        """Image-wise mask text of several targets.

        Where targets share a cell it goes to the one with fewer cells, so that none is covered whole by a
        larger one.

        Args:
            labelled: (label, index of the target) of each.
        """
        labels = [clean_label(label) for label, _ in labelled]
        known = (BACKGROUND, *dict.fromkeys(labels))
        grid = np.zeros(self.settings.grid_hw, dtype=np.int64)
        grids = [self.grid(index) for _, index in labelled]
        for place in sorted(range(len(labelled)), key=lambda place: -int(grids[place].sum())):
            grid[grids[place] != 0] = known.index(labels[place])
        return encode(grid, known, codec=self.settings.codec)


def _largest(objects: Sequence[Sequence[Rle]], most: int) -> set[tuple[int, int]]:
    """Objects that have a block of their own, as (place of the target, number of the object).

    Args:
        objects: masks of each target.
        most: blocks of all targets together; one of each target is kept for its smaller objects.
    """
    areas = {(k, n): rle_area(mask) for k, found in enumerate(objects) for n, mask in enumerate(found)}
    if sum(max(1, len(found)) for found in objects) <= most:
        return set(areas)
    ranked = sorted(areas, key=lambda key: -areas[key])
    return set(ranked[: max(0, most - len(objects))])


def words_of(target: Target, *, flip: bool) -> list[str]:
    """Names of a target as the model reads them; in a mirrored image those that are surely true of it."""
    names = [normalise_expression(name) for name in target.names]
    if flip:
        names = [mirrored for name in names if (mirrored := mirror_words(name)) is not None]
    return [name for name in names if name]


def can_flip(image: AnnotatedImage, indices: Sequence[int]) -> bool:
    """Whether all that has to be said of some targets can be said of the mirrored image."""
    for index in indices:
        target = image.targets[index]
        texts = (target.part_of, target.question, target.answer)
        if not words_of(target, flip=True) or any(mirror_words(text) is None for text in texts):
            return False
    return True
