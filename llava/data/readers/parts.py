"""Parts of objects: PACO-LVIS and PASCAL-Part.

Both come as a COCO file whose categories are objects ("mug") and parts of objects ("mug:handle"); one sample
is all of one category in one image, each annotation one of its instances. PASCAL-Part is also read as its
authors published it, one MATLAB file for each image (`llava.data.readers.pascal_mat`).

Known from the PACO page: keys, 75 objects and 456 parts, run-length masks, images named "train2017/…". Known
from VLPart's script: the 93 classes of PASCAL-Part and their numbers. No real file of either is at hand.

PACO annotates like LVIS: what is not marked may still be there, so it names no absent classes.

Sources: https://github.com/facebookresearch/paco (docs/PACO_DATASET.md, arXiv 2301.01795),
https://github.com/facebookresearch/VLPart, http://roozbehm.info/pascal-parts/pascal-parts.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.data.problems import Problems
from llava.data.readers import pascal_mat
from llava.data.readers.classes import class_names
from llava.data.readers.info import DatasetInfo
from llava.data.readers.lookup import (
    PROGRESS_FROM,
    Pictures,
    check_split,
    coco_folders,
    find_path,
    has_keys,
    load_json,
    require,
)
from llava.data.readers.shapes import checked_union
from llava.data.rle import merge_rles, rle_area, rle_box_xyxy
from llava.types import Rle, Sample

PACO, PASCAL_PART = "paco_lvis", "pascal_part"
PACO_SPLITS = ("train", "val", "test")

_KEYS = frozenset({"images", "annotations", "categories"})
_IMAGE_KEYS = frozenset({"id", "file_name", "height", "width"})
_ANNOTATION_KEYS = frozenset({"id", "image_id", "category_id", "segmentation"})
_DETAIL = "_("
"""Starts what LVIS adds to a name that has several meanings, as in "car_(automobile)"."""


def plain_part_name(category: str) -> str:
    """Name of a category in plain words, "object" or "object:part".

    Example:
        >>> plain_part_name("mouse_(computer_equipment):left_button"), plain_part_name("dog:head")
        ('mouse:left button', 'dog:head')
    """
    return ":".join(name.split(_DETAIL)[0].replace("_", " ").strip() for name in category.split(":"))


def read_paco(root: Path, split: str, problems: Problems) -> Iterator[Sample]:
    """One sample for each object or part class in each image, images in the order of the file.

    Raises:
        ValueError: unknown split, a damaged file, or a wrong record that `problems` does not admit.
        FileNotFoundError: the file or the image folder is missing.
    """
    check_split(split, PACO_SPLITS, PACO)
    path = find_path(root, _paco_files(split))
    pictures = Pictures(root, _paco_images())
    yield from _read_coco(path, f"{PACO}|{split}", pictures, problems)


def read_pascal_part(root: Path, split: str, problems: Problems) -> Iterator[Sample]:
    """One sample for each part class in each image; from MATLAB files also one for each object class.

    Raises:
        ValueError: unknown split, a damaged file, or a wrong record that `problems` does not admit.
        FileNotFoundError: the annotations or the image folder are missing.
    """
    check_split(split, pascal_mat.SPLITS, PASCAL_PART)
    found = next((Path(root) / name for name in _pascal_files(split) if (Path(root) / name).is_file()), None)
    if found is None:
        find_path(root, (*_pascal_files(split), *pascal_mat.FOLDERS))
    pictures = Pictures(root, pascal_mat.IMAGE_FOLDERS)
    if found is not None:
        yield from _read_coco(found, f"{PASCAL_PART}|{split}", pictures, problems)
        return
    place = f"{PASCAL_PART}|{split}"
    for picture, image_id, masks in pascal_mat.read_mats(root, split, pictures, problems):
        yield from _samples(f"{place}|{image_id}", masks, picture=picture, image_id=image_id)


def _read_coco(path: Path, spec: str, pictures: Pictures, problems: Problems) -> Iterator[Sample]:
    """Samples of one COCO file of objects and parts."""
    content = require(load_json(path), _KEYS, str(path))
    categories = (
        require(category, frozenset({"id", "name"}), f"{path}: category number {number}")
        for number, category in enumerate(content["categories"])
    )
    names = {category["id"]: plain_part_name(category["name"]) for category in categories}
    by_image = _annotations_by_image(content, names, path, problems)
    seen: set[int] = set()
    records = content["images"]
    progress = tqdm(records, desc=spec, unit="image", disable=len(records) < PROGRESS_FROM)
    for number, record in enumerate(progress):
        if not has_keys(record, _IMAGE_KEYS, problems, f"{path}: image number {number}"):
            continue
        place = f"{path}: image {record['id']}"
        if record["id"] in seen:
            problems.report("id that stands twice", place, "the image is listed twice")
            continue
        seen.add(record["id"])
        size_hw = (int(record["height"]), int(record["width"]))
        picture = _picture(record["file_name"], size_hw, pictures, problems=problems, place=place)
        if picture is None:
            continue
        masks = {}
        for name, group in by_image.get(record["id"], {}).items():
            found = _annotated(group, size_hw, path, problems)
            if found:
                masks[name] = found
        yield from _samples(f"{spec}|{record['id']}", masks, picture=picture, image_id=int(record["id"]))


def _picture(
    file_name: str, size_hw: tuple[int, int], pictures: Pictures, *, problems: Problems, place: str
) -> Path | None:
    """Where an image lies, None after a report. PASCAL's names may start with folders of another machine."""
    under = pictures.path(file_name)
    name = file_name if under.is_file() else Path(file_name).name
    found = pictures.check(name, size_hw, problems=problems, place=place)
    return found[0] if found else None


def _annotations_by_image(
    content: Mapping[str, Any], names: Mapping[int, str], path: Path, problems: Problems
) -> dict[int, dict[str, list[Mapping[str, Any]]]]:
    """Annotations by image and class name, in the order of the file."""
    by_image: dict[int, dict[str, list[Mapping[str, Any]]]] = {}
    listed = [record.get("id") for record in content["images"] if isinstance(record, dict)]
    known = {image_id for image_id in listed if isinstance(image_id, (int, str))}
    seen: set[int] = set()
    for number, annotation in enumerate(content["annotations"]):
        if not has_keys(annotation, _ANNOTATION_KEYS, problems, f"{path}: annotation number {number}"):
            continue
        place = f"{path}: annotation {annotation['id']}"
        if annotation["id"] in seen:
            problems.report("id that stands twice", place, "the annotation is listed twice")
        elif annotation["category_id"] not in names:
            problems.report(
                "unknown class", place, f"category {annotation['category_id']} is not in the file"
            )
        elif annotation["image_id"] not in known:
            problems.report("unknown image", place, f"image {annotation['image_id']} is not in the file")
        else:
            classes = by_image.setdefault(annotation["image_id"], {})
            classes.setdefault(names[annotation["category_id"]], []).append(annotation)
        seen.add(annotation["id"])
    return by_image


def _annotated(
    annotations: Sequence[Mapping[str, Any]], size_hw: tuple[int, int], path: Path, problems: Problems
) -> list[Rle]:
    """Masks with a pixel of one class in one image; none where one of its annotations is wrong.

    A union without the wrong one would teach that its pixels are something else.
    """
    masks = []
    for annotation in annotations:
        place = f"{path}: annotation {annotation['id']}"
        mask = checked_union(annotation["segmentation"], size_hw, problems=problems, place=place)
        if mask is None:
            return []
        masks.append(mask)
    masks = [mask for mask in masks if rle_area(mask)]
    if not masks:
        problems.note("classes without a pixel", f"{path}: annotation {annotations[0]['id']}")
    return masks


def _samples(
    place: str, masks: Mapping[str, Sequence[Rle]], *, picture: Path, image_id: int
) -> Iterator[Sample]:
    """One sample for each class of one image.

    Args:
        place: "name|split|image", first part of the ids.
        masks: of each object and of each part of an object, by "object" or "object:part".
        picture: the image.
        image_id: number of the image in its dataset.
    """
    for name, found in masks.items():
        whole, _, part = name.partition(":")
        size_hw = (int(found[0]["size"][0]), int(found[0]["size"][1]))
        mask = merge_rles(list(found), size_hw)
        yield Sample(
            id=f"{place}.{name}|0",
            image_path=picture,
            image_id=image_id,
            size_hw=size_hw,
            expression=part or whole,
            mask=mask,
            boxes_xyxy=(rle_box_xyxy(mask),),
            part_of=whole if part else "",
            instances=tuple(found) if len(found) > 1 else (),
        )


def _paco_files(split: str) -> list[str]:
    """Where the annotations of a split of PACO-LVIS may lie."""
    bases = ("paco_lvis/annotations", "vlpart/paco/annotations", "vlpart/paco_lvis/annotations", "paco")
    return [f"{base}/paco_lvis_v1_{split}.json" for base in bases]


def _paco_images() -> list[str]:
    """Where COCO's images may lie, with and without the folder that PACO's file names start with."""
    folders = [folder for part in ("train2017", "val2017") for folder in coco_folders(part)]
    return list(dict.fromkeys([folder.rpartition("/")[0] for folder in folders] + folders))


def _pascal_files(split: str) -> list[str]:
    """Where the COCO file of a split of PASCAL-Part may lie."""
    return [f"{base}/{split}.json" for base in pascal_mat.BASES]


def part_phrases(list_name: str) -> tuple[str, ...]:
    """Parts of a class list of "object:part" names, as questions name them: "head of the dog"."""
    pairs = (names.name.split(":") for names in class_names(list_name).values())
    return tuple(f"{part} of the {whole}" for whole, part in pairs)


INFOS: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name=PACO,
        family="parts",
        splits=PACO_SPLITS,
        read=read_paco,
        needs=(
            *(" or ".join(_paco_files(split)) for split in PACO_SPLITS),
            *(" or ".join(coco_folders(part)) for part in ("train2017", "val2017")),
        ),
        page="https://github.com/facebookresearch/paco (paco_lvis_v1.zip)",
        images_page="https://cocodataset.org/#download (2017 images)",
        coco_images=True,
    ),
    DatasetInfo(
        name=PASCAL_PART,
        family="parts",
        splits=pascal_mat.SPLITS,
        read=read_pascal_part,
        needs=(
            *(" or ".join([*_pascal_files(split), *pascal_mat.FOLDERS]) for split in pascal_mat.SPLITS),
            " or ".join(pascal_mat.IMAGE_FOLDERS),
        ),
        page="http://roozbehm.info/pascal-parts/pascal-parts.html, or train.json and val.json of VLPart",
        images_page="http://host.robots.ox.ac.uk/pascal/VOC/voc2010",
        classes=part_phrases("pascal_part"),
    ),
)
"""PACO-LVIS and PASCAL-Part."""
