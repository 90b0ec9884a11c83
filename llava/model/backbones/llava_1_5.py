"""LLaVA-1.5: one square view, as many tokens as its tower has patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from llava.data.tokens import image_token_count, pixel_values
from llava.model.backbones.base import FixedSideBackbone, patch_count
from llava.settings import SegmentationSettings


class Llava(FixedSideBackbone):
    """`LlavaForConditionalGeneration` with a CLIP or SigLIP tower of one fixed side."""

    def load_processor(self, path: str | Path) -> Any:  # noqa: ANN401
        """`LlavaProcessor` whose image processor works on PIL images."""
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
        """One token for each patch, whatever the size."""
        return image_token_count(processor)

    def feature_problem(self, config: Any, processor: Any) -> str | None:  # noqa: ANN401
        """The processor counts patches by its own settings; they must be those of the tower."""
        features = patch_count(config) + int(config.vision_feature_select_strategy != "default")
        written = image_token_count(processor)
        if written == features:
            return None
        return (
            f"the processor writes {written} image tokens, the vision tower gives {features} features "
            "(patch_size, num_additional_image_tokens in processor_config.json)"
        )


LLAVA = Llava(
    model_type="llava",
    model_class=LlavaForConditionalGeneration,
    processor_class=LlavaProcessor,
    prompts=("text4seg_v1", "llava_v1", "plain_v1"),
)
