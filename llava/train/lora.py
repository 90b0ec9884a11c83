"""Which parts of a model are trained, and how fast: chosen by its structure, never by layer names alone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig

from llava.model.backbones import BACKBONES, Backbone, backbone_of

LORA_TYPES = ("lora", "dora", "rslora")
"""LoRA (arXiv 2106.09685); with the magnitude of each output trained apart (DoRA, 2402.09353); with the scale
alpha / sqrt(rank) (rsLoRA, 2312.03732)."""
BITS = (4, 8, 16)


@dataclass(frozen=True)
class Rates:
    """Learning rates and weight decay of a run.

    Attributes:
        learning_rate: of everything that has no rate of its own.
        projector: of the projector; None is the same as `learning_rate`.
        vision: of a vision tower that is trained in full; None is the same as `learning_rate`.
        weight_decay: of matrices; biases and norm weights have none.
    """

    learning_rate: float
    projector: float | None = None
    vision: float | None = None
    weight_decay: float = 0.0


def linears_under(model: nn.Module, prefix: str) -> list[str]:
    """Names of the linear layers below a submodule.

    Raises:
        ValueError: there are none.
    """
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{prefix}.")
    ]
    if not names:
        raise ValueError(f"no linear layers under {prefix}; the base must be a model of a known family")
    return names


def target_pattern(model: Any, *, vision: bool = False) -> str:  # noqa: ANN401
    """Regular expression of the layers that adapters go on: the language model's linear layers.

    A bare list of layer names would also hit the vision tower, whose layers share them; lm_head is left out.

    Args:
        model: of a known family.
        vision: also the linear layers of the vision tower's numbered blocks, none of the projector and none
            of a pooling head, which gives a language model nothing.
    """
    backbone = backbone_of(model.config)
    language = backbone.language_model
    pattern = rf"{re.escape(language)}\..*\.({_leaves(linears_under(model, language))})"
    if not vision:
        return pattern
    blocks = rf"(?!{re.escape(backbone.projector)}\.){re.escape(backbone.vision)}\.(.*\.)?\d+\.(.*\.)?"
    names = [name for name in linears_under(model, backbone.vision) if re.match(blocks, name)]
    return rf"({pattern})|({blocks}({_leaves(names)}))"


def _leaves(names: list[str]) -> str:
    """Alternatives of the last parts of some paths."""
    return "|".join(sorted({re.escape(name.rsplit(".", 1)[-1]) for name in names}))


def add_lora(
    model: Any,  # noqa: ANN401
    *,
    rank: int,
    alpha: int,
    dropout: float,
    kind: str = "lora",
    vision: bool = False,
    projector: bool = True,
    vocabulary: Mapping[str, Any] | None = None,
) -> PeftModel:
    """The model with adapters on the language model's linear layers; its projector is trained in full.

    Everything else is frozen. Trained weights are float32, whatever the frozen ones are.
    Source: LLaVA's finetune_lora.sh.

    Args:
        model: of a known family, changed in place.
        rank: of the adapters.
        alpha: their scale, divided by the rank (by its root for rslora).
        dropout: in front of the adapters.
        kind: one of `LORA_TYPES`.
        vision: adapters on the vision tower's linear layers as well.
        projector: train the projector; False freezes it.
        vocabulary: what is trained of the vocabulary, as `llava.model.new_tokens.trained_vocabulary` says it;
            None trains nothing of it.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_pattern(model, vision=vision),
        use_dora=kind == "dora",
        use_rslora=kind == "rslora",
        bias="none",
        **(vocabulary or {}),
    )
    with warnings.catch_warnings():
        # PEFT asks for gradient checkpointing under the name it had before transformers 5.20.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        adapted = get_peft_model(model, config)
    projector_of(adapted).requires_grad_(projector)
    _trained_to_float32(adapted)
    return adapted


def train_in_full(model: Any, *, vision: bool = False, projector: bool = True) -> Any:  # noqa: ANN401
    """The model with its language model trained in full, and its projector and vision tower if asked for."""
    backbone = backbone_of(model.config)
    model.requires_grad_(True)
    model.get_submodule(backbone.vision).requires_grad_(vision)
    projector_of(model).requires_grad_(projector)
    _trained_to_float32(model)
    return model


def _trained_to_float32(model: nn.Module) -> None:
    """Give trained weights the precision that optimizer steps need; DeepSpeed does it for its own shards."""
    for parameter in model.parameters():
        if parameter.requires_grad and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.to(torch.float32)


def quantization(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How the frozen weights of the language model are stored; None leaves them as they are.

    4 bits are QLoRA's (arXiv 2305.14314): NF4 with quantized scales, computed in `dtype`. Vision tower,
    projector and lm_head are never quantized.
    """
    if bits == 16:
        return None
    whole = {path for family in BACKBONES.values() for path in (family.vision, family.projector)}
    return BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        llm_int8_skip_modules=[*sorted(whole), "lm_head"],
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def projector_of(model: nn.Module) -> nn.Module:
    """The module between vision tower and language model, with or without adapters around."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.get_submodule(backbone_of(base.config).projector)


def part_of(name: str, backbone: Backbone) -> str:
    """Part of a model that a parameter belongs to, by its path with or without prefixes of wrappers."""
    dotted = f".{name}"
    for part, path in (
        ("projector", backbone.projector),
        ("vision tower", backbone.vision),
        ("language model", backbone.language_model),
    ):
        if f".{path}." in dotted:
            return part
    return "output head" if ".lm_head." in dotted else "other"


def parameter_groups(model: Any, rates: Rates) -> list[dict[str, Any]]:  # noqa: ANN401
    """Optimizer groups: projector and vision tower with their own learning rates, vectors without decay.

    Returns:
        Groups with "params", "lr" and "weight_decay", the first ones with `learning_rate`; none is empty.
    """
    backbone = backbone_of(model.config)
    own = {"projector": rates.projector, "vision tower": rates.vision}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name, backbone)
            has_own = part in own and "lora_" not in name
            shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 keeps only shards in `parameter`
            groups.setdefault((part if has_own else "", len(shape) < 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rates.learning_rate if own.get(part) is None else own[part],
            "weight_decay": 0.0 if is_vector else rates.weight_decay,
        }
        for (part, is_vector), parameters in sorted(groups.items(), key=lambda entry: entry[0])
    ]
