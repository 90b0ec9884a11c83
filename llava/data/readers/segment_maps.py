"""Files of the COCO panoptic form: an annotation file and a PNG of segment ids for each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from llava.data.problems import Problems
from llava.data.readers.label_maps import LabelMap, read_segment_map
from llava.data.readers.lookup import (
    PROGRESS_FROM,
    Pictures,
    coco_folders,
    find_path,
    has_keys,
    load_json,
    require,
)

_BASES = ("coco", "coco/annotations", "annotations", ".")
_KEYS = frozenset({"image_id", "file_name", "segments_info"})


class SegmentedImage(NamedTuple):
    """One annotated image.

    Attributes:
        record: entry of `annotations`.
        ids: segment ids of the pixels, int64 (H, W).
        path: the image file, of the size of `ids`.
        place: annotation file and image, for reports.
    """

    record: dict[str, Any]
    ids: LabelMap
    path: Path
    place: str


def map_folders(split: str) -> list[str]:
    """Where the panoptic PNGs of a split of COCO 2017 may lie under a root."""
    return [f"{base}/panoptic_{split}2017" for base in _BASES]


def segmented_images(
    root: Path, split: str, files: Sequence[str], *, problems: Problems, title: str
) -> Iterator[SegmentedImage]:
    """Images of an annotation file in its order, each once, with map and image file checked.

    Args:
        root: folder that everything lies under.
        split: "train" or "val" of COCO 2017.
        files: where the annotation file may lie.
        problems: takes records without their fields, repeated images, and maps and images that are wrong.
        title: name of the progress bar.

    Raises:
        FileNotFoundError: the file, the folder of maps or that of images is missing.
        ValueError: the file is damaged, or a record is wrong and `problems` does not admit it.
    """
    path = find_path(root, files)
    records = require(load_json(path), frozenset({"annotations"}), str(path))["annotations"]
    maps = find_path(root, map_folders(split))
    pictures = Pictures(root, coco_folders(f"{split}2017"))
    seen: set[int] = set()
    progress = tqdm(records, desc=title, unit="image", disable=len(records) < PROGRESS_FROM)
    for number, record in enumerate(progress):
        if not has_keys(record, _KEYS, problems, f"{path}: annotation {number}"):
            continue
        place = f"{path}: image {record['image_id']}"
        if record["image_id"] in seen:
            problems.report("id that stands twice", place, "the image is annotated twice")
            continue
        seen.add(record["image_id"])
        ids = read_segment_map(maps / record["file_name"], problems)
        if ids is None:
            continue
        name = f"{Path(record['file_name']).stem}.jpg"
        picture = pictures.check(name, (ids.shape[0], ids.shape[1]), problems=problems, place=place)
        if picture is not None:
            yield SegmentedImage(record, ids, picture[0], place)
