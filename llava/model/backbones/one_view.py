"""InternVL and DeepSeek-VL: one square view with a fixed number of tokens, as Text4Seg trained them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    DeepseekVLForConditionalGeneration,
    DeepseekVLProcessor,
    InternVLForConditionalGeneration,
)

from llava.data.tokens import pixel_values
from llava.model.backbones.base import FixedSideBackbone, patch_count
from llava.model.backbones.processors import InternVLProcessor
from llava.settings import SegmentationSettings


class InternVL(FixedSideBackbone):
    """`InternVLForConditionalGeneration`; the image is one tile of 448 pixels."""

    def load_processor(self, path: str | Path) -> Any:  # noqa: ANN401
        """`InternVLProcessor` without its video part."""
        return InternVLProcessor.from_pretrained(path, backend="pil")

    def image_inputs(
        self,
        image: Image.Image,
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> dict[str, torch.Tensor]:
        """pixel_values float32 (1, 3, S, S): the image is not cut into tiles."""
        return {"pixel_values": pixel_values([image], processor, settings, crop_to_patches=False)}

    def image_tokens(
        self,
        size_wh: tuple[int, int],
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> int:
        """Tokens of one tile."""
        return int(processor.image_seq_length)

    def feature_problem(self, config: Any, processor: Any) -> str | None:  # noqa: ANN401
        """Patches are shuffled together before the projector."""
        features = round(patch_count(config) * config.downsample_ratio**2)
        if processor.image_seq_length == features:
            return None
        return (
            f"the processor writes {processor.image_seq_length} image tokens, the model has {features} "
            "features (image_seq_length in processor_config.json)"
        )


class DeepseekVL(FixedSideBackbone):
    """`DeepseekVLForConditionalGeneration`, the small model with its SigLIP tower."""

    def load_processor(self, path: str | Path) -> Any:  # noqa: ANN401
        """`DeepseekVLProcessor` whose image processor works on PIL images."""
        return AutoProcessor.from_pretrained(path, backend="pil")

    def image_inputs(
        self,
        image: Image.Image,
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> dict[str, torch.Tensor]:
        """pixel_values float32 (1, 3, S, S)."""
        return {"pixel_values": pixel_values([image], processor, settings)}

    def image_tokens(
        self,
        size_wh: tuple[int, int],
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> int:
        """The number that the processor writes."""
        return int(processor.num_image_tokens)

    def feature_problem(self, config: Any, processor: Any) -> str | None:  # noqa: ANN401
        """One token for each patch."""
        if processor.num_image_tokens == patch_count(config):
            return None
        return (
            f"the processor writes {processor.num_image_tokens} image tokens, the vision tower gives "
            f"{patch_count(config)} features (num_image_tokens in processor_config.json)"
        )


INTERNVL = InternVL(
    model_type="internvl",
    model_class=InternVLForConditionalGeneration,
    processor_class=InternVLProcessor,
    prompts=("internvl",),
)
DEEPSEEK_VL = DeepseekVL(
    model_type="deepseek_vl",
    model_class=DeepseekVLForConditionalGeneration,
    processor_class=DeepseekVLProcessor,
    prompts=("deepseek_vl",),
    projector="model.aligner",
    vision="model.vision_model",
)
