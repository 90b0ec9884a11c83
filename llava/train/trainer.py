"""Hugging Face's Trainer with LLaVA's sample order and projector learning rate, and whole checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import LlavaForConditionalGeneration, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from llava.model.checkpoint import Checkpoint, load_base, save_adapter, save_checkpoint
from llava.model.weights import PROJECTOR_WEIGHTS
from llava.settings import SegmentationSettings
from llava.train.callbacks import EpochStart, TrimStepFiles
from llava.train.checkpoints import WRITING, checkpoint_folder, keep_last, move_into_place, sweep
from llava.train.lora import parameter_groups, projector_of
from llava.train.preview import PREVIEWS_FILE, Previews
from llava.train.progress import (
    STEPS_FILE,
    Meter,
    NumberedCollator,
    NumberedSamples,
    Status,
    append_line,
    step_fields,
)
from llava.train.stop import StopAfterStep, StopRequest, start_worker
from llava.train.trainable import unreached_loss
from llava.types import IntArray

MEGABATCH = 50
"""Global batches that are sorted by length together, at most, in transformers' own grouping by length."""


def sample_order(lengths: Sequence[int], *, global_batch: int, seed: int, grouped: bool) -> list[int]:
    """Seeded order of one epoch: every sample once.

    Args:
        lengths: tokens of each sample, negative for samples without an image (LLaVA's modality lengths).
        global_batch: samples of one optimizer step over all processes.
        seed: another one for every epoch.
        grouped: put samples of one kind and similar length into one global batch, so that little is padded;
            one of `MEGABATCH` may hold both kinds.

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
        options: `rates` (`llava.train.lora.Rates`), `grouped` (bool, order by length), `report` (what to log
            at the end of an epoch, or None) and `previews` (`Previews`, or None).

    Attributes:
        stop_request: context in which a signal ends the run after the step, with a checkpoint.
        stop: its `stopped` says whether one did.
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
        # Qwen2.5-VL says no, though its loss takes the count too: every token of a step weighs the same.
        self.model_accepts_loss_kwargs = True
        self.processor = processor
        self.settings = settings
        self.lengths = lengths
        self.options = options
        for shown in (ProgressCallback, PrinterCallback):
            self.remove_callback(shown)
        self._meter = Meter()
        self._steps_file = Path(args.output_dir or ".", STEPS_FILE)
        self._staging: Path | None = None
        self._previewed = 0
        self.stop_request = StopRequest()
        self.stop = StopAfterStep(self.stop_request)
        self.add_callback(Status())
        self.add_callback(EpochStart(self._set_epoch, options.get("report")))
        self.add_callback(TrimStepFiles([self._steps_file, self._steps_file.with_name(PREVIEWS_FILE)]))
        self.add_callback(self.stop)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with the projector in groups of its own."""
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.optimizer = kind(parameter_groups(trained, self.options["rates"]), **options)
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

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Loader whose batches say which samples they hold, and whose workers outlast a signal."""
        plain: tuple[Any, Any] = self.train_dataset, self.data_collator
        self.train_dataset, self.data_collator = NumberedSamples(plain[0]), NumberedCollator(plain[1])
        try:
            loader = super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = plain
        loader.worker_init_fn = partial(start_worker, loader.worker_init_fn)
        return loader

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """One pass over the samples; none where the resumed run had done its last step."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:  # noqa: ANN401
        """Forward and backward pass of one batch, counted."""
        self._meter.add(inputs)
        return super().training_step(model, inputs, *rest)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add speed and padding to the logged losses, and a line to `steps.jsonl`."""
        if "loss" in logs:
            window = self._meter.read(self.accelerator)
            if self.is_world_process_zero():
                append_line(self._steps_file, step_fields(self.state.global_step, logs, window))
            logs |= window.rates()
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Log and save where it is due, then show what the model has learnt."""
        super()._maybe_log_save_evaluate(*args, **kwargs)
        previews: Previews | None = self.options.get("previews")
        step = self.state.global_step
        if previews is None or step % previews.every or step == self._previewed or self.stop.stopped:
            return
        self._previewed = step
        checkpoint = Checkpoint(self.model, self.processor, self.settings, previews.output_dir)
        with self.accelerator.autocast():
            self.log(previews.show(step, checkpoint, write=self.is_world_process_zero()))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401
        """Loss of a batch that reaches every trained weight, if only with a gradient of zero."""
        # The key-value cache is for generation; asked for per call, the saved configuration stays as it was.
        inputs = {**inputs, "use_cache": False}
        result: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        nothing = unreached_loss(self.accelerator.unwrap_model(model), has_images="pixel_values" in inputs)
        if nothing is None:
            return result
        return (result[0] + nothing, result[1]) if return_outputs else result + nothing

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

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:  # noqa: ANN401
        """Write a checkpoint beside its place, move it there, and then remove the oldest.

        All processes write into the same folder, so that several machines need a shared file system.
        """
        folder = checkpoint_folder(str(self.args.output_dir), self.state.global_step)
        if self.args.should_save:
            sweep(folder.parent)
        self.accelerator.wait_for_everyone()
        self._staging = folder.with_name(folder.name + WRITING)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            written, self._staging = self._staging / folder.name, None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            move_into_place(written, folder)
            keep_last(folder.parent, self.args.save_total_limit or 1)
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ANN401
        """Where the base class writes a checkpoint."""
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        """Take up the weights of a checkpoint of this trainer."""
        trained: Any = self.model if model is None else model
        if isinstance(trained, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            projector_of(trained).load_state_dict(load_file(Path(resume_from_checkpoint, PROJECTOR_WEIGHTS)))
        else:
            # Names on disk differ from names in memory, so the weights take the way of from_pretrained. The
            # configuration names the dtype of the frozen ones; trained ones are float32 and stay exact so.
            saved = load_base(resume_from_checkpoint, dtype=torch.float32).model
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
