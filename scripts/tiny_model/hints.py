"""Training aids of the tiny LLaVA, thrown away afterwards: where to look, and what should be known by then.

Without them a small model learns the form of the answer long before it looks for the target.
"""

from __future__ import annotations

import torch
from rounds import Part
from tiny_llava import Llava, prefix_length
from torch import nn
from torch.nn import functional
from transformers import LlavaProcessor

from llava.constants import IGNORE_INDEX

HINT_LAYER = 3
"""Hidden state (0 = embeddings) that the box is read off; the attention before it looks at the target."""

LOOKING_HEADS = 2
"""Heads of each of the two layers that are told where to look; the others look where they like."""

Tensor = torch.Tensor


def boxes_of(cells: Tensor) -> Tensor:
    """Top, bottom, left and right cell of bool (n, grid, grid), int64 (n, 4); four times `grid` if empty."""
    grid = cells.shape[-1]
    sides = []
    for lines in (cells.any(2), cells.any(1)):
        first = lines.int().argmax(1)
        last = grid - 1 - lines.flip(1).int().argmax(1)
        sides += [first, last]
    return torch.stack(sides, 1).where(cells.flatten(1).any(1)[:, None], grid)


def patches_of(cells: Tensor, patches: int) -> Tensor:
    """Patches that hold cells of the target, bool (n, patches * patches); `cells` is bool (n, grid, grid)."""
    sub = cells.shape[-1] // patches
    return cells.unflatten(2, (patches, sub)).any(3).unflatten(1, (patches, sub)).any(2).flatten(1)


def looking_loss(attention: Tensor, places: Tensor, wanted: Tensor, first_patch: int) -> Tensor:
    """How far some heads look away from the wanted patches; from the first token where there are none.

    Args:
        attention: float (n, heads, length, keys), probabilities of one layer.
        places: bool (n, length), the m tokens that should look.
        wanted: bool (m, patches), where to.
        first_patch: key of the first patch.
    """
    seen = attention[:, :LOOKING_HEADS].transpose(1, 2)[places]
    on_target = (seen[..., first_patch : first_patch + wanted.shape[1]] * wanted[:, None]).sum(-1)
    mass = torch.where(wanted.any(1)[:, None], on_target, seen[..., 0])
    return -(mass + 1e-6).log().mean()


class Hints(nn.Module):
    """Reads box and place in the mask off a middle layer, and tells two layers where to look.

    Args:
        width: of the hidden states.
        grid: cells along each side of the image in which the box is told.
        patches: patches along each side of the image.
        first_patch: place of the first patch in every sequence.
        rows, columns: of the mask that is written; None where it has `grid` of each.
    """

    def __init__(
        self,
        width: int,
        grid: int,
        *,
        patches: int,
        first_patch: int,
        rows: int | None = None,
        columns: int | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.patches, self.first_patch = grid, patches, first_patch
        self.box = nn.Linear(width, 4 * (grid + 1))
        self.row = nn.Linear(width, (rows or grid) + 1)
        self.column = nn.Linear(width, (columns or grid) + 1)

    def sides(self, states: Tensor) -> Tensor:
        """Logits of top, bottom, left and right cell, (n, 4, grid + 1), of states (n, width)."""
        return self.box(states).unflatten(-1, (4, -1))

    def find(self, states: Tensor, attention: Tensor, places: Tensor, cells: Tensor) -> Tensor:
        """Loss of the box and of looking at the target, for every token of `places`.

        Args:
            states: float (n, length, width), hidden states of `HINT_LAYER`.
            attention: float (n, heads, length, keys), of the layer before it.
            places: bool (n, length).
            cells: bool (n, grid, grid), the target.
        """
        owner = places.nonzero()[:, 0]
        sides = self.sides(states[places])
        boxes = functional.cross_entropy(sides.flatten(0, 1), boxes_of(cells)[owner].flatten())
        wanted = patches_of(cells, self.patches)[owner]
        return boxes + 0.5 * looking_loss(attention, places, wanted, self.first_patch)

    def forward(self, states: Tensor, attentions: tuple[Tensor, ...], part: Part) -> Tensor:
        """Sum of all hints over the answer and the token before it; arguments as in `find`, of all layers."""
        spoken = part.labels != IGNORE_INDEX
        spoken[:, :-1] |= spoken[:, 1:].clone()
        found = self.find(states, attentions[HINT_LAYER - 1], spoken, part.cells)
        inside = part.rows != IGNORE_INDEX
        counted = functional.cross_entropy(self.row(states[inside]), part.rows[inside])
        counted += functional.cross_entropy(self.column(states[inside]), part.columns[inside])
        looked = looking_loss(attentions[HINT_LAYER], inside, part.looks[inside], self.first_patch)
        return found + counted + 0.5 * looked


def hints_for(
    model: Llava, processor: LlavaProcessor, grid: int, written_hw: tuple[int, int] | None = None
) -> Hints:
    """New hints for a model.

    Args:
        model: the tiny LLaVA.
        processor: its processor.
        grid: cells along each side of the image in which the box is told.
        written_hw: rows and columns of the mask that is written; None: `grid` of each.
    """
    tower = model.config.vision_config
    patches = tower.image_size // tower.patch_size
    rows, columns = written_hw or (grid, grid)
    return Hints(
        model.config.text_config.hidden_size,
        grid,
        patches=patches,
        first_patch=prefix_length(processor) - patches**2,
        rows=rows,
        columns=columns,
    )
