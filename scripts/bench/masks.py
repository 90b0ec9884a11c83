"""Annotated objects for the measurements of this folder, from COCO's and REFER's files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava.data.pickles import load_plain_pickle
from llava.data.questions import normalise_expression

INSTANCES = ("instances*.json", "annotations/instances*.json", "*/instances.json")
"""Where annotations lie: a COCO folder, a COCO download, a root of REFER datasets."""

REFS = ("refs(*).p", "refs(*).json", "grefs(*).json", "grefs(*).p")


@dataclass(frozen=True)
class AnnotatedObject:
    """What one mask is made of.

    Attributes:
        label: its name in a mask text.
        segmentation: polygons or RLEs as the annotation file has them.
        size_hw: height and width of the image in pixels.
        image: file name of the image.
    """

    label: str
    segmentation: list[Any]
    size_hw: tuple[int, int]
    image: str


def load_objects(folder: Path, *, referred: bool = True, limit: int = 0) -> list[AnnotatedObject]:
    """Objects of every annotation file under a folder, each once; crowd regions are left out.

    Files of one root share objects: RefCOCO, RefCOCO+ and RefCOCOg speak about the same annotations.

    Args:
        folder: a folder with `instances*.json`, a COCO download, or a root of REFER datasets.
        referred: where refs files stand beside the annotations, take what they refer to, labelled with the
            first sentence; without, or where there are none, take every instance, labelled with its class.
        limit: most objects to give, drawn with seed 0; 0 gives all.

    Raises:
        FileNotFoundError: there is no annotation file.
        ValueError: the files hold no object.
    """
    paths = sorted({path for pattern in INSTANCES for path in folder.glob(pattern)})
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(INSTANCES)} - give a COCO or RefCOCO folder; "
            'see "Datasets" in README, or run python scripts/check_data.py'
        )
    objects: dict[tuple[str, tuple[int, ...]], AnnotatedObject] = {}
    for path in paths:
        for key, item in _read(path, referred):
            objects.setdefault(key, item)
    if not objects:
        raise ValueError(f"{', '.join(map(str, paths))}: no object is annotated; give a folder with some")
    found = list(objects.values())
    if not 0 < limit < len(found):
        return found
    chosen = np.random.default_rng(0).choice(len(found), limit, replace=False)
    return [found[index] for index in sorted(chosen)]


def _read(path: Path, referred: bool) -> Iterator[tuple[tuple[str, tuple[int, ...]], AnnotatedObject]]:
    """Objects of one annotation file with the image file and the annotation ids that they stand for."""
    content = json.loads(path.read_text(encoding="utf-8"))
    images = {image["id"]: image for image in content["images"]}
    annotations = {annotation["id"]: annotation for annotation in content["annotations"]}
    classes = {category["id"]: category["name"] for category in content.get("categories", ())}
    named = _refs(path.parent) if referred else {}
    if not named:
        named = {
            (ann_id,): classes.get(annotation["category_id"], "object")
            for ann_id, annotation in annotations.items()
            if not annotation.get("iscrowd")
        }
    for ann_ids, label in named.items():
        if not annotations.keys() >= set(ann_ids):
            raise ValueError(
                f"{path} lacks annotations {list(ann_ids)}, which a refs file beside it names; "
                "the files do not belong together or one is damaged, download them again"
            )
        parts = [part for ann_id in ann_ids for part in _parts(annotations[ann_id])]
        image = images[annotations[ann_ids[0]]["image_id"]]
        yield (
            (image["file_name"], ann_ids),
            AnnotatedObject(label, parts, (int(image["height"]), int(image["width"])), image["file_name"]),
        )


def _parts(annotation: dict[str, Any]) -> list[Any]:
    """Polygons or RLEs of one annotation, always as a list."""
    segmentation = annotation["segmentation"]
    return [segmentation] if isinstance(segmentation, dict) else list(segmentation)


def _refs(folder: Path) -> dict[tuple[int, ...], str]:
    """First sentence about each group of target annotations in the refs files of a folder."""
    named: dict[tuple[int, ...], str] = {}
    for path in sorted({path for pattern in REFS for path in folder.glob(pattern)}):
        refs: Any = json.loads(path.read_text("utf-8")) if path.suffix == ".json" else load_plain_pickle(path)
        for ref in refs:
            given = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
            if ref["sentences"] and -1 not in given:
                named.setdefault(tuple(given), normalise_expression(ref["sentences"][0]["sent"]))
    return named
