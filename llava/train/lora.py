"""Which parts of a LLaVA are trained, and how fast each."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlavaForConditionalGeneration

LANGUAGE_MODEL = "model.language_model"
PROJECTOR = "multi_modal_projector"


def language_linears(model: nn.Module) -> str:
    """Regular expression that matches every linear layer of the language model and nothing else.

    A bare list of layer names would also hit the vision tower, whose layers share them; lm_head is left out.

    Raises:
        ValueError: the model has no language model with linear layers.
    """
    prefix = f"{LANGUAGE_MODEL}."
    linears = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(prefix)
    ]
    if not linears:
        raise ValueError(f"no linear layers under {LANGUAGE_MODEL}; the base must be a Hugging Face LLaVA")
    leaves = sorted({re.escape(name.rsplit(".", 1)[-1]) for name in linears})
    return rf"{re.escape(prefix)}.*\.({'|'.join(leaves)})"


def add_lora(model: LlavaForConditionalGeneration, *, rank: int, alpha: int, dropout: float) -> PeftModel:
    """The model with adapters on the language model's linear layers; its projector is trained in full.

    Everything else is frozen. Trained weights are float32, whatever the frozen ones are.
    Source: LLaVA's finetune_lora.sh.
    """
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=language_linears(model), bias="none"
    )
    with warnings.catch_warnings():
        # PEFT asks for gradient checkpointing under the name it had before transformers 5.20.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        adapted = get_peft_model(model, config)
    projector_of(adapted).requires_grad_(True)
    _trained_to_float32(adapted)
    return adapted


def train_language_model(model: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """The model with language model and projector trained in full and the vision tower frozen."""
    model.requires_grad_(True)
    model.get_submodule("model.vision_tower").requires_grad_(False)
    _trained_to_float32(model)
    return model


def _trained_to_float32(model: nn.Module) -> None:
    """Give trained weights the precision that optimizer steps need; DeepSpeed does it for its own shards."""
    for parameter in model.parameters():
        if parameter.requires_grad and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.to(torch.float32)


def projector_of(model: nn.Module) -> nn.Module:
    """The module between vision tower and language model, with or without adapters around."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.get_submodule(f"model.{PROJECTOR}")


def parameter_groups(
    model: nn.Module, *, learning_rate: float, projector_lr: float | None, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups: the projector with its own learning rate, vectors without weight decay.

    Args:
        model: with some parameters trained.
        learning_rate: of everything but the projector.
        projector_lr: of the projector; None is the same as `learning_rate`.
        weight_decay: of matrices; biases and norm weights have none.

    Returns:
        Groups with "params", "lr" and "weight_decay", the first ones with `learning_rate`; none is empty.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_projector = f".{PROJECTOR}." in name
            shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 keeps only shards in `parameter`
            groups.setdefault((in_projector, len(shape) < 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": projector_lr if in_projector and projector_lr is not None else learning_rate,
            "weight_decay": 0.0 if is_vector else weight_decay,
        }
        for (in_projector, is_vector), parameters in sorted(groups.items(), key=lambda entry: entry[0])
    ]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trained, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
