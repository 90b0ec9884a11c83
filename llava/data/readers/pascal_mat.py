"""PASCAL-Part as its authors published it: `Annotations_Part/<image>.mat` over images of VOC 2010.

A file holds `anno` with `objects`; each object has its `class`, a `mask` and `parts` with `part_name` and
`mask`. Part names are codes with side, position and number ("lfuleg", "wheel_3"); sides are merged here as
in VLPart's 93 classes, so that both forms of the dataset speak of the same parts. Two differences from
VLPart, which looks for a class name anywhere inside a code: the chain wheel of a bicycle is none of its
wheels, and whole objects are kept.

Codes outside the 93 classes are left out and noted: sides of vehicles, eyebrows, hooves, coaches and such.
The codes are known from listings of the real files; the layout of the files from two published readers.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from tqdm import tqdm

from llava.data.problems import Problems
from llava.data.readers.classes import class_names
from llava.data.readers.lookup import DOWNLOAD_AGAIN, HELP, PROGRESS_FROM, Pictures, find_path, is_filled_file
from llava.data.rle import encode_mask
from llava.types import BoolArray, Rle

SPLITS = ("train", "val")
BASES = ("pascal_part", "vlpart/pascal_part")
FOLDERS = tuple(f"{base}/Annotations_Part" for base in (*BASES, "VOCdevkit/VOC2010"))

_VOC = tuple(f"{base}/VOC2010" for base in ("VOCdevkit", *(f"{base}/VOCdevkit" for base in BASES)))
IMAGE_FOLDERS = tuple(f"{base}/JPEGImages" for base in _VOC)

PARTS = frozenset(names.name for names in class_names("pascal_part").values())
"""The 93 classes as "object:part"."""

_OBJECTS = {"pottedplant": "potted plant", "tvmonitor": "tv monitor", "table": "dining table"}
_CODES = {
    "fwheel": "wheel",
    "bwheel": "wheel",
    "fliplate": "license plate",
    "bliplate": "license plate",
    "leftmirror": "mirror",
    "rightmirror": "mirror",
}
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    NotImplementedError,
    MatReadError,
    zlib.error,
)
"""What scipy raises on a cut or garbled file, and what comes of one that holds other things."""

_NUMBER = re.compile(r"_\d+$")
_SIDED = re.compile(r"[lr][fb]?[lu]?(leg|arm|hand|foot|pa|ear|eye|wing|horn)")
"""Side, front or back, lower or upper, and the part."""


def part_of_code(object_code: str, part_code: str) -> str | None:
    """Class of a part as "object:part", None where it is outside the 93 classes.

    Example:
        >>> part_of_code("horse", "lfuleg"), part_of_code("bus", "window_12"), part_of_code("dog", "lfpa")
        ('horse:leg', 'bus:window', 'dog:paw')
    """
    code = _NUMBER.sub("", part_code)
    sided = _SIDED.fullmatch(code)
    part = sided[1] if sided else _CODES.get(code, code)
    name = f"{object_name(object_code)}:{'paw' if part == 'pa' else part}"
    return name if name in PARTS else None


def object_name(code: str) -> str:
    """Name of an object class of VOC in plain words."""
    return _OBJECTS.get(code, code)


def read_mats(
    root: Path, split: str, pictures: Pictures, problems: Problems
) -> Iterator[tuple[Path, int, dict[str, list[Rle]]]]:
    """Image, its number, and the masks of each "object" and "object:part" in it, in the order of the split.

    Raises:
        FileNotFoundError: the folder or the list of the split is missing.
        ValueError: a wrong file that `problems` does not admit.
    """
    folder = find_path(root, FOLDERS)
    listing = find_path(root, [f"{base}/ImageSets/Main/{split}.txt" for base in _VOC])
    stems = list(dict.fromkeys(listing.read_text(encoding="utf-8").split()))
    for stem in tqdm(stems, desc=f"pascal_part|{split}", unit="image", disable=len(stems) < PROGRESS_FROM):
        path = folder / f"{stem}.mat"
        masks = _masks(path, problems)
        if not masks:
            continue
        height, width = next(iter(masks.values()))[0]["size"]
        picture = pictures.check(f"{stem}.jpg", (height, width), problems=problems, place=str(path))
        if picture is not None:
            yield picture[0], int(stem.replace("_", "")), masks


def _masks(path: Path, problems: Problems) -> dict[str, list[Rle]]:
    """Masks with a pixel of each class in one file; empty after a report."""
    if not is_filled_file(path):
        problems.report("missing annotation", str(path), f"the file is missing or empty - {HELP}")
        return {}
    try:
        content = loadmat(path)
        found = list(_entries(content))
    except _DAMAGE as error:
        cause = f"{type(error).__name__}: {error}"
        problems.report("damaged annotation", str(path), f"cannot be read ({cause}); {DOWNLOAD_AGAIN}")
        return {}
    sizes = {mask.shape for _, _, mask in found}
    if len(sizes) > 1:
        problems.report("masks of several sizes", str(path), f"its masks have the sizes {sorted(sizes)}")
        return {}
    rles: dict[str, list[Rle]] = {}
    for whole, part, mask in found:
        name = part_of_code(whole, part) if part else object_name(whole)
        if name is None:
            problems.note("parts outside the 93 classes", f"{path}: {whole} {part}")
        elif mask.any():
            rles.setdefault(name, []).append(encode_mask(mask))
    return rles


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, str, BoolArray]]:
    """Object code, part code ("" for the whole object) and bool mask (H, W) of everything in a file."""
    for one in content["anno"][0, 0]["objects"].reshape(-1):
        whole = str(one["class"].item())
        yield whole, "", np.asarray(one["mask"]) > 0
        for part in one["parts"].reshape(-1):
            yield whole, str(part["part_name"].item()), np.asarray(part["mask"]) > 0
