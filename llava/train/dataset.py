"""Conversation records as model input. Images are read when they are needed, texts are measured before."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from llava.constants import IMAGE_TOKEN, SEG_OPEN
from llava.data.images import load_image, opened_image
from llava.data.prompt import render
from llava.data.record_form import check_forms, count_forms, form_for
from llava.data.records import Record, read_records
from llava.data.tokens import tokenize
from llava.model.backbones import backbone_of_processor
from llava.model.mask_text import mask_text
from llava.settings import SegmentationSettings

MEASURED_AT_ONCE = 256
"""Texts per call of the tokenizer while samples are measured."""
ANSWERS_DECODED = 200
"""Records whose answers are decoded before training, spread evenly."""

BLANK_SIDE = 28
"""Pixels of a black square that stands for no image: one token of Qwen2-VL, resized by all others."""


def rounds_of(record: Record) -> list[tuple[str, str]]:
    """(question, answer) of every round of a record.

    Answers begin with their first letter: a newline in front of it and the one that ends a prompt of Qwen's
    form could be one token, half of it supervised.
    """
    texts = [turn["value"] for turn in record["conversations"]]
    return [(question, answer.lstrip()) for question, answer in zip(texts[::2], texts[1::2], strict=True)]


def load_records(paths: Sequence[str], *, image_folder: Path, settings: SegmentationSettings) -> list[Record]:
    """Records of all files in order, checked against the checkpoint's settings and the image folder.

    Raises:
        ValueError: damaged or empty files, records of another form, or answers that the codec cannot read.
        FileNotFoundError: images are missing.
    """
    records: list[Record] = []
    for path in paths:
        found = read_records(Path(path))
        otherwise = "train the checkpoint for the form that they have"
        check_forms(path, count_forms(found), form_for(settings), total=len(found), otherwise=otherwise)
        check_answers(path, found[:: max(1, len(found) // ANSWERS_DECODED)], settings)
        records += found
    _check_images(records, image_folder)
    return records


def check_answers(path: str, records: Sequence[Record], settings: SegmentationSettings) -> None:
    """Decode the answers of some records, so that a wrong codec shows before training."""
    masks = mask_text(settings)
    for record in records:
        for _, answer in rounds_of(record):
            if SEG_OPEN not in answer:
                continue
            read = masks.read(answer)
            if read.faults:
                raise ValueError(
                    f"{path}: an answer of record {record['id']!r} does not read as {settings.codec!r}: "
                    f"{read.faults[0]}; give the --codec that the records were built with"
                )


def _check_images(records: Sequence[Record], image_folder: Path) -> None:
    """Every image file that a record names exists."""
    check_image_files(dict.fromkeys(record["image"] for record in records if "image" in record), image_folder)


def check_image_files(names: Iterable[str], image_folder: Path) -> None:
    """Every image file is there.

    Raises:
        FileNotFoundError: some are missing; the message counts them and names the first.
    """
    count, missing = 0, []
    for name in names:
        count += 1
        if not (image_folder / name).is_file():
            missing.append(name)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {count} images not found, first {image_folder / missing[0]}; "
            "--image_folder is the folder that the records' image paths start from"
        )


def token_lengths(
    records: Sequence[Record],
    processor: Any,  # noqa: ANN401
    settings: SegmentationSettings,
    image_folder: Path = Path(),
) -> list[int]:
    """Number of tokens of every record, image tokens included: the length of what `tokenize` gives."""
    has_bos = processor.tokenizer.bos_token_id is not None
    lengths: list[int] = []
    quiet = int(os.environ.get("RANK", "0")) > 0
    with tqdm(total=len(records), desc="measuring records", unit="record", disable=quiet) as bar:
        for start in range(0, len(records), MEASURED_AT_ONCE):
            part = records[start : start + MEASURED_AT_ONCE]
            texts = [
                "".join(text for text, _ in render(settings.prompt, rounds_of(record))) for record in part
            ]
            encoded = processor.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
            for record, ids in zip(part, encoded, strict=True):
                images = ids.count(processor.image_token_id)
                each = image_tokens_of(record, image_folder, processor, settings)
                lengths.append(len(ids) + has_bos + images * (each - 1))
            bar.update(len(part))
    return lengths


@dataclass(frozen=True)
class Fitted:
    """Records that fit the longest allowed sample.

    Attributes:
        records: the ones that are kept, in order.
        lengths: tokens of each.
        skipped: how many were left out.
    """

    records: list[Record]
    lengths: list[int]
    skipped: int


def fit_records(records: Sequence[Record], lengths: Sequence[int], limit: int, *, policy: str) -> Fitted:
    """Keep the records of at most `limit` tokens. No sample is ever cut.

    Args:
        records: conversation records.
        lengths: tokens of each.
        limit: longest allowed sample in tokens.
        policy: "error" refuses longer samples, "skip" leaves them out.

    Raises:
        ValueError: there are longer samples and the policy is "error", or none is left.
    """
    kept = [index for index, length in enumerate(lengths) if length <= limit]
    skipped = len(records) - len(kept)
    longest = max(lengths)
    if skipped and (policy == "error" or not kept):
        first = next(index for index, length in enumerate(lengths) if length > limit)
        raise ValueError(
            f"{skipped} of {len(records)} records are longer than {limit} tokens, the longest has {longest} "
            f"(first: {records[first]['id']!r}); set --model_max_length {longest} if the base can take it, "
            "--long_samples skip to leave them out, or build records with a smaller grid or fewer rounds"
        )
    return Fitted([records[index] for index in kept], [lengths[index] for index in kept], skipped)


class ConversationDataset(Dataset[dict[str, torch.Tensor]]):
    """Features of one record at a time: `text_features` and `image_features`.

    An index may go on counting through the epochs. Images of
    records without a mask are squashed like the others, as inference does it; Text4Seg pads those.

    Args:
        records: checked conversation records.
        image_folder: folder that their image paths start from.
        processor: the checkpoint's.
        settings: the checkpoint's settings.
    """

    def __init__(
        self,
        records: Sequence[Record],
        image_folder: Path,
        *,
        processor: Any,  # noqa: ANN401
        settings: SegmentationSettings,
    ) -> None:
        self.records = records
        self.image_folder = image_folder
        self.processor = processor
        self.settings = settings

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        record = self.records[index % len(self.records)]
        return text_features(
            record, self.processor, self.settings, image_folder=self.image_folder
        ) | image_features(record, self.image_folder, self.processor, self.settings)


def text_features(
    record: Record,
    processor: Any,  # noqa: ANN401
    settings: SegmentationSettings,
    *,
    image_folder: Path = Path(),
) -> dict[str, torch.Tensor]:
    """input_ids int64 (n,) and labels int64 (n,) of a record, and what else its family takes of each token.

    Where the number of image tokens depends on the image, its size is read from its file; the pixels are not.

    Raises:
        ValueError: the text cannot be taken apart into questions and answers; names the record.
    """
    count = image_tokens_of(record, image_folder, processor, settings)
    try:
        ids, labels = tokenize(render(settings.prompt, rounds_of(record)), processor, image_tokens=count)
    except ValueError as error:
        raise ValueError(f"record {record['id']!r}: {error}") from error
    return _token_features(ids, labels, processor)


def _token_features(ids: list[int], labels: list[int], processor: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401
    """Token ids and labels as tensors (n,), and what else the family takes of each token."""
    words = torch.tensor(ids)
    more = backbone_of_processor(processor).text_inputs(words, processor)
    return {"input_ids": words, "labels": torch.tensor(labels)} | more


def blank_features(processor: Any, settings: SegmentationSettings) -> dict[str, torch.Tensor]:  # noqa: ANN401
    """Features of a sample that shows a black image and teaches nothing: no token of it is supervised."""
    backbone = backbone_of_processor(processor)
    image = Image.new("RGB", (BLANK_SIDE, BLANK_SIDE))
    count = backbone.image_tokens(image.size, processor, settings)
    ids, labels = tokenize(render(settings.prompt, [(IMAGE_TOKEN, None)]), processor, image_tokens=count)
    return _token_features(ids, labels, processor) | backbone.image_inputs(image, processor, settings)


def image_tokens_of(
    record: Record,
    image_folder: Path,
    processor: Any,  # noqa: ANN401
    settings: SegmentationSettings,
) -> int:
    """Number of tokens that the record's image occupies.

    Raises:
        ValueError: the family takes no image of this shape; names the record.
    """
    backbone = backbone_of_processor(processor)
    if backbone.has_fixed_size(settings):
        size_wh = (settings.image_side, settings.image_side)
    elif "image" in record:
        size_wh = image_size(image_folder / record["image"], crop=record.get("crop_size"))
    else:
        return 0
    try:
        return backbone.image_tokens(size_wh, processor, settings)
    except ValueError as error:
        raise ValueError(f"record {record['id']!r}, image of {size_wh} pixels: {error}") from error


def image_features(
    record: Record,
    image_folder: Path,
    processor: Any,  # noqa: ANN401
    settings: SegmentationSettings,
) -> dict[str, torch.Tensor]:
    """What the model takes of a record's image (pixel_values …); nothing where it shows none."""
    if "image" not in record:
        return {}
    image = open_image(
        image_folder / record["image"], crop=record.get("crop_size"), flip=record.get("flip", False)
    )
    return backbone_of_processor(processor).image_inputs(image, processor, settings)


def open_image(path: Path, *, crop: Sequence[int] | None = None, flip: bool = False) -> Image.Image:
    """RGB image in the orientation in which its file stores the pixels, where the masks lie.

    Args:
        path: image file.
        crop: (left, top, right, bottom) in pixels to cut out, as Text4Seg's semantic records give it.
        flip: mirror left to right what is left of it.

    Raises:
        FileNotFoundError, ValueError: see `load_image`.
    """
    rgb = load_image(path)
    if crop:
        rgb = rgb.crop(tuple(crop))  # type: ignore[arg-type]
    return rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else rgb


def image_size(path: Path, *, crop: Sequence[int] | None = None) -> tuple[int, int]:
    """(width, height) of what `open_image` gives, without reading the pixels.

    Raises:
        FileNotFoundError, ValueError: see `opened_image`.
    """
    if crop:
        left, top, right, bottom = crop
        return right - left, bottom - top
    with opened_image(path) as image:
        return image.size
