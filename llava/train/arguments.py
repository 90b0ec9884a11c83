"""What a training run can be told, under LLaVA's own flag names, and every check before weights load."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import SchedulerType

from llava.data.prompt import PROMPTS
from llava.data.store import is_store
from llava.model.weights import ATTENTIONS
from llava.settings import CELL_POLICIES, CODECS, INTERPOLATIONS, UPSAMPLING

LONG_SAMPLES = ("error", "skip")
REPORT_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
NEEDS_NO_FLAG = (
    "vision_tower pretrain_mm_mlp_adapter mm_projector_type mm_vision_select_layer mm_use_im_start_end "
    "mm_use_im_patch_token image_aspect_ratio lazy_preprocess evaluation_strategy freeze_backbone"
).split()
"""Flags of LLaVA's own scripts whose answer lies in a Hugging Face checkpoint, or which are always on."""


def option(default: Any, text: str) -> Any:  # noqa: ANN401
    """Dataclass field with a help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """The base checkpoint and what is trained of it."""

    model_name_or_path: str = option("", "base: a Hugging Face LLaVA folder or model id")
    version: str | None = option(None, f"prompt: {', '.join(PROMPTS)}; default: the base's, else text4seg_v1")
    grid: str | None = option(None, "label grid, 16 or 12x16 (rows x columns); default: the base's")
    image_side: int | None = option(None, "pixels of the square input; default: the vision tower's")
    codec: str | None = option(None, f"text form of masks: {', '.join(CODECS)}; default: the base's")
    interpolation: str | None = option(None, f"how images are squashed: {', '.join(INTERPOLATIONS)}")
    cell_policy: str | None = option(None, f"how the records were made: {', '.join(CELL_POLICIES)}")
    upsample: str | None = option(None, f"how cells become a mask: {', '.join(UPSAMPLING)}")
    attn: str = option("auto", f"attention kernel: {', '.join(ATTENTIONS)}")
    lora_enable: bool = option(True, "train adapters; False trains the whole language model")
    lora_r: int = option(64, "rank of the adapters")
    lora_alpha: int = option(128, "scale of the adapters, divided by the rank")
    lora_dropout: float = option(0.05, "dropout in front of the adapters")
    mm_projector_lr: float | None = option(2e-5, "learning rate of the projector, which is trained in full")


@dataclass
class DataArguments:
    """What is trained on."""

    data_path: list[str] = field(
        default_factory=list,
        metadata={"help": "a mixture file (yaml), or any number of record files (json, jsonl) and stores"},
    )
    image_folder: str = option("", "folder that the records' image paths start from")
    model_max_length: int | None = option(None, "longest sample in tokens; default 3072 or what the base can")
    long_samples: str = option("error", "longer samples: error stops, skip takes others or leaves them out")
    group_by_modality_length: bool = option(True, "batches of samples of similar length")
    dataloader_num_workers: int = option(4, "processes that read images; 0 reads in the training process")


@dataclass
class RunArguments:
    """How it is trained: the subset of the Hugging Face flags that is passed on."""

    output_dir: str = option("", "where the adapter, the projector and segmentation.json go")
    num_train_epochs: float = option(2.0, "passes over the records")
    max_steps: int = option(-1, "optimizer steps; above 0 it replaces num_train_epochs")
    per_device_train_batch_size: int = option(4, "samples per process and forward pass")
    gradient_accumulation_steps: int = option(4, "forward passes per optimizer step")
    learning_rate: float = option(2e-4, "peak learning rate of the adapters")
    weight_decay: float = option(0.0, "AdamW weight decay")
    warmup_ratio: float = option(0.03, "part of the steps with rising learning rate, 0 to below 1")
    lr_scheduler_type: str = option("cosine", "course of the learning rate")
    max_grad_norm: float = option(1.0, "gradient norm above which gradients are scaled down")
    logging_steps: int = option(1, "optimizer steps between two log lines")
    save_steps: int = option(1000, "optimizer steps between two checkpoints to resume from")
    save_total_limit: int = option(1, "how many of these checkpoints are kept")
    bf16: bool = option(False, "bfloat16 mixed precision")
    fp16: bool = option(False, "float16 mixed precision (GPU only)")
    tf32: bool | None = option(None, "TensorFloat-32 matrix products (Ampere or newer GPU only)")
    gradient_checkpointing: bool = option(True, "recompute activations: less memory, a third more time")
    deepspeed: str | None = option(None, "DeepSpeed configuration, for example scripts/zero2.json")
    report_to: str = option("none", f"none, or one of {', '.join(REPORT_PACKAGES)}")
    seed: int = option(42, "seed of adapters, sample order and dropout")
    resume: bool = option(False, "go on from the last whole checkpoint in output_dir, if there is one")
    use_cpu: bool = option(False, "train on the CPU although a GPU is there")
    local_rank: int = option(-1, "set by the deepspeed launcher")


@dataclass
class Arguments:
    """All of it, with the command that was typed."""

    model: ModelArguments
    data: DataArguments
    run: RunArguments
    argv: tuple[str, ...] = ()

    def fixed(self) -> dict[str, Any]:
        """Settings that must not change when a run is resumed, by flag name."""
        free = {"resume", "local_rank", "report_to", "logging_steps", "save_steps", "save_total_limit"}
        free |= {"dataloader_num_workers", "output_dir"}
        parts = (self.model, self.data, self.run)
        values = {item.name: getattr(part, item.name) for part in parts for item in fields(part)}
        return {name: value for name, value in values.items() if name not in free}


def parse(argv: Sequence[str]) -> Arguments:
    """Arguments of a command line, checked.

    Raises:
        ValueError: unknown flags, or wrong values; all problems in one message.
    """
    parser = HfArgumentParser((ModelArguments, DataArguments, RunArguments), allow_abbrev=False)  # type: ignore[arg-type]
    model, data, run, rest = parser.parse_args_into_dataclasses(list(argv), return_remaining_strings=True)
    arguments = Arguments(model, data, run, tuple(argv))
    known = [item.name for part in (model, data, run) for item in fields(part)]
    problems = _unknown(rest, known) + _model_problems(model) + _data_problems(data) + _run_problems(run)
    if problems:
        raise ValueError("the run cannot start:\n" + "\n".join(f"- {problem}" for problem in problems))
    return arguments


def _unknown(rest: Sequence[str], known: Sequence[str]) -> list[str]:
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


def parse_grid(text: str) -> tuple[int, int]:
    """(rows, columns) of "16" or "12x16"."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides):
        raise ValueError(f"--grid {text!r}: write one side, 16, or rows x columns, 12x16")
    return int(sides[0]), int(sides[-1])


def _model_problems(model: ModelArguments) -> list[str]:
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
    problems += _not_in("version", model.version, tuple(PROMPTS)) + _not_in("codec", model.codec, CODECS)
    problems += _not_in("interpolation", model.interpolation, INTERPOLATIONS)
    problems += _not_in("cell_policy", model.cell_policy, CELL_POLICIES)
    problems += _not_in("upsample", model.upsample, UPSAMPLING) + _not_in("attn", model.attn, ATTENTIONS)
    problems += _outside("image_side", model.image_side, 1) + _outside("lora_r", model.lora_r, 1)
    problems += _outside("lora_alpha", model.lora_alpha, 1) + _outside(
        "lora_dropout", model.lora_dropout, 0, 1
    )
    return problems + _outside("mm_projector_lr", model.mm_projector_lr, 0)


def _data_problems(data: DataArguments) -> list[str]:
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


def _run_problems(run: RunArguments) -> list[str]:
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
    return problems + _machine_problems(run)


def _machine_problems(run: RunArguments) -> list[str]:
    """What this machine cannot do of what was asked."""
    problems = []
    on_cpu = run_on_cpu(run)
    if run.bf16 and run.fp16:
        problems.append("--bf16 and --fp16 exclude each other")
    if run.fp16 and on_cpu:
        problems.append("--fp16 needs a GPU; leave it out, or use --bf16")
    if run.tf32 and on_cpu:
        problems.append("--tf32 needs an NVIDIA GPU of the Ampere family or newer")
    if run.deepspeed is None:
        return problems
    if not Path(run.deepspeed).is_file():
        problems.append(
            f"--deepspeed {run.deepspeed} not found; scripts/zero2.json and zero3.json come along"
        )
    if importlib.util.find_spec("deepspeed") is None:
        problems.append('--deepspeed: not installed; pip install ".[train]", or leave the flag out')
    if "RANK" not in os.environ and run.local_rank < 0:
        problems.append("--deepspeed needs a launcher: torchrun --nproc_per_node N -m llava.train.train ...")
    return problems


def run_on_cpu(run: RunArguments) -> bool:
    """Whether the run stays on the CPU, asked for or for want of a GPU."""
    return run.use_cpu or not torch.cuda.is_available()


def training_arguments(arguments: Arguments) -> TrainingArguments:
    """The same run in Hugging Face's words."""
    run, on_cpu = arguments.run, run_on_cpu(arguments.run)
    same = (
        "output_dir num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps "
        "learning_rate weight_decay lr_scheduler_type max_grad_norm logging_steps save_steps "
        "save_total_limit bf16 fp16 tf32 deepspeed report_to seed"
    ).split()
    return TrainingArguments(
        **{name: getattr(run, name) for name in same},
        warmup_steps=run.warmup_ratio,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and "LOCAL_RANK" in os.environ else None,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=arguments.data.dataloader_num_workers,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        label_names=["labels"],
    )
