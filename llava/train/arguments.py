"""What a training run can be told, under LLaVA's own flag names, in LLaVA's words and Hugging Face's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import HfArgumentParser, TrainingArguments

from llava.data.prompt import PROMPTS
from llava.model.new_tokens import NEW_TOKENS
from llava.model.weights import ATTENTIONS
from llava.settings import ALL_CODECS, BRICK_ORDERS, CELL_POLICIES, INTERPOLATIONS, UPSAMPLING
from llava.train.batch import ROW_TOKENS
from llava.train.checks import (
    REPORT_PACKAGES,
    attention_problems,
    data_problems,
    model_problems,
    refuse,
    run_problems,
    unknown,
)
from llava.train.engine import SWITCH, run_on_cpu, set_accumulation, take_from_launcher, wants_bf16
from llava.train.lora import LORA_TYPES
from llava.train.trainable import training_problems


def option(default: Any, text: str) -> Any:  # noqa: ANN401
    """Dataclass field with a help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """The base checkpoint and what is trained of it."""

    model_name_or_path: str = option("", "base: a Hugging Face LLaVA folder or model id")
    version: str | None = option(
        None, f"prompt: {', '.join(PROMPTS)}; default: the base's, else its family's"
    )
    grid: str | None = option(None, "label grid, 16 or 12x16 (rows x columns); default: the base's")
    image_side: int | None = option(None, "pixels of the square input, 0 for any shape; default: the base's")
    codec: str | None = option(None, f"text form of masks: {', '.join(ALL_CODECS)}; default: the base's")
    brick_order: str | None = option(None, f"with bricks, their order: {', '.join(BRICK_ORDERS)}")
    brick_tail: bool | None = option(None, "with bricks, write the background behind the last foreground")
    new_tokens: str = option(
        "rows", f"with bricks, what adapters train of the vocabulary: {', '.join(NEW_TOKENS)}"
    )
    max_pixels: int | None = option(None, "most pixels of an image of any shape; default: the base's")
    interpolation: str | None = option(None, f"how images are squashed: {', '.join(INTERPOLATIONS)}")
    cell_policy: str | None = option(None, f"how the records were made: {', '.join(CELL_POLICIES)}")
    upsample: str | None = option(None, f"how cells become a mask: {', '.join(UPSAMPLING)}")
    attn: str = option("auto", f"attention kernel: {', '.join(ATTENTIONS)}")
    lora_enable: bool = option(True, "train adapters; False trains the whole language model")
    lora_type: str = option("lora", f"kind of adapters: {', '.join(LORA_TYPES)}")
    lora_vision: bool = option(False, "adapters on the vision tower as well")
    lora_r: int = option(64, "rank of the adapters")
    lora_alpha: int = option(128, "scale of the adapters, divided by the rank")
    lora_dropout: float = option(0.05, "dropout in front of the adapters")
    mm_projector_lr: float | None = option(2e-5, "learning rate of the projector, which is trained in full")
    freeze_mm_mlp_adapter: bool = option(False, "leave the projector as it is")
    tune_vision: bool = option(False, "with --lora_enable False: train the vision tower in full as well")
    mm_vision_tower_lr: float | None = option(None, "its learning rate; default: --learning_rate")
    bits: int = option(16, "frozen weights of the language model in 16, 8 or 4 bits (bitsandbytes, GPU)")


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
    packing: bool = option(False, "several samples in a row without padding, apart from each other")
    packing_length: int | None = option(None, f"most tokens of a packed row; default {ROW_TOKENS}")
    dataloader_num_workers: int = option(4, "processes that read images; 0 reads in the training process")


@dataclass
class RunArguments:
    """How it is trained: the subset of the Hugging Face flags that is passed on."""

    output_dir: str = option("", "where the adapter, the projector and segmentation.json go")
    num_train_epochs: float = option(2.0, "passes over the records")
    max_steps: int = option(-1, "optimizer steps; above 0 it replaces num_train_epochs")
    per_device_train_batch_size: int = option(4, "samples per process and forward pass")
    gradient_accumulation_steps: int | None = option(None, "forward passes per optimizer step; default 4")
    global_batch_size: int | None = option(
        None, "samples per optimizer step over all processes; it sets gradient_accumulation_steps"
    )
    learning_rate: float = option(2e-4, "peak learning rate of the adapters")
    weight_decay: float = option(0.0, "AdamW weight decay")
    warmup_ratio: float = option(0.03, "part of the steps with rising learning rate, 0 to below 1")
    lr_scheduler_type: str = option("cosine", "course of the learning rate")
    max_grad_norm: float = option(1.0, "gradient norm above which gradients are scaled down")
    logging_steps: int = option(1, "optimizer steps between two log lines")
    save_steps: int = option(1000, "optimizer steps between two checkpoints to resume from")
    save_total_limit: int = option(1, "how many of these checkpoints are kept")
    bf16: str = field(
        default="auto",
        metadata={
            "help": f"bfloat16 mixed precision: {', '.join(SWITCH)}; auto: on a GPU that has it",
            "nargs": "?",
            "const": "True",
        },
    )
    fp16: bool = option(False, "float16 mixed precision (GPU only)")
    tf32: bool | None = option(None, "TensorFloat-32 matrix products (Ampere or newer GPU only)")
    gradient_checkpointing: bool = option(True, "recompute activations: less memory, a third more time")
    deepspeed: str | None = option(None, "DeepSpeed configuration, for example scripts/zero2.json")
    fsdp: bool = option(False, "split model and optimizer over the processes, by torch's fully_shard")
    preview_steps: int = option(0, "optimizer steps between two picture sheets of answers; 0 makes none")
    preview_samples: int = option(4, "records on such a sheet")
    preview_data: str | None = option(None, "record file that they are taken from; default: training data")
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
        free |= {"dataloader_num_workers", "output_dir", "preview_steps", "preview_samples", "preview_data"}
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
    take_from_launcher(run)
    problems = unknown(rest, known) + model_problems(model) + data_problems(data) + run_problems(run)
    problems += attention_problems(model, run)
    problems += training_problems(model, data, run)
    refuse(problems)
    set_accumulation(run)
    return arguments


def training_arguments(arguments: Arguments) -> TrainingArguments:
    """The same run in Hugging Face's words."""
    run, on_cpu = arguments.run, run_on_cpu(arguments.run)
    same = (
        "output_dir num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps "
        "learning_rate weight_decay lr_scheduler_type max_grad_norm logging_steps save_steps "
        "save_total_limit fp16 tf32 deepspeed report_to seed"
    ).split()
    args = TrainingArguments(
        **{name: getattr(run, name) for name in same},
        bf16=wants_bf16(run)[0],
        warmup_steps=run.warmup_ratio,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and "LOCAL_RANK" in os.environ else None,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=arguments.data.dataloader_num_workers,
        dataloader_pin_memory=not on_cpu,
        logging_nan_inf_filter=False,  # would show a loss that is no number as 0
        remove_unused_columns=False,
        label_names=["labels"],
    )
    # Without a launcher the Trainer would copy the model to every GPU and split each batch (DataParallel).
    args._n_gpu = min(1, args.n_gpu)
    return args
