"""ReasonSeg: questions that need reasoning, with polygons (LISA, arXiv 2308.00692).

Each image `<name>.jpg` has `<name>.json` beside it with `text` (a list; training images have up to five
wordings of one question), `is_sentence`, and `shapes`. The file looks like labelme's and is none. Labels:
"flag" is no mask, a label with "ignore" in it marks pixels that belong to no decision, every other label is
target. Shapes are painted from the largest to the smallest, so that a small one stays visible on a large one,
with the fill and the one-pixel outline of OpenCV on corners cut to whole pixels, as LISA does: the masks are
the published ones. Pixels of "ignore" become `Sample.ignore` (GSVA's evaluation counts
them as target, InstructSeg's as background; LISA drops them, and so do we).
`explanatory/train.json` is a list of {image, query, outputs} about some training images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from llava.data.problems import Problems
from llava.data.readers.info import DatasetInfo
from llava.data.readers.lookup import (
    PROGRESS_FROM,
    Pictures,
    asked_turn,
    check_split,
    find_path,
    has_keys,
    load_json,
)
from llava.data.readers.shapes import polygon_fault
from llava.data.rle import encode_mask, rle_area, rle_box_xyxy
from llava.types import BoolArray, Rle, Sample

NAME, GENERATED = "reasonseg", "reasonshapes"
SPLITS = ("train", "val", "test")

TARGET_LABEL = "target"
"""Word for the target where the whole question is a sentence: the label that ReasonSeg itself uses."""

_ROOTS = ("reason_seg/ReasonSeg", "ReasonSeg")
_KEYS = frozenset({"text", "shapes"})


def read_reasonseg(root: Path, split: str, problems: Problems) -> Iterator[Sample]:
    """One sample for each wording of each image's question, by file name.

    A wording that is a sentence comes as `question` with the expression "target"; a wording that is a phrase
    comes as expression. `group` tells them apart: "long query" and "short query", LISA's names. `image_id` is
    the image's place in the order of file names.

    Raises:
        ValueError: unknown split, or a wrong record that `problems` does not admit.
        FileNotFoundError: the folder of the split is missing.
    """
    check_split(split, SPLITS, NAME)
    folder = find_path(root, [f"{base}/{split}" for base in _ROOTS])
    explanations = _explanations(folder.parent, problems) if split == "train" else {}
    yield from read_questions(folder, f"{NAME}|{split}", problems, explanations=explanations)


def read_reasonshapes(root: Path, split: str) -> Iterator[Sample]:
    """The generated set of this layout, `reasonshapes/val`; its name keeps its scores apart from ReasonSeg's.

    Raises:
        ValueError: unknown split, or a wrong record.
        FileNotFoundError: the folder is missing.
    """
    check_split(split, ("val",), GENERATED)
    yield from read_questions(find_path(root, [f"{GENERATED}/{split}"]), f"{GENERATED}|{split}", Problems())


def read_questions(
    folder: Path, title: str, problems: Problems, *, explanations: Mapping[str, str] | None = None
) -> Iterator[Sample]:
    """Samples of one folder.

    Args:
        folder: with `<name>.jpg` and `<name>.json`.
        title: "name|split", first part of the ids.
        problems: decides what becomes of wrong records.
        explanations: answer in words by image file.
    """
    explanations = explanations or {}
    pictures = Pictures(folder, ("",))
    stems = sorted({path.stem for suffix in ("jpg", "json") for path in folder.glob(f"*.{suffix}")})
    progress = tqdm(stems, desc=title, unit="image", disable=len(stems) < PROGRESS_FROM)
    for number, stem in enumerate(progress):
        place = str(folder / f"{stem}.json")
        record = _record(folder / f"{stem}.json", problems)
        picture = pictures.check(f"{stem}.jpg", None, problems=problems, place=place) if record else None
        masks = _masks(record["shapes"], picture[1], problems, place) if record and picture else None
        if record is None or picture is None or masks is None:
            continue
        _note_turned(picture[0], problems)
        for k, text in enumerate(record["text"]):
            yield Sample(
                id=f"{title}|{stem}|{k}",
                image_path=picture[0],
                image_id=number,
                size_hw=picture[1],
                expression=TARGET_LABEL if record["is_sentence"] else text.strip(),
                mask=masks[0],
                boxes_xyxy=(rle_box_xyxy(masks[0]),) if rle_area(masks[0]) else (),
                group="long query" if record["is_sentence"] else "short query",
                question=text.strip() if record["is_sentence"] else "",
                answer=explanations.get(f"{stem}.jpg", ""),
                ignore=masks[1],
            )


def _note_turned(path: Path, problems: Problems) -> None:
    """Count an image that asks viewers to turn it: its corners may have been set on the turned one."""
    with Image.open(path) as picture:
        turn = asked_turn(picture)
    if turn != 1:
        problems.note("images that ask to be turned, masks lie on the pixels as stored", f"{path}: {turn}")


def _record(path: Path, problems: Problems) -> dict[str, Any] | None:
    """Checked content of an annotation file; None after a report."""
    if not path.is_file():
        problems.report("image without annotation", str(path), "the file is missing; download the set again")
        return None
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
        problems.note("text in cp1252 read as such", str(path))
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        problems.report("damaged annotation", str(path), f"not valid JSON ({error})")
        return None
    if not has_keys(record, _KEYS, problems, str(path)):
        return None
    wordings = record["text"] if isinstance(record["text"], list) else []
    if not wordings or not all(isinstance(wording, str) and wording.strip() for wording in wordings):
        problems.report("no question", str(path), f"text is {record['text']!r}, needed a list of questions")
        return None
    if not isinstance(record["shapes"], list):
        problems.report("damaged annotation", str(path), "shapes is no list")
        return None
    return {"text": wordings, "is_sentence": bool(record.get("is_sentence")), "shapes": record["shapes"]}


def _masks(
    shapes: list[Any], size_hw: tuple[int, int], problems: Problems, place: str
) -> tuple[Rle, Rle | None] | None:
    """Target and ignored pixels as RLEs, None for nothing ignored; None after a report."""
    painted: list[tuple[int, bool, BoolArray]] = []
    for number, shape in enumerate(shapes):
        where = f"{place}: shape {number}"
        if not has_keys(shape, frozenset({"label", "points"}), problems, where):
            return None
        label = str(shape["label"]).lower()
        if label == "flag":
            continue
        fault = _points_fault(shape["points"], size_hw)
        if fault is not None:
            problems.report(fault[0], where, fault[1])
            return None
        layer = paint(shape["points"], size_hw)
        painted.append((int(layer.sum()), "ignore" in label, layer))
    target, ignored = np.zeros(size_hw, dtype=bool), np.zeros(size_hw, dtype=bool)
    for _, ignores, layer in sorted(painted, key=lambda shape: -shape[0]):
        target[layer], ignored[layer] = not ignores, ignores
    return encode_mask(target), encode_mask(ignored) if ignored.any() else None


def _points_fault(points: Any, size_hw: tuple[int, int]) -> tuple[str, str] | None:  # noqa: ANN401 - raw JSON
    """What is wrong with the corners [[x, y], …] of a shape; None if nothing is."""
    if not isinstance(points, list) or not points:
        return "shape without corners", f"points is {str(points)[:40]!r}, needed a list of [x, y]"
    odd = [point for point in points if not isinstance(point, list) or len(point) != 2]
    if odd:
        return "odd polygon", f"a corner is {odd[0]!r}, needed [x, y]"
    return polygon_fault([value for point in points for value in point], size_hw)


def paint(points: list[list[float]], size_hw: tuple[int, int]) -> BoolArray:
    """Pixels of one shape, bool (H, W): outline of one pixel and inside.

    Args:
        points: corners [x, y] in pixels, cut to whole pixels.
        size_hw: height and width in pixels.
    """
    layer = np.zeros(size_hw, dtype=np.uint8)
    corners = [np.array([[math.trunc(x), math.trunc(y)] for x, y in points], dtype=np.int32)]
    cv2.polylines(layer, corners, isClosed=True, color=1, thickness=1)
    cv2.fillPoly(layer, corners, color=1)
    return layer.astype(bool)


def _explanations(folder: Path, problems: Problems) -> Mapping[str, str]:
    """Explanation of each training image that has one."""
    path = folder / "explanatory" / "train.json"
    if not path.is_file():
        problems.note("explanations not found, samples come without", str(path))
        return {}
    found: dict[str, str] = {}
    for number, record in enumerate(load_json(path)):
        if has_keys(record, frozenset({"image", "outputs"}), problems, f"{path}: record {number}"):
            found[Path(record["image"]).name] = str(record["outputs"]).strip()
    return found


INFOS: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name=NAME,
        family="reasoning",
        splits=SPLITS,
        read=read_reasonseg,
        needs=tuple(" or ".join(f"{base}/{split}" for base in _ROOTS) for split in (*SPLITS, "explanatory")),
        page="https://github.com/dvlab-research/LISA",
    ),
)
"""ReasonSeg, 239 / 200 / 779 images."""
