"""Coarse masks refined by Segment Anything, prompted in its own geometry."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import SamImageProcessorPil, SamModel

from llava.model.weights import choose_device, load_strict
from llava.types import BoolArray

MASK_LOGIT = 6.9068
"""Logit of a pixel inside the mask prompt, its negative outside: logit(1 - 1e-3), as Text4Seg prompts SAM."""

UNRELATED_IOU = 0.1
"""A SAM mask that overlaps the coarse one by less is taken for another object, and the coarse one is kept.

A coarse mask of a few cells may well have an IoU of 0.3 with the object it stands for; under 0.1 the two
share so little that SAM has jumped to a neighbour or to the background, as it does on a poor prompt.
"""

EMPTY = "coarse is empty"
NOTHING = "SAM returned nothing"
UNRELATED = "SAM returned an unrelated mask"

_CANDIDATES = 4000
"""Pixels among which points are chosen: more change a point by a pixel or two and cost time."""

_MASKS_AT_ONCE = 16
_IMAGES_KEPT = 4

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Refined:
    """Masks after refinement.

    Attributes:
        masks: bool (n, H, W).
        notes: for each mask "" where SAM refined it, else why the coarse one was kept: `EMPTY`, `NOTHING`
            or `UNRELATED`.
    """

    masks: BoolArray
    notes: tuple[str, ...]


def frame_hw(size_hw: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of an image inside SAM's square frame: longest side `side`, the rest in proportion.

    Example:
        >>> frame_hw((480, 640), 256)
        (192, 256)
    """
    scale = side / max(size_hw)
    return max(1, int(size_hw[0] * scale + 0.5)), max(1, int(size_hw[1] * scale + 0.5))


def mask_prompt(mask: BoolArray, side: int) -> FloatArray:
    """Mask prompt for SAM: the mask at its aspect ratio in the top left of a square, zeros beside it.

    A pixel of the prompt is inside when more than half of what it covers is. Where that leaves nothing of a
    small mask, every pixel that it touches is inside.

    Args:
        mask: bool (H, W), pixels of the image.
        side: side of the prompt, four times that of SAM's image embedding; 256 for the published models.

    Returns:
        float32 (side, side): ±`MASK_LOGIT` inside the frame, 0 in its padding.

    Source: Text4Seg (arXiv 2410.09855) prompts SAM so; its released code stretches the mask over the whole
    square, which fits square images only.
    """
    height, width = frame_hw(mask.shape, side)
    method = cv2.INTER_AREA if max(mask.shape) > side else cv2.INTER_LINEAR
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=method)
    inside = cover > 0.5
    if not inside.any():
        inside = cover > 0
    prompt = np.zeros((side, side), np.float32)
    prompt[:height, :width] = np.where(inside, MASK_LOGIT, -MASK_LOGIT)
    return prompt


def spread_points(mask: BoolArray, count: int, *, seed: int = 0) -> FloatArray:
    """Points inside a mask, deep in it and far from one another.

    The first lies deepest; each next one has the largest distance to the border and to the points before it.
    The border of the image counts as border of the mask. A large mask is represented by a seeded sample of
    its pixels, so that equal calls give equal points.

    Args:
        mask: bool (H, W).
        count: how many points; fewer where the mask has fewer pixels, none for an empty mask.
        seed: of the sample.

    Returns:
        float32 (points, 2), x and y in pixels, pixel centres at whole numbers.
    """
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    rows, columns = np.nonzero(mask)
    if len(rows) > _CANDIDATES:
        sample = np.random.default_rng(seed).choice(len(rows), _CANDIDATES, replace=False)
        sample[0] = depth[rows, columns].argmax()
        rows, columns = rows[sample], columns[sample]
    reach = depth[rows, columns]
    chosen: list[int] = []
    while len(chosen) < min(count, len(rows)) and reach.max() > 0:
        best = int(reach.argmax())
        chosen.append(best)
        reach = np.minimum(reach, np.hypot(rows - rows[best], columns - columns[best]))
    return np.stack([columns[chosen], rows[chosen]], axis=1).astype(np.float32)


def point_prompt(mask: BoolArray, count: int, *, seed: int = 0) -> tuple[FloatArray, NDArray[np.int64]]:
    """Points and labels for SAM: `count` inside and `count` outside of a mask that is not empty.

    Where one side has fewer pixels its points are repeated, and where nothing is outside all points are
    inside, so that all prompts of a batch have one length.

    Returns:
        float32 (2 * count, 2), x and y in pixels; int64 (2 * count,), 1 inside and 0 outside.
    """
    inside = spread_points(mask, count, seed=seed)
    outside = spread_points(~mask, count, seed=seed)
    second, label = (outside, 0) if len(outside) else (inside, 1)
    points = np.concatenate([np.resize(inside, (count, 2)), np.resize(second, (count, 2))])
    return points, np.repeat(np.array([1, label], np.int64), count)


def box_prompt(mask: BoolArray) -> FloatArray:
    """Box around a mask that is not empty: float32 (4,), x0, y0, x1, y1 in pixels, the last two exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


class SamRefiner:
    """Refines coarse masks with a `SamModel` of any size.

    Each mask is prompted with itself at low resolution, with points inside and outside, and with its box if
    wanted; SAM's own low-resolution logits are then fed back as the next mask prompt. The image is embedded
    once, however many masks and calls it has; the embeddings of the last few images are kept. All masks of a
    call are one batch over the embedding: a mask prompt is part of the embedding, so that `SamModel`'s point
    batch, which shares one embedding, cannot hold several.

    Args:
        path: folder of a `SamModel` with its image processor, or a name on the hub.
        device: None takes the GPU if there is one.
        iterations: passes through SAM's mask decoder, at least 1; Text4Seg makes 3.
        points: points inside and as many outside; 0 for none.
        use_box: prompt with the box around the coarse mask as well.
        seed: of the choice of points.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: weights that do not fit, a processor of another size, or a wrong number.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        iterations: int = 3,
        points: int = 10,
        use_box: bool = False,
        seed: int = 0,
    ) -> None:
        if iterations < 1 or points < 0:
            raise ValueError(f"iterations {iterations}, points {points}: at least 1 and 0 are needed")
        self.device = choose_device(device)
        self.model = load_strict(SamModel, path, dtype=torch.float32).to(self.device)
        self.processor = load_sam_processor(path, self.model)
        self.iterations, self.points, self.use_box, self.seed = iterations, points, use_box, seed
        self._embeddings: OrderedDict[bytes, tuple[torch.Tensor, Any]] = OrderedDict()

    @property
    def prompt_side(self) -> int:
        """Side in pixels of the mask prompt and of SAM's low-resolution logits."""
        return 4 * self.model.config.prompt_encoder_config.image_embedding_size

    def refine(self, image: Image.Image, masks: BoolArray) -> Refined:
        """Refined masks of one image.

        Args:
            image: the image, any mode.
            masks: bool (n, H, W), coarse masks at the size of the image.

        Returns:
            Masks of the same shape with a note for each. The coarse mask is kept where it is empty, and where
            SAM returns nothing or an unrelated mask.

        Raises:
            ValueError: the masks are no such array.
        """
        masks = np.asarray(masks)
        if masks.ndim != 3 or masks.dtype != np.bool_ or masks.shape[1:] != (image.height, image.width):
            raise ValueError(
                f"masks {masks.dtype} {masks.shape}: needed are bool (n, {image.height}, {image.width}), "
                "the size of the image"
            )
        result, notes = masks.copy(), [EMPTY] * len(masks)
        present = np.flatnonzero(masks.any(axis=(1, 2)))
        for start in range(0, len(present), _MASKS_AT_ONCE):
            chosen = present[start : start + _MASKS_AT_ONCE]
            for index, found in zip(chosen, self._segment(image, masks[chosen]), strict=True):
                notes[index] = judge(masks[index], found)
                if not notes[index]:
                    result[index] = found
        return Refined(result, tuple(notes))

    @torch.no_grad()
    def _segment(self, image: Image.Image, masks: BoolArray) -> BoolArray:
        """What SAM makes of coarse masks that are not empty; bool (n, H, W)."""
        embedding, sizes = self._embed(image)
        prompts: dict[str, Any] = self._sparse_prompts(masks)
        logits = self._tensor(np.stack([mask_prompt(mask, self.prompt_side) for mask in masks]))[:, None]
        for _ in range(self.iterations):
            logits = self.model(
                image_embeddings=embedding.expand(len(masks), -1, -1, -1),
                input_masks=logits,
                multimask_output=False,
                **prompts,
            ).pred_masks[:, 0]
        full = self.processor.post_process_masks(
            [logits], sizes["original_sizes"], sizes["reshaped_input_sizes"]
        )
        return full[0][:, 0].cpu().numpy()

    def _sparse_prompts(self, masks: BoolArray) -> dict[str, torch.Tensor]:
        """Points, their labels and boxes of coarse masks, in pixels of SAM's input."""
        height, width = masks.shape[1:]
        new_height, new_width = frame_hw((height, width), self.model.config.vision_config.image_size)
        scale = np.array([new_width / width, new_height / height], np.float32)
        prompts = {}
        if self.points:
            found = [point_prompt(mask, self.points, seed=self.seed) for mask in masks]
            prompts["input_points"] = self._tensor(np.stack([points * scale for points, _ in found]))[:, None]
            prompts["input_labels"] = self._tensor(np.stack([labels for _, labels in found]))[:, None]
        if self.use_box:
            boxes = np.stack([box_prompt(mask) * np.tile(scale, 2) for mask in masks])
            prompts["input_boxes"] = self._tensor(boxes)[:, None]
        return prompts

    def _embed(self, image: Image.Image) -> tuple[torch.Tensor, Any]:
        """Embedding (1, channels, side, side) of an image and its sizes, kept by the content of the image."""
        image = image.convert("RGB")
        key = hashlib.blake2b(image.tobytes(), salt=f"{image.width:x}".encode()).digest()
        if key not in self._embeddings:
            inputs = self.processor(images=image, return_tensors="pt")
            embedding = self.model.get_image_embeddings(inputs.pop("pixel_values").to(self.device))
            self._embeddings[key] = embedding, inputs
        self._embeddings.move_to_end(key)
        while len(self._embeddings) > _IMAGES_KEPT:
            self._embeddings.popitem(last=False)
        return self._embeddings[key]

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def judge(coarse: BoolArray, refined: BoolArray) -> str:
    """Why a refined mask is not to be used, or "" when it is."""
    if not refined.any():
        return NOTHING
    iou = (coarse & refined).sum() / (coarse | refined).sum()
    return UNRELATED if iou < UNRELATED_IOU else ""


def load_sam_processor(path: str | Path, model: Any) -> SamImageProcessorPil:  # noqa: ANN401
    """Image processor of a SAM folder, the one on PIL images; its size must be the model's.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it is made for another input size.
    """
    try:
        processor = SamImageProcessorPil.from_pretrained(path)
    except OSError as error:
        raise FileNotFoundError(
            f"{path}: preprocessor_config.json cannot be read; copy it from where the model comes from"
        ) from error
    side = model.config.vision_config.image_size
    sides = (processor.size["longest_edge"], processor.pad_size["height"], processor.pad_size["width"])
    if sides != (side, side, side):
        raise ValueError(
            f"{path}: the image processor scales and pads to {sides}, the model needs {side} pixels; "
            "set size and pad_size in its preprocessor_config.json"
        )
    return processor
