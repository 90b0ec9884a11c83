"""Which settings a run has: the base's `segmentation.json`, changed by what was asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from transformers import AutoConfig

from llava.constants import SEGMENTATION_FILE
from llava.model.backbones import BACKBONES, Backbone, backbone_of
from llava.model.hub import settings_of_base
from llava.model.original_folder import find_original_base
from llava.model.original_llava import original_config
from llava.settings import BRICK_GRID, BRICKS, SegmentationSettings
from llava.train.arguments import ModelArguments
from llava.train.checks import parse_grid

DEFAULT_LENGTH = 3072
"""Longest sample in tokens, Text4Seg's finetune_lora.sh."""


@dataclass(frozen=True)
class Base:
    """What is known of the base before its weights are read.

    Attributes:
        path: folder or model id, as it was given.
        config: of the whole model.
        settings: content of its `segmentation.json`; None where it has none.
    """

    path: str
    config: Any
    settings: SegmentationSettings | None

    @property
    def backbone(self) -> Backbone:
        """Its family."""
        return backbone_of(self.config)

    @property
    def image_side(self) -> int:
        """Default side in pixels of the square that images are squashed to; 0 keeps their shape."""
        return self.backbone.image_side(self.config)

    @property
    def max_positions(self) -> int:
        """Most tokens that the language model can take."""
        return int(self.config.text_config.max_position_embeddings)


@dataclass(frozen=True)
class Resolved:
    """Settings of a run, and where each came from.

    Attributes:
        settings: what the new checkpoint will say.
        origins: for every field a phrase such as "inherited from the base".
        max_length: longest sample in tokens.
    """

    settings: SegmentationSettings
    origins: dict[str, str]
    max_length: int

    def table(self) -> str:
        """The settings as lines of name, value and origin."""
        lines = []
        for name, origin in self.origins.items():
            value: Any = self.max_length if name == "model_max_length" else getattr(self.settings, name)
            if name == "grid_hw":
                value = f"{value[0]}x{value[1]}"
            lines.append(f"  {name:<17} {value!s:<12} {origin}")
        return "\n".join(lines)


def read_base(path: str) -> Base:
    """Configuration and settings of a base, without its weights.

    Raises:
        FileNotFoundError: a base in the original layout lacks its tokenizer, vision tower or own base.
        ValueError: it is no model of a known family.
    """
    original = find_original_base(path)
    if original is not None:
        return Base(path, original_config(original), settings_of_base(path))
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model_name_or_path {path}: no configuration that transformers can read ({error}); "
            "give a folder written by save_pretrained, or a model id such as llava-hf/llava-1.5-7b-hf"
        ) from error
    if config.model_type not in BACKBONES:
        raise ValueError(
            f"--model_name_or_path {path} holds a {config.model_type!r} model; needed is one of "
            f"{', '.join(BACKBONES)}"
        )
    return Base(path, config, settings_of_base(path))


def resolve(model: ModelArguments, base: Base, max_length: int | None = None) -> Resolved:
    """Settings of the run: given flags first, then the base's file, then the defaults.

    Raises:
        ValueError: nothing says which grid the records have, a flag belongs to another codec, the image side
            does not fit the vision tower, or `max_length` is more than the language model can take. All
            problems in one message.
    """
    given = {
        "codec": model.codec,
        "brick_order": model.brick_order,
        "brick_tail": model.brick_tail,
        "grid_hw": parse_grid(model.grid) if model.grid else None,
        "image_side": model.image_side,
        "interpolation": model.interpolation,
        "prompt": model.version,
        "cell_policy": model.cell_policy,
        "upsample": model.upsample,
    }
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for item in fields(SegmentationSettings):
        if item.name in {"training", "scores"}:
            continue
        values[item.name], origins[item.name] = _choose(item.name, given.get(item.name), base)
    problems = _fit_to_codec(values, origins, given, base)
    side = base.backbone.side_problem(values["image_side"], base.config)
    if side:
        problems.append(
            f"image side {values['image_side']} ({origins['image_side']}) does not fit: {side}; "
            "leave --image_side out"
        )
    prompt = base.backbone.prompt_problem(values["prompt"])
    if prompt:
        problems.append(f"{prompt} ({origins['prompt']}); leave --version out")
    if max_length is not None and max_length > base.max_positions:
        problems.append(f"--model_max_length {max_length}: {base.path} can take at most {base.max_positions}")
    if problems:
        raise ValueError("the run cannot start:\n" + "\n".join(f"- {problem}" for problem in problems))
    origins["model_max_length"] = "given" if max_length else "default, or what the base can take"
    return Resolved(
        SegmentationSettings(**values), origins, max_length or min(DEFAULT_LENGTH, base.max_positions)
    )


def _fit_to_codec(
    values: dict[str, Any], origins: dict[str, str], given: dict[str, Any], base: Base
) -> list[str]:
    """Change what follows from the codec in place: the system, and the grid where none fits it.

    A grid of boxes says nothing about a grid of images, nor the other way round, so that neither is inherited
    by the other. What is wrong comes back as sentences.
    """
    bricks = values["codec"] == BRICKS
    values["system"], origins["system"] = ("text4seg++" if bricks else "text4seg"), "of the codec"
    problems = [
        f"--{name} {given[name]} needs --codec {BRICKS}; the codec is {values['codec']} ({origins['codec']})"
        for name in ("brick_order", "brick_tail")
        if given[name] is not None and not bricks
    ]
    inherited = base.settings is not None and (base.settings.codec == BRICKS) == bricks
    if given["grid_hw"] is not None or inherited:
        return problems
    if bricks:
        values["grid_hw"], origins["grid_hw"] = BRICK_GRID, "default of bricks: cells of each box"
        return problems
    why = f"has no {SEGMENTATION_FILE}" if base.settings is None else "was trained with bricks"
    return [*problems, f"{base.path} {why}; say which grid the records have, for example --grid 16"]


def _choose(name: str, given: object, base: Base) -> tuple[Any, str]:
    """Value of one settings field and where it came from."""
    inherited = getattr(base.settings, name) if base.settings else None
    if given is not None:
        if inherited is None:
            return given, "given"
        return given, "given, as in the base" if given == inherited else f"given, the base has {inherited}"
    if inherited is not None:
        return inherited, "inherited from the base"
    if name == "image_side":
        return base.image_side, "the base's own" if base.image_side else "any shape: the base takes it"
    if name == "prompt":
        return base.backbone.prompts[0], "default"
    return getattr(SegmentationSettings(), name), "default"
