"""Maps of classes from annotated instances: RefShapes as a semantic set, empty pixels are background."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llava.data.readers.classes import class_names
from llava.data.readers.label_maps import class_samples
from llava.data.readers.lookup import Pictures
from llava.data.readers.refer import parse_spec
from llava.data.readers.refer_files import (
    Instances,
    find_instances,
    find_refs,
    load_refs,
    refs_of_split,
)
from llava.data.readers.refer_sources import REFER_DATASETS
from llava.data.rle import merge_rles, union_rle
from llava.types import Rle, Sample

NAME = "refshapes"


def read_instance_maps(root: Path, split: str) -> Iterator[Sample]:
    """One sample for each shape in each image of a split, by the order of the refs.

    Ids are "refshapes|split_by|split|<image id>.<category id>|0".

    Args:
        root: folder that holds `refshapes` and `images`.
        split: "val" or "unc|val".

    Raises:
        ValueError: unknown split, or a damaged file.
        FileNotFoundError: a file or the image folder is missing.
    """
    spec = parse_spec(f"{NAME}|{split}")
    source = REFER_DATASETS[NAME]
    path = find_refs(root, NAME, spec.split_by)
    refs = refs_of_split(load_refs(path), path, spec.split)
    index = Instances.load(find_instances(root, source))
    pictures = Pictures(root, source.image_folders)
    images = {ref["image_id"]: index.image(ref, path) for ref in refs}
    parts: dict[int, dict[int, list[Rle]]] = {number: {} for number in images}
    for annotation in index.annotations.values():
        number = annotation["image_id"]
        if number in images:
            size_hw = int(images[number]["height"]), int(images[number]["width"])
            mask, _ = union_rle(annotation["segmentation"], size_hw)
            parts[number].setdefault(annotation["category_id"], []).append(mask)
    for number, image in images.items():
        size_hw = int(image["height"]), int(image["width"])
        yield from class_samples(
            f"{spec}|{number}",
            {category: merge_rles(masks, size_hw) for category, masks in parts[number].items()},
            class_names(NAME),
            image=(pictures.path(image["file_name"]), number),
            ignore=None,
        )
