"""Hugging Face's Trainer with LLaVA's sample order, projector learning rate, checkpoints and log line."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.utils.data import Dataset, Sampler
from transformers import (
    LlavaForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from llava.model.checkpoint import load_base, save_adapter, save_checkpoint
from llava.model.weights import PROJECTOR_WEIGHTS
from llava.settings import SegmentationSettings
from llava.train.lora import parameter_groups, projector_of
from llava.types import IntArray

MEGABATCH = 50
"""Global batches that are sorted by length together (LLaVA's trainer)."""
STATE_FILE = "trainer_state.json"
log = logging.getLogger("llava.train")


def sample_order(lengths: Sequence[int], *, global_batch: int, seed: int, grouped: bool) -> list[int]:
    """Seeded order of one epoch: every sample once.

    Args:
        lengths: tokens of each sample, negative for samples without an image (LLaVA's modality lengths).
        global_batch: samples of one optimizer step over all processes.
        seed: another one for every epoch.
        grouped: put samples of one kind and similar length into one global batch, so that little is padded.

    Returns:
        Indices into `lengths`. The incomplete global batch, if there is one, comes last.
    """
    return _order(np.asarray(lengths), global_batch, seed, grouped).tolist()


def _order(lengths: IntArray, global_batch: int, seed: int, grouped: bool) -> IntArray:
    """`sample_order` as int64 (samples,), which millions of samples fit in."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(lengths), generator=generator).numpy()
    if not grouped:
        return shuffled
    for start in range(0, len(shuffled), MEGABATCH * global_batch):
        part = shuffled[start : start + MEGABATCH * global_batch]
        part[:] = part[np.argsort(-lengths[part], kind="stable")]
    whole = len(lengths) // global_batch
    turns = torch.randperm(whole, generator=generator).numpy()
    batches = shuffled[: whole * global_batch].reshape(whole, global_batch)[turns]
    return np.concatenate([batches.ravel(), shuffled[whole * global_batch :]])


class SampleOrder(Sampler[int]):
    """`sample_order` of each epoch; the same on every process and after a resume.

    Yields `epoch * number of samples + index`, so that a dataset that draws its records knows the epoch
    wherever its workers run.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Callable[[int], IntArray],
        *,
        global_batch: int,
        seed: int,
        grouped: bool,
    ) -> None:
        self.lengths = lengths
        self.global_batch = global_batch
        self.seed = seed
        self.grouped = grouped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration runs over."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(cast(Sized, self.lengths))

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch
        lengths = np.asarray(self.lengths(epoch) if callable(self.lengths) else self.lengths)
        first = epoch * len(lengths)
        for index in _order(lengths, self.global_batch, self.seed + epoch, self.grouped):
            yield first + int(index)


class EpochStart(TrainerCallback):
    """Tells the sample order which epoch starts.

    The Trainer's own call does not get through the samplers that Accelerate wraps around ours when several
    processes resume within an epoch.
    """

    def __init__(self, set_epoch: Callable[[int], None], report: Callable[[], str] | None) -> None:
        self.set_epoch = set_epoch
        self.report = report

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """The state counts finished epochs, with the fraction of a resumed one."""
        self.set_epoch(int(state.epoch or 0))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Log what became of the draws."""
        if self.report is not None:
            log.info("%s", self.report())


class LogLine(ProgressCallback):
    """Progress bar of the steps and one line per log step: step/total, loss, lr, samples/s, minutes left."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start the clock; a resumed run counts from the step it starts at."""
        super().on_train_begin(args, state, control, **kwargs)
        self.first_step = state.global_step
        self.started = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Write the line above the bar."""
        if self.training_bar is None or not logs or "loss" not in logs:
            return
        done = max(1, state.global_step - self.first_step)
        seconds = (time.perf_counter() - self.started) / done
        step_samples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.training_bar.write(
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  "
            f"lr {logs.get('learning_rate', 0.0):.2e}  {step_samples / seconds:.1f} samples/s  "
            f"{seconds * (state.max_steps - state.global_step) / 60:.1f} min left"
        )


class MaskTextTrainer(Trainer):
    """Trainer whose checkpoints are complete: adapter, projector, processor, `segmentation.json`.

    Args:
        model: LLaVA with adapters, or one that is trained in full.
        args: Hugging Face's training arguments.
        train_dataset: features of one record at a time.
        collator: makes batches of them.
        processor: saved beside the weights.
        settings: saved beside the weights.
        lengths: tokens of each sample, negative without an image; or a function of the epoch that gives them
            and has a length.
        options: `projector_lr` (float or None), `grouped` (bool, order by length) and `report` (what to log
            at the end of an epoch, or None).
    """

    def __init__(
        self,
        model: PeftModel | LlavaForConditionalGeneration,
        args: TrainingArguments,
        *,
        train_dataset: Dataset[dict[str, torch.Tensor]],
        collator: Any,  # noqa: ANN401
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
        lengths: Sequence[int] | Callable[[int], IntArray],
        options: dict[str, Any],
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=collator)
        self.processor = processor
        self.settings = settings
        self.lengths = lengths
        self.options = options
        for shown in (ProgressCallback, PrinterCallback):
            self.remove_callback(shown)
        self.add_callback(LogLine())
        self.add_callback(EpochStart(self._set_epoch, options.get("report")))

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with the projector in groups of its own."""
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            groups = parameter_groups(
                trained,
                learning_rate=self.args.learning_rate,
                projector_lr=self.options["projector_lr"],
                weight_decay=self.args.weight_decay,
            )
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: object = None) -> SampleOrder:
        """Order of the samples; the base class asks for it when it builds its data loader."""
        global_batch = (
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        )
        self._order = SampleOrder(
            self.lengths, global_batch=global_batch, seed=self.args.seed, grouped=self.options["grouped"]
        )
        return self._order

    def _set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the sample order."""
        self._order.set_epoch(epoch)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401
        """Loss of a batch; one without images still gives the projector a gradient, of zero.

        Processes that average gradients would otherwise wait for one that never comes.
        """
        # The key-value cache is for generation; asked for per call, the saved configuration stays as it was.
        inputs = {**inputs, "use_cache": False}
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if "pixel_values" in inputs:
            return result
        projector: Any = projector_of(self.accelerator.unwrap_model(model))
        nothing = torch.zeros(1, projector.linear_1.in_features, device=self.args.device)
        unused = 0.0 * projector(nothing).sum()
        return (result[0] + unused, result[1]) if return_outputs else result + unused

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a folder that `llava.model.checkpoint` loads; called by every process."""
        folder = Path(output_dir or self.args.output_dir or ".")
        model: Any = self.model
        with _gathered(model):
            if not self.args.should_save:
                return
            if isinstance(model, PeftModel):
                save_adapter(model, self.processor, self.settings, folder)
            else:
                save_checkpoint(model, self.processor, self.settings, folder)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        """Take up the weights of a checkpoint of this trainer."""
        trained: Any = self.model if model is None else model
        if isinstance(trained, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            projector_of(trained).load_state_dict(load_file(Path(resume_from_checkpoint, PROJECTOR_WEIGHTS)))
        else:
            # Names on disk differ from names in memory, so the weights take the way of from_pretrained.
            saved = load_base(resume_from_checkpoint, dtype="auto").model
            trained.load_state_dict(saved.state_dict())


@contextlib.contextmanager
def _gathered(model: torch.nn.Module) -> Iterator[None]:
    """Whole trained weights on every process, also where DeepSpeed ZeRO-3 has split them."""
    sharded = [p for p in model.parameters() if p.requires_grad and hasattr(p, "ds_id")]
    if not sharded:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded):
        yield


def last_whole_checkpoint(output_dir: Path) -> Path | None:
    """Newest `checkpoint-N` folder that was written to its end, or None.

    A kill while a checkpoint is written leaves one without a readable state file or without the random
    states of all processes.
    """
    steps = sorted(
        (int(folder.name.split("-")[1]), folder)
        for folder in output_dir.glob("checkpoint-*")
        if folder.name.split("-")[1].isdigit()
    )
    for _, folder in reversed(steps):
        if _is_whole(folder):
            return folder
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether the last file of a checkpoint is there and readable."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return bool(state.get("global_step")) and any(checkpoint.glob("rng_state*.pth"))
