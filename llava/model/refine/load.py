"""SAM, SAM-HQ and SAM 2 behind one set of calls; which it is stands in config.json."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from transformers import PreTrainedConfig, Sam2Model, SamHQModel, SamImageProcessorPil, SamModel

from llava.model.original_sam import is_original_sam, load_original_sam
from llava.model.refine.prompts import frame_hw
from llava.model.weights import check_folder, choose_device, load_strict
from llava.types import BoolArray, FloatArray

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Colours that every published SAM 2 was trained with; used where the folder holds no image processor."""

_IMAGES_KEPT = 4

Pixels = Callable[[Image.Image], torch.Tensor]
"""Image (RGB) to the pixels of SAM's input, float32 (1, 3, side, side)."""


@dataclass(frozen=True)
class Embedded:
    """An image inside SAM.

    Attributes:
        size_hw: height and width of the image in pixels.
        inputs: embeddings as the model's forward pass takes them, each tensor or list of tensors with 1
            image.
        features: the embedding that prompts meet, float32 (1, channels, side, side).
    """

    size_hw: tuple[int, int]
    inputs: dict[str, Any]
    features: torch.Tensor


@dataclass(frozen=True)
class Kind:
    """What differs between the kinds of SAM.

    Attributes:
        model_class: its class in transformers.
        keep_aspect: whether an image keeps its proportions in SAM's frame or is stretched over it.
        inputs: what `get_image_embeddings` returned, as arguments of the forward pass.
        features: the embedding that prompts meet, from these arguments.
    """

    model_class: type
    keep_aspect: bool
    inputs: Callable[[Any], dict[str, Any]]
    features: Callable[[dict[str, Any]], torch.Tensor]


_SAM2 = Kind(
    Sam2Model, False, lambda found: {"image_embeddings": found}, lambda one: one["image_embeddings"][-1]
)
KINDS = {
    "sam": Kind(
        SamModel, True, lambda found: {"image_embeddings": found}, lambda one: one["image_embeddings"]
    ),
    "sam_hq": Kind(
        SamHQModel,
        True,
        lambda found: {"image_embeddings": found[0], "intermediate_embeddings": found[1]},
        lambda one: one["image_embeddings"],
    ),
    "sam2": _SAM2,
    "sam2_video": _SAM2,
}
"""By `model_type` of config.json. Published SAM 2 folders say "sam2_video" and hold the image model too."""


class PromptedSam:
    """A SAM of any kind and size with its image pre-processing.

    An image is embedded once, however many prompts it gets; the embeddings of the last few images are kept.
    Prompts of one image are a batch over its embedding: a mask prompt is part of the embedding, so that the
    models' own point batch, which shares one embedding, cannot hold several.

    Args:
        path: folder of the model, a name on the hub, or a .pth file of SAM's original code.
        device: None takes the GPU if there is one.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: no SAM, weights that do not fit, or a processor of another size.
    """

    def __init__(self, path: str | Path, *, device: str | torch.device | None = None) -> None:
        self.device = choose_device(device)
        self.kind, model, self.pixels = load_sam(path)
        self.model = model.to(self.device)
        config = self.model.config.prompt_encoder_config
        self.side: int = config.image_size
        self.prompt_side: int = 4 * config.image_size // config.patch_size
        self._embeddings: OrderedDict[bytes, Embedded] = OrderedDict()

    @torch.no_grad()
    def embed(self, image: Image.Image) -> Embedded:
        """Embedding of an image, kept by the content of the image."""
        image = image.convert("RGB")
        key = hashlib.blake2b(image.tobytes(), salt=f"{image.width:x}".encode()).digest()
        if key not in self._embeddings:
            pixels = self.pixels(image).to(self.device)
            inputs = self.kind.inputs(self.model.get_image_embeddings(pixels))
            self._embeddings[key] = Embedded((image.height, image.width), inputs, self.kind.features(inputs))
        self._embeddings.move_to_end(key)
        while len(self._embeddings) > _IMAGES_KEPT:
            self._embeddings.popitem(last=False)
        return self._embeddings[key]

    @torch.no_grad()
    def decode(
        self,
        embedded: Embedded,
        *,
        logits: torch.Tensor | None,
        prompts: dict[str, torch.Tensor],
        count: int,
        several: bool = False,
    ) -> torch.Tensor:
        """Low-resolution logits for a batch of prompts.

        Args:
            embedded: the image.
            logits: mask prompts (count, prompt_side, prompt_side), or None.
            prompts: of `sparse`.
            count: number of prompts.
            several: three candidates instead of the single mask.

        Returns:
            float32 (count, candidates, prompt_side, prompt_side).
        """
        found: torch.Tensor = self.model(
            **{name: _repeat(value, count) for name, value in embedded.inputs.items()},
            input_masks=None if logits is None else logits[:, None],
            multimask_output=several,
            **prompts,
        ).pred_masks[:, 0]
        return found

    def sparse(
        self,
        size_hw: tuple[int, int],
        *,
        points: list[tuple[FloatArray, NDArray[np.int64]]] | None = None,
        boxes: list[FloatArray] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Arguments of the model for points with labels and boxes, which are given in pixels of the image."""
        height, width = frame_hw(size_hw, self.side, keep_aspect=self.kind.keep_aspect)
        scale = np.array([width / size_hw[1], height / size_hw[0]], np.float32)
        prompts = {}
        if points:
            prompts["input_points"] = self.tensor(np.stack([one * scale for one, _ in points]))[:, None]
            prompts["input_labels"] = self.tensor(np.stack([labels for _, labels in points]))[:, None]
        if boxes:
            prompts["input_boxes"] = self.tensor(np.stack([box * np.tile(scale, 2) for box in boxes]))[
                :, None
            ]
        return prompts

    def full_size(self, embedded: Embedded, logits: torch.Tensor) -> BoolArray:
        """Masks of the image, bool (n, H, W), from low-resolution logits (n, prompt_side, prompt_side)."""
        height, width = frame_hw(embedded.size_hw, self.side, keep_aspect=self.kind.keep_aspect)
        full = logits[:, None]
        if self.kind.keep_aspect:
            full = functional.interpolate(full, (self.side, self.side), mode="bilinear", align_corners=False)
            full = full[..., :height, :width]
        full = functional.interpolate(full, embedded.size_hw, mode="bilinear", align_corners=False)
        masks: BoolArray = (full[:, 0] > 0).cpu().numpy()
        return masks

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """The array on the model's device."""
        return torch.from_numpy(array).to(self.device)


def load_sam(path: str | Path) -> tuple[Kind, Any, Pixels]:
    """Kind, model in evaluation mode and image pre-processing of a SAM folder or an original .pth file.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: no SAM, weights that do not fit, or a processor of another size.
    """
    if is_original_sam(path):
        model, processor = load_original_sam(path)
        return KINDS["sam"], model, _pixels_by(processor)
    check_folder(path)
    try:
        fields, _ = PreTrainedConfig.get_config_dict(path)
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"{path}: config.json cannot be read ({first}); check the path") from error
    kind = KINDS.get(fields.get("model_type", ""))
    if kind is None:
        raise ValueError(
            f"{path} holds a model of type {fields.get('model_type')!r}, which refines no masks; "
            f"known: {', '.join(KINDS)}"
        )
    model = load_strict(kind.model_class, path, dtype=torch.float32)
    return kind, model, sam_pixels(path, model) if kind.keep_aspect else sam2_pixels(path, model)


def sam_pixels(path: str | Path, model: Any) -> Pixels:  # noqa: ANN401
    """Pre-processing of SAM and SAM-HQ by the image processor of the folder, the one on PIL images.

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
    return _pixels_by(processor)


def _pixels_by(processor: SamImageProcessorPil) -> Pixels:
    side = processor.size["longest_edge"]

    def pixels(image: Image.Image) -> torch.Tensor:
        if 2 * side * min(image.size) < max(
            image.size
        ):  # the processor would round its short side to nothing
            size_hw = frame_hw((image.height, image.width), side)
            image = image.resize(size_hw[::-1], Image.Resampling.BILINEAR)
        values: torch.Tensor = processor(images=image, return_tensors="pt")["pixel_values"]
        return values

    return pixels


def sam2_pixels(path: str | Path, model: Any) -> Pixels:  # noqa: ANN401
    """Pre-processing of SAM 2: stretched to a square (bilinear), colours normalised.

    transformers' own processor of SAM 2 needs torchvision. Mean and deviation are those of the folder's
    preprocessor_config.json where there is one.
    """
    side = model.config.prompt_encoder_config.image_size
    file = Path(path) / "preprocessor_config.json"
    fields = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    mean = np.array(fields.get("image_mean", IMAGENET_MEAN), np.float32)
    deviation = np.array(fields.get("image_std", IMAGENET_STD), np.float32)

    def pixels(image: Image.Image) -> torch.Tensor:
        square = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
        return torch.from_numpy(((square - mean) / deviation).transpose(2, 0, 1)[None].copy())

    return pixels


def _repeat(value: Any, count: int) -> Any:  # noqa: ANN401
    """A tensor of one image, or a list of such, seen `count` times without a copy."""
    if isinstance(value, torch.Tensor):
        return value.expand(count, *value.shape[1:])
    return [_repeat(one, count) for one in value]
