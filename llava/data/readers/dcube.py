"""D-cube (D3, arXiv 2307.12813): descriptions that hold for any number of objects in an image.

Four pickles of dicts by id under `d3_pkl`: `images` (file_name, height, width, anno_id, group_id),
`sentences` (raw_sent, anno_id, is_negative: the description says what is absent), `annotations` (segmentation
as RLE, bbox, image_id, sent_id) and `groups` (inner_sent_id: the descriptions made for the group's images).

Known from the toolkit's documentation and code: these keys, boxes as arrays of one row, masks as one RLE or a
list of them, and that every description was checked on every image. An image's questions are the toolkit's
"intra-group" ones: the descriptions of its group, where one without annotation is honestly absent, and every
further description that has an annotation in the image. The benchmark has no training part: its settings
"full", "pres" (descriptions of what is there) and "abs" (of what is absent) are the splits here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.data.pickles import load_plain_pickle
from llava.data.problems import Problems
from llava.data.readers.info import DatasetInfo
from llava.data.readers.lookup import PROGRESS_FROM, Pictures, check_split, find_path, has_keys
from llava.data.readers.shapes import checked_union
from llava.data.rle import empty_rle, merge_rles, rle_box_xyxy
from llava.types import Rle, Sample

NAME = "dcube"
SPLITS = ("full", "pres", "abs")

_ROOTS = ("d_cube", "d3")
_KEYS = {
    "images": frozenset({"id", "file_name", "height", "width", "anno_id", "group_id"}),
    "sentences": frozenset({"id", "raw_sent", "is_negative"}),
    "annotations": frozenset({"id", "segmentation", "image_id", "sent_id"}),
    "groups": frozenset({"id", "inner_sent_id"}),
}


_LISTS = frozenset({"anno_id", "sent_id", "inner_sent_id"})
"""Fields that list ids of another table."""


@dataclass(frozen=True)
class _Tables:
    """The four tables by id, and the folder that they lie in."""

    folder: Path
    images: Mapping[int, Mapping[str, Any]]
    sentences: Mapping[int, Mapping[str, Any]]
    annotations: Mapping[int, Mapping[str, Any]]
    groups: Mapping[int, Mapping[str, Any]]


def read_dcube(root: Path, split: str, problems: Problems) -> Iterator[Sample]:
    """One sample for each description that an image is asked about, image by image.

    The mask is the union of all objects that fit. `group` is the description's kind: "presence" or "absence".

    Raises:
        ValueError: unknown split, a damaged file, or a wrong record that `problems` does not admit.
        FileNotFoundError: a pickle or the image folder is missing.
    """
    check_split(split, SPLITS, NAME)
    tables = _load(root, problems)
    pictures = Pictures(root, [f"{base}/d3_images" for base in _ROOTS])
    progress = tqdm(
        tables.images.items(),
        desc=f"{NAME}|{split}",
        unit="image",
        disable=len(tables.images) < PROGRESS_FROM,
    )
    for image_id, image in progress:
        place = f"{tables.folder / 'images.pkl'}: image {image_id}"
        size_hw = (int(image["height"]), int(image["width"]))
        picture = pictures.check(str(image["file_name"]), size_hw, problems=problems, place=place)
        by_sentence = _by_sentence(image, tables, problems, place) if picture else None
        if picture is None or by_sentence is None:
            continue
        for sentence_id in _asked(image, by_sentence, tables, problems, place):
            sentence = tables.sentences[sentence_id]
            masks = _masks(by_sentence.get(sentence_id, ()), size_hw, tables, problems)
            if masks is None or split == ("pres" if sentence["is_negative"] else "abs"):
                continue
            yield Sample(
                id=f"{NAME}|{split}|{image_id}.{sentence_id}|0",
                image_path=picture[0],
                image_id=int(image_id),
                size_hw=size_hw,
                expression=str(sentence["raw_sent"]).strip(),
                mask=merge_rles(masks, size_hw) if masks else empty_rle(size_hw),
                no_target=not masks,
                boxes_xyxy=tuple(rle_box_xyxy(mask) for mask in masks),
                group="absence" if sentence["is_negative"] else "presence",
                instances=tuple(masks) if len(masks) > 1 else (),
            )


def _load(root: Path, problems: Problems) -> _Tables:
    """The four tables, records without their fields left out after a report."""
    folder = find_path(root, [f"{base}/d3_pkl" for base in _ROOTS])
    tables: dict[str, dict[int, Mapping[str, Any]]] = {}
    for name, keys in _KEYS.items():
        path = find_path(folder, [f"{name}.pkl"])
        content = load_plain_pickle(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path} holds a {type(content).__name__}, needed a dict of records by id")
        tables[name] = {
            key: record
            for key, record in content.items()
            if has_keys(record, keys, problems, f"{path}: record {key}")
            and _lists_ids(record, keys, problems, f"{path}: record {key}")
        }
    return _Tables(folder, **tables)


def _lists_ids(record: Mapping[str, Any], keys: frozenset[str], problems: Problems, place: str) -> bool:
    """Whether the fields of a record that list ids do so; one that does not is reported."""
    for name in sorted(keys & _LISTS):
        value = record[name]
        if not isinstance(value, (list, tuple)) or not all(type(each) is int for each in value):
            problems.report("record without its fields", place, f"{name} is {value!r}, needed a list of ids")
            return False
    return True


def _by_sentence(
    image: Mapping[str, Any], tables: _Tables, problems: Problems, place: str
) -> dict[int, list[int]] | None:
    """Annotations of an image by description; None after a report."""
    found: dict[int, list[int]] = {}
    for annotation_id in image["anno_id"]:
        annotation = tables.annotations.get(annotation_id)
        if annotation is None or annotation["image_id"] != image["id"]:
            state = "is missing" if annotation is None else f"belongs to image {annotation['image_id']}"
            problems.report("image without its annotation", place, f"annotation {annotation_id} {state}")
            return None
        for sentence_id in annotation["sent_id"]:
            found.setdefault(sentence_id, []).append(annotation_id)
    return found


def _asked(
    image: Mapping[str, Any], annotated: Iterable[int], tables: _Tables, problems: Problems, place: str
) -> list[int]:
    """Descriptions that an image is asked about: its group's, then the others that hold in it."""
    group = tables.groups.get(image["group_id"])
    if group is None:
        problems.report("image without its group", place, f"group {image['group_id']} is missing")
        return []
    asked = list(dict.fromkeys([*group["inner_sent_id"], *sorted(annotated)]))
    unknown = [sentence_id for sentence_id in asked if sentence_id not in tables.sentences]
    if unknown:
        problems.report("image without its sentence", place, f"sentences {unknown} are missing")
    return [sentence_id for sentence_id in asked if sentence_id in tables.sentences]


def _masks(
    annotation_ids: Sequence[int], size_hw: tuple[int, int], tables: _Tables, problems: Problems
) -> list[Rle] | None:
    """Mask of each object; None after a report, as the union is then incomplete."""
    masks: list[Rle] = []
    for annotation_id in annotation_ids:
        mask = checked_union(
            tables.annotations[annotation_id]["segmentation"],
            size_hw,
            problems=problems,
            place=f"{tables.folder / 'annotations.pkl'}: annotation {annotation_id}",
        )
        if mask is None:
            return None
        masks.append(mask)
    return masks


INFOS: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name=NAME,
        family="referring",
        splits=SPLITS,
        read=read_dcube,
        needs=(
            *(" or ".join(f"{base}/d3_pkl/{name}.pkl" for base in _ROOTS) for name in _KEYS),
            " or ".join(f"{base}/d3_images" for base in _ROOTS),
        ),
        page="https://github.com/shikras/d-cube",
    ),
)
"""D-cube, 422 descriptions on 10,578 images."""
