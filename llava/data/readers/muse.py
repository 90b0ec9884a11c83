"""MUSE: questions with several targets each (PixelLM, arXiv 2312.02228).

One JSON list per split. A record names a COCO image by `file_name` (train2014) or `coco_url` (train2017,
val2017), states `height` and `width`, and has `questions`, `answers` (for each question a list of targets
with `segmentation`, `category_name` and often `rephrased_name`), and sometimes `text_answers`: for each
question None or a sentence with one "{seg}" where each target's mask belongs.

Known from PixelLM's loaders: the keys, the folders, and that a text answer whose count of "{seg}" differs
from the count of targets is left out. Assumed: the file names of the test splits, as later projects use them.
PixelLM leaves out the whole image then; we leave out the one question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.data.problems import Problems
from llava.data.readers.info import DatasetInfo
from llava.data.readers.lookup import (
    PROGRESS_FROM,
    Pictures,
    check_split,
    coco_folders,
    find_path,
    has_keys,
    load_json,
)
from llava.data.readers.shapes import checked_union
from llava.data.rle import rle_box_xyxy
from llava.types import Rle, Sample

NAME = "muse"
SPLITS = ("train", "val", "test_less", "test_many")

PLACEHOLDER = "{seg}"

_PARTS = ("train2014", "train2017", "val2017")
_FOLDERS = tuple(folder for part in _PARTS for folder in coco_folders(part))
_KEYS = frozenset({"height", "width", "questions", "answers"})


def read_muse(root: Path, split: str, problems: Problems) -> Iterator[Sample]:
    """One sample for each target of each question, in the order of the file.

    `question` is the dataset's question, the same for all its targets; `expression` is the target's rephrased
    name with the class as synonym, or the class alone; `answer` is the text answer with its placeholders
    taken out. `image_id` is COCO's.

    Raises:
        ValueError: unknown split, a damaged file, or a wrong record that `problems` does not admit.
        FileNotFoundError: the file or every image folder is missing.
    """
    check_split(split, SPLITS, NAME)
    path = find_path(root, _files(split))
    records = load_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path} holds a {type(records).__name__}, needed a list of records")
    pictures = Pictures(root, _FOLDERS)
    progress = tqdm(records, desc=f"{NAME}|{split}", unit="image", disable=len(records) < PROGRESS_FROM)
    for number, record in enumerate(progress):
        place = f"{path}: record {number}"
        if not has_keys(record, _KEYS, problems, place):
            continue
        name = _image_name(record)
        digits = re.findall(r"\d+", name)
        if not digits:
            problems.report("record without an image", place, f"file_name or coco_url names {name!r}")
            continue
        size_hw = (int(record["height"]), int(record["width"]))
        picture = pictures.check(name, size_hw, problems=problems, place=place)
        if picture is None:
            continue
        common = {"image_path": picture[0], "image_id": int(digits[-1]), "size_hw": size_hw}
        for k, question, targets, answer in _questions(record, problems, place):
            yield from _samples(targets, f"{NAME}|{split}|{number}.{k}", question, answer, common)


def _files(split: str) -> list[str]:
    """Where the file of a split may lie."""
    return [f"muse/{name}_{split}.json" for name in ("MUSE", "muse")]


def _image_name(record: Mapping[str, Any]) -> str:
    """File name of a record's image, "" where it names none."""
    return str(record.get("file_name") or record.get("coco_url") or "").rpartition("/")[2]


def _questions(
    record: Mapping[str, Any], problems: Problems, place: str
) -> Iterator[tuple[int, str, list[tuple[dict[str, Any], Rle]], str]]:
    """Number, words, targets with masks, and answer of each usable question."""
    questions, answers = record["questions"] or [], record["answers"] or []
    if not isinstance(questions, list) or not isinstance(answers, list):
        given = f"questions {str(questions)[:40]!r} and answers {str(answers)[:40]!r}, needed lists"
        problems.report("words that are no list", place, given)
        return
    texts = record.get("text_answers") or [None] * len(questions)
    if not isinstance(texts, list) or not len(questions) == len(answers) == len(texts):
        text_count = len(texts) if isinstance(texts, list) else 0
        counts = f"{len(questions)} questions, {len(answers)} answers and {text_count} text answers"
        problems.report(
            "questions without answers", place, f"the record has {counts}, needed as many of each"
        )
        return
    for k, (question, targets, text) in enumerate(zip(questions, answers, texts, strict=True)):
        where = f"{place}, question {k}"
        if not targets or not str(question).strip():
            problems.note("questions without words or targets", where)
        elif not isinstance(targets, list) or not isinstance(text, (str, type(None))):
            problems.report("words that are no list", where, f"targets {str(targets)[:40]!r}, needed a list")
        elif text is not None and text.count(PLACEHOLDER) != len(targets):
            problems.note("text answers that do not fit their targets", where)
        else:
            masks = _masks(targets, record, problems, where)
            if masks is not None:
                pairs = list(zip(targets, masks, strict=True))
                yield k, str(question).strip(), pairs, without_placeholders(text or "")


def _masks(
    targets: list[dict[str, Any]], record: Mapping[str, Any], problems: Problems, place: str
) -> list[Rle] | None:
    """Mask of each target of a question; None after a report, as the question is then incomplete."""
    size_hw = (int(record["height"]), int(record["width"]))
    masks: list[Rle] = []
    for number, target in enumerate(targets):
        where = f"{place}, target {number}"
        if not has_keys(target, frozenset({"segmentation", "category_name"}), problems, where):
            return None
        mask = checked_union(target["segmentation"], size_hw, problems=problems, place=where)
        if mask is None:
            return None
        masks.append(mask)
    return masks


def _samples(
    targets: list[tuple[dict[str, Any], Rle]],
    question_id: str,
    question: str,
    answer: str,
    common: Mapping[str, Any],
) -> Iterator[Sample]:
    """One sample for each target of a question."""
    for number, (target, mask) in enumerate(targets):
        class_name = str(target["category_name"]).replace("_", " ").strip()
        name = str(target.get("rephrased_name") or class_name).strip()
        yield Sample(
            id=f"{question_id}.{number}|0",
            expression=name,
            mask=mask,
            boxes_xyxy=(rle_box_xyxy(mask),),
            synonyms=(class_name,) if class_name != name else (),
            question=question,
            answer=answer,
            **common,
        )


def without_placeholders(text: str) -> str:
    """A text answer without its "{seg}", and without the brackets and spaces that stood around them.

    Example:
        >>> without_placeholders("The cup {seg} and the pot ({seg}) hold tea.")
        'The cup and the pot hold tea.'
    """
    bare = re.sub(r"\s*[(\[]?\{seg\}[)\]]?", "", text)
    return " ".join(bare.split())


INFOS: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name=NAME,
        family="reasoning",
        splits=SPLITS,
        read=read_muse,
        needs=(
            *(" or ".join(_files(split)) for split in SPLITS),
            *(" or ".join(coco_folders(p)) for p in _PARTS),
        ),
        page="https://github.com/MaverickRen/PixelLM",
        images_page="https://cocodataset.org/#download (2014 train, 2017 train and val)",
        coco_images=True,
    ),
)
"""MUSE, 246k questions on COCO images."""
