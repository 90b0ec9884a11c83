"""Every check of a training run's settings: each returns its problems as sentences, before weights load."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_utils import SchedulerType
from transformers.utils import is_flash_attn_2_available

from llava.codec.grid import parse_grid
from llava.data.prompt import PROMPTS
from llava.data.store import is_store
from llava.model.weights import ATTENTIONS
from llava.settings import ALL_CODECS, BRICK_ORDERS, BRICKS, CELL_POLICIES, INTERPOLATIONS, UPSAMPLING
from llava.train.engine import (
    SWITCH,
    gpu_has_bf16,
    is_launched,
    is_true,
    pass_samples,
    process_count,
    run_on_cpu,
    zero_stage,
)

if TYPE_CHECKING:
    from llava.train.arguments import DataArguments, ModelArguments, RunArguments

CANNOT_START = "the run cannot start:\n- "
LONG_SAMPLES = ("error", "skip")
REPORT_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
NEEDS_NO_FLAG = (
    "vision_tower pretrain_mm_mlp_adapter mm_projector_type mm_vision_select_layer mm_use_im_start_end "
    "mm_use_im_patch_token image_aspect_ratio lazy_preprocess evaluation_strategy freeze_backbone"
).split()
"""Flags of LLaVA's own scripts whose answer lies in a Hugging Face checkpoint, or which are always on."""


def together(*checks: Callable[[], Any]) -> list[Any]:
    """Results of all checks.

    Raises:
        ValueError: some raised one, or a FileNotFoundError; all of their messages in one.
    """
    results, problems = [], []
    for check in checks:
        try:
            results.append(check())
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error).removeprefix(CANNOT_START))
    refuse(problems)
    return results


def refuse(problems: Sequence[str]) -> None:
    """Raise a ValueError with all problems, unless there are none."""
    if problems:
        raise ValueError(CANNOT_START + "\n- ".join(problems))


def unknown(rest: Sequence[str], known: Sequence[str]) -> list[str]:
    """One problem for every word that no flag took."""
    problems = []
    for place, word in enumerate(rest):
        name = word.removeprefix("--").split("=")[0]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        if name in NEEDS_NO_FLAG:
            problems.append(f"--{name} is not needed, leave it out: the Hugging Face checkpoint settles it")
        elif word.startswith("--"):
            advice = f"did you mean --{close[0]}?" if close else "see --help"
            problems.append(f"unknown flag --{name}; {advice}")
        elif place == 0 or not rest[place - 1].startswith("--"):
            problems.append(f"{word!r} belongs to no flag")
    return problems


def _not_in(name: str, value: str | None, known: Sequence[str]) -> list[str]:
    if value is None or value in known:
        return []
    return [f"--{name} {value!r}: known are {', '.join(known)}"]


def _outside(name: str, value: float | None, low: float, high: float = float("inf")) -> list[str]:
    if value is None or low <= value <= high:
        return []
    limit = f"at least {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
    return [f"--{name} {value:g}: must be {limit}"]


def model_problems(model: ModelArguments) -> list[str]:
    """What is wrong with the base or with what is to be trained of it."""
    path = model.model_name_or_path
    problems = (
        [] if path else ["--model_name_or_path is missing: give a Hugging Face LLaVA folder or model id"]
    )
    if path.startswith((".", "/")) and not Path(path).is_dir():
        problems.append(f"--model_name_or_path {path} not found")
    if Path(path, "adapter_config.json").is_file():
        merge = f"python scripts/merge_lora_weights.py --model-path {path} --save-path {path}-merged"
        problems.append(f"--model_name_or_path {path} is an adapter; make a whole model of it first: {merge}")
    if model.grid is not None:
        try:
            parse_grid(model.grid)
        except ValueError as error:
            problems.append(str(error))
    problems += _not_in("version", model.version, tuple(PROMPTS)) + _not_in("codec", model.codec, ALL_CODECS)
    problems += _not_in("brick_order", model.brick_order, BRICK_ORDERS)
    problems += _outside("max_pixels", model.max_pixels, 1)
    problems += _not_in("interpolation", model.interpolation, INTERPOLATIONS)
    problems += _not_in("cell_policy", model.cell_policy, CELL_POLICIES)
    problems += _not_in("upsample", model.upsample, UPSAMPLING) + _not_in("attn", model.attn, ATTENTIONS)
    problems += _outside("image_side", model.image_side, 0) + _outside("lora_r", model.lora_r, 1)
    problems += _outside("lora_alpha", model.lora_alpha, 1) + _outside(
        "lora_dropout", model.lora_dropout, 0, 1
    )
    return problems + _outside("mm_projector_lr", model.mm_projector_lr, 0)


def token_problems(model: ModelArguments, run: RunArguments, codec: str) -> list[str]:
    """What keeps the tokens of a codec, known from the flags and the base, from being trained."""
    if codec != BRICKS:
        return (
            [] if model.new_tokens == "rows" else [f"--new_tokens {model.new_tokens} needs --codec {BRICKS}"]
        )
    if run.deepspeed is not None and zero_stage(run.deepspeed) == 3:
        return [
            f"--codec {BRICKS}: ZeRO-3 splits the vocabulary before its new rows are written; take "
            "--deepspeed scripts/zero1.json or scripts/zero2.json, or --fsdp True"
        ]
    if model.new_tokens == "full" and not model.lora_enable:
        return ["--new_tokens full: --lora_enable False trains the whole vocabulary anyway; leave it out"]
    return []


def data_problems(data: DataArguments) -> list[str]:
    """What is wrong with the records or their images."""
    problems = []
    if not data.data_path:
        problems.append("--data_path is missing: give record files, stores or a mixture file")
    for path in map(Path, data.data_path):
        if path.is_dir() and not is_store(path):
            problems.append(
                f"--data_path {path} is a folder and no store; give a record file, a mixture or a store"
            )
        elif not path.exists():
            problems.append(f"--data_path {path} not found")
    if not data.image_folder:
        problems.append("--image_folder is missing: give the folder that the records' image paths start from")
    elif not Path(data.image_folder).is_dir():
        problems.append(f"--image_folder {data.image_folder} not found")
    problems += _not_in("long_samples", data.long_samples, LONG_SAMPLES)
    problems += _outside("model_max_length", data.model_max_length, 1)
    return problems + _outside("dataloader_num_workers", data.dataloader_num_workers, 0)


def run_problems(run: RunArguments) -> list[str]:
    """What is wrong with the course of the run, or with this machine for it."""
    problems = [] if run.output_dir else ["--output_dir is missing"]
    if Path(run.output_dir or ".").is_file():
        problems.append(f"--output_dir {run.output_dir} is a file")
    at_least_one = (
        "per_device_train_batch_size gradient_accumulation_steps logging_steps save_steps save_total_limit"
    )
    for name in at_least_one.split():
        problems += _outside(name, getattr(run, name), 1)
    for name in ("learning_rate", "weight_decay", "max_grad_norm", "seed"):
        problems += _outside(name, getattr(run, name), 0)
    problems += _outside("warmup_ratio", run.warmup_ratio, 0, 0.99)
    if run.max_steps <= 0 and run.num_train_epochs <= 0:
        problems.append(f"--num_train_epochs {run.num_train_epochs:g}: must be above 0")
    usable = sorted(
        kind.value for kind in SchedulerType if kind.value not in {"reduce_lr_on_plateau", "greedy"}
    )
    problems += _not_in("lr_scheduler_type", run.lr_scheduler_type, usable)
    problems += _not_in("report_to", run.report_to, ("none", *REPORT_PACKAGES))
    package = REPORT_PACKAGES.get(run.report_to)
    if package and importlib.util.find_spec(package) is None:
        problems.append(
            f"--report_to {run.report_to}: not installed; pip install {package}, or --report_to none"
        )
    return problems + _preview_problems(run) + _machine_problems(run) + _engine_problems(run)


def _preview_problems(run: RunArguments) -> list[str]:
    """What is wrong with the sheets of answers."""
    problems = _outside("preview_steps", run.preview_steps, 0)
    problems += _outside("preview_samples", run.preview_samples, 1)
    if run.preview_data is not None and not Path(run.preview_data).is_file():
        problems.append(f"--preview_data {run.preview_data}: no such record file (json, jsonl)")
    if run.preview_data is not None and not run.preview_steps:
        problems.append("--preview_data is read only with --preview_steps above 0")
    if run.preview_steps and run.fsdp:
        problems.append("--preview_steps does not go with --fsdp, whose weights are split; leave one out")
    return problems


def _machine_problems(run: RunArguments) -> list[str]:
    """What this machine cannot do of what was asked."""
    on_cpu = run_on_cpu(run)
    problems = _not_in("bf16", run.bf16.lower(), tuple(SWITCH))
    bf16 = SWITCH.get(run.bf16.lower())
    if bf16 and run.fp16:
        problems.append("--bf16 and --fp16 exclude each other")
    if bf16 and not on_cpu and not gpu_has_bf16():
        problems.append("--bf16: this GPU does not compute in bfloat16; use --fp16 True")
    if run.fp16 and on_cpu:
        problems.append("--fp16 needs a GPU; leave it out, or use --bf16")
    if run.tf32 and on_cpu:
        problems.append("--tf32 needs an NVIDIA GPU of the Ampere family or newer")
    return problems


def attention_problems(model: ModelArguments, run: RunArguments) -> list[str]:
    """Why the attention that was asked for cannot run here."""
    if model.attn != "flash_attention_2":
        return []
    problems = []
    if run_on_cpu(run):
        problems.append("--attn flash_attention_2 needs a GPU; use --attn sdpa or leave it out")
    if not is_flash_attn_2_available():
        problems.append(
            '--attn flash_attention_2 is not installed; pip install -e ".[flash]", or --attn sdpa'
        )
    if not run.fp16 and SWITCH.get(run.bf16.lower(), True) is False:
        problems.append("--attn flash_attention_2 needs 16-bit weights; add --bf16 True or --fp16 True")
    return problems


def _engine_problems(run: RunArguments) -> list[str]:
    """What is wrong with the way the processes were started or are to share the work."""
    problems = _deepspeed_problems(run) + _fsdp_problems(run) + _batch_problems(run)
    on_cpu, local = run_on_cpu(run), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not on_cpu and local > torch.cuda.device_count():
        problems.append(
            f"{local} processes on a machine with {torch.cuda.device_count()} GPUs; start one for each GPU"
        )
    if on_cpu and "ACCELERATE_USE_CPU" in os.environ and not is_launched(run):
        problems.append(
            "accelerate launch starts a single process on a CPU, whatever its --num_processes says; use "
            "torchrun --nproc_per_node N -m llava.train.train ..., or python for one process"
        )
    return problems


def _deepspeed_problems(run: RunArguments) -> list[str]:
    problems = []
    if run.deepspeed is None:
        if is_true(os.environ, "ACCELERATE_USE_DEEPSPEED"):
            problems.append(
                "accelerate was told to use DeepSpeed without a file; set deepspeed_config_file, as "
                "scripts/accelerate/zero2.yaml does, or give --deepspeed scripts/zero2.json"
            )
        return problems
    if not Path(run.deepspeed).is_file():
        problems.append(
            f"--deepspeed {run.deepspeed} not found; scripts/zero1.json, zero2.json and zero3.json come along"
        )
    else:
        try:
            zero_stage(run.deepspeed)
        except ValueError as error:
            problems.append(str(error))
    if importlib.util.find_spec("deepspeed") is None:
        problems.append('--deepspeed: not installed; pip install ".[train]", or leave the flag out')
    if not is_launched(run):
        problems.append("--deepspeed needs a launcher: torchrun --nproc_per_node N -m llava.train.train ...")
    return problems


def _fsdp_problems(run: RunArguments) -> list[str]:
    problems = []
    if is_true(os.environ, "ACCELERATE_USE_FSDP"):
        problems.append(
            "accelerate's own FSDP is not used here; take distributed_type MULTI_GPU, as "
            "scripts/accelerate/ddp.yaml does, and add --fsdp True to the training flags"
        )
    if not run.fsdp:
        return problems
    if run.deepspeed is not None:
        problems.append("--fsdp and --deepspeed exclude each other: both split the model")
    if run.fp16:
        problems.append("--fsdp does not scale float16 losses; use --bf16 True")
    if not is_launched(run):
        problems.append("--fsdp needs a launcher: torchrun --nproc_per_node N -m llava.train.train ...")
    return problems


def _batch_problems(run: RunArguments) -> list[str]:
    """Whether every optimizer step can take the samples that were asked for."""
    if run.global_batch_size is None or run.per_device_train_batch_size < 1:
        return []
    wanted, once = run.global_batch_size, pass_samples(run)
    if wanted < 1 or wanted % once:
        fitting = sorted({max(once, wanted // once * once), max(1, wanted // once + 1) * once})
        return [
            f"--global_batch_size {wanted} does not divide by {process_count()} processes x "
            f"{run.per_device_train_batch_size} samples each; take {' or '.join(map(str, fitting))}, another "
            "--per_device_train_batch_size, or another number of processes"
        ]
    given = run.gradient_accumulation_steps
    if given is not None and given * once != wanted:
        return [
            f"--global_batch_size {wanted} needs {wanted // once} accumulation steps, "
            f"--gradient_accumulation_steps says {given}; leave one of the two out"
        ]
    return []
