"""LLaVA-NeXT and LLaVA-OneVision: the whole image once, and tiles of it.

Images are squashed, so that the grid covers all of them. A side of the tower's own gives the overview and one
tile; a larger square of the model's `image_grid_pinpoints` gives more tiles and more tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionForConditionalGeneration,
)

from llava.data.tokens import image_token_count, squash
from llava.model.backbones.base import FixedSideBackbone, patch_count
from llava.model.backbones.processors import LlavaOnevisionProcessor
from llava.settings import SegmentationSettings


class AnyResolution(FixedSideBackbone):
    """What both families share."""

    def side_problem(self, side: int, config: Any) -> str | None:  # noqa: ANN401
        """The side of the tower, or a square that the model is made to cut into tiles."""
        squares = {height for height, width in config.image_grid_pinpoints if height == width}
        known = sorted(squares | {self.image_side(config)})
        return None if side in known else f"the model takes squares of {', '.join(map(str, known))}"

    def image_inputs(
        self,
        image: Image.Image,
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> dict[str, torch.Tensor]:
        """pixel_values float32 (1, views, 3, S, S) and image_sizes int64 (1, 2)."""
        inputs = processor.image_processor(images=[squash(image, settings)], return_tensors="pt")
        return {name: inputs[name] for name in ("pixel_values", "image_sizes")}

    def image_tokens(
        self,
        size_wh: tuple[int, int],
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> int:
        """Tokens of all views of the square, whatever the size of the image."""
        side = settings.image_side
        return int(processor._get_num_multimodal_tokens(image_sizes=[(side, side)])["num_image_tokens"][0])

    def feature_problem(self, config: Any, processor: Any) -> str | None:  # noqa: ANN401
        """Processor and model each cut images into tiles, by settings that must be the same."""
        problems = []
        written, needed = self.view_tokens(config, processor)
        if written != needed:
            problems.append(
                f"the processor writes {written} tokens for a view, the model has {needed} features of it "
                "(processor_config.json)"
            )
        tiles = [list(tile) for tile in processor.image_processor.image_grid_pinpoints]
        if tiles != [list(tile) for tile in config.image_grid_pinpoints]:
            problems.append(f"image_grid_pinpoints of the image processor, {tiles}, are not the model's")
        return "; ".join(problems) or None

    @abstractmethod
    def view_tokens(self, config: Any, processor: Any) -> tuple[int, int]:  # noqa: ANN401
        """Tokens of one view: by the processor, and by the model."""


class LlavaNext(AnyResolution):
    """`LlavaNextForConditionalGeneration` with a Vicuna language model."""

    def load_processor(self, path: str | Path) -> Any:  # noqa: ANN401
        """`LlavaNextProcessor` whose image processor works on PIL images."""
        return AutoProcessor.from_pretrained(path, backend="pil")

    def view_tokens(self, config: Any, processor: Any) -> tuple[int, int]:  # noqa: ANN401
        """The class token of CLIP counts where the model keeps it."""
        needed = patch_count(config) + int(config.vision_feature_select_strategy != "default")
        return image_token_count(processor), needed


class LlavaOnevision(AnyResolution):
    """`LlavaOnevisionForConditionalGeneration` with a Qwen2 language model."""

    def load_processor(self, path: str | Path) -> Any:  # noqa: ANN401
        """`LlavaOnevisionProcessor` without its video part."""
        return LlavaOnevisionProcessor.from_pretrained(path, backend="pil")

    def view_tokens(self, config: Any, processor: Any) -> tuple[int, int]:  # noqa: ANN401
        """SigLIP has no class token."""
        return int(processor.num_image_tokens), patch_count(config)


LLAVA_NEXT = LlavaNext(
    model_type="llava_next",
    model_class=LlavaNextForConditionalGeneration,
    processor_class=LlavaNextProcessor,
    prompts=("llava_v1", "text4seg_v1", "plain_v1"),
)
LLAVA_ONEVISION = LlavaOnevision(
    model_type="llava_onevision",
    model_class=LlavaOnevisionForConditionalGeneration,
    processor_class=LlavaOnevisionProcessor,
    prompts=("onevision",),
)
