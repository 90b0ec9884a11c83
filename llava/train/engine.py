"""How a run is carried out: processes, sharding, precision and attention, each with the reason for it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import is_flash_attn_2_available

from llava.model.weights import choose_attention

if TYPE_CHECKING:
    from llava.train.arguments import ModelArguments, RunArguments

ACCUMULATION = 4
"""Forward passes per optimizer step where nothing says another number (Text4Seg's finetune_lora.sh)."""
SWITCH = {"auto": None, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
"""What --bf16 takes, in any case."""


@dataclass(frozen=True)
class Engine:
    """What carries a run out.

    Attributes:
        kind: "one process", "DDP", "FSDP2" or "DeepSpeed ZeRO-2".
        processes: over all machines.
        dtype: of the frozen weights and the matrix products; trained weights are float32.
        attention: implementation that transformers is told to use.
        reasons: why, for "engine", "precision" and "attention".
    """

    kind: str
    processes: int
    dtype: torch.dtype
    attention: str
    reasons: dict[str, str]

    @property
    def precision(self) -> str:
        """Name of `dtype`, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    def table(self, step_samples: int) -> str:
        """Lines of name, value and reason; `step_samples` is how many samples an optimizer step takes."""
        values = {"engine": self.kind, "precision": self.precision, "attention": self.attention}
        lines = [f"  {name:<17} {value:<12} {self.reasons[name]}" for name, value in values.items()]
        processes = "process" if self.processes == 1 else "processes"
        return "\n".join(
            [*lines, f"  {'samples per step':<17} {step_samples:<12} {self.processes} {processes}"]
        )


def process_count() -> int:
    """Processes of this run over all machines, as torchrun, deepspeed and accelerate set it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_launched(run: RunArguments) -> bool:
    """Whether a launcher started this process and told it its rank."""
    return "RANK" in os.environ or run.local_rank >= 0


def is_true(environment: Mapping[str, str], name: str) -> bool:
    """Whether a variable that accelerate sets says yes."""
    return environment.get(name, "").lower() in {"1", "true", "yes"}


def run_on_cpu(run: RunArguments) -> bool:
    """Whether the run stays on the CPU, asked for or for want of a GPU."""
    return run.use_cpu or is_true(os.environ, "ACCELERATE_USE_CPU") or not torch.cuda.is_available()


def take_from_launcher(run: RunArguments) -> None:
    """Fill in what accelerate says through the environment: its DeepSpeed configuration file."""
    if run.deepspeed is None and is_true(os.environ, "ACCELERATE_USE_DEEPSPEED"):
        given = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "None")
        run.deepspeed = None if given == "None" else given


def set_accumulation(run: RunArguments) -> None:
    """Forward passes per optimizer step from the global batch size, checked before; the default without."""
    if run.global_batch_size is not None:
        run.gradient_accumulation_steps = run.global_batch_size // pass_samples(run)
    elif run.gradient_accumulation_steps is None:
        run.gradient_accumulation_steps = ACCUMULATION


def pass_samples(run: RunArguments) -> int:
    """Samples that all processes together take in one forward pass."""
    return process_count() * run.per_device_train_batch_size


def wants_bf16(run: RunArguments) -> tuple[bool, str]:
    """Whether to compute in bfloat16, and why; `--bf16` is known to be one of `SWITCH`."""
    wanted = SWITCH[run.bf16.lower()]
    if wanted is not None:
        return wanted, "asked for" if wanted else "bf16 not wanted"
    if run.fp16:
        return False, "fp16 asked for"
    if run_on_cpu(run):
        return False, "the CPU computes in float32 unless --bf16 True"
    if not gpu_has_bf16():
        return False, "this GPU has no bfloat16; --fp16 True saves memory"
    return True, "the GPU has it"


def gpu_has_bf16() -> bool:
    """Whether the GPU computes in bfloat16 itself (Ampere and newer)."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def choose_precision(run: RunArguments) -> tuple[torch.dtype, str]:
    """Type of the frozen weights and matrix products, and why."""
    bf16, reason = wants_bf16(run)
    if bf16:
        return torch.bfloat16, reason
    return (torch.float16, "asked for") if run.fp16 else (torch.float32, reason)


def explain_attention(attn: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Attention implementation for `attn`, and why it is this one.

    Raises:
        ValueError: unknown name, or flash_attention_2 is asked for and not installed.
    """
    chosen = choose_attention(attn, device, dtype)
    if attn != "auto":
        return chosen, "asked for"
    if chosen == "flash_attention_2":
        return chosen, "installed, on a GPU with 16-bit weights"
    if device.type != "cuda":
        return chosen, "flash_attention_2 needs a GPU"
    if not is_flash_attn_2_available():
        return chosen, "flash_attention_2 is not installed"
    return chosen, f"flash_attention_2 needs 16-bit weights, these are {str(dtype).removeprefix('torch.')}"


def zero_stage(config: str) -> int:
    """ZeRO stage of a DeepSpeed configuration file; 0 where it names none.

    Raises:
        ValueError: the file is no JSON object.
        FileNotFoundError: there is no such file.
    """
    text = Path(config).read_text(encoding="utf-8")
    try:
        content: Any = json.loads(text)
        return int(content.get("zero_optimization", {}).get("stage", 0))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"--deepspeed {config} is no DeepSpeed configuration ({error}); see scripts/zero2.json"
        ) from error


def choose_engine(model: ModelArguments, run: RunArguments) -> Engine:
    """What carries out a run whose settings have passed `llava.train.checks`."""
    processes = process_count()
    device = torch.device("cpu" if run_on_cpu(run) else "cuda")
    dtype, precision = choose_precision(run)
    attention, reason = explain_attention(model.attn, device, dtype)
    if run.deepspeed:
        kind, why = f"DeepSpeed ZeRO-{zero_stage(run.deepspeed)}", run.deepspeed
    elif run.fsdp:
        kind, why = "FSDP2", "torch's fully_shard over all processes"
    elif processes > 1:
        kind, why = "DDP", "several processes, each with the whole model"
    else:
        kind, why = "one process", "no launcher: torchrun starts several"
    place = f"{'gloo' if processes > 1 else 'no network'}, CPU" if device.type == "cpu" else "GPU"
    return Engine(
        kind,
        processes,
        dtype,
        attention,
        {"engine": f"{why} ({place})", "precision": precision, "attention": reason},
    )


def start_deepspeed_on_cpu() -> None:
    """Connect DeepSpeed's processes through gloo before weights are read, which ZeRO-3 splits as they come.

    On a GPU the Trainer does it in time. DeepSpeed's own CPU communication would need a C++ compiler, and a
    minute at first use.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
