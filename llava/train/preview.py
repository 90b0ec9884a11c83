"""Pictures of what the model in training answers: image, target, answer and its text, for a few records."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from llava.constants import IMAGE_TOKEN, SEG_OPEN
from llava.data.records import Record
from llava.files import atomic_path
from llava.model.checkpoint import Checkpoint
from llava.model.mask_text import mask_text
from llava.model.text_mask import SENTENCE_TOKENS, TextMaskSegmenter
from llava.pictures import CARD, COARSE, INK, TRUTH, Card, Panel, sheet, wrap
from llava.settings import SegmentationSettings
from llava.train.data import MixtureSamples
from llava.train.dataset import ConversationDataset, load_records, open_image, rounds_of
from llava.train.progress import append_line
from llava.types import BoolArray, Query

PREVIEWS_FILE = "previews.jsonl"
PREVIEWS_FOLDER = "previews"
SIDE = 288
"""Pixels of a panel's side."""
FONT_SIZE, LINE_HEIGHT = 11, 13
RECORDS_TRIED = 200
"""Records of the training data that are looked at for some with an image and a mask."""


@dataclass(frozen=True)
class Example:
    """One record to ask about.

    Attributes:
        id: of the record.
        image: RGB.
        question: its first question, without the image mark.
        answer: what the record answers.
        target: bool (H, W) of the image's size, pixels that this answer marks.
    """

    id: str
    image: Image.Image
    question: str
    answer: str
    target: BoolArray


@dataclass(frozen=True)
class Answered:
    """What the model said about an example.

    Attributes:
        text: the answer.
        faults: what is wrong with it, in words.
        mask: bool (H, W) of the image's size, what it marks.
        iou: of its mask with that of the example, 1 where both mark none.
    """

    text: str
    faults: tuple[str, ...]
    mask: BoolArray
    iou: float


def example_of(record: Record, image_folder: Path, settings: SegmentationSettings) -> Example | None:
    """The first round of a record; None where it has no image or no mask."""
    question, answer = rounds_of(record)[0]
    question = question.replace(IMAGE_TOKEN, "").strip()
    if "image" not in record or SEG_OPEN not in answer or not question:
        return None
    image = open_image(
        image_folder / record["image"], crop=record.get("crop_size"), flip=record.get("flip", False)
    )
    masks = mask_text(settings)
    target = masks.mask(masks.read(answer), image.size[::-1])
    return Example(str(record["id"]), image, question, answer, target)


def choose_examples(
    dataset: ConversationDataset | MixtureSamples, count: int, *, seed: int, path: str | None
) -> list[Example]:
    """Examples of a file of records, or of the training data; the same ones for the same seed.

    Args:
        dataset: samples of the run.
        count: most examples.
        seed: of the choice among the training data.
        path: record file whose first records are taken instead; None takes training data.

    Raises:
        ValueError: a damaged file, or no record with an image and a mask.
        FileNotFoundError: images are missing.
    """
    folder, settings = dataset.image_folder, dataset.settings
    records = _training_records(dataset, seed)
    if path is not None:
        records = iter(load_records([path], image_folder=folder, settings=settings))
    found: list[Example] = []
    for record in records:
        example = example_of(record, folder, settings)
        if example is not None:
            found.append(example)
        if len(found) == count:
            break
    if not found:
        raise ValueError(
            f"--preview_steps: {path or 'the training data'} has no record with an image and a mask to show; "
            "give other records as --preview_data, or leave --preview_steps out"
        )
    return found


def _training_records(dataset: ConversationDataset | MixtureSamples, seed: int) -> Iterator[Record]:
    """Some records of the training data, those of the first epoch where they are drawn."""
    for index in Random(seed).sample(range(len(dataset)), min(RECORDS_TRIED, len(dataset))):
        if isinstance(dataset, MixtureSamples):
            record = next(dataset.draws.candidates(0, index))
            dataset.draws.why.clear()
            yield record
        else:
            yield dataset.records[index]


def answer_examples(examples: Sequence[Example], checkpoint: Checkpoint) -> list[Answered]:
    """Greedy answers of a model, all in one batch. Leaves the model in the mode that it was in.

    Where its weights are split over processes, all of them must call this with the same examples.
    """
    tokenizer = checkpoint.processor.tokenizer
    written = tokenizer([example.answer for example in examples], add_special_tokens=False, verbose=False)
    segmenter = TextMaskSegmenter(
        checkpoint, max_new_tokens=max(map(len, written.input_ids)) + SENTENCE_TOKENS
    )
    was_training = checkpoint.model.training
    checkpoint.model.eval()
    try:
        predictions = segmenter.segment(
            [Query([example.image], [example.question], example.question) for example in examples]
        )
    finally:
        checkpoint.model.train(was_training)
    answered = []
    for example, prediction in zip(examples, predictions, strict=True):
        mask = prediction.masks[0, 0]
        union = int((mask | example.target).sum())
        iou = int((mask & example.target).sum()) / union if union else 1.0
        answered.append(Answered(prediction.text, prediction.faults, mask, iou))
    return answered


def preview_sheet(examples: Sequence[Example], answered: Sequence[Answered]) -> Image.Image:
    """One card for each example: image, target, answer, text of the answer."""
    cards = []
    for example, said in zip(examples, answered, strict=True):
        panels = (
            Panel(example.image, "image"),
            Panel(example.image, "target", example.target, TRUTH),
            Panel(example.image, f"answer, IoU {said.iou:.2f}", said.mask, COARSE),
            Panel(text_picture(said.text, SIDE), said.faults[0] if said.faults else "no fault"),
        )
        cards.append(Card(example.question, panels))
    return sheet(cards, columns=1, side=SIDE)


def text_picture(text: str, side: int) -> Image.Image:
    """A text on a square of `side` pixels, each line wrapped once at most; what does not fit is left out."""
    font = ImageFont.load_default(FONT_SIZE)
    lines = [part for line in text.split("\n") for part in wrap(line, font, side - 8, max_lines=2)]
    room = (side - 8) // LINE_HEIGHT
    if len(lines) > room:
        lines = [*lines[: room - 1], "…"]
    page = Image.new("RGB", (side, side), CARD)
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((4, 4 + number * LINE_HEIGHT), line, fill=INK, font=font)
    return page


@dataclass(frozen=True)
class Previews:
    """Shows now and then what a run has learnt.

    Attributes:
        examples: asked every time.
        every: optimizer steps between two times.
        output_dir: folder of the run; gets `previews/step-N.png` and a line of `previews.jsonl` each time.
    """

    examples: Sequence[Example]
    every: int
    output_dir: Path

    def show(self, step: int, checkpoint: Checkpoint, *, write: bool) -> dict[str, float]:
        """Ask the model as it is after a step; called by all processes, as any may hold a part of it.

        Args:
            step: optimizer steps so far.
            checkpoint: the model in training.
            write: whether this process writes the files.

        Returns:
            Scalars for the log: mean IoU with what the records answer, and share of answers with a fault.
        """
        started = time.perf_counter()
        answered = answer_examples(self.examples, checkpoint)
        scalars = {
            "preview_iou": float(np.mean([said.iou for said in answered])),
            "preview_invalid_share": float(np.mean([bool(said.faults) for said in answered])),
        }
        if write:
            with atomic_path(self.output_dir / PREVIEWS_FOLDER / f"step-{step:06d}.png") as path:
                preview_sheet(self.examples, answered).save(path)
            self._append(step, scalars, answered, time.perf_counter() - started)
        return scalars

    def _append(
        self, step: int, scalars: dict[str, float], answered: Sequence[Answered], seconds: float
    ) -> None:
        """Add the line of this step."""
        answers: list[dict[str, Any]] = [
            {"id": example.id, "iou": said.iou, "faults": said.faults, "text": said.text}
            for example, said in zip(self.examples, answered, strict=True)
        ]
        fields = {"step": step, **scalars, "seconds": round(seconds, 3), "answers": answers}
        append_line(self.output_dir / PREVIEWS_FILE, fields)
