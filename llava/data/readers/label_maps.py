"""Images whose annotation is a label map: one number for each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from llava.data.images import UNREADABLE
from llava.data.problems import Problems
from llava.data.readers.classes import ClassName, class_names
from llava.data.readers.lookup import (
    DOWNLOAD_AGAIN,
    HELP,
    PROGRESS_FROM,
    Pictures,
    check_split,
    find_path,
    is_filled_file,
)
from llava.data.readers.shapes import masks_by_value
from llava.data.rle import merge_rles, rle_box_xyxy
from llava.types import Rle, Sample

LabelMap = NDArray[Any]
"""Label numbers of pixels, uint8, uint16 or int32 (H, W)."""

MAP_MODES = ("P", "L", "I", "I;16", "I;16B")
"""Image modes whose pixels are numbers. A palette is only for looking at; nothing is converted."""


@dataclass(frozen=True)
class MapSplit:
    """Where one split of a dataset of label maps lies, relative to the root.

    Attributes:
        maps: folders that may hold the maps, first choice first.
        images: folders that may hold the images.
        listing: text files that may name the images of the split, one stem a line; empty: every map of the
            folder belongs to it.
    """

    maps: tuple[str, ...]
    images: tuple[str, ...]
    listing: tuple[str, ...] = ()


@dataclass(frozen=True)
class MapSource:
    """One dataset of label maps.

    Attributes:
        name: of the dataset.
        class_list: what `llava.data.readers.classes.class_names` knows the classes by.
        splits: by name.
        unlabelled: values of pixels that belong to no decision.
        background: values that are none of the classes, and known to be none.
        map_suffix: file ending of the maps.
        image_suffix: file ending of the images.
        rank_ending: ending of map stems whose values count the classes from 0 up without gaps; "" where no
            such maps are in use. They are read where a folder has no others.
    """

    name: str
    class_list: str
    splits: Mapping[str, MapSplit]
    unlabelled: frozenset[int] = frozenset({255})
    background: frozenset[int] = frozenset()
    map_suffix: str = ".png"
    image_suffix: str = ".jpg"
    rank_ending: str = ""

    @property
    def classes(self) -> Mapping[int, ClassName]:
        """Names by value."""
        return class_names(self.class_list)

    def read(self, root: Path, split: str, problems: Problems) -> Iterator[Sample]:
        """One sample for each class in each image, images in the order of their names or of the listing.

        Ids are "name|split|<image>.<class number>|0".

        Raises:
            ValueError: unknown split, or a wrong map that `problems` does not admit.
            FileNotFoundError: the folder of the maps or of the images, or the listing, is missing.
        """
        place = self.splits[check_split(split, tuple(self.splits), self.name)]
        folder = find_path(root, place.maps)
        pictures = Pictures(root, place.images)
        stems, ending = self._stems(root, place, folder)
        for number, stem in enumerate(
            tqdm(stems, desc=f"{self.name}|{split}", unit="image", disable=len(stems) < PROGRESS_FROM)
        ):
            path = folder / f"{stem}{ending}{self.map_suffix}"
            labels = read_label_map(path, problems)
            if labels is None:
                continue
            size_hw = (int(labels.shape[0]), int(labels.shape[1]))
            picture = pictures.check(
                f"{stem}{self.image_suffix}", size_hw, problems=problems, place=str(path)
            )
            if picture is None:
                continue
            masks = self._masks(labels, path, problems, ranked=bool(ending))
            ignored = [masks.pop(value) for value in self.unlabelled if value in masks]
            if not masks:
                problems.note("maps without a class", str(path))
            yield from class_samples(
                f"{self.name}|{split}|{stem}",
                masks,
                self.classes,
                image=(picture[0], int(stem) if stem.isdecimal() else number),
                ignore=merge_rles(ignored, size_hw) if ignored else None,
            )

    def _stems(self, root: Path, place: MapSplit, folder: Path) -> tuple[list[str], str]:
        """Image stems of a split, and the ending that its map stems carry.

        Raises:
            FileNotFoundError: the listing is missing, or the folder holds no map.
        """
        found = sorted(path.stem for path in folder.glob(f"*{self.map_suffix}"))
        ranked = [stem for stem in found if self.rank_ending and stem.endswith(self.rank_ending)]
        plain = sorted(set(found) - set(ranked))
        if not found:
            raise FileNotFoundError(f"{folder} holds no {self.map_suffix} label map - {HELP}")
        ending = "" if plain else self.rank_ending
        if place.listing:
            lines = find_path(root, place.listing).read_text(encoding="utf-8").splitlines()
            return list(dict.fromkeys(line.split()[0] for line in lines if line.strip())), ending
        return plain or [stem.removesuffix(self.rank_ending) for stem in ranked], ending

    def _masks(self, labels: LabelMap, path: Path, problems: Problems, *, ranked: bool) -> dict[int, Rle]:
        """Masks by class number, unlabelled pixels among them; background is left out."""
        numbers = list(self.classes)
        masks: dict[int, Rle] = {}
        for value, mask in masks_by_value(labels).items():
            known: list[int] = numbers[value : value + 1] if ranked else [value] * (value in self.classes)
            if known or value in self.unlabelled:
                masks[known[0] if known else value] = mask
            elif value not in self.background:
                span = f"0 to {len(numbers) - 1}" if ranked else f"{min(numbers)} to {max(numbers)}"
                others = sorted(self.unlabelled | self.background)
                problems.report(
                    "unknown label value",
                    str(path),
                    f"the map has pixels of value {value}; the classes of {self.name} are {span}, "
                    f"other pixels {others}",
                )
        return masks


def class_samples(
    place: str,
    masks: Mapping[int, Rle],
    classes: Mapping[int, ClassName],
    *,
    image: tuple[Path, int],
    ignore: Rle | None,
    instances: Mapping[int, Sequence[Rle]] | None = None,
) -> Iterator[Sample]:
    """One sample for each class of one image, in the order of the class numbers.

    Args:
        place: "name|split|image", first part of the ids.
        masks: mask of each class by its number.
        classes: names by number.
        image: path and id of the image.
        ignore: pixels that belong to no decision, None where there are none.
        instances: masks of the objects of a class by its number, where the dataset tells them apart.
    """
    for number in sorted(masks):
        mask, objects = masks[number], tuple((instances or {}).get(number, ()))
        yield Sample(
            id=f"{place}.{number}|0",
            image_path=image[0],
            image_id=image[1],
            size_hw=(mask["size"][0], mask["size"][1]),
            expression=classes[number].name,
            mask=mask,
            boxes_xyxy=(rle_box_xyxy(mask),),
            synonyms=classes[number].synonyms,
            ignore=ignore,
            instances=objects if len(objects) > 1 else (),
        )


def read_label_map(path: Path, problems: Problems) -> LabelMap | None:
    """Pixels of a label map as they are stored, None after a report when there are none to read.

    A conversion would turn the numbers of a palette image into brightness, and cut 16-bit numbers.
    """
    remedy = "take the map of numbers, not a coloured picture of it"
    return read_pixels(path, MAP_MODES, problems, remedy=remedy)


def read_segment_map(path: Path, problems: Problems) -> LabelMap | None:
    """Segment ids, int32 (H, W), of a COCO panoptic PNG; None after a report when there are none to read.

    A colour holds an id: red + 256 green + 65536 blue.
    """
    colours = read_pixels(path, ("RGB",), problems, remedy="take the panoptic PNG as published")
    if colours is None:
        return None
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red + 256 * green + 65536 * blue


def read_pixels(
    path: Path, modes: Sequence[str], problems: Problems, *, remedy: str, noun: str = "label map"
) -> LabelMap | None:
    """Stored pixels of an image (H, W) or (H, W, 3), None after a report.

    Args:
        path: the file.
        modes: image modes of Pillow that are allowed.
        problems: takes files that are missing, damaged or of another mode.
        remedy: what to do about an image of another mode.
        noun: what the image is called.
    """
    if not is_filled_file(path):
        problems.report(f"missing {noun}", str(path), f"the file is missing or empty - {HELP}")
        return None
    try:
        with Image.open(path) as picture:
            mode, pixels = picture.mode, np.asarray(picture)
    except UNREADABLE as error:
        problems.report(f"damaged {noun}", str(path), f"cannot be read ({error}); {DOWNLOAD_AGAIN}")
        return None
    if mode not in modes:
        known = ", ".join(modes)
        problems.report(
            f"{noun} of another mode",
            str(path),
            f"the image has mode {mode}, needed one of {known}; {remedy}",
        )
        return None
    return pixels
