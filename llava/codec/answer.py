"""A model's whole answer: sentences with masks written between tags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from llava.codec.grid import check_sides
from llava.codec.runs import Decoded, Fault, check_codec, decode
from llava.constants import SEG_CLOSE, SEG_OPEN
from llava.types import BoolArray


@dataclass(frozen=True)
class Answer:
    """What an answer says.

    Attributes:
        blocks: one result for each `<seg>`, in order.
        faults: everything that was wrong, the answer's own faults first, then those of each block.
        grid_hw: rows and columns of every block.
    """

    blocks: tuple[Decoded, ...]
    faults: tuple[Fault, ...]
    grid_hw: tuple[int, int]

    @property
    def foreground(self) -> BoolArray:
        """Cells that any block calls something else than "others"; bool (rows, columns)."""
        return np.any(
            [block.grid != 0 for block in self.blocks] or np.zeros((1, *self.grid_hw), bool), axis=0
        )

    @property
    def outcome(self) -> Literal["mask", "empty", "no_mask"]:
        """Whether the answer marks cells, has a mask without any, or has no mask at all."""
        if not self.blocks:
            return "no_mask"
        return "mask" if self.foreground.any() else "empty"


def mask_answer(sentence: str, text: str) -> str:
    r"""Answer that teaches a mask: a sentence, a line break, and the mask text between its tags.

    Example:
        >>> mask_answer("Sure:", "others *2\n dog *2\n")
        'Sure:\n<seg>others *2\n dog *2\n</seg>'

    Source: Text4Seg (arXiv 2410.09855), byte for byte.
    """
    return f"{sentence}\n{SEG_OPEN}{text}{SEG_CLOSE}"


def read_answer(answer: str, grid_hw: tuple[int, int], *, codec: str = "rrle") -> Answer:
    """Masks in a model's answer. Reads any text; what is wrong with it is told in the faults.

    A block ends at its `</seg>`, at the next `<seg>`, or with the answer; the last two are faults.
    In the "full" form the last label of an unclosed block is left out, as it may be half a word.

    Args:
        answer: raw model text.
        grid_hw: rows and columns of the checkpoint's grid.
        codec: "rrle", "full" or "irle".

    Returns:
        The blocks with outcome and faults.

    Raises:
        ValueError: `grid_hw` or `codec` is wrong.

    Example:
        >>> answer = read_answer("Here it is: <seg>dog *1| others *1</seg>", (1, 2))
        >>> answer.outcome, answer.foreground.tolist()
        ('mask', [[True, False]])
    """
    check_codec(codec)
    grid_hw = check_sides(grid_hw, "grid_hw")
    faults: list[Fault] = []
    blocks: list[Decoded] = []
    for part in answer.split(SEG_OPEN)[1:]:
        text, closed, _ = part.partition(SEG_CLOSE)
        if not closed:
            faults.append(Fault("unclosed", None, f"mask {len(blocks) + 1} of the answer has no {SEG_CLOSE}"))
            text = text.rpartition("|")[0] if codec == "full" else text
        blocks.append(decode(text, grid_hw, codec=codec))
    if not blocks:
        faults.append(Fault("no_mask", None, f"the answer has no {SEG_OPEN}"))
    faults += [fault for block in blocks for fault in block.faults]
    return Answer(tuple(blocks), tuple(faults), grid_hw)
