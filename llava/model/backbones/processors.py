"""Processors without a video part, which in transformers needs torchvision.

Each has the name of the class that it stands for, so that the folders it writes name the stock one.
"""

from __future__ import annotations

from typing import Any

import transformers


class Qwen2VLProcessor(transformers.Qwen2VLProcessor):
    """Text and images of Qwen2-VL."""

    def __init__(
        self,
        image_processor: Any = None,  # noqa: ANN401
        tokenizer: Any = None,  # noqa: ANN401
        chat_template: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template, **options)


class Qwen2_5_VLProcessor(transformers.Qwen2_5_VLProcessor):
    """Text and images of Qwen2.5-VL."""

    def __init__(
        self,
        image_processor: Any = None,  # noqa: ANN401
        tokenizer: Any = None,  # noqa: ANN401
        chat_template: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template, **options)


class InternVLProcessor(transformers.InternVLProcessor):
    """Text and images of InternVL."""

    def __init__(
        self,
        image_processor: Any = None,  # noqa: ANN401
        tokenizer: Any = None,  # noqa: ANN401
        image_seq_length: int = 256,
        chat_template: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            image_processor, tokenizer, None, image_seq_length, chat_template=chat_template, **options
        )


class LlavaOnevisionProcessor(transformers.LlavaOnevisionProcessor):
    """Text and images of LLaVA-OneVision."""

    def __init__(
        self,
        image_processor: Any = None,  # noqa: ANN401
        tokenizer: Any = None,  # noqa: ANN401
        num_image_tokens: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            image_processor,
            tokenizer,
            None,
            num_image_tokens,
            vision_feature_select_strategy,
            chat_template=chat_template,
            **options,
        )
