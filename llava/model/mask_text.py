"""How a checkpoint writes masks: one interface to image-wise and box-wise texts, chosen by its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from llava.codec import Answer, encode, grid_to_mask, read_answer
from llava.codec.boxes import box_edges
from llava.codec.boxwise import BoxAnswer, block_of, read_boxes, write_block
from llava.constants import BACKGROUND
from llava.model.decoding.brick_confidence import brick_confidence
from llava.model.decoding.brick_language import BrickLanguage
from llava.model.decoding.confidence import cell_confidence
from llava.model.decoding.language import Language
from llava.model.decoding.vocabulary import MaskLanguage
from llava.settings import BRICKS, UPSAMPLING, SegmentationSettings
from llava.types import BoolArray, Edges, FloatArray, IntArray

LONG_LABEL = "the second small dark red striped square from the left side"
"""A long expression (11 words; RefCOCOg has 8.4 on average) for the default length of an answer."""

RUNS_IN_ROW = 5
"""Runs of a busy row: background, object, background, object, background."""

BUSY_BLOCKS = 4
"""Box-wise masks of busy rows in a long answer; with runs of common objects about twice as many fit."""

Read = TypeVar("Read", Answer, BoxAnswer)


class MaskText(ABC, Generic[Read]):
    """Answers of one checkpoint as text, and what they mean in pixels.

    Args:
        settings: of the checkpoint.
        upsample: how cells become pixels, one of `UPSAMPLING`; None takes that of the settings.

    Raises:
        ValueError: `upsample` is unknown.
    """

    def __init__(self, settings: SegmentationSettings, *, upsample: str | None = None) -> None:
        if upsample is not None and upsample not in UPSAMPLING:
            raise ValueError(f"unknown upsample {upsample!r}; known: {', '.join(UPSAMPLING)}")
        self.settings = settings
        self.upsample = upsample or settings.upsample

    @abstractmethod
    def longest(self) -> str:
        """Masks of a long answer, for its number of tokens; depends on the settings alone."""

    @abstractmethod
    def read(self, answer: str) -> Read:
        """Masks of a model's answer; has `faults`, and `outcome`: "mask", "empty" or "no_mask"."""

    @abstractmethod
    def mask(self, read: Read, size_hw: tuple[int, int]) -> BoolArray:
        """Pixels that an answer marks; bool (height, width)."""

    @abstractmethod
    def areas(self, read: Sequence[Read], size_hw: tuple[int, int]) -> dict[str, int]:
        """Pixel count of each label of some answers about one image, in order of first use."""

    @abstractmethod
    def boxes(self, read: Sequence[Read], size_hw: tuple[int, int]) -> tuple[Edges | None, ...] | None:
        """Box that each answer writes, in pixels, see `Prediction.boxes`; None where none are written."""

    @abstractmethod
    def confidence(
        self, text: bytes, spans: Sequence[tuple[int, float]], blocks: Sequence[tuple[int, int]]
    ) -> FloatArray:
        """Probability of each part of the image to be inside; float32 (rows, columns) of the settings' grid.

        Args:
            text: bytes of an answer.
            spans: for each token, where its bytes start, and its probability.
            blocks: (start, end) of the bytes of each finished mask, without the tags around it.
        """

    @abstractmethod
    def language(
        self,
        tokenizer: Any,  # noqa: ANN401
        size: int,
        *,
        ends: Sequence[int],
        labels: Sequence[str] | None = None,
    ) -> MaskLanguage:
        """What a tokenizer can write of these masks, for decoding; arguments as for `Language`.

        Raises:
            ValueError: the tokenizer cannot write them.
        """


class ImageWise(MaskText[Answer]):
    """A label for each cell of a grid over the whole image (Text4Seg)."""

    def longest(self) -> str:
        """A grid whose every row has `RUNS_IN_ROW` runs, labelled `LONG_LABEL`."""
        rows, columns = self.settings.grid_hw
        grid = np.tile(_busy_row(columns), (rows, 1))
        return encode(grid, (BACKGROUND, LONG_LABEL), codec=self.settings.codec)

    def read(self, answer: str) -> Answer:
        """Label grids between `<seg>` and `</seg>`."""
        return read_answer(answer, self.settings.grid_hw, codec=self.settings.codec)

    def mask(self, read: Answer, size_hw: tuple[int, int]) -> BoolArray:
        """Cells of all labels drawn as one mask."""
        return self._draw(read.foreground, size_hw)

    def areas(self, read: Sequence[Answer], size_hw: tuple[int, int]) -> dict[str, int]:
        """Cells of a label are joined over all answers before they are drawn."""
        cells: dict[str, BoolArray] = {}
        for block in (block for answer in read for block in answer.blocks):
            for index, label in enumerate(block.labels[1:], start=1):
                here = block.grid == index
                cells[label] = cells[label] | here if label in cells else here
        return {label: int(self._draw(grid, size_hw).sum()) for label, grid in cells.items()}

    def boxes(self, read: Sequence[Answer], size_hw: tuple[int, int]) -> None:
        """Image-wise answers write no boxes."""

    def confidence(
        self, text: bytes, spans: Sequence[tuple[int, float]], blocks: Sequence[tuple[int, int]]
    ) -> FloatArray:
        """See `cell_confidence`."""
        return cell_confidence(text, spans, blocks, self.settings.grid_hw)

    def language(
        self,
        tokenizer: Any,  # noqa: ANN401
        size: int,
        *,
        ends: Sequence[int],
        labels: Sequence[str] | None = None,
    ) -> MaskLanguage:
        """The mask grammar of the grid."""
        grid_hw, codec = self.settings.grid_hw, self.settings.codec
        return Language(tokenizer, size, ends=ends, grid_hw=grid_hw, labels=labels, codec=codec)

    def _draw(self, grid: BoolArray, size_hw: tuple[int, int]) -> BoolArray:
        return grid_to_mask(grid, size_hw, method=self.upsample)


class BoxWise(MaskText[BoxAnswer]):
    """A box and the cells inside it for each object (Text4Seg++)."""

    def longest(self) -> str:
        """`BUSY_BLOCKS` objects over the whole image whose every row has `RUNS_IN_ROW` runs."""
        settings = self.settings
        rows, columns = settings.grid_hw
        cells = np.tile(_busy_row(columns), (rows, 1)) != 0
        block = block_of(LONG_LABEL, cells, settings.grid_hw)
        text = write_block(block, order=settings.brick_order, tail=settings.brick_tail)
        return text * BUSY_BLOCKS

    def read(self, answer: str) -> BoxAnswer:
        """Blocks of words, box and bricks."""
        settings = self.settings
        return read_boxes(answer, settings.grid_hw, order=settings.brick_order, tail=settings.brick_tail)

    def mask(self, read: BoxAnswer, size_hw: tuple[int, int]) -> BoolArray:
        """Union of all blocks."""
        return read.mask(size_hw, self.upsample)

    def areas(self, read: Sequence[BoxAnswer], size_hw: tuple[int, int]) -> dict[str, int]:
        """Blocks of one label count as one region, pixels that two of them cover once."""
        faults = tuple(fault for answer in read for fault in answer.faults)
        blocks = tuple(block for answer in read for block in answer.blocks)
        return BoxAnswer(blocks, faults, self.settings.grid_hw).areas(size_hw, self.upsample)

    def boxes(self, read: Sequence[BoxAnswer], size_hw: tuple[int, int]) -> tuple[Edges | None, ...]:
        """Box around the boxes of each answer."""
        return tuple(_around(answer, size_hw) for answer in read)

    def confidence(
        self, text: bytes, spans: Sequence[tuple[int, float]], blocks: Sequence[tuple[int, int]]
    ) -> FloatArray:
        """See `brick_confidence`."""
        settings = self.settings
        return brick_confidence(text, spans, blocks, settings.grid_hw, order=settings.brick_order)

    def language(
        self,
        tokenizer: Any,  # noqa: ANN401
        size: int,
        *,
        ends: Sequence[int],
        labels: Sequence[str] | None = None,
    ) -> MaskLanguage:
        """The rules of blocks."""
        return BrickLanguage(tokenizer, size, ends=ends, settings=self.settings, labels=labels)


def mask_text(settings: SegmentationSettings, *, upsample: str | None = None) -> MaskText[Any]:
    """How a checkpoint of these settings writes masks.

    Raises:
        ValueError: `upsample` is unknown.
    """
    kind = BoxWise if settings.codec == BRICKS else ImageWise
    return kind(settings, upsample=upsample)


def _busy_row(columns: int) -> IntArray:
    """0 or 1 for each cell, `RUNS_IN_ROW` runs."""
    return (np.arange(columns) * RUNS_IN_ROW // columns) % 2


def _around(answer: BoxAnswer, size_hw: tuple[int, int]) -> Edges | None:
    """The smallest box around all boxes of an answer in pixels; None where it has none."""
    boxes = [block.box for block in answer.blocks if block.box is not None]
    if not boxes:
        return None
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return box_edges((min(x0), min(y0), max(x1), max(y1)), size_hw)
