"""COCO Panoptic 2017: every pixel of an image belongs to one segment of one of 133 classes.

`panoptic_<split>2017.json` (`images`, `annotations` with `segments_info`, `categories`) and a PNG of segment
ids for each image. Segments of one class become one target; a crowd is a region of its class like any other.
Segments of things are the target's instances, segments of stuff only are parts of a region. Pixels of id 0
belong to no decision.

Source: https://cocodataset.org/#format-data (5. Panoptic Segmentation).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava.data.problems import Problems
from llava.data.readers.classes import class_names
from llava.data.readers.info import DatasetInfo
from llava.data.readers.label_maps import LabelMap, class_samples
from llava.data.readers.lookup import check_split, coco_folders, has_keys
from llava.data.readers.segment_maps import map_folders, segmented_images
from llava.data.readers.shapes import masks_by_value
from llava.data.rle import merge_rles, rle_area
from llava.types import Rle, Sample

NAME = "coco_panoptic"
SPLITS = ("train", "val")
CLASSES = class_names("coco_panoptic")

VOID = 0
"""Id of pixels that no segment claims."""

LAST_THING = 90
"""Categories up to it are things, which can be counted; stuff comes behind them (`isthing` of the file)."""

_SEGMENT_KEYS = frozenset({"id", "category_id", "area"})


def read_panoptic(root: Path, split: str, problems: Problems) -> Iterator[Sample]:
    """One sample for each class in each image, in the order of the file.

    An image of which one segment is wrong is left out as a whole: what is not marked there would be taught as
    background. Ids are "coco_panoptic|split|<image id>.<category id>|0".

    Raises:
        ValueError: unknown split, a damaged file, or a wrong record that `problems` does not admit.
        FileNotFoundError: the file, the folder of maps or that of images is missing.
    """
    check_split(split, SPLITS, NAME)
    images = segmented_images(root, split, _files(split), problems=problems, title=f"{NAME}|{split}")
    for record, ids, path, place in images:
        parts = _parts(record, ids, problems, place)
        if parts is None:
            continue
        masks = {category: merge_rles(found, ids.shape) for category, found in parts.items()}
        ignore = masks.pop(VOID, None)
        yield from class_samples(
            f"{NAME}|{split}|{record['image_id']}",
            masks,
            CLASSES,
            image=(path, int(record["image_id"])),
            ignore=ignore,
            instances={category: parts[category] for category in masks if category <= LAST_THING},
        )


def _parts(
    record: Mapping[str, Any], ids: LabelMap, problems: Problems, place: str
) -> dict[int, list[Rle]] | None:
    """Segments of each category, `VOID` among them where it has pixels; None after a report."""
    left = masks_by_value(ids)
    void = left.pop(VOID, None)
    parts: dict[int, list[Rle]] = {} if void is None else {VOID: [void]}
    for number, segment in enumerate(record["segments_info"]):
        where = f"{place}, segment {number}"
        if not has_keys(segment, _SEGMENT_KEYS, problems, where):
            return None
        fault = _segment_fault(segment, left)
        if fault is not None:
            problems.report(fault[0], where, fault[1])
            return None
        parts.setdefault(segment["category_id"], []).append(left.pop(segment["id"]))
    if left:
        unknown = f"the map has pixels of id {min(left)}, no segment of the annotation has that id"
        problems.report("pixels of an unknown segment", place, unknown)
        return None
    return parts


def _segment_fault(segment: Mapping[str, Any], left: Mapping[int, Rle]) -> tuple[str, str] | None:
    """Kind and description of what is wrong with a segment, None if nothing is.

    Args:
        segment: entry of `segments_info`.
        left: masks by id that no earlier segment claimed.
    """
    if segment["id"] not in left:
        return "segment without a pixel", f"no pixel of id {segment['id']} is left in the map"
    if segment["category_id"] not in CLASSES:
        return "unknown class", f"category {segment['category_id']} is none of COCO's {len(CLASSES)}"
    area = rle_area(left[segment["id"]])
    if segment["area"] != area:
        return "segment of another area", f"stated are {segment['area']} pixels, the map has {area}"
    return None


def _files(split: str) -> list[str]:
    """Where the annotations of a split may lie."""
    folders = ("coco/annotations", "annotations", ".")
    return [f"{folder}/panoptic_{split}2017.json" for folder in folders]


INFOS: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name=NAME,
        family="semantic",
        splits=SPLITS,
        read=read_panoptic,
        needs=tuple(
            " or ".join(places)
            for split in SPLITS
            for places in (_files(split), map_folders(split), coco_folders(f"{split}2017"))
        ),
        page="https://cocodataset.org/#download (2017 panoptic train/val annotations)",
        images_page="https://cocodataset.org/#download (2017 images)",
        classes=tuple(names.name for names in CLASSES.values()),
        coco_images=True,
    ),
)
"""COCO Panoptic 2017."""
