"""What a run trains on: fixed records, or a mixture whose records are drawn anew in every epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info
from tqdm import tqdm

from llava.data.draw import DrawSettings
from llava.data.mixture import MixtureDataset
from llava.data.mixture_file import is_mixture, open_mixture
from llava.data.record_files import Record
from llava.data.record_index import RecordFile
from llava.settings import SegmentationSettings
from llava.train.arguments import DataArguments
from llava.train.dataset import (
    ANSWERS_DECODED,
    ConversationDataset,
    check_answers,
    check_image_files,
    fit_records,
    image_features,
    load_records,
    text_features,
    token_lengths,
)
from llava.train.resolve import Resolved
from llava.types import IntArray

MEASURED = 256
"""Records of each dataset of a mixture that are drawn and tokenized before training."""

_DRAWN, _NOTHING, _LONG = range(3)
_MOST_WORKERS = 256
_FIXED_POINT = 1 << 20


@dataclass(frozen=True)
class TrainingData:
    """Samples of a run. Sample `epoch * len(dataset) + index` is that of an index in an epoch.

    Attributes:
        dataset: features of one record at a time.
        lengths: tokens of each record, negative without an image: a sequence, or a function of the epoch with
            a length.
        facts: what must be the same when the run is resumed.
        note: what was found, for the log.
        skipped: records that are left out for their length in every epoch.
        report: what became of the draws so far, for the log; None where nothing is drawn.
    """

    dataset: ConversationDataset | MixtureSamples
    lengths: Sequence[int] | Estimates
    facts: dict[str, Any]
    note: str
    skipped: int = 0
    report: Callable[[], str] | None = None


def load_data(asked: DataArguments, resolved: Resolved, processor: Any, *, seed: int) -> TrainingData:  # noqa: ANN401
    """Samples of the data paths, checked without weights.

    Args:
        asked: data paths, image folder, what to do with long samples.
        resolved: settings of the checkpoint and the longest sample.
        processor: the base's.
        seed: of the draws.

    Raises:
        ValueError: damaged files, records that do not fit the checkpoint, or too long samples.
        FileNotFoundError: files or images are missing.
    """
    if any(is_mixture(path) for path in asked.data_path):
        return _drawn_data(asked, resolved, processor, seed)
    folder, settings, limit = Path(asked.image_folder), resolved.settings, resolved.max_length
    records = load_records(asked.data_path, image_folder=folder, settings=settings)
    lengths = token_lengths(records, processor, settings, folder)
    fitted = fit_records(records, lengths, limit, policy=asked.long_samples)
    pairs = zip(fitted.records, fitted.lengths, strict=True)
    return TrainingData(
        dataset=ConversationDataset(fitted.records, folder, processor=processor, settings=settings),
        lengths=[length if "image" in record else -length for record, length in pairs],
        facts={"number of records": len(fitted.records), "number of tokens": sum(fitted.lengths)},
        note=(
            f"{len(fitted.records)} records, {min(fitted.lengths)} to {max(fitted.lengths)} tokens; "
            f"{fitted.skipped} longer than {limit} left out"
        ),
        skipped=fitted.skipped,
    )


def open_draws(
    paths: Sequence[str], *, image_folder: Path, settings: SegmentationSettings, seed: int
) -> MixtureDataset:
    """Mixture of some data paths with the settings of a checkpoint; its images are there.

    Raises:
        ValueError: a wrong mixture, or records that the checkpoint's grid and codec cannot read.
        FileNotFoundError: files or images are missing.
    """
    base = DrawSettings(
        settings.grid_hw,
        codec=settings.codec,
        cell_policy=settings.cell_policy,
        brick_order=settings.brick_order,
        brick_tail=settings.brick_tail,
    )
    draws = MixtureDataset(open_mixture(paths), base, seed)
    for portion in draws.mixture.portions:
        if isinstance(portion.source, RecordFile):
            some = [portion.source[index] for index in _spread(len(portion.source), ANSWERS_DECODED)]
            check_answers(portion.name, some, settings)
    if not _quiet():
        names = tqdm(draws.image_names(), desc="looking for images", unit="image", delay=2)
        check_image_files(names, image_folder)
    return draws


def _drawn_data(
    asked: DataArguments,
    resolved: Resolved,
    processor: Any,  # noqa: ANN401
    seed: int,
) -> TrainingData:
    """Samples of a mixture."""
    folder, limit = Path(asked.image_folder), resolved.max_length
    draws = open_draws(asked.data_path, image_folder=folder, settings=resolved.settings, seed=seed)
    measured = measure(draws, processor, resolved.settings, folder)
    estimates = Estimates(draws, measured, limit)
    samples = MixtureSamples(
        draws, folder, processor=processor, settings=resolved.settings, limit=limit, policy=asked.long_samples
    )
    return TrainingData(
        dataset=samples,
        lengths=estimates,
        facts={
            "number of records": len(draws),
            "mixture": draws.mixture.facts(),
            "seed of draws": draws.seed,
        },
        note=f"{draws.mixture.table()}\nseed of draws: {draws.seed}\n"
        + _fit_note(draws, measured, limit, asked.long_samples),
        report=samples.report,
    )


@dataclass(frozen=True)
class Measured:
    """Some records of one dataset, drawn and tokenized.

    Attributes:
        anchors: numbers of the records in their source.
        lengths: tokens of each.
    """

    anchors: IntArray
    lengths: IntArray


def measure(
    draws: MixtureDataset,
    processor: Any,  # noqa: ANN401
    settings: SegmentationSettings,
    image_folder: Path = Path(),
) -> list[Measured]:
    """Lengths of up to `MEASURED` records of each dataset, spread evenly over its source.

    Raises:
        ValueError: none of them has anything to teach.
    """
    found = []
    for number, portion in enumerate(draws.mixture.portions):
        anchors: list[int] = []
        records: list[Record] = []
        for anchor in _spread(len(portion.source), MEASURED):
            record = draws.draw(number, anchor, np.random.default_rng([draws.seed, number, anchor]))
            if record is not None:
                anchors.append(anchor)
                records.append(record)
        if not records:
            raise ValueError(
                f"{portion.name}: none of {min(MEASURED, len(portion.source))} drawn records has anything "
                f"to teach ({dict(draws.why)}); take a finer grid, cell_policy: keep_small, or remove it"
            )
        lengths = token_lengths(records, processor, settings, image_folder)
        found.append(Measured(np.array(anchors), np.array(lengths)))
    draws.why.clear()
    return found


def _spread(size: int, count: int) -> list[int]:
    """Up to `count` numbers below `size`, at equal distances."""
    return list(range(size)) if size <= count else [number * size // count for number in range(count)]


def _fit_note(draws: MixtureDataset, measured: Sequence[Measured], limit: int, policy: str) -> str:
    """Measured lengths of each dataset in words.

    Raises:
        ValueError: some are too long and the policy is "error", or all of a dataset are.
    """
    lines = []
    for portion, found in zip(draws.mixture.portions, measured, strict=True):
        too_long, longest = int((found.lengths > limit).sum()), int(found.lengths.max())
        if too_long and (policy == "error" or too_long == len(found.lengths)):
            raise ValueError(
                f"{portion.name}: {too_long} of {len(found.lengths)} measured records are longer than "
                f"{limit} tokens, the longest has {longest}; set --model_max_length {longest} or more if the "
                "base can take it, --long_samples skip to draw others instead, a smaller grid or fewer rounds"
            )
        lines.append(
            f"{portion.name}: {int(found.lengths.min())} to {longest} tokens in {len(found.lengths)} "
            f"measured records, {too_long} longer than {limit}"
        )
    return "\n".join(lines)


class Estimates:
    """Lengths of the records of an epoch, estimated from the measured ones; they only order the samples.

    Tokens are fitted by least squares to what the sources know of their records (`extents`), and worked out
    in whole numbers so that every process of a run, on whatever machine, gets the same order.

    Args:
        draws: the mixture.
        measured: some lengths of each of its datasets.
        limit: longest sample; no estimate is above it.
    """

    def __init__(self, draws: MixtureDataset, measured: Sequence[Measured], limit: int) -> None:
        self._draws = draws
        self._lengths = [
            _estimate(portion.source.extents(), portion.source.has_image(), found, limit)
            for portion, found in zip(draws.mixture.portions, measured, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._draws)

    def __call__(self, epoch: int) -> np.ndarray:
        """Tokens of each record of an epoch, negative without an image, int32 (records,)."""
        counts = [portion.count for portion in self._draws.mixture.portions]
        return np.concatenate(
            [
                lengths[self._draws.numbers(number, epoch, np.arange(count))]
                for number, (lengths, count) in enumerate(zip(self._lengths, counts, strict=True))
            ]
        )


def _estimate(extents: np.ndarray, has_image: np.ndarray, found: Measured, limit: int) -> np.ndarray:
    """Tokens of every record of a source, negative without an image, int32 (records,)."""
    columns = [np.ones(len(extents), np.int32), has_image.astype(np.int32), *extents.T]
    known = np.stack([column[found.anchors] for column in columns], axis=1).astype(np.float64)
    scale = np.maximum(1.0, np.abs(known).max(axis=0))
    factors = np.linalg.lstsq(known / scale, found.lengths.astype(np.float64), rcond=1e-9)[0] / scale
    total = np.zeros(len(extents), np.int64)
    for column, factor in zip(columns, factors, strict=True):
        total += column.astype(np.int64) * round(float(factor) * _FIXED_POINT)
    lengths = np.clip(total // _FIXED_POINT, 1, limit).astype(np.int32)
    return np.where(has_image, lengths, -lengths)


class MixtureSamples(Dataset[dict[str, torch.Tensor]]):
    """Features of the records of a mixture, as `ConversationDataset` gives those of fixed records.

    The epoch is part of the sample's number, so that worker processes, whenever they started, draw the same.

    Args:
        draws: the mixture.
        image_folder: folder that image paths start from.
        processor: the checkpoint's.
        settings: the checkpoint's settings.
        limit: longest sample in tokens.
        policy: what becomes of longer ones: "error", or "skip" for another record of the same dataset.
    """

    def __init__(
        self,
        draws: MixtureDataset,
        image_folder: Path,
        *,
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
        limit: int,
        policy: str,
    ) -> None:
        self.draws = draws
        self.image_folder = image_folder
        self.processor = processor
        self.settings = settings
        self.limit = limit
        self.policy = policy
        # One row for each worker, in memory that all of them share.
        self._tally = torch.zeros(_MOST_WORKERS, 3, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Records of one epoch."""
        return len(self.draws)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        epoch, index = divmod(number, len(self.draws))
        self._count(_DRAWN)
        record: Record = {}
        for record in self.draws.candidates(epoch, index):
            self._count(_NOTHING, sum(self.draws.why.values()))
            self.draws.why.clear()
            features = text_features(record, self.processor, self.settings, image_folder=self.image_folder)
            length = len(features["input_ids"])
            if length <= self.limit:
                return features | image_features(record, self.image_folder, self.processor, self.settings)
            if self.policy == "error":
                raise ValueError(
                    f"record {record['id']!r} has {length} tokens, the longest allowed sample has "
                    f"{self.limit}; go on with --long_samples skip, or a larger --model_max_length"
                )
            self._count(_LONG)
        raise ValueError(
            f"no record like {record['id']!r} is short enough for {self.limit} tokens; raise "
            "--model_max_length, or remove its dataset from the mixture"
        )

    def _count(self, kind: int, times: int = 1) -> None:
        """Add to the tally of this worker."""
        worker = get_worker_info()
        self._tally[0 if worker is None else 1 + worker.id % (_MOST_WORKERS - 1), kind] += times

    def report(self) -> str:
        """How many draws of this process and its workers were replaced by another record, and why."""
        drawn, nothing, too_long = self._tally.sum(dim=0).tolist()
        return (
            f"{drawn} samples drawn on this process; passed over: {nothing} draws with nothing to teach, "
            f"{too_long} longer than {self.limit} tokens"
        )


def _quiet() -> bool:
    """Whether another process of the run does the talking."""
    return int(os.environ.get("RANK", "0")) > 0
