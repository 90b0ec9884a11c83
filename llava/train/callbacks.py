"""What happens around the steps of a run besides training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava.train.progress import keep_until

log = logging.getLogger("llava.train")


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


class TrimStepFiles(TrainerCallback):
    """Takes from files with one line per step what lies behind the step that a run starts at."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """One process does it; the others write to none of them."""
        if state.is_world_process_zero:
            for path in self.paths:
                keep_until(path, state.global_step)
