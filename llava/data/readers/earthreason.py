"""EarthReason: questions about aerial images that need reasoning (SegEarth-R1, arXiv 2504.09644).

`<split>/images`, `<split>/labels` (PNG, every value but 0 is target) and `<split>/QAs` (JSON with `questions`
and `answer`, two lists of sentences) belong together file by file. An empty `answer` list says that the
target is not in the image.

Known from SegEarth-R1's loaders: folders, keys, and that it pairs the three folders by sorted order. We pair
by file stem where the stems agree, which a missing file cannot shift, and by order only where no stem is in
all three folders. Assumed: `questions` and `answer` may be one sentence instead of a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from llava.data.images import UNREADABLE
from llava.data.problems import Problems
from llava.data.readers.info import DatasetInfo
from llava.data.readers.lookup import (
    PROGRESS_FROM,
    Pictures,
    check_split,
    find_path,
    has_keys,
    load_json,
)
from llava.data.readers.reasonseg import TARGET_LABEL
from llava.data.rle import encode_mask, rle_area, rle_box_xyxy
from llava.types import BoolArray, Sample

NAME = "earthreason"
SPLITS = ("train", "val", "test")

_ROOTS = ("earthreason", "EarthReason", "rs_reason_seg/RSReasonSeg")
_FOLDERS = {"images": (".jpg", ".jpeg", ".png"), "labels": (".png",), "QAs": (".json", ".txt")}


@dataclass(frozen=True)
class _Item:
    """Three files that belong together."""

    image: Path
    label: Path
    words: Path


def read_earthreason(root: Path, split: str, problems: Problems) -> Iterator[Sample]:
    """One sample for each question, by file name; the questions of an image are words for one target.

    `question` is the dataset's question, `expression` is "target", `answer` the answer of the same number
    (the answers start again where there are fewer). `image_id` is the image's place in the order of names.

    Raises:
        ValueError: unknown split, or a wrong record that `problems` does not admit.
        FileNotFoundError: a folder of the split is missing.
    """
    check_split(split, SPLITS, NAME)
    base = find_path(root, [f"{name}/{split}" for name in _ROOTS])
    items = _items(base, problems)
    pictures = Pictures(base, ("images",))
    progress = tqdm(items, desc=f"{NAME}|{split}", unit="image", disable=len(items) < PROGRESS_FROM)
    for number, item in enumerate(progress):
        words = _words(item.words, problems)
        mask = _read_label(item.label, problems) if words else None
        if words is None or mask is None:
            continue
        size_hw = (mask.shape[0], mask.shape[1])
        picture = pictures.check(item.image.name, size_hw, problems=problems, place=str(item.label))
        if picture is None:
            continue
        questions, answers = words
        if not answers and mask.any():
            problems.report(
                "no target or a target",
                str(item.words),
                f"no answer says that nothing is there, {item.label} marks {int(mask.sum())} pixels",
            )
            continue
        rle = encode_mask(mask)
        for k, question in enumerate(questions):
            yield Sample(
                id=f"{NAME}|{split}|{item.words.stem}|{k}",
                image_path=picture[0],
                image_id=number,
                size_hw=size_hw,
                expression=TARGET_LABEL,
                mask=rle,
                no_target=not answers,
                boxes_xyxy=(rle_box_xyxy(rle),) if rle_area(rle) else (),
                question=question,
                answer=answers[k % len(answers)] if answers else "",
            )


def _items(base: Path, problems: Problems) -> list[_Item]:
    """Files that belong together, by stem, or by order where no stem is in all three folders."""
    listed = {name: _listing(find_path(base, [name]), endings) for name, endings in _FOLDERS.items()}
    by_stem = [{path.stem: path for path in listed[name]} for name in _FOLDERS]
    common = set(by_stem[0]) & set(by_stem[1]) & set(by_stem[2])
    counts = {name: len(paths) for name, paths in listed.items()}
    if not common and len(set(counts.values())) == 1:
        problems.note("files paired by order, as their names differ", f"{base}: {counts}")
        return [_Item(*paths) for paths in zip(*listed.values(), strict=True)]
    for stem in sorted(set().union(*by_stem) - common):
        lacks = ", ".join(name for name, stems in zip(_FOLDERS, by_stem, strict=True) if stem not in stems)
        problems.report(
            "incomplete item", f"{base}: {stem}", f"has no file in {lacks}; download the set again"
        )
    return [_Item(*(stems[stem] for stems in by_stem)) for stem in sorted(common)]


def _listing(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files of a folder with one of some endings, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)


def _words(path: Path, problems: Problems) -> tuple[list[str], list[str]] | None:
    """Questions and answers of an image; None after a report."""
    try:
        record = load_json(path)
    except ValueError as error:
        problems.report("damaged annotation", str(path), str(error))
        return None
    if not has_keys(record, frozenset({"questions", "answer"}), problems, str(path)):
        return None
    questions, answers = _texts(record["questions"]), _texts(record["answer"])
    if questions is None or answers is None:
        given = f"questions {str(record['questions'])[:40]!r} and answer {str(record['answer'])[:40]!r}"
        problems.report("words that are no list", str(path), f"{given}, needed lists of sentences")
        return None
    if not questions:
        problems.report("no question", str(path), "questions has no sentence")
        return None
    return questions, answers


def _texts(value: object) -> list[str] | None:
    """Sentences of a list, or the one that stands in its place, without empty ones; None for other things."""
    listed = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        return None
    return [text.strip() for text in listed if text.strip()]


def _read_label(path: Path, problems: Problems) -> BoolArray | None:
    """Target pixels of a label image, bool (H, W), whatever its transparency; None after a report."""
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except UNREADABLE as error:
        problems.report("damaged label", str(path), f"not a readable image ({error})")
        return None
    marked = values != 0
    if values.ndim == 3:
        colours = values.shape[2] - (values.shape[2] in (2, 4))
        marked = marked[..., :colours].any(axis=2)
    return np.asarray(marked, dtype=bool)


INFOS: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name=NAME,
        family="reasoning",
        splits=SPLITS,
        read=read_earthreason,
        needs=tuple(" or ".join(f"{base}/{split}" for base in _ROOTS) for split in SPLITS),
        page="https://huggingface.co/datasets/earth-insights/EarthReason",
    ),
)
"""EarthReason, 5434 masks."""
