"""Coarse masks refined by Segment Anything in the way of Text4Seg, and the guard over every way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from llava.model.refine.load import Embedded, PromptedSam
from llava.model.refine.prompts import box_prompt, mask_prompt, point_prompt, soft_prompt
from llava.refiners import refiner_options
from llava.types import BoolArray, FloatArray, Refined

EMPTY = "coarse is empty"
NOTHING = "SAM returned nothing"
UNRELATED = "SAM returned an unrelated mask"
"""Notes on a mask that was kept. Unrelated: IoU with the coarse mask below the refiner's `min_agreement`."""

_MASKS_AT_ONCE = 16


class SamRefiner:
    """Refines coarse masks with a SAM of any kind and size.

    Each mask is prompted with itself at low resolution, with points inside and outside, and with its box if
    wanted; SAM's own low-resolution logits are then fed back as the next mask prompt. The image is embedded
    once, however many masks and calls it has, and all masks of a call are one batch.

    Args:
        path: folder of a `SamModel`, `SamHQModel` or `Sam2Model`, or a name on the hub.
        device: None takes the GPU if there is one.
        iterations: passes through SAM's mask decoder, at least 1; None: 3, as Text4Seg makes.
        points: points inside and as many outside; 0 for none; None: 10.
        use_box: prompt with the box around the coarse mask as well.
        min_agreement: a refined mask whose IoU with the coarse one is lower is dropped; None: 0.1.
        seed: of the choice of points.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: no SAM, weights that do not fit, a processor of another size, or a wrong number.
    """

    _hard_prompt = staticmethod(mask_prompt)

    def __init__(
        self,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        iterations: int | None = None,
        points: int | None = None,
        use_box: bool | None = None,
        min_agreement: float | None = None,
        seed: int = 0,
    ) -> None:
        options = refiner_options(
            "sam", iterations=iterations, points=points, use_box=use_box, min_agreement=min_agreement
        )
        self.iterations, self.points, self.use_box = (
            options[name] for name in ("iterations", "points", "use_box")
        )
        self.min_agreement, self.seed = options["min_agreement"], seed
        self.sam = PromptedSam(path, device=device)

    def refine(self, image: Image.Image, masks: BoolArray, *, soft: FloatArray | None = None) -> Refined:
        """Refined masks of one image.

        Args:
            image: the image, any mode.
            masks: bool (n, H, W), coarse masks at the size of the image.
            soft: float32 (n, rows, columns), probability of each cell or pixel to be inside; it becomes the
                mask prompt of the first pass in place of the mask itself.

        Returns:
            Masks of the same shape with a note for each. The coarse mask is kept where it is empty, and where
            SAM returns nothing or an unrelated mask.

        Raises:
            ValueError: the masks or the probabilities are no such array.
        """
        masks = check_masks(image, masks, soft)
        result, notes = masks.copy(), [EMPTY] * len(masks)
        present = np.flatnonzero(masks.any(axis=(1, 2)))
        for start in range(0, len(present), _MASKS_AT_ONCE):
            chosen = present[start : start + _MASKS_AT_ONCE]
            found = self._segment(image, masks[chosen], None if soft is None else soft[chosen])
            for index, mask in zip(chosen, found, strict=True):
                notes[index] = judge(masks[index], mask, min_agreement=self.min_agreement)
                if not notes[index]:
                    result[index] = mask
        return Refined(result, tuple(notes))

    def _segment(self, image: Image.Image, masks: BoolArray, soft: FloatArray | None) -> BoolArray:
        """What SAM makes of coarse masks that are not empty; bool (n, H, W)."""
        embedded = self.sam.embed(image)
        prompts = self.sam.sparse(
            embedded.size_hw,
            points=[point_prompt(mask, self.points, seed=self.seed) for mask in masks]
            if self.points
            else None,
            boxes=[box_prompt(mask) for mask in masks] if self.use_box else None,
        )
        logits = self._mask_prompts(embedded, masks, soft)
        for _ in range(self.iterations):
            logits = self.sam.decode(embedded, logits=logits, prompts=prompts, count=len(masks))[:, 0]
        return self.sam.full_size(embedded, logits)

    def _mask_prompts(self, embedded: Embedded, masks: BoolArray, soft: FloatArray | None) -> torch.Tensor:
        """Mask prompts of the first pass, float32 (n, side, side)."""
        side, keep_aspect = self.sam.prompt_side, self.sam.kind.keep_aspect
        if soft is None:
            found = [self._hard_prompt(mask, side, keep_aspect=keep_aspect) for mask in masks]
        else:
            found = [soft_prompt(one, embedded.size_hw, side, keep_aspect=keep_aspect) for one in soft]
        return self.sam.tensor(np.stack(found))


def check_masks(image: Image.Image, masks: BoolArray, soft: FloatArray | None) -> BoolArray:
    """The masks, if they fit the image and the probabilities fit them.

    Raises:
        ValueError: they do not.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.dtype != np.bool_ or masks.shape[1:] != (image.height, image.width):
        raise ValueError(
            f"masks {masks.dtype} {masks.shape}: needed are bool (n, {image.height}, {image.width}), "
            "the size of the image"
        )
    if soft is not None:
        fits = (
            soft.ndim == 3
            and soft.dtype == np.float32
            and len(soft) == len(masks)
            and 0 not in soft.shape[1:]
        )
        if not fits or not ((soft >= 0) & (soft <= 1)).all():
            raise ValueError(
                f"soft {soft.dtype} {soft.shape}: needed are float32 ({len(masks)}, rows, columns) in "
                "0 to 1, a probability for each mask"
            )
    return masks


def judge(coarse: BoolArray, refined: BoolArray, *, min_agreement: float) -> str:
    """Why a refined mask is not to be used, or "" when it is."""
    if not refined.any():
        return NOTHING
    return UNRELATED if agreement(coarse, refined) < min_agreement else ""


def agreement(one: BoolArray, other: BoolArray) -> float:
    """IoU of two masks that are not both empty."""
    return float((one & other).sum() / (one | other).sum())
