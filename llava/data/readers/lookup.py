"""Files and images of a dataset under a root: found, read and checked in one way by every reader."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from llava.data.images import UNREADABLE
from llava.data.problems import Problems

HELP = 'see "Datasets" in README, or run python scripts/check_data.py'
DOWNLOAD_AGAIN = "it is cut or damaged, download it again"

_EXIF_ORIENTATION, _UPRIGHT = 274, 1
"""Number of the EXIF field that asks viewers to turn a picture, and its value where there is none."""

PROGRESS_FROM = 500
"""Records from which on a reader shows a progress bar."""

_COCO_ROOTS = ("images/mscoco/images", "images", "coco")
"""Folders that hold COCO's image folders: layouts of LISA, of gRefCOCO, and of COCO's own toolkits."""


def coco_folders(part: str) -> tuple[str, ...]:
    """Folders under a root where users keep one part of COCO, as "train2014"; the first is the usual one."""
    own = (f"images/coco_2014/{part}",) if part.endswith("2014") else ()
    return (f"{_COCO_ROOTS[0]}/{part}", *own, *(f"{root}/{part}" for root in _COCO_ROOTS[1:]))


def check_split(split: str, known: Sequence[str], dataset: str) -> str:
    """The split itself.

    Raises:
        ValueError: the dataset has no such split; the message lists those it has.
    """
    if split not in known:
        raise ValueError(f"unknown split {split!r} for {dataset}; known: {', '.join(known)}")
    return split


def find_path(root: Path, alternatives: Sequence[str]) -> Path:
    """The first of several places under the root that exists.

    Raises:
        FileNotFoundError: none does.
    """
    for name in alternatives:
        if (Path(root) / name).exists():
            return Path(root) / name
    others = f" (nor {', '.join(alternatives[1:])})" if len(alternatives) > 1 else ""
    raise FileNotFoundError(f"{Path(root) / alternatives[0]} not found{others} - {HELP}")


def load_json(path: Path) -> Any:  # noqa: ANN401 - raw file content
    """Content of a JSON file in UTF-8.

    Raises:
        ValueError: it cannot be read as JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {DOWNLOAD_AGAIN}") from error


def _is_id(value: object) -> bool:
    return type(value) is int or (isinstance(value, str) and value.replace("_", "").isdecimal())


def _is_side(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value < math.inf


_KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("id", "image_id", "category_id", "group_id"), (_is_id, "a number")),
    **dict.fromkeys(("height", "width"), (_is_side, "a number of pixels")),
    **dict.fromkeys(
        ("file_name", "image", "name"), (lambda value: isinstance(value, str) and bool(value), "text")
    ),
    **dict.fromkeys(
        ("images", "annotations", "categories", "segments_info", "sentences"),
        (lambda value: isinstance(value, list), "a list"),
    ),
}
"""What fields hold that mean the same in every format, with the words for it."""


def _field_faults(record: object, keys: frozenset[str]) -> Iterator[str]:
    """What is wrong with the fields of a record, missing ones first."""
    fields = record if isinstance(record, dict) else {}
    missing = keys - set(fields)
    if missing:
        yield f"lacks {', '.join(sorted(missing))}"
    for name in sorted(keys & set(fields) & set(_KINDS)):
        fits, kind = _KINDS[name]
        if not fits(fields[name]):
            yield f"has the {name} {str(fields[name])[:40]!r}, needed {kind}"


def require(record: object, keys: frozenset[str], place: str) -> dict[str, Any]:
    """The record itself.

    Raises:
        ValueError: it is no object, lacks keys, or holds other things than `_KINDS` says.
    """
    faults = list(_field_faults(record, keys))
    if faults or not isinstance(record, dict):
        raise ValueError(f"{place} {', '.join(faults)}; {DOWNLOAD_AGAIN}")
    return record


def has_keys(record: object, keys: frozenset[str], problems: Problems, place: str) -> bool:
    """Whether a record is an object with all keys, each as `_KINDS` says; one that is not is reported."""
    faults = list(_field_faults(record, keys))
    if faults:
        problems.report("record without its fields", place, ", ".join(faults))
    return not faults


def is_filled_file(path: Path) -> bool:
    """True for a file with content."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def asked_turn(picture: Image.Image) -> object:
    """How a picture asks viewers to turn it, what its EXIF field holds; 1 is upright."""
    turn: object = picture.getexif().get(_EXIF_ORIENTATION, _UPRIGHT)
    return turn


def header_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels from the file's header; no pixel is decoded.

    Raises:
        ValueError: the file is no image, or has more pixels than Pillow reads.
    """
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large ({error}); cut it into tiles, and its mask alike") from error
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a readable image ({error}); {DOWNLOAD_AGAIN}") from error


class Pictures:
    """Finds the images of a dataset in one or several folders.

    Args:
        root: folder that the dataset lies in.
        folders: where the images may lie, relative to the root, first choice first.

    Raises:
        FileNotFoundError: not one of the folders exists.
    """

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        self.folders = [Path(root) / name for name in folders if (Path(root) / name).is_dir()]
        if not self.folders:
            places = " or ".join(str(Path(root) / name) for name in folders)
            raise FileNotFoundError(f"no image folder {places} - {HELP}")
        self._sizes: dict[str, tuple[Path, tuple[int, int]]] = {}

    def path(self, name: str) -> Path:
        """Where an image lies, or where it would be looked for first."""
        for folder in self.folders:
            if is_filled_file(folder / name):
                return folder / name
        return self.folders[0] / name

    def check(
        self, name: str, size_hw: tuple[int, int] | None, *, problems: Problems, place: str
    ) -> tuple[Path, tuple[int, int]] | None:
        """Path and size of an image, None after a report when it cannot be used.

        Args:
            name: file name below the image folders.
            size_hw: height and width that the annotation states, None where it states none.
            problems: takes missing images, files that are no image, and sizes that disagree.
            place: annotation file and record, for the report.
        """
        if name not in self._sizes:
            path = self.path(name)
            if not is_filled_file(path):
                problems.report("missing image", place, f"image {path} is missing or empty - {HELP}")
                return None
            try:
                self._sizes[name] = path, header_size(path)
            except ValueError as error:
                problems.report("damaged image", place, str(error))
                return None
        path, size = self._sizes[name]
        if size_hw is not None and size != tuple(size_hw):
            problems.report(
                "image of another size",
                place,
                f"the annotation states (height, width) {tuple(size_hw)}, the file {path} has {size}; "
                "take the images that the dataset was annotated on",
            )
            return None
        return path, size
