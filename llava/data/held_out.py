"""Which COCO images belong to a val or test split of the RefCOCO family, so that training can leave them out.

RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and Ref-ZOM share the images of COCO but split them differently:
training images of one are test images of another, and the same photographs come back in every other set that
is built on COCO.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from llava.data.annotated import AnnotatedImage
from llava.data.readers.lookup import DOWNLOAD_AGAIN
from llava.data.readers.refer_files import load_refs, refs_candidates
from llava.data.readers.refer_sources import REFER_DATASETS

FAMILY = tuple(name for name, source in REFER_DATASETS.items() if source.coco_images)
"""Datasets that share test images."""

_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:_\d+)?\.(?:jpe?g|png)", re.IGNORECASE)
_LOG = logging.getLogger(__name__)


def coco_image_id(path: str | PurePath) -> int | None:
    """Image id that a COCO file name states; None for any other name.

    The id is the same in the 2014 and the 2017 release, whose files differ in name only.

    Example:
        >>> coco_image_id("train2014/COCO_train2014_000000581857.jpg"), coco_image_id("581857.jpg")
        (581857, None)
    """
    match = _COCO_NAME.fullmatch(PurePath(path).name)
    return int(match.group(1)) if match else None


@dataclass(frozen=True)
class HeldOut:
    """COCO images that no training may see.

    Attributes:
        ids: COCO image ids.
        splits: number of images of each split that was found, by "dataset|split_by|split".
        missing: datasets of the family whose refs file is not under the root; their images are not in `ids`.
    """

    ids: frozenset[int]
    splits: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def covers(self, image: str | PurePath) -> bool:
        """Whether an image file, told by its COCO name, is held out."""
        return coco_image_id(image) in self.ids

    def facts(self) -> dict[str, Any]:
        """What a store keeps about it, ready for JSON."""
        return {"images": len(self.ids), "splits": dict(self.splits), "missing": list(self.missing)}

    def __str__(self) -> str:
        found = ", ".join(f"{name} {count}" for name, count in self.splits.items()) or "no split found"
        unknown = (
            f"; NOT known, as their files are missing: {', '.join(self.missing)}" if self.missing else ""
        )
        return f"{len(self.ids)} images of val and test splits ({found}){unknown}"


def held_out_images(root: Path) -> HeldOut:
    """COCO images of every split but "train" of the RefCOCO family.

    The files of every split_by count, also of those that papers seldom report, as google's: an image that is
    a test image anywhere is left out.

    Args:
        root: folder that holds the dataset folders.

    Returns:
        The ids; a dataset without a refs file is named in `missing` and in a warning.

    Raises:
        ValueError: a refs file is damaged.
    """
    ids: set[int] = set()
    splits: dict[str, int] = {}
    missing = []
    for dataset in FAMILY:
        found = _refs_files(Path(root), dataset)
        if not found:
            missing.append(dataset)
        for split_by, path in found.items():
            for split, images in _test_images(path).items():
                splits[f"{dataset}|{split_by}|{split}"] = len(images)
                ids |= images
    if missing:
        _LOG.warning(
            "%s: no refs file of %s, so their val and test images cannot be kept out of training; "
            'see "Datasets" in README, or run python scripts/check_data.py',
            root,
            ", ".join(missing),
        )
    return HeldOut(frozenset(ids), splits, tuple(missing))


def _refs_files(root: Path, dataset: str) -> dict[str, Path]:
    """The refs files of a dataset that are there, by split_by."""
    found = {}
    for split_by in REFER_DATASETS[dataset].splits:
        files = [path for name in refs_candidates(dataset, split_by) if (path := root / name).is_file()]
        if files:
            found[split_by] = files[0]
    return found


def _test_images(path: Path) -> dict[str, set[int]]:
    """COCO image ids of each split but "train" of a refs file, by the split's name in the file.

    Raises:
        ValueError: the file holds no list of refs, or a ref has no image id or no split.
    """
    refs: Any = load_refs(path)
    if not isinstance(refs, list):
        raise ValueError(f"{path} holds a {type(refs).__name__}, needed a list of refs; {DOWNLOAD_AGAIN}")
    images: dict[str, set[int]] = {}
    for number, ref in enumerate(refs):
        try:
            image_id, split = int(ref["image_id"]), str(ref["split"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: ref number {number} has no image_id and split ({error!r}); {DOWNLOAD_AGAIN}"
            ) from error
        if split != "train":
            images.setdefault(split, set()).add(image_id)
    return images


class LeakFilter:
    """Passes on images that training may see and counts the others.

    Args:
        held_out: images that are kept out.

    Attributes:
        images: number of images kept out so far.
        targets: number of their targets, or of conversations.
    """

    def __init__(self, held_out: HeldOut) -> None:
        self.held_out = held_out
        self.images = 0
        self.targets = 0

    def __call__(self, images: Iterable[AnnotatedImage]) -> Iterator[AnnotatedImage]:
        """The images that are not held out."""
        for image in images:
            if image.image and self.held_out.covers(image.image):
                self.images += 1
                self.targets += len(image.targets) or 1
            else:
                yield image

    def facts(self) -> dict[str, Any]:
        """What a store keeps about it, ready for JSON."""
        return {**self.held_out.facts(), "left_out_images": self.images, "left_out_targets": self.targets}

    def __str__(self) -> str:
        return (
            f"kept out       {self.images} images with {self.targets} targets, which are val or test images "
            f"of the RefCOCO family: {self.held_out}"
        )
