"""The evaluation loop: ask, refine, record. Resumes where it stopped; processes share the work exactly."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image
from tqdm import tqdm

from llava.data.images import load_image
from llava.data.questions import fill_whole_question, normalise_expression
from llava.data.rle import encode_mask
from llava.eval.confidence import pack
from llava.eval.memory import Halving
from llava.eval.predictions import Record, RecordWriter, merge, rank_files, rank_path, read_run
from llava.eval.progress import Progress
from llava.eval.run import RunSettings, check_records, describe_samples, open_run
from llava.eval.scoring import RunningScores
from llava.eval.semantic import MASK_OPTIONS, label_masks, map_regions
from llava.files import short_path
from llava.types import BoolArray, FloatArray, Prediction, Query, Refiner, Sample, Segmenter

POLL_SECONDS = 2.0
PATIENCE_SECONDS = 1800.0
"""How long rank 0 waits without a single new record before it gives up on the other processes."""

SOFT_PROMPTS = "soft_prompts"
"""Option of a run's refiner: masks are refined from the probabilities of their cells where these are told."""


@runtime_checkable
class Timed(Protocol):
    """A segmenter that knows how long it took to turn answers into masks."""

    decode_seconds: float


@dataclass(frozen=True)
class Shard:
    """Part of the work: process `rank` of `count` takes every `count`-th batch."""

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.rank < self.count:
            raise ValueError(f"rank {self.rank} of {self.count} processes: ranks are 0 to count - 1")


def make_batches(samples: Sequence[Sample], batch_size: int) -> list[list[Sample]]:
    """Batches of at most `batch_size` samples, in the order of their images.

    The expressions of one image stay in one batch, so that SAM embeds the image once; only an image with more
    expressions than `batch_size` is spread over several. The result depends on nothing but its arguments.

    Raises:
        ValueError: `batch_size` is below 1, or two samples have the same id.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: at least 1")
    twice = [name for name, times in Counter(sample.id for sample in samples).items() if times > 1]
    if twice:
        raise ValueError(
            f"{len(twice)} sample ids occur twice, the first is {twice[0]}; name each split once"
        )
    by_image: dict[Path, list[Sample]] = {}
    for sample in samples:
        by_image.setdefault(sample.image_path, []).append(sample)
    batches: list[list[Sample]] = []
    for group in by_image.values():
        for start in range(0, len(group), batch_size):
            part = group[start : start + batch_size]
            if batches and len(batches[-1]) + len(part) <= batch_size:
                batches[-1].extend(part)
            else:
                batches.append(part)
    return batches


class Evaluation:
    """One process of a run. Holds the models, the clock and the running scores."""

    def __init__(
        self,
        segmenter: Segmenter,
        settings: RunSettings,
        *,
        refiner: Refiner | None,
        clock: Callable[[], float],
    ) -> None:
        self.segmenter = segmenter
        self.refiner = refiner
        self.settings = settings
        self.run = settings.digest
        self.clock = clock
        self.running = RunningScores(settings.cells_hw, settings.cell_policy)

    def answer(self, batch: Sequence[Sample]) -> list[Record]:
        """Records of one batch, scored and timed."""
        images = {path: load_image(path) for path in dict.fromkeys(sample.image_path for sample in batch)}
        _check_sizes(batch, images)
        queries = [
            Query([images[one.image_path]], [normalise_expression(one.expression)], question_of(one))
            for one in batch
        ]
        decoding, started = self._decode_seconds(), self.clock()
        predictions = self.segmenter.segment(queries)
        answered, decoding = self.clock(), self._decode_seconds() - decoding
        if len(predictions) != len(batch):
            raise ValueError(f"the segmenter gave {len(predictions)} predictions for {len(batch)} queries")
        drawn = [self._drawn(*pair) for pair in zip(batch, predictions, strict=True)]
        masks = [list(named.values()) for named in drawn]
        softs = [self._soft(*pair) for pair in zip(batch, predictions, strict=True)]
        refined = self._refine(batch, images, masks, softs)
        refined_at = self.clock()
        records = [self._record(*parts) for parts in zip(batch, predictions, drawn, refined, strict=True)]
        for record in records:
            self.running.update(record)
        spent = {
            "generate": answered - started - decoding,
            "decode": decoding,
            "refine": refined_at - answered,
            "score": self.clock() - refined_at,
        }
        share = {step: round(seconds / len(batch), 6) for step, seconds in spent.items()}
        return [replace(record, seconds=share) for record in records]

    def _decode_seconds(self) -> float:
        return self.segmenter.decode_seconds if isinstance(self.segmenter, Timed) else 0.0

    def _drawn(self, sample: Sample, prediction: Prediction) -> dict[str, BoolArray]:
        """Masks to refine by label: the one of an expression, or those of all labels of a map."""
        if not sample.classes:
            return {"": prediction.masks[0, 0]}
        options = self.settings.options
        known = {name: options[name] for name in MASK_OPTIONS if name in options}
        return label_masks(prediction.text, sample.size_hw, grid_hw=self.settings.grid_hw, **known)

    def _soft(self, sample: Sample, prediction: Prediction) -> FloatArray | None:
        """Probability of each cell for the refiner, float32 (rows, columns); None for the mask itself.

        A map of classes has a mask for each label, and no probabilities of its own for each.
        """
        wanted = self.settings.options.get("refiner", {}).get(SOFT_PROMPTS, False)
        if not wanted or sample.classes or prediction.confidence is None:
            return None
        return prediction.confidence[0].clip(0, 1)

    def _refine(
        self,
        batch: Sequence[Sample],
        images: dict[Path, Image.Image],
        masks: Sequence[Sequence[BoolArray]],
        softs: Sequence[FloatArray | None],
    ) -> list[tuple[list[BoolArray] | None, str]]:
        """For each sample its refined masks and the first reason to keep a coarse one."""
        if self.refiner is None:
            return [(None, "")] * len(batch)
        results: list[tuple[list[BoolArray] | None, str]] = [([], "")] * len(batch)
        alike: dict[tuple[Path, tuple[int, ...]], list[int]] = {}
        for place, (sample, soft) in enumerate(zip(batch, softs, strict=True)):
            alike.setdefault((sample.image_path, () if soft is None else soft.shape), []).append(place)
        for (path, cells), places in alike.items():
            stacked = [mask for place in places for mask in masks[place]]
            if not stacked:
                continue
            soft = np.stack([one for place in places if (one := softs[place]) is not None]) if cells else None
            refined = self.refiner.refine(images[path], np.stack(stacked), soft=soft)
            pairs = zip(refined.masks, refined.notes, strict=True)
            for place in places:
                own = [next(pairs) for _ in masks[place]]
                note = next((note for _, note in own if note), "")
                results[place] = ([mask for mask, _ in own], note)
        return results

    def _record(
        self,
        sample: Sample,
        prediction: Prediction,
        drawn: dict[str, BoolArray],
        refined: tuple[list[BoolArray] | None, str],
    ) -> Record:
        masks, note = refined
        blank = np.zeros((1, *sample.size_hw), dtype=bool)
        return Record(
            id=sample.id,
            image=short_path(sample.image_path, self.settings.data_root),
            expression=sample.expression,
            group=sample.group,
            no_target=sample.no_target,
            truth=sample.mask,
            answer=prediction.text,
            absent=bool(prediction.absent[0]),
            coarse=encode_mask(prediction.masks[0, 0]),
            refined=None if masks is None else encode_mask(np.any(masks or blank, axis=0)),
            note=note,
            faults=prediction.faults,
            mode=prediction.mode,
            ignore=sample.ignore,
            boxes_xyxy=sample.boxes_xyxy,
            category=sample.category,
            stats=prediction.stats,
            confidence=None if prediction.confidence is None else pack(prediction.confidence[0]),
            regions=map_regions(sample, drawn, masks),
            run=self.run,
            boxes=prediction.boxes,
            targets=() if sample.classes or not sample.question else sample.instances,
        )


def question_of(sample: Sample) -> str | None:
    """Question of a sample in evaluation's one wording; None where the system words the expression itself."""
    if sample.classes or not sample.question:
        return sample.question or None
    return fill_whole_question(sample.question)


def _check_sizes(batch: Sequence[Sample], images: dict[Path, Image.Image]) -> None:
    for sample in batch:
        width, height = images[sample.image_path].size
        if (height, width) != tuple(sample.size_hw):
            raise ValueError(
                f"{sample.image_path} is {height}x{width} pixels (height x width), the annotations say "
                f"{sample.size_hw[0]}x{sample.size_hw[1]}; the image file is another one, fetch it again"
            )


def evaluate(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    out: Path,
    *,
    settings: RunSettings,
    refiner: Refiner | None = None,
    batch_size: int = 8,
    shard: Shard | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Record] | None:
    """Answer every sample once and leave `predictions.jsonl` and `run.json` in `out`.

    Each process appends to its own `predictions.rankN.jsonl`. Killed and called again with the same settings,
    it answers what is missing; the number of processes and the batch size may change in between. Processes
    never talk to each other: rank 0 watches their files and merges them once all samples are there. A batch
    that does not fit into memory is halved.

    Args:
        segmenter: the system.
        samples: what is asked, of one or several splits.
        out: run folder.
        settings: what the records depend on; `samples` is filled in here.
        refiner: improves the coarse masks; None leaves them.
        batch_size: most queries asked at once.
        shard: this process's part of the work; None for all of it.
        clock: seconds, for the time split.

    Returns:
        All records in the order of `samples`; None in every process but rank 0.

    Raises:
        ValueError: settings differ from those of the run in `out`, predictions in it are of another run, a
            sample occurs twice, or an image does not fit its annotations.
        FileNotFoundError: images are missing.
        MemoryError: one question alone does not fit into memory.
        TimeoutError: another process stopped writing.
    """
    shard = shard or Shard()
    out = Path(out)
    batches = make_batches(samples, batch_size)
    check_images(samples)
    settings = replace(settings, samples=describe_samples(samples))
    settings = open_run(out, settings, first=shard.rank == 0)
    ids = [sample.id for sample in samples]
    done = _read_own(out, ids, settings)
    mine = batches[shard.rank :: shard.count]
    todo = _unanswered(mine, done, files=len(rank_files(out)))
    if todo:
        evaluation = Evaluation(segmenter, settings, refiner=refiner, clock=clock)
        asked = {sample.id for batch in todo for sample in batch}
        kept = [sample.id for batch in mine for sample in batch if sample.id in done]
        for one in kept:
            if one not in asked:
                evaluation.running.update(done[one])
        progress = Progress(
            sum(map(len, mine)),
            len(kept),
            running=evaluation.running,
            clock=clock,
            hidden=shard.rank > 0,
        )
        _work(evaluation, todo, rank_path(out, shard.rank), known=done.keys(), progress=progress)
    if shard.rank:
        return None
    for _ in _waiting(out, ids, clock=clock):
        time.sleep(POLL_SECONDS)
    _read_own(out, ids, settings)
    return merge(out, ids)


def _read_own(out: Path, ids: Sequence[str], settings: RunSettings) -> dict[str, Record]:
    """Records in a run folder, all of this run and of its samples."""
    records = read_run(out)
    check_records(out, list(records.values()), settings)
    unknown = sorted(records.keys() - set(ids))
    if unknown:
        raise ValueError(
            f"{out}: {len(unknown)} predictions are of no sample of this run (first: {unknown[0]}). "
            "Take their file out of the folder, or choose another folder"
        )
    return records


def _unanswered(
    batches: Sequence[Sequence[Sample]], done: Mapping[str, Record], *, files: int
) -> list[list[Sample]]:
    """What is still to ask.

    A kill while a batch is written cuts it, at most one for each file of records. Such a batch is asked whole
    again, so that it is padded, and rounded, as in an unbroken run. More cut batches mean that batches were
    made otherwise before; then only what is missing is asked.
    """
    rests = [[sample for sample in batch if sample.id not in done] for batch in batches]
    cut = sum(0 < len(rest) < len(batch) for rest, batch in zip(rests, batches, strict=True))
    if cut > max(files, 1):
        return [rest for rest in rests if rest]
    return [list(batch) for rest, batch in zip(rests, batches, strict=True) if rest]


def check_images(samples: Sequence[Sample]) -> None:
    """Raise FileNotFoundError when image files are missing, before any model is asked."""
    paths = dict.fromkeys(sample.image_path for sample in samples)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} images are missing, the first is {missing[0]} - "
            "see 'Datasets' in README, or run python scripts/check_data.py"
        )


def _work(
    evaluation: Evaluation,
    todo: Sequence[Sequence[Sample]],
    path: Path,
    *,
    known: Collection[str],
    progress: Progress,
) -> None:
    """Answer batches and append what is not yet known."""
    answer = Halving(evaluation.answer, tell=tqdm.write)
    with RecordWriter(path) as writer, progress:
        for batch in todo:
            records = answer(batch)
            new = [record for record in records if record.id not in known]
            writer.append(new)
            progress.update(records, new=len(new))


def _waiting(out: Path, ids: Sequence[str], *, clock: Callable[[], float]) -> Iterator[int]:
    """Yield the number of missing samples for as long as other processes still write."""
    fewest, since = len(ids) + 1, clock()
    while missing := len(set(ids) - set(read_run(out))):
        if missing < fewest:
            fewest, since = missing, clock()
            tqdm.write(f"waiting for the other processes: {missing} of {len(ids)} samples missing")
        elif clock() - since > PATIENCE_SECONDS:
            raise TimeoutError(
                f"{out}: {missing} samples are missing and nothing was written for {PATIENCE_SECONDS:.0f} s; "
                "another process has stopped. Run the same command again to resume"
            )
        yield missing
