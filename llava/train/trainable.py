"""What a run trains: checked before weights are read, shown and saved as a table, reached by every batch."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor

from llava.files import write_text_atomic
from llava.model.backbones import backbone_of
from llava.model.new_tokens import NEW_TOKENS, trained_vocabulary
from llava.train.engine import run_on_cpu, zero_stage
from llava.train.lora import (
    BITS,
    LORA_TYPES,
    Rates,
    add_lora,
    part_of,
    projector_of,
    train_in_full,
)

if TYPE_CHECKING:
    from llava.train.arguments import DataArguments, ModelArguments, RunArguments

TRAINABLE_FILE = "trainable.json"
_PARTS = ("language model", "output head", "projector", "vision tower", "other")
_ROWS = "rows of new tokens"


@dataclass(frozen=True)
class TrainableGroup:
    """One line of the table.

    Attributes:
        group: part of the model, or the adapters on one.
        parameters: how many numbers it has.
        trained: how many of them are trained.
        learning_rate: at its peak; None where nothing is trained.
    """

    group: str
    parameters: int
    trained: int
    learning_rate: float | None


def trainable_table(model: Any, optimizer_groups: Sequence[dict[str, Any]]) -> list[TrainableGroup]:  # noqa: ANN401
    """What is trained of each part of a model, and how fast.

    Args:
        model: with some parameters trained; the shards of ZeRO-3 and quantized weights count as what they
            stand for.
        optimizer_groups: as `llava.train.lora.parameter_groups` gives them.
    """
    rates = {id(p): group["lr"] for group in optimizer_groups for p in group["params"]}
    backbone = backbone_of(model.config)
    found: dict[str, list[tuple[int, float | None]]] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name, backbone)
        group = f"adapters on the {part}" if "lora_" in name else part
        group = _ROWS if ".trainable_tokens_" in name else group
        found.setdefault(group, []).append((_size(parameter), rates.get(id(parameter))))
    order = [*(f"adapters on the {part}" for part in _PARTS), _ROWS, *_PARTS]
    return [
        TrainableGroup(
            group,
            sum(size for size, _ in found[group]),
            sum(size for size, rate in found[group] if rate is not None),
            max((rate for _, rate in found[group] if rate is not None), default=None),
        )
        for group in order
        if group in found
    ]


def _size(parameter: nn.Parameter) -> int:
    """Numbers that a parameter stands for, also where this process holds a shard or packed bits of them."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return int(torch.Size(state.shape).numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def table_text(groups: Sequence[TrainableGroup]) -> str:
    """The table in aligned columns, its sum in the last line."""
    total, trained = sum(group.parameters for group in groups), sum(group.trained for group in groups)
    lines = [("group", "parameters", "trained", "learning rate")]
    for group in groups:
        rate = "-" if group.learning_rate is None else f"{group.learning_rate:g}"
        lines.append((group.group, f"{group.parameters:,}", f"{group.trained:,}", rate))
    lines.append(("all", f"{total:,}", f"{trained:,}", f"{100 * trained / total:.2f} % trained"))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        f"  {name:<{widths[0]}}  {count:>{widths[1]}}  {part:>{widths[2]}}  {rate:>{widths[3]}}"
        for name, count, part, rate in lines
    )


def save_trainable(groups: Sequence[TrainableGroup], folder: Path) -> None:
    """Write the table into a run's folder as `trainable.json`."""
    content = {"groups": [asdict(group) for group in groups]}
    write_text_atomic(folder / TRAINABLE_FILE, json.dumps(content, indent=2) + "\n")


def unreached_loss(model: Any, *, has_images: bool) -> torch.Tensor | None:  # noqa: ANN401
    """Zero that gives trained weights a gradient of zero where a batch may leave them out; None: no such.

    Processes that average gradients would otherwise wait for one that never comes. Two cases: a batch without
    images does not pass through the projector, and no batch passes through the tower's layers above those
    whose features are used. Weights beside the projector that ZeRO-3 or FSDP have split are left alone.

    Args:
        model: of a known family, with or without adapters, out of the wrappers of data parallelism.
        has_images: whether the batch shows an image.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    backbone, projector = backbone_of(base.config), projector_of(base)
    parts: list[torch.Tensor] = []
    weight = next(projector.parameters())
    if not has_images and weight.requires_grad:
        parts.append(projector(backbone.blank_features(projector).to(weight.device)).sum())
    for name, parameter in base.named_parameters():
        split = hasattr(parameter, "ds_id") or isinstance(parameter, DTensor)
        if parameter.requires_grad and not split and part_of(name, backbone) in ("vision tower", "other"):
            parts.append(parameter.sum())
    return 0.0 * torch.stack(parts).sum() if parts else None


def rates_of(model: ModelArguments, run: RunArguments) -> Rates:
    """Learning rates and weight decay that a run was asked for."""
    return Rates(run.learning_rate, model.mm_projector_lr, model.mm_vision_tower_lr, run.weight_decay)


def mark_trained(model: Any, asked: ModelArguments, token_ids: Sequence[int] = ()) -> Any:  # noqa: ANN401
    """The model with its trained parts marked and its adapters added, as it was asked for.

    Args:
        model: of a known family, changed in place.
        asked: what to train.
        token_ids: tokens of the codec, whose rows are trained next to adapters.
    """
    projector = not asked.freeze_mm_mlp_adapter
    if not asked.lora_enable:
        return train_in_full(model, vision=asked.tune_vision, projector=projector)
    return add_lora(
        model,
        rank=asked.lora_r,
        alpha=asked.lora_alpha,
        dropout=asked.lora_dropout,
        kind=asked.lora_type,
        vision=asked.lora_vision,
        projector=projector,
        vocabulary=trained_vocabulary(model, token_ids, asked.new_tokens),
    )


def training_problems(model: ModelArguments, data: DataArguments, run: RunArguments) -> list[str]:
    """What does not go together in what is to be trained and in how samples share rows."""
    problems = []
    if model.lora_type not in LORA_TYPES:
        problems.append(f"--lora_type {model.lora_type!r}: known are {', '.join(LORA_TYPES)}")
    if model.new_tokens not in NEW_TOKENS:
        problems.append(f"--new_tokens {model.new_tokens!r}: known are {', '.join(NEW_TOKENS)}")
    if model.tune_vision and model.lora_enable:
        problems.append(
            "--tune_vision True: with adapters the tower is trained by --lora_vision True; "
            "--lora_enable False trains it in full"
        )
    if model.lora_vision and not model.lora_enable:
        problems.append("--lora_vision True needs --lora_enable True; the whole tower: --tune_vision True")
    if model.mm_vision_tower_lr is not None and not model.tune_vision:
        problems.append(f"--mm_vision_tower_lr {model.mm_vision_tower_lr:g} needs --tune_vision True")
    if model.mm_vision_tower_lr is not None and model.mm_vision_tower_lr < 0:
        problems.append(f"--mm_vision_tower_lr {model.mm_vision_tower_lr:g}: must be at least 0")
    if data.packing_length is not None and data.packing_length < 1:
        problems.append(f"--packing_length {data.packing_length}: must be at least 1")
    if data.packing_length is not None and not data.packing:
        problems.append(f"--packing_length {data.packing_length} needs --packing True")
    return problems + _bits_problems(model, run)


def _bits_problems(model: ModelArguments, run: RunArguments) -> list[str]:
    """What keeps a quantized base from being trained."""
    bits = model.bits
    if bits not in BITS:
        return [f"--bits {bits}: known are {', '.join(map(str, BITS))}"]
    if bits == 16:
        return []
    problems = []
    if not model.lora_enable:
        problems.append(f"--bits {bits}: quantized weights take no gradients; it needs --lora_enable True")
    if importlib.util.find_spec("bitsandbytes") is None:
        problems.append(f"--bits {bits}: not installed; pip install bitsandbytes, or --bits 16")
    if run_on_cpu(run):
        problems.append(f"--bits {bits} needs an NVIDIA GPU; leave it out on this machine")
    if run.deepspeed is not None and Path(run.deepspeed).is_file() and zero_stage(run.deepspeed) == 3:
        problems.append(f"--bits {bits}: ZeRO-3 cannot split quantized weights; take scripts/zero2.json")
    if run.fsdp:
        problems.append(f"--bits {bits}: --fsdp cannot split quantized weights; leave one of the two out")
    return problems
