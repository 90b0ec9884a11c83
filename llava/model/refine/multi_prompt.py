"""Coarse masks refined by Segment Anything in the way of SAMRefiner: prompts that forgive errors."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from llava.model.refine.load import Embedded
from llava.model.refine.prompts import (
    distance_points,
    elastic_box,
    frame_hw,
    gaussian_prompt,
    inside_frame,
    similar_places,
)
from llava.model.refine.refiner import EMPTY, SamRefiner, agreement, check_masks
from llava.model.refine.regions import split_regions
from llava.refiners import refiner_options
from llava.types import BoolArray, FloatArray, Refined

SMALL_CELLS = 2
"""A region of fewer cells of SAM's embedding is small. A mask prompt is shrunk to these cells inside SAM,
where little is left of it; a small region is prompted by its points and its box alone."""


class MultiPromptRefiner(SamRefiner):
    """Refines coarse masks region by region with points, a box and a mask, chosen for masks with errors.

    Each separate region of a mask is prompted with its deepest point and the farthest point of its box, with
    a box that gives way where the image goes on looking like the object, and with a mask that falls off
    towards the border. SAM answers with its single mask and its three candidates; the one that agrees best
    with the coarse region is taken, and gives the prompts of the next pass. The guard looks at each region:
    where SAM fails on one, that one stays coarse.

    Args:
        path: folder of a `SamModel`, `SamHQModel` or `Sam2Model`, or a name on the hub.
        device: None takes the GPU if there is one.
        iterations: passes, at least 1; None: 5, as SAMRefiner's released code makes.
        min_agreement: a refined region whose IoU with the coarse one is lower is dropped; None: 0.1.
        seed: taken as by every refiner; nothing is drawn here.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: no SAM, weights that do not fit, a processor of another size, or a wrong number.

    Source: SAMRefiner (Lin et al., ICLR 2025, arXiv 2502.06756). It takes the candidate that SAM scores
    highest; agreement with the coarse mask keeps the part and the whole apart, which SAM cannot know. The
    single mask, which SAM is trained to give for several prompts, is a candidate here too.
    """

    _hard_prompt = staticmethod(gaussian_prompt)

    def __init__(
        self,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        iterations: int | None = None,
        min_agreement: float | None = None,
        seed: int = 0,
    ) -> None:
        options = refiner_options("samrefiner", iterations=iterations, min_agreement=min_agreement)
        super().__init__(path, device=device, seed=seed, **options)

    def refine(self, image: Image.Image, masks: BoolArray, *, soft: FloatArray | None = None) -> Refined:
        """Refined masks of one image; arguments, result and errors as of `SamRefiner.refine`."""
        masks = check_masks(image, masks, soft)
        owners, regions, probabilities = [], [], []
        for owner, mask in enumerate(masks):
            for region in split_regions(mask):
                owners.append(owner)
                regions.append(region)
                if soft is not None:
                    probabilities.append(region_probability(soft[owner], mask & ~region))
        if not regions:
            return Refined(masks.copy(), (EMPTY,) * len(masks))
        found = super().refine(
            image, np.stack(regions), soft=np.stack(probabilities) if probabilities else None
        )
        return join_regions(masks, owners, regions, found)

    def _segment(self, image: Image.Image, masks: BoolArray, soft: FloatArray | None) -> BoolArray:
        embedded = self.sam.embed(image)
        small = np.array([self._is_small(mask) for mask in masks])
        result = masks.copy()
        for chosen in (np.flatnonzero(~small), np.flatnonzero(small)):
            if len(chosen):
                own_soft = None if soft is None else soft[chosen]
                result[chosen] = self._passes(
                    embedded, masks[chosen], own_soft, with_mask=not small[chosen[0]]
                )
        return result

    def _is_small(self, mask: BoolArray) -> bool:
        cell = self.sam.side // (self.sam.prompt_side // 4)
        height, width = frame_hw(mask.shape, self.sam.side, keep_aspect=self.sam.kind.keep_aspect)
        return bool(mask.mean() * height * width < SMALL_CELLS * cell * cell)

    def _passes(
        self, embedded: Embedded, masks: BoolArray, soft: FloatArray | None, *, with_mask: bool
    ) -> BoolArray:
        """Passes over regions of one kind, bool (n, H, W); False everywhere where SAM finds nothing."""
        found = masks
        for number in range(self.iterations):
            present = np.flatnonzero(found.any(axis=(1, 2)))
            if not len(present):
                break
            here = found[present]
            first_soft = None if soft is None or number else soft[present]
            logits = self._candidates(embedded, here, first_soft, with_mask=with_mask)
            refined = self.sam.full_size(embedded, self._choose(logits, masks[present]))
            found = np.zeros_like(masks)
            found[present] = refined
        return found

    def _candidates(
        self, embedded: Embedded, masks: BoolArray, soft: FloatArray | None, *, with_mask: bool
    ) -> torch.Tensor:
        """Logits of the single mask and of the three candidates, float32 (n, 4, side, side)."""
        keep_aspect = self.sam.kind.keep_aspect
        features = embedded.features[0].float().cpu().numpy()
        boxes = [elastic_box(mask, similar_places(mask, features, keep_aspect=keep_aspect)) for mask in masks]
        points = [distance_points(mask) for mask in masks]
        prompts = self.sam.sparse(embedded.size_hw, points=points, boxes=boxes)
        logits = self._mask_prompts(embedded, masks, soft) if with_mask else None
        both = [
            self.sam.decode(embedded, logits=logits, prompts=prompts, count=len(masks), several=several)
            for several in (False, True)
        ]
        return torch.cat(both, dim=1)

    def _choose(self, logits: torch.Tensor, masks: BoolArray) -> torch.Tensor:
        """Of each region the candidate that agrees best with its coarse mask, float32 (n, side, side)."""
        chosen = []
        for candidates, mask in zip(logits, masks, strict=True):
            inside = inside_frame(mask, self.sam.prompt_side, keep_aspect=self.sam.kind.keep_aspect)
            shown = (candidates[:, : inside.shape[0], : inside.shape[1]] > 0).cpu().numpy()
            chosen.append(candidates[int(np.argmax([agreement(inside, one) for one in shown]))])
        return torch.stack(chosen)


def region_probability(soft: FloatArray, others: BoolArray) -> FloatArray:
    """Probability of one region: that of its mask, 0 where other regions of the mask are; float32 (H, W)."""
    full = np.array(cv2.resize(soft, others.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    full[others] = 0
    return full


def join_regions(masks: BoolArray, owners: list[int], regions: list[BoolArray], found: Refined) -> Refined:
    """Masks put together again: refined regions, and of the coarse mask what was not refined."""
    result, notes = masks.copy(), [EMPTY] * len(masks)
    for owner in dict.fromkeys(owners):
        own = [place for place, one in enumerate(owners) if one == owner]
        refined = [place for place in own if not found.notes[place]]
        notes[owner] = "" if refined else found.notes[own[0]]
        for place in refined:
            result[owner] &= ~regions[place]
        for place in refined:
            result[owner] |= found.masks[place]
    return Refined(result, tuple(notes))
