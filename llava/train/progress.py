"""What a run is doing: samples and tokens of each step, a status line, and a file with one line per step."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava.files import write_text_atomic

STEPS_FILE = "steps.jsonl"
SAMPLES = "samples"
"""Key under which a batch carries its samples: int64 (samples, 2) of number and tokens."""


class NumberedSamples(Dataset[dict[str, torch.Tensor]]):
    """Samples of another dataset, each with its number under `SAMPLES`."""

    def __init__(self, samples: Dataset[dict[str, torch.Tensor]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(cast(Sized, self.samples))

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {**self.samples[number], SAMPLES: torch.tensor(number)}


@dataclass(frozen=True)
class NumberedCollator:
    """Batches of another collator that say which samples they hold.

    Attributes:
        collator: makes a batch of features that have no numbers.
    """

    collator: Any

    def __call__(self, features: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """The batch, with `SAMPLES`."""
        numbers = [[int(feature[SAMPLES]), len(feature["input_ids"])] for feature in features]
        plain = [{name: feature[name] for name in feature if name != SAMPLES} for feature in features]
        return {**self.collator(plain), SAMPLES: torch.tensor(numbers)}


@dataclass(frozen=True)
class Window:
    """What all processes trained on since the last log line.

    Attributes:
        samples: their numbers, process by process, in the order of training.
        tokens: of these samples, without padding.
        places: for tokens in all batches, with padding.
        seconds: that passed.
    """

    samples: list[int]
    tokens: int
    places: int
    seconds: float

    def rates(self) -> dict[str, float]:
        """Scalars for the log."""
        return {
            "tokens_per_second": self.tokens / self.seconds,
            "padding_share": 1 - self.tokens / max(1, self.places),
        }


class Meter:
    """Collects windows. Reads no value from a device before the window ends."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._samples: list[torch.Tensor] = []
        self._places = 0

    def add(self, batch: dict[str, Any]) -> None:
        """Count a batch and take the samples' numbers out of it. The first one starts the clock."""
        now = time.perf_counter()
        self._started = now if self._started is None else self._started
        samples = batch.pop(SAMPLES, None)
        if samples is not None:
            self._samples.append(samples)
            self._places += batch["input_ids"].numel()

    def read(self, accelerator: Accelerator) -> Window:
        """The window that ends now; called by all processes."""
        first = torch.tensor([[self._places, 0]], device=accelerator.device)
        mine = torch.cat([first, *self._samples])
        padded: Any = accelerator.pad_across_processes(mine, dim=0, pad_index=-1)
        blocks: Any = accelerator.gather(padded)
        blocks = blocks.view(-1, len(padded), 2).cpu()
        rows = blocks[:, 1:].reshape(-1, 2)
        rows = rows[rows[:, 0] >= 0]
        now = time.perf_counter()
        window = Window(
            samples=rows[:, 0].tolist(),
            tokens=int(rows[:, 1].sum()),
            places=int(blocks[:, 0, 0].sum()),
            seconds=max(now - (self._started or 0.0), 1e-9),
        )
        self._started = now
        self._clear()
        return window


def keep_until(path: Path, step: int) -> None:
    """Leave the lines of a step file up to a step: what follows is done again, or was cut by a kill."""
    kept = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        try:
            fields = json.loads(line)
        except json.JSONDecodeError:
            continue
        if fields["step"] <= step:
            kept.append(line)
    if lines:
        write_text_atomic(path, "".join(f"{line}\n" for line in kept))


def append_line(path: Path, fields: dict[str, Any]) -> None:
    """Add one line of JSON to a step file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


def step_fields(step: int, logs: dict[str, float], window: Window) -> dict[str, Any]:
    """Line of `steps.jsonl`: the optimizer step, what it gave, and the samples since the line before.

    A sample's number counts through the epochs: number = epoch * samples of an epoch + place in the data.
    """
    return {
        "step": step,
        **{name: value for name, value in logs.items() if name in ("loss", "learning_rate", "grad_norm")},
        "tokens": window.tokens,
        "padding_share": round(window.rates()["padding_share"], 6),
        "seconds": round(window.seconds, 4),
        SAMPLES: window.samples,
    }


class Status(TrainerCallback):
    """Loss, learning rate, speed and time left: one bar on a terminal, else one line for each log step."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start the clock; a resumed run counts from the step it starts at."""
        self.first_step = state.global_step
        self.started = time.perf_counter()
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            bar_format="{desc} {n}/{total} |{bar}| {postfix}",
            dynamic_ncols=True,
            disable=not (state.is_world_process_zero and sys.stderr.isatty()),
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Show what was logged."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        done = max(1, state.global_step - self.first_step)
        seconds = (time.perf_counter() - self.started) / done
        samples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        text = (
            f"loss {logs['loss']:.4f}  lr {logs.get('learning_rate', 0.0):.2e}  "
            f"{logs.get('tokens_per_second', 0.0):.0f} tokens/s  {samples / seconds:.1f} samples/s  "
            f"{seconds * (state.max_steps - state.global_step) / 60:.1f} min left"
        )
        if self.bar.disable:
            tqdm.write(f"step {state.global_step}/{state.max_steps}  {text}")
        else:
            self.bar.set_postfix_str(text)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Leave the bar as it is."""
        self.bar.close()
