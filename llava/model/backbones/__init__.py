"""The families of vision-language models that can be trained and asked: one small adapter for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava.model.backbones.anyres import LLAVA_NEXT, LLAVA_ONEVISION
from llava.model.backbones.base import DYNAMIC, Backbone
from llava.model.backbones.llava_1_5 import LLAVA
from llava.model.backbones.one_view import DEEPSEEK_VL, INTERNVL
from llava.model.backbones.qwen_vl import QWEN2_5_VL, QWEN2_VL

__all__ = ["BACKBONES", "DYNAMIC", "Backbone", "backbone_of", "backbone_of_processor", "find_backbone"]

_KNOWN = (LLAVA, LLAVA_NEXT, LLAVA_ONEVISION, QWEN2_VL, QWEN2_5_VL, INTERNVL, DEEPSEEK_VL)
BACKBONES: dict[str, Backbone] = {backbone.model_type: backbone for backbone in _KNOWN}
"""Adapters by the `model_type` of config.json."""


def backbone_of(config: Any) -> Backbone:  # noqa: ANN401
    """Adapter for a model's configuration.

    Raises:
        ValueError: there is none; the message lists the known model types.
    """
    return find_backbone(config.model_type, type(config).__name__)


def find_backbone(model_type: str, where: str | Path) -> Backbone:
    """Adapter of that name.

    Raises:
        ValueError: there is none; the message says where the name stands, and lists the known ones.
    """
    if model_type not in BACKBONES:
        raise ValueError(f"{where}: model_type is {model_type!r}, needed is one of {', '.join(BACKBONES)}")
    return BACKBONES[model_type]


def backbone_of_processor(processor: Any) -> Backbone:  # noqa: ANN401
    """Adapter whose `load_processor` made this processor.

    Raises:
        ValueError: none did.
    """
    for backbone in BACKBONES.values():
        if type(processor) is backbone.processor_class:
            return backbone
    known = ", ".join(backbone.processor_class.__name__ for backbone in BACKBONES.values())
    raise ValueError(f"{type(processor).__name__} belongs to no known family; known: {known}")
