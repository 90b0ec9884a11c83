"""Conversation records from referring-expression samples (the recipe of Text4Seg, arXiv 2410.09855).

Checking, reading and writing of record files lives in `llava.data.record_files` and is passed on from here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from llava.codec import clean_label, encode, mask_answer, mask_to_grid
from llava.constants import BACKGROUND, IMAGE_TOKEN
from llava.data.questions import ANSWER_PARTIAL, QUESTION_PARTIAL, fill, normalise_expression
from llava.data.record_files import Record, check_record, read_records, write_records
from llava.data.rle import decode_rle, rle_area
from llava.settings import CELL_POLICIES, CODECS
from llava.types import IntArray, Sample

__all__ = [
    "VANISHED_POLICIES",
    "BuildSummary",
    "Record",
    "ReferRecordBuilder",
    "build_refer_records",
    "check_record",
    "read_records",
    "write_records",
]

VANISHED_POLICIES = ("skip", "keep")
"""What becomes of an expression whose target covers no cell: left out, or taught as an empty mask."""

_PROGRESS_FROM = 500


@dataclass
class BuildSummary:
    """What a build took in, left out, and put out.

    Attributes:
        samples: expressions given.
        refs: groups of expressions that share a target.
        images: images with at least one kept expression.
        records: conversations written.
        turns: question-answer pairs in them.
        no_target: expressions given that describe nothing in their image.
        vanished: expressions whose target is in the image but covers no cell of the grid.
        without_pixel: expressions whose annotation marks no pixel though they have a target.
        vanished_policy: what became of those two: "skip" or "keep".
        cell_policy: how masks became cells.
        grid_hw: rows and columns of the grid.
    """

    grid_hw: tuple[int, int]
    cell_policy: str
    vanished_policy: str
    samples: int = 0
    refs: int = 0
    images: int = 0
    records: int = 0
    turns: int = 0
    no_target: int = 0
    vanished: int = 0
    without_pixel: int = 0

    def __str__(self) -> str:
        done = {"skip": "left out", "keep": "kept, taught as an empty mask"}[self.vanished_policy]
        rows, columns = self.grid_hw
        return "\n".join(
            (
                f"expressions    {self.samples} of {self.refs} refs; no target: {self.no_target}",
                f"vanished       {self.vanished} cover no cell of the {rows}x{columns} grid "
                f"(cell policy {self.cell_policy}); {done}",
                f"without pixel  {self.without_pixel} have an empty annotation; {done}",
                f"records        {self.records} conversations, {self.turns} questions, {self.images} images",
            )
        )


@dataclass(frozen=True)
class _Ref:
    """Expressions that share a target, with the target as cells."""

    id: str
    samples: tuple[Sample, ...]
    grid: IntArray


@dataclass(frozen=True)
class ReferRecordBuilder:
    """Settings of a build; `build` does the work.

    Attributes:
        grid_hw: rows and columns of the label grid.
        image_folder: folder that the `image` paths of the records start from; the one to train with.
        rounds: questions in one conversation. The first is about the conversation's own ref, each further one
            about a ref drawn among all of the same image, itself included.
        copies: conversations of each ref; every draw differs between them.
        seed: of all draws.
        cell_policy: how a mask becomes cells, see `llava.codec.mask_to_grid`.
        codec: text form of a mask.
        vanished: what becomes of targets that cover no cell, one of `VANISHED_POLICIES`.
    """

    grid_hw: tuple[int, int]
    image_folder: Path
    rounds: int = 2
    copies: int = 2
    seed: int = 0
    cell_policy: str = "centre"
    codec: str = "rrle"
    vanished: str = "skip"

    def __post_init__(self) -> None:
        """Check every setting and report all problems at once."""
        problems = [
            f"{name} {value!r}: known are {', '.join(known)}"
            for name, value, known in (
                ("cell_policy", self.cell_policy, CELL_POLICIES),
                ("codec", self.codec, CODECS),
                ("vanished", self.vanished, VANISHED_POLICIES),
            )
            if value not in known
        ]
        problems += [
            f"{name} {value}: at least 1"
            for name, value in (
                ("grid_hw", min(self.grid_hw)),
                ("rounds", self.rounds),
                ("copies", self.copies),
            )
            if value < 1
        ]
        if problems:
            raise ValueError("record settings: " + "; ".join(problems))

    def build(self, samples: Sequence[Sample]) -> tuple[list[Record], BuildSummary]:
        """Records of all refs, copy by copy, image by image; the same for the same samples and settings."""
        draw = random.Random(self.seed)
        summary = BuildSummary(self.grid_hw, self.cell_policy, self.vanished, samples=len(samples))
        by_image: dict[Path, list[_Ref]] = {}
        groups = _group_by_ref(samples)
        summary.refs = len(groups)
        for ref_id, group in tqdm(
            groups.items(), desc="cells", unit="ref", disable=len(groups) < _PROGRESS_FROM
        ):
            ref = _Ref(ref_id, group, self._cells(group[0]))
            if self._is_kept(ref, summary):
                by_image.setdefault(group[0].image_path, []).append(ref)
        records = [
            self._record(ref, refs, copy, draw=draw)
            for copy in range(self.copies)
            for refs in tqdm(
                by_image.values(),
                desc=f"records, copy {copy + 1}",
                unit="image",
                disable=len(groups) < _PROGRESS_FROM,
            )
            for ref in refs
        ]
        summary.images = len(by_image)
        summary.records = len(records)
        summary.turns = len(records) * self.rounds
        return records, summary

    def _cells(self, sample: Sample) -> IntArray:
        """Cells of a sample's target, int64 (rows, columns) of 0 and 1."""
        if sample.no_target:
            return np.zeros(self.grid_hw, dtype=np.int64)
        return mask_to_grid(decode_rle(sample.mask), self.grid_hw, policy=self.cell_policy)

    def _is_kept(self, ref: _Ref, summary: BuildSummary) -> bool:
        """Count a ref's expressions and decide whether they are taught."""
        count = len(ref.samples)
        if ref.samples[0].no_target:
            summary.no_target += count
            return True
        if ref.grid.any():
            return True
        if rle_area(ref.samples[0].mask):
            summary.vanished += count
        else:
            summary.without_pixel += count
        return self.vanished == "keep"

    def _record(self, own: _Ref, refs: Sequence[_Ref], copy: int, *, draw: random.Random) -> Record:
        """One conversation that starts with a ref."""
        turns = []
        for number in range(self.rounds):
            ref = own if number == 0 else draw.choice(refs)
            question, answer = self._round(ref, draw)
            opening = f"{IMAGE_TOKEN}\n" if number == 0 else ""
            turns += [{"from": "human", "value": opening + question}, {"from": "gpt", "value": answer}]
        return {
            "id": f"{own.id}|{copy}",
            "image": _relative(own.samples[0].image_path, self.image_folder),
            "height": self.grid_hw[0],
            "width": self.grid_hw[1],
            "conversations": turns,
        }

    def _round(self, ref: _Ref, draw: random.Random) -> tuple[str, str]:
        """Question and answer about one expression of a ref, wording drawn."""
        sample = draw.choice(ref.samples)
        expression = normalise_expression(sample.expression)
        question = fill(draw.choice(QUESTION_PARTIAL), expression)
        sentence = fill(draw.choice(ANSWER_PARTIAL), expression)
        text = encode(ref.grid, (BACKGROUND, clean_label(expression)), codec=self.codec)
        return question, mask_answer(sentence, text)


def build_refer_records(
    samples: Sequence[Sample],
    *,
    grid_hw: tuple[int, int],
    rounds: int,
    copies: int,
    seed: int,
    cell_policy: str,
    codec: str,
    image_folder: Path,
) -> tuple[list[Record], BuildSummary]:
    """Conversation records of referring expressions, vanished targets left out and counted.

    See `ReferRecordBuilder` for the settings. With cell_policy "keep_small" no target vanishes.
    """
    builder = ReferRecordBuilder(
        grid_hw=grid_hw,
        image_folder=image_folder,
        rounds=rounds,
        copies=copies,
        seed=seed,
        cell_policy=cell_policy,
        codec=codec,
    )
    return builder.build(samples)


def _group_by_ref(samples: Sequence[Sample]) -> dict[str, tuple[Sample, ...]]:
    """Samples by their id without its last part, the sentence.

    Raises:
        ValueError: two samples have the same id.
    """
    groups: dict[str, list[Sample]] = {}
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise ValueError(f"sample id {sample.id} stands twice; give each sample once")
        seen.add(sample.id)
        groups.setdefault(sample.id.rpartition("|")[0], []).append(sample)
    return {ref_id: tuple(group) for ref_id, group in groups.items()}


def _relative(path: Path, folder: Path) -> str:
    """Image path under the image folder, with forward slashes.

    Raises:
        ValueError: the image lies elsewhere.
    """
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        raise ValueError(
            f"image {path} does not lie under the image folder {folder}; give a folder above it"
        ) from None
