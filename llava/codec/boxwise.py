"""Answers with box-wise masks: what is meant, where its box lies, and the inside of the box as bricks.

    <ref>the dog</ref><box>(120,80),(560,999)</box><seg><b12><f5>…</seg>

One block for each target, nothing between them. A target that is not there has an empty box and no bricks.
The parts are those of Text4Seg++ (arXiv 2509.06321); the spelling of the box and of an absent target, and
that blocks follow one another directly, are ours, as the paper says nothing about them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llava.codec.boxes import BOX_STEPS, WHOLE_IMAGE, Box, mask_from_box, mask_in_box, quantise_box, tight_box
from llava.codec.bricks import BRICK, check_order, decode_bricks, encode_bricks
from llava.codec.grid import check_sides
from llava.codec.labels import UNNAMED, clean_reference
from llava.codec.runs import Fault, quote
from llava.constants import BOX_CLOSE, BOX_OPEN, REF_CLOSE, REF_OPEN, SEG_CLOSE, SEG_OPEN
from llava.types import BoolArray

_TAG = re.compile(r"(</?(?:ref|box|seg)>)")
_PARTS = ("ref", "box", "seg")
_BOX = re.compile(r"\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*", re.ASCII)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?", re.ASCII)
_DIGITS = 12


@dataclass(frozen=True)
class Block:
    """One target of an answer.

    Attributes:
        label: its words.
        box: where it is, in steps of 1/999 of the image; None when it is not there.
        cells: bool (rows, columns), the inside of the box.
        faults: what was wrong with its text.
    """

    label: str
    box: Box | None
    cells: BoolArray
    faults: tuple[Fault, ...] = ()

    def mask(self, size_hw: tuple[int, int], *, method: str = "bilinear") -> BoolArray:
        """Pixels of the target in an image of `size_hw` (height, width) pixels; bool (height, width)."""
        if self.box is None:
            return np.zeros(check_sides(size_hw, "size_hw"), bool)
        return mask_from_box(self.cells, self.box, size_hw, method=method)


@dataclass(frozen=True)
class BoxAnswer:
    """What an answer with box-wise masks says.

    Attributes:
        blocks: its targets, in order; blocks without `<seg>` are left out.
        faults: everything that was wrong, the answer's own faults first, then those of each block.
        grid_hw: rows and columns of the cells of every block.
    """

    blocks: tuple[Block, ...]
    faults: tuple[Fault, ...]
    grid_hw: tuple[int, int]

    @property
    def outcome(self) -> Literal["mask", "empty", "no_mask"]:
        """Whether the answer marks cells, has blocks without any, or has no block at all."""
        if not self.blocks:
            return "no_mask"
        return "mask" if any(block.box and block.cells.any() for block in self.blocks) else "empty"

    def mask(self, size_hw: tuple[int, int], method: str = "bilinear") -> BoolArray:
        """Pixels of any target in an image of `size_hw` (height, width) pixels; bool (height, width)."""
        union = np.zeros(check_sides(size_hw, "size_hw"), bool)
        for block in self.blocks:
            union |= block.mask(size_hw, method=method)
        return union

    def areas(self, size_hw: tuple[int, int], method: str = "bilinear") -> dict[str, int]:
        """Pixels of each label that has some, blocks of one label taken together."""
        masks: dict[str, BoolArray] = {}
        for block in self.blocks:
            mask = block.mask(size_hw, method=method)
            masks[block.label] = masks[block.label] | mask if block.label in masks else mask
        return {label: int(mask.sum()) for label, mask in masks.items() if mask.any()}


def block_of(label: str, mask: NDArray[Any], grid_hw: tuple[int, int], *, box: Box | None = None) -> Block:
    """Block that describes a mask.

    Args:
        label: words of the target; go through `clean_reference`.
        mask: (H, W), bool or numbers of which all but 0 are inside; one without a pixel is absent.
        grid_hw: rows and columns of the cells.
        box: what the cells cover; None takes the smallest box around the mask.

    Returns:
        The block, without faults.

    Raises:
        ValueError: the mask, the grid or the box is wrong.

    Example:
        >>> block = block_of("dog", np.eye(2), (2, 2))
        >>> block.box, block.cells.tolist()
        ((0, 0, 999, 999), [[True, False], [False, True]])
    """
    edges = tight_box(mask)
    label = clean_reference(label)
    if edges is None:
        return Block(label, None, np.zeros(check_sides(grid_hw, "grid_hw"), bool))
    box = box or quantise_box(edges, np.shape(mask))
    return Block(label, box, mask_in_box(mask, box, grid_hw))


def write_block(block: Block, *, order: str = "raster", tail: bool = True) -> str:
    """Text of a block. A box without foreground is written as an absent target.

    Args:
        block: the target.
        order: in which order its cells are written, one of `BRICK_ORDERS`.
        tail: write the background behind the last foreground.

    Raises:
        ValueError: the order is unknown.

    Example:
        >>> write_block(block_of("dog", np.eye(2), (2, 2)))
        '<ref>dog</ref><box>(0,0),(999,999)</box><seg><f1><b2><f1></seg>'
    """
    box = bricks = ""
    if block.box is not None and block.cells.any():
        x0, y0, x1, y1 = block.box
        box = f"({x0},{y0}),({x1},{y1})"
        bricks = encode_bricks(block.cells, order=order, tail=tail)
    return (
        f"{REF_OPEN}{clean_reference(block.label)}{REF_CLOSE}{BOX_OPEN}{box}{BOX_CLOSE}"
        f"{SEG_OPEN}{bricks}{SEG_CLOSE}"
    )


def box_answer(sentence: str, blocks: Sequence[str]) -> str:
    r"""Answer that teaches box-wise masks: a sentence, a line break, and the blocks.

    Example:
        >>> box_answer("Sure:", ["<ref>cat</ref><box></box><seg></seg>"])
        'Sure:\n<ref>cat</ref><box></box><seg></seg>'
    """
    return f"{sentence}\n{''.join(blocks)}"


def read_boxes(
    answer: str, grid_hw: tuple[int, int], *, order: str = "raster", tail: bool = True, strict: bool = False
) -> BoxAnswer:
    """Box-wise masks in a model's answer. Reads any text; what is wrong with it is told in the faults.

    A block starts with `<ref>`, or with a `<box>` or `<seg>` that has no place in the block before. A part
    without its end reaches to the next tag. No repair invents foreground inside a box.

    Args:
        answer: raw model text.
        grid_hw: rows and columns of the checkpoint's cells.
        order: in which order the cells are written, one of `BRICK_ORDERS`.
        tail: whether the background behind the last foreground is written.
        strict: also name runs that could be written with fewer bricks.

    Returns:
        The blocks with outcome and faults.

    Raises:
        ValueError: `grid_hw` or `order` is wrong.

    Example:
        >>> answer = read_boxes("Yes.<ref>dog</ref><box>(0,0),(500,999)</box><seg><f1><b1></seg>", (1, 2))
        >>> answer.outcome, answer.areas((1, 4), "nearest"), answer.faults
        ('mask', {'dog': 1}, ())
    """
    grid_hw = check_sides(grid_hw, "grid_hw")
    check_order(order)
    reading = _Reading(grid_hw, order, tail, strict)
    faults: list[Fault] = []
    blocks: list[Block] = []
    for number, found in enumerate(_find_blocks(answer), start=1):
        if "seg" in found.parts:
            blocks.append(reading.block(found))
        else:
            faults += found.faults
            faults.append(Fault("no_seg", None, f"block {number} of the answer has no {SEG_OPEN}"))
    if not blocks:
        faults.append(Fault("no_mask", None, f"the answer has no {SEG_OPEN}"))
    faults += [fault for block in blocks for fault in block.faults]
    return BoxAnswer(tuple(blocks), tuple(faults), grid_hw)


@dataclass
class _Found:
    """Texts of the parts of a block, by "ref", "box" and "seg", and what was wrong with its tags."""

    parts: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def close(self, part: str, tag: str) -> None:
        """Note a part that ends with another tag than its own, or with the answer."""
        if part and tag != f"</{part}>":
            kind = "unclosed" if part == "seg" else "unclosed_tag"
            self.faults.append(Fault(kind, None, f"<{part}> has no </{part}>"))

    def has_place(self, part: str) -> bool:
        """Whether a part can follow those that are there."""
        return all(_PARTS.index(part) > _PARTS.index(known) for known in self.parts)

    def add_stray(self, text: str) -> None:
        """Take in a box or bricks outside of tags; other words are prose."""
        if BRICK.search(text):
            self.parts["seg"] = self.parts.get("seg", "") + text
        elif _BOX.fullmatch(text) and self.parts and self.has_place("box"):
            self.parts["box"] = text
        else:
            return
        self.faults.append(Fault("unopened", None, f"{quote(text)} stands outside of its tags"))


def _find_blocks(answer: str) -> list[_Found]:
    """Blocks of an answer in order, with their texts still unread."""
    pieces = _TAG.split(answer)
    found = [_Found()]
    part = ""
    for tag, text in zip(["", *pieces[1::2]], pieces[::2], strict=True):
        found[-1].close(part, tag)
        part = tag[1:-1] if tag and tag[1] != "/" else ""
        if not part:
            found[-1].add_stray(text)
            continue
        if not found[-1].has_place(part):
            found.append(_Found())
        found[-1].parts[part] = text
    found[-1].close(part, "")
    return [each for each in found if each.parts]


@dataclass(frozen=True)
class _Reading:
    """How the parts of a block are read."""

    grid_hw: tuple[int, int]
    order: str
    tail: bool
    strict: bool

    def block(self, found: _Found) -> Block:
        """The block that some parts describe."""
        faults = found.faults
        label = " ".join(found.parts.get("ref", "").split())
        if not label:
            faults.append(Fault("no_label", None, "a block does not say what it shows"))
        box = read_box(found.parts["box"], faults) if "box" in found.parts else WHOLE_IMAGE
        cells, wrong = decode_bricks(
            found.parts["seg"],
            self.grid_hw,
            order=self.order,
            tail=self.tail and box is not None,
            strict=self.strict,
        )
        faults += wrong
        if "box" not in found.parts:
            faults.append(Fault("no_box", None, f"a block has no {BOX_OPEN}"))
            box = WHOLE_IMAGE if cells.any() else None
        if box is None and cells.any():
            faults.append(Fault("bricks_without_box", None, f"{int(cells.sum())} cells lie in no box"))
            cells = np.zeros_like(cells)
        elif box is not None and not cells.any():
            faults.append(Fault("no_foreground", None, f"nothing lies inside box {box}"))
        return Block(label or UNNAMED, box, cells, tuple(faults))


def read_box(text: str, faults: list[Fault]) -> Box | None:
    """Box between its tags; None for an empty one.

    Args:
        text: model text between `<box>` and `</box>`.
        faults: what is wrong is added here.

    Example:
        >>> faults = []
        >>> read_box("(500,0),(20,1200)", faults), [fault.kind for fault in faults]
        ((20, 0, 500, 999), ['box_outside', 'box_inverted'])
    """
    if not text.strip():
        return None

    def add(kind: str) -> None:
        faults.append(Fault(kind, None, f"box {quote(text)}"))

    match = _BOX.fullmatch(text)
    numbers = match.groups() if match else tuple(_NUMBER.findall(text))
    if len(numbers) != 4 or any("." in number for number in numbers):
        add("unreadable_box")
        return WHOLE_IMAGE
    if not match:
        add("box_spelling")
    given = [int(number[: _DIGITS + 1]) for number in numbers]
    edges = [min(max(edge, 0), BOX_STEPS) for edge in given]
    if edges != given:
        add("box_outside")
    if edges[0] > edges[2] or edges[1] > edges[3]:
        add("box_inverted")
    (x0, x1), (y0, y1) = sorted(edges[0::2]), sorted(edges[1::2])
    if x0 == x1 or y0 == y1:
        add("box_flat")
        x0, x1 = _widen(x0, x1)
        y0, y1 = _widen(y0, y1)
    return x0, y0, x1, y1


def _widen(start: int, stop: int) -> tuple[int, int]:
    """Two steps, one apart where they are equal."""
    if start < stop:
        return start, stop
    return (start, stop + 1) if stop < BOX_STEPS else (start - 1, stop)
