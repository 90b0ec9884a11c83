"""Qwen2-VL and Qwen2.5-VL: as many tokens as the image has squares of 28 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

from llava.data.tokens import RESAMPLING, squash
from llava.model.backbones.base import DYNAMIC, Backbone
from llava.model.backbones.processors import Qwen2_5_VLProcessor, Qwen2VLProcessor
from llava.settings import SegmentationSettings


class QwenVL(Backbone):
    """Both generations: the same processor, prompt and module names."""

    def load_processor(self, path: str | Path) -> Any:  # noqa: ANN401
        """The family's processor without its video part."""
        return self.processor_class.from_pretrained(path, backend="pil")

    def image_side(self, config: Any) -> int:  # noqa: ANN401
        """Images keep their aspect ratio."""
        return DYNAMIC

    def side_problem(self, side: int, config: Any) -> str | None:  # noqa: ANN401
        """A square must be whole tokens."""
        step = config.vision_config.patch_size * config.vision_config.spatial_merge_size
        return f"the model takes multiples of {step}, or {DYNAMIC} for any shape" if side % step else None

    def image_inputs(
        self,
        image: Image.Image,
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> dict[str, torch.Tensor]:
        """pixel_values float32 (patches, channels x frames x P x P) and image_grid_thw int64 (1, 3)."""
        if settings.image_side == DYNAMIC:
            options: dict[str, Any] = {"resample": RESAMPLING[settings.interpolation]}
            shown = image.convert("RGB")
        else:
            options = {"do_resize": False}
            shown = squash(image, settings)
        inputs = processor.image_processor(images=[shown], return_tensors="pt", **options)
        return {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}

    def image_tokens(
        self,
        size_wh: tuple[int, int],
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> int:
        """Patches of the resized image, merged."""
        images = processor.image_processor
        if settings.image_side == DYNAMIC:
            patches = images.get_number_of_image_patches(size_wh[1], size_wh[0])
        else:
            patches = (settings.image_side // images.patch_size) ** 2
        return int(patches // images.merge_size**2)

    def cap_pixels(self, processor: Any, most: int, settings: SegmentationSettings) -> None:  # noqa: ANN401
        """The limit of Qwen's own resizing, which works in whole tokens."""
        images = processor.image_processor
        token = (images.patch_size * images.merge_size) ** 2
        if most < token:
            raise ValueError(f"--max_pixels {most}: one token takes {token} pixels; give that or more")
        if settings.image_side != DYNAMIC:
            raise ValueError(
                f"--max_pixels {most}: images are squares of {settings.image_side} pixels; leave it out, or "
                f"give --image_side {DYNAMIC}"
            )
        least = min(images.size["shortest_edge"], most)
        images.size = {"shortest_edge": least, "longest_edge": most}

    def blank_features(self, projector: nn.Module) -> torch.Tensor:
        """Float32 (merged patches, width of the tower): one token."""
        linear = next(module for module in projector.modules() if isinstance(module, nn.Linear))
        norm: Any = projector.get_submodule("ln_q")
        width = norm.weight.shape[0]
        return torch.zeros(linear.in_features // width, width)

    def text_inputs(self, input_ids: torch.Tensor, processor: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401
        """mm_token_type_ids: 1 where a token stands for an image; what positions are worked out from."""
        return {"mm_token_type_ids": (input_ids == processor.image_token_id).long()}

    def positions(
        self,
        model: Any,  # noqa: ANN401
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        inputs: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """An image advances them by its longer side only; int64 (3, prompts, tokens) and (prompts, 1)."""
        whole: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        positions, shift = whole.model.get_rope_index(
            input_ids,
            inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=mask,
        )
        return positions, shift

    def feature_problem(self, config: Any, processor: Any) -> str | None:  # noqa: ANN401
        """Patches of the image processor must be those of the tower."""
        vision, images = config.vision_config, processor.image_processor
        needed = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
        found = (images.patch_size, images.merge_size, images.temporal_patch_size)
        if found == needed:
            return None
        return f"the image processor has patch, merge and frame sizes {found}, the vision tower {needed}"


_PATHS = {"projector": "model.visual.merger", "vision": "model.visual"}
QWEN2_VL = QwenVL(
    model_type="qwen2_vl",
    model_class=Qwen2VLForConditionalGeneration,
    processor_class=Qwen2VLProcessor,
    prompts=("qwen_vl",),
    **_PATHS,
)
QWEN2_5_VL = QwenVL(
    model_type="qwen2_5_vl",
    model_class=Qwen2_5_VLForConditionalGeneration,
    processor_class=Qwen2_5_VLProcessor,
    prompts=("qwen_vl",),
    **_PATHS,
)
