"""Pix2Cap-COCO: a caption for every panoptic segment of COCO 2017 images (arXiv 2501.13893).

`pix2cap_coco_<split>.json` is a COCO panoptic file whose `segments_info` carry a `description`; the segments'
pixels are those of COCO's own panoptic PNGs, id = red + 256 green + 65536 blue.

Known from the authors' loader: file names, keys, and that captions of fewer than three characters are
worthless (there they cost the whole training image, here their segment). Ours: a caption asks for its segment
as a question would, and the segment goes by its class name, as a label of twenty words in every run of a mask
would cost thousands of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava.data.problems import Problems
from llava.data.readers.classes import class_names
from llava.data.readers.info import DatasetInfo
from llava.data.readers.lookup import check_split, coco_folders, has_keys
from llava.data.readers.segment_maps import SegmentedImage, map_folders, segmented_images
from llava.data.readers.shapes import masks_by_value
from llava.data.rle import rle_box_xyxy
from llava.types import Rle, Sample

NAME = "pix2cap"
SPLITS = ("train", "val")

MIN_CAPTION = 3
"""Characters. Shorter captions say nothing (the authors' loader)."""

_CLASSES = class_names("coco_panoptic")
_KEYS = frozenset({"id", "category_id", "description"})


def read_pix2cap(root: Path, split: str, problems: Problems) -> Iterator[Sample]:
    """One sample for each captioned segment, in the order of the file.

    `question` is the caption, `expression` the class name of COCO Panoptic, `image_id` COCO's.

    Raises:
        ValueError: unknown split, a damaged file, or a wrong record that `problems` does not admit.
        FileNotFoundError: the file, the folder of maps or that of images is missing.
    """
    check_split(split, SPLITS, NAME)
    title = f"{NAME}|{split}"
    for image in segmented_images(root, split, _files(split), problems=problems, title=title):
        image_id = int(image.record["image_id"])
        for segment, mask in _segments(image, problems):
            yield Sample(
                id=f"{NAME}|{split}|{image_id}.{segment['id']}|0",
                image_path=image.path,
                image_id=image_id,
                size_hw=(image.ids.shape[0], image.ids.shape[1]),
                expression=_CLASSES[segment["category_id"]].name,
                mask=mask,
                boxes_xyxy=(rle_box_xyxy(mask),),
                synonyms=_CLASSES[segment["category_id"]].synonyms,
                question=" ".join(str(segment["description"]).split()),
            )


def _files(split: str) -> list[str]:
    """Where the captions of a split may lie."""
    return [
        f"{folder}/pix2cap_coco_{split}.json" for folder in ("pix2cap", "coco/annotations", "annotations")
    ]


def _segments(image: SegmentedImage, problems: Problems) -> Iterator[tuple[dict[str, Any], Rle]]:
    """Captioned segments of an image with their masks."""
    masks = masks_by_value(image.ids)
    for number, segment in enumerate(image.record["segments_info"]):
        where = f"{image.place}, segment {number}"
        if not has_keys(segment, _KEYS, problems, where):
            continue
        if segment["id"] not in masks:
            problems.report("segment without a pixel", where, f"the map has no pixel of id {segment['id']}")
        elif segment["category_id"] not in _CLASSES:
            problems.report("unknown class", where, f"COCO Panoptic has no class {segment['category_id']}")
        elif len(str(segment["description"] or "").strip()) < MIN_CAPTION:
            problems.note("segments without a caption", where)
        else:
            yield segment, masks[segment["id"]]


INFOS: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name=NAME,
        family="reasoning",
        splits=SPLITS,
        read=read_pix2cap,
        needs=tuple(
            " or ".join(places)
            for split in SPLITS
            for places in (_files(split), map_folders(split), coco_folders(f"{split}2017"))
        ),
        page="https://huggingface.co/datasets/geshang/Pix2Cap-COCO",
        images_page="https://cocodataset.org/#download (2017 images, 2017 panoptic annotations)",
        coco_images=True,
    ),
)
"""Pix2Cap-COCO, 167,254 captions."""
