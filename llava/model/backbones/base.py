"""What a family of models must say about itself; every other module is the same for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from llava.constants import SEGMENTATION_FILE
from llava.data.prompt import find_prompt
from llava.model.new_tokens import missing_brick_tokens, vocabulary_rows
from llava.settings import BRICKS, SegmentationSettings

DYNAMIC = 0
"""`image_side` of a checkpoint whose images keep their aspect ratio, within the processor's pixel limits."""


@dataclass(frozen=True)
class Backbone(ABC):
    """One family of vision-language models, with unchanged classes of transformers.

    Attributes:
        model_type: what config.json says.
        model_class: transformers' class with `generate`.
        processor_class: class of the processor that `load_processor` gives.
        prompts: names in `llava.data.prompt.PROMPTS` that fit it; the first is the default.
        language_model: path of the submodule that LoRA goes on.
        projector: path of the submodule between vision and language, which is trained in full.
        vision: path of the submodule that reads pixels; may contain the projector.
    """

    model_type: str
    model_class: type[Any]
    processor_class: type[Any]
    prompts: tuple[str, ...]
    language_model: str = "model.language_model"
    projector: str = "model.multi_modal_projector"
    vision: str = "model.vision_tower"

    @abstractmethod
    def load_processor(self, path: str | Path) -> Any:  # noqa: ANN401
        """Processor of a folder or hub name, with the image processor that needs no torchvision."""

    @abstractmethod
    def image_side(self, config: Any) -> int:  # noqa: ANN401
        """Default side in pixels of the square that images are squashed to; `DYNAMIC` keeps their shape."""

    @abstractmethod
    def side_problem(self, side: int, config: Any) -> str | None:  # noqa: ANN401
        """Why the model cannot take images of this side, or None."""

    @abstractmethod
    def image_inputs(
        self,
        image: Image.Image,
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> dict[str, torch.Tensor]:
        """What the model takes of one image; batches concatenate each tensor along its first dimension."""

    @abstractmethod
    def image_tokens(
        self,
        size_wh: tuple[int, int],
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> int:
        """Number of tokens that an image of (width, height) pixels occupies in the text."""

    @abstractmethod
    def blank_features(self, projector: nn.Module) -> torch.Tensor:
        """Smallest input of the projector, all zero: what lets a batch without images pass through it."""

    def text_inputs(self, input_ids: torch.Tensor, processor: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401
        """Further inputs of the same shape as the token ids that follow from them; none for most families."""
        return {}

    def positions(
        self,
        model: Any,  # noqa: ANN401
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        inputs: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of prompts that are padded on the left, and of what will be written behind them.

        Args:
            model: the family's model.
            input_ids: int64 (prompts, tokens).
            mask: int64 (prompts, tokens), 0 where a prompt is padded.
            inputs: what the model takes of the images, and `text_inputs`.

        Returns:
            int64 (prompts, tokens), or with axes of their own in front; and int64 (prompts, 1), what is added
            to the number of tokens before a later token to get its position.
        """
        return (mask.cumsum(1) - 1).clamp(min=0), torch.zeros_like(mask[:, :1])

    def cap_pixels(self, processor: Any, most: int, settings: SegmentationSettings) -> None:  # noqa: ANN401
        """Let a processor shrink images that keep their shape to at most so many pixels; it saves the number.

        Raises:
            ValueError: the family's images all have one size, or the number is too small.
        """
        raise ValueError(f"--max_pixels {most}: images of {self.model_type} all become squares; leave it out")

    def has_fixed_size(self, settings: SegmentationSettings) -> bool:
        """Whether all images occupy equally many tokens, so that none needs to be opened to count them."""
        return settings.image_side != DYNAMIC

    def feature_problem(self, config: Any, processor: Any) -> str | None:  # noqa: ANN401
        """Why the processor writes another number of image tokens than the model has features, or None."""
        return None

    def problems(
        self,
        model: Any,  # noqa: ANN401
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings | None,
    ) -> list[str]:
        """Every point on which model, processor and settings differ."""
        tokenizer, found = processor.tokenizer, []
        token, needed = processor.image_token, model.config.image_token_id
        image_id = tokenizer.convert_tokens_to_ids(token)
        rows = vocabulary_rows(model)
        if image_id != needed:
            found.append(f"{token} is token {image_id} in the tokenizer, {needed} in the model")
        found += [problem for problem in [self.feature_problem(model.config, processor)] if problem]
        if len(tokenizer) > rows:
            found.append(f"the tokenizer knows {len(tokenizer)} tokens, the model has embeddings for {rows}")
        if tokenizer.eos_token_id is None:
            found.append("the tokenizer has no end-of-text token, so that no answer would ever end")
        return found + (self._settings_problems(settings, model.config, processor) if settings else [])

    def _settings_problems(
        self,
        settings: SegmentationSettings,
        config: Any,  # noqa: ANN401
        processor: Any,  # noqa: ANN401
    ) -> list[str]:
        """What of `segmentation.json` does not fit the model."""
        found = []
        missing = missing_brick_tokens(processor.tokenizer) if settings.codec == BRICKS else []
        if missing:
            found.append(
                f"{SEGMENTATION_FILE} has codec {BRICKS!r}, but the tokenizer does not write "
                f"{len(missing)} of its tokens, first {missing[0]}; copy the tokenizer of these weights"
            )
        side = self.side_problem(settings.image_side, config)
        if side:
            found.append(f"{SEGMENTATION_FILE} has image_side {settings.image_side}, {side}")
        prompt = self.prompt_problem(settings.prompt)
        if prompt:
            return [*found, f"{SEGMENTATION_FILE} has {prompt}"]
        stop = find_prompt(settings.prompt).stop
        if len(processor.tokenizer(stop, add_special_tokens=False).input_ids) != 1:
            found.append(f"answers end with {stop}, which is no single token: no answer would ever end")
        return found

    def prompt_problem(self, prompt: str) -> str | None:
        """Why this prompt does not fit the family, or None."""
        if prompt in self.prompts:
            return None
        return f"prompt {prompt!r}; known: {', '.join(self.prompts)}"


@dataclass(frozen=True)
class FixedSideBackbone(Backbone):
    """A family whose vision tower takes squares of one side."""

    def image_side(self, config: Any) -> int:  # noqa: ANN401
        """Side of the vision tower."""
        return first_of(config.vision_config.image_size)

    def side_problem(self, side: int, config: Any) -> str | None:  # noqa: ANN401
        """The tower takes one side only."""
        needed = self.image_side(config)
        return None if side == needed else f"the vision tower needs {needed}"

    def blank_features(self, projector: nn.Module) -> torch.Tensor:
        """Float32 (1, width of what the first layer takes)."""
        linear = next(module for module in projector.modules() if isinstance(module, nn.Linear))
        return torch.zeros(1, linear.in_features)


def first_of(value: int | list[int] | tuple[int, ...]) -> int:
    """A side that a configuration gives once, or for height and width."""
    return int(value if isinstance(value, int) else value[0])


def patch_count(config: Any) -> int:  # noqa: ANN401
    """Patches of one view of the vision tower."""
    vision = config.vision_config
    return int((first_of(vision.image_size) // first_of(vision.patch_size)) ** 2)
