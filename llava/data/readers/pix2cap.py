"""Pix2Cap-COCO: a caption for every panoptic segment of COCO 2017 images (arXiv 2501.13893).

`pix2cap_coco_<split>.json` is a COCO panoptic file whose `segments_info` carry a `description`; the segments'
pixels are those of COCO's own panoptic PNGs, id = red + 256 green + 65536 blue.

Known from the authors' loader: file names, keys, and that captions of fewer than three characters are
worthless (there they cost the whole training image, here their segment). Ours: a caption asks for its segment
as a question would, and the segment goes by its class name, as a label of twenty words in every run of a mask
would cost thousands of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from llava.data.problems import Problems
from llava.data.readers.classes import class_names
from llava.data.readers.info import DatasetInfo
from llava.data.readers.lookup import (
    DOWNLOAD_AGAIN,
    PROGRESS_FROM,
    Pictures,
    check_split,
    coco_folders,
    find_path,
    has_keys,
    load_json,
    require,
)
from llava.data.readers.shapes import masks_by_value
from llava.data.rle import rle_box_xyxy
from llava.types import IntArray, Rle, Sample

NAME = "pix2cap"
SPLITS = ("train", "val")

MIN_CAPTION = 3
"""Characters. Shorter captions say nothing (the authors' loader)."""

_CLASSES = class_names("coco_panoptic")
_KEYS = frozenset({"image_id", "file_name", "segments_info"})
_SEGMENT_KEYS = frozenset({"id", "category_id", "description"})


def read_pix2cap(root: Path, split: str, problems: Problems) -> Iterator[Sample]:
    """One sample for each captioned segment, in the order of the file.

    `question` is the caption, `expression` the class name of COCO Panoptic, `image_id` COCO's.

    Raises:
        ValueError: unknown split, a damaged file, or a wrong record that `problems` does not admit.
        FileNotFoundError: the file, the folder of maps or that of images is missing.
    """
    check_split(split, SPLITS, NAME)
    path = find_path(root, _files(split))
    content = require(load_json(path), frozenset({"annotations"}), str(path))
    maps = find_path(root, _maps(split))
    pictures = Pictures(root, coco_folders(f"{split}2017"))
    records = content["annotations"]
    seen: set[int] = set()
    progress = tqdm(records, desc=f"{NAME}|{split}", unit="image", disable=len(records) < PROGRESS_FROM)
    for number, record in enumerate(progress):
        if not has_keys(record, _KEYS, problems, f"{path}: annotation {number}"):
            continue
        place = f"{path}: image {record['image_id']}"
        if record["image_id"] in seen:
            problems.report("id that stands twice", place, "the image is annotated twice")
            continue
        seen.add(record["image_id"])
        ids = _read_map(maps / record["file_name"], problems, place)
        size_hw = None if ids is None else (ids.shape[0], ids.shape[1])
        name = f"{Path(record['file_name']).stem}.jpg"
        picture = pictures.check(name, size_hw, problems=problems, place=place) if size_hw else None
        if ids is None or picture is None:
            continue
        for segment, mask in _segments(record, ids, problems, place):
            yield Sample(
                id=f"{NAME}|{split}|{record['image_id']}.{segment['id']}|0",
                image_path=picture[0],
                image_id=int(record["image_id"]),
                size_hw=picture[1],
                expression=_CLASSES[segment["category_id"]].name,
                mask=mask,
                boxes_xyxy=(rle_box_xyxy(mask),),
                synonyms=_CLASSES[segment["category_id"]].synonyms,
                question=" ".join(segment["description"].split()),
            )


def _files(split: str) -> list[str]:
    """Where the captions of a split may lie."""
    return [
        f"{folder}/pix2cap_coco_{split}.json" for folder in ("pix2cap", "coco/annotations", "annotations")
    ]


def _maps(split: str) -> list[str]:
    """Where the panoptic maps of a split may lie."""
    return [
        f"{folder}/panoptic_{split}2017" for folder in ("coco/annotations", "coco", "annotations", "pix2cap")
    ]


def _read_map(path: Path, problems: Problems, place: str) -> IntArray | None:
    """Segment ids, int64 (H, W), of a panoptic PNG; None after a report."""
    try:
        with Image.open(path) as picture:
            colours = np.asarray(picture)
    except (UnidentifiedImageError, OSError) as error:
        problems.report("missing panoptic map", place, f"{path} cannot be read ({error}); {DOWNLOAD_AGAIN}")
        return None
    if colours.ndim != 3:
        problems.report("missing panoptic map", place, f"{path} is no colour image; {DOWNLOAD_AGAIN}")
        return None
    red, green, blue = (colours[..., channel].astype(np.int64) for channel in range(3))
    return red + 256 * green + 65536 * blue


def _segments(
    record: Mapping[str, Any], ids: IntArray, problems: Problems, place: str
) -> list[tuple[dict[str, Any], Rle]]:
    """Captioned segments of an image with their masks."""
    masks = masks_by_value(ids)
    kept: list[tuple[dict[str, Any], Rle]] = []
    for number, segment in enumerate(record["segments_info"]):
        where = f"{place}, segment {number}"
        if not has_keys(segment, _SEGMENT_KEYS, problems, where):
            continue
        if segment["id"] not in masks:
            problems.report("segment without a pixel", where, f"the map has no pixel of id {segment['id']}")
        elif segment["category_id"] not in _CLASSES:
            problems.report("unknown class", where, f"COCO Panoptic has no class {segment['category_id']}")
        elif len(str(segment["description"] or "").strip()) < MIN_CAPTION:
            problems.note("segments without a caption", where)
        else:
            kept.append((segment, masks[segment["id"]]))
    return kept


INFOS: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name=NAME,
        family="reasoning",
        splits=SPLITS,
        read=read_pix2cap,
        needs=tuple(
            " or ".join(places(split))
            for split in SPLITS
            for places in (_files, _maps, lambda split: coco_folders(f"{split}2017"))
        ),
        page="https://huggingface.co/datasets/geshang/Pix2Cap-COCO",
        images_page="https://cocodataset.org/#download (2017 images, 2017 panoptic annotations)",
        coco_images=True,
    ),
)
"""Pix2Cap-COCO, 167,254 captions."""
