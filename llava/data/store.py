"""Annotated images on disk: one Arrow file that every process maps into memory instead of reading it.

A store is a folder of three files. `images.arrow` has one row per image (an Arrow stream, as the `datasets`
library maps it), `anchors.npy` one row per record that can be drawn, `store.json` says what the store is.
Processes share the mapped pages, so a rank's own memory does not grow with the number of records.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from datasets.arrow_writer import ArrowWriter
from datasets.table import InMemoryTable
from numpy.typing import NDArray
from tqdm import tqdm

from llava.data.annotated import AnnotatedImage, Target, anchors
from llava.data.rle import rle_box_xyxy
from llava.types import Rle

STORE_FILE = "store.json"
"""Tells a store from any other folder."""
IMAGES_FILE, ANCHORS_FILE = "images.arrow", "anchors.npy"
FORMAT = 1

_TEXT = Value("string")
_TARGET = {
    "id": _TEXT,
    "names": [_TEXT],
    "counts": _TEXT,
    "part_of": _TEXT,
    "question": _TEXT,
    "answer": _TEXT,
    "group": _TEXT,
    "instances": [_TEXT],
}
_FEATURES = Features(
    {
        "id": _TEXT,
        "dataset": _TEXT,
        "image": _TEXT,
        "height": Value("int32"),
        "width": Value("int32"),
        "targets": [_TARGET],
        "ignore": _TEXT,
        "conversations": [{"question": _TEXT, "answer": _TEXT}],
    }
)

EXTENT = ("letters", "rows", "row_letters", "mean_rows", "mean_row_letters")
"""What the length of a record depends on, per anchor: letters of its words; height of its masks in
thousandths of the image's, summed; the same times the letters of each label; and both as the mean over the
image's targets, which further rounds are drawn among."""

_COLUMNS = 2 + len(EXTENT)
_ROWS_PER_WRITE = 1000
_READS_PER_RELEASE = 256
"""A random read maps up to 1.6 MB, some pages around each column: so many stay below half a gigabyte."""


class Store:
    """Records of one dataset split that are drawn when they are needed.

    Safe to fork and to pickle: a copy opens the same files again.

    Args:
        folder: what `write_store` wrote.

    Attributes:
        folder: the same.
        about: content of `store.json`.

    Raises:
        FileNotFoundError: the folder is no store.
        ValueError: it is damaged, or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.about = _read_about(self.folder)
        self._reads = 0
        try:
            self._anchors = np.load(self.folder / ANCHORS_FILE, mmap_mode="r")
            with (self.folder / IMAGES_FILE).open("rb") as stream:
                self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            # A fingerprint of our own: the library's would read and pickle the whole file.
            self._images = Dataset(InMemoryTable.from_buffer(self._mapped), fingerprint="store")
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.folder} is damaged ({error}); build it again") from error
        held = (*self._anchors.shape, len(self._images))
        if held != (self.about["anchors"], _COLUMNS, self.about["images"]):
            raise ValueError(
                f"{self.folder} is damaged: {STORE_FILE} and the other files disagree; build it again"
            )
        self._release()

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.folder,)

    def __len__(self) -> int:
        return len(self._anchors)

    def __getitem__(self, index: int) -> tuple[AnnotatedImage, int]:
        """An image, and the target that its record starts with."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self.folder}, which has {len(self)}")
        row, anchor = (int(value) for value in self._anchors[index, :2])
        self._reads += 1
        if self._reads % _READS_PER_RELEASE == 0:
            self._release()
        return _from_row(self._images[row], self.family), anchor

    @property
    def family(self) -> str:
        """Family of all images, see `AnnotatedImage`."""
        return str(self.about["family"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names that may serve as absent distractors."""
        return tuple(self.about.get("classes", ()))

    @property
    def image_count(self) -> int:
        """Number of images, each with at least one anchor."""
        return len(self._images)

    def extents(self) -> NDArray[np.int32]:
        """What record lengths depend on, int32 (anchors, len(EXTENT)), mapped from the file."""
        return self._anchors[:, 2:]

    def has_image(self) -> NDArray[np.bool_]:
        """For every anchor whether its record shows an image, bool (anchors,)."""
        if self.family != "conversation":
            return np.ones(len(self), dtype=np.bool_)
        shown = np.fromiter((bool(name) for name in self.image_names()), np.bool_, self.image_count)
        return shown[self._anchors[:, 0]]

    def image_names(self) -> Iterator[str]:
        """Image path of every row under the image folder, "" for text alone."""
        for batch in self._images.select_columns(["image"]).iter(batch_size=10_000):
            yield from batch["image"]
        self._release()

    def _release(self) -> None:
        """Hand the pages read so far back to the kernel, which keeps them for all processes or drops them.

        Random reads would otherwise map the whole file into every process in time.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


def open_store(folder: Path) -> Store:
    """A store by its folder; see `Store`."""
    return Store(folder)


def is_store(folder: Path) -> bool:
    """Whether a folder was written by `write_store`."""
    return (Path(folder) / STORE_FILE).is_file()


def _read_about(folder: Path) -> dict[str, Any]:
    """Content of `store.json`, checked."""
    path = folder / STORE_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found - {folder} is no store; make one with playground/data/create_json/create_*.py"
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); build the store again") from error
    given = about.get("format") if isinstance(about, dict) else None
    if given != FORMAT:
        raise ValueError(f"{path} has format {given!r}, needed {FORMAT}; build the store again")
    missing = [name for name in ("family", "anchors", "images") if name not in about]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; build the store again")
    return about


def write_store(images: Iterable[AnnotatedImage], folder: Path, *, about: dict[str, Any]) -> int:
    """Write a store whole or not at all; one that is there already is replaced at the end.

    Args:
        images: of one family, with ids that differ. Images without a target are left out and counted.
        folder: where to.
        about: facts for `store.json`, ready for JSON: `split`, `classes` (absent distractors), `held_out`,
            `command`, and whatever else is worth keeping.

    Returns:
        Number of records that can be drawn.

    Raises:
        ValueError: the folder is there and is no store, images are of several families or share an id, masks
            are not of their image's size, or there is no image.
    """
    folder = Path(folder)
    with _atomic_folder(folder) as temporary:
        writer = _Writer(temporary / IMAGES_FILE)
        try:
            for image in tqdm(images, desc=f"storing {folder.name}", unit="image", delay=2):
                writer.add(image)
        finally:
            writer.close()
        if not writer.index:
            raise ValueError(f"no image with a target to store in {folder}")
        index = np.frombuffer(writer.index, dtype=np.int32).reshape(-1, _COLUMNS)
        np.save(temporary / ANCHORS_FILE, index)
        facts = {**about, "format": FORMAT, "dataset": ", ".join(writer.datasets), "family": writer.family}
        facts |= {"anchors": len(index), "images": writer.rows, "images_without_target": writer.empty}
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        (temporary / STORE_FILE).write_text(text, encoding="utf-8")
    return len(index)


class _Writer:
    """Rows and anchors on their way to disk."""

    def __init__(self, path: Path) -> None:
        self._arrow = ArrowWriter(path=str(path), features=_FEATURES, writer_batch_size=_ROWS_PER_WRITE)
        self._ids: set[str] = set()
        self.index = array("i")
        self.datasets: dict[str, None] = {}
        self.family = ""
        self.rows = self.empty = 0

    def add(self, image: AnnotatedImage) -> None:
        """One more image."""
        if self.family and image.family != self.family:
            raise ValueError(
                f"image {image.id} is of family {image.family!r}, those before it are of {self.family!r}; "
                "write one store for each family and join them in a mixture file"
            )
        if image.id in self._ids:
            raise ValueError(f"image id {image.id} stands twice; give each image once")
        self._ids.add(image.id)
        self.family = image.family
        self.datasets.setdefault(image.dataset)
        starts = anchors(image)
        if not starts or not (image.targets or image.conversations):
            self.empty += 1
            return
        self._arrow.write(_to_row(image))
        for anchor, extent in zip(starts, _extents(image, starts), strict=True):
            self.index.extend((self.rows, anchor, *extent))
        self.rows += 1

    def close(self) -> None:
        """Write what is left."""
        if self.rows:
            self._arrow.finalize()
        else:
            self._arrow.close()


def _to_row(image: AnnotatedImage) -> dict[str, Any]:
    """Columns of one image."""
    return {
        "id": image.id,
        "dataset": image.dataset,
        "image": image.image,
        "height": image.size_hw[0],
        "width": image.size_hw[1],
        "targets": [
            {
                "id": target.id,
                "names": list(target.names),
                "counts": _counts(target.mask, image),
                "part_of": target.part_of,
                "question": target.question,
                "answer": target.answer,
                "group": target.group,
                "instances": [_counts(mask, image) for mask in target.instances],
            }
            for target in image.targets
        ],
        "ignore": _counts(image.ignore, image),
        "conversations": [{"question": asked, "answer": said} for asked, said in image.conversations],
    }


def _counts(mask: Rle | None, image: AnnotatedImage) -> str | None:
    """Run lengths of a mask of the image's size."""
    if mask is None:
        return None
    if tuple(mask["size"]) != tuple(image.size_hw):
        raise ValueError(
            f"image {image.id}: a mask has the size {tuple(mask['size'])}, the image {tuple(image.size_hw)}"
        )
    return str(mask["counts"])


def _rle(counts: str, size_hw: tuple[int, int]) -> Rle:
    """Mask of some run lengths."""
    return {"size": list(size_hw), "counts": counts}


def _from_row(row: dict[str, Any], family: str) -> AnnotatedImage:
    """The image that `_to_row` got; without the column of instances, which a store may lack, it has none."""
    size_hw = (row["height"], row["width"])
    targets = tuple(
        Target(
            id=stored["id"],
            names=tuple(stored["names"]),
            mask=None if stored["counts"] is None else _rle(stored["counts"], size_hw),
            part_of=stored["part_of"],
            question=stored["question"],
            answer=stored["answer"],
            group=stored["group"],
            instances=tuple(_rle(counts, size_hw) for counts in stored.get("instances") or ()),
        )
        for stored in row["targets"]
    )
    return AnnotatedImage(
        id=row["id"],
        dataset=row["dataset"],
        family=family,
        image=row["image"],
        size_hw=size_hw,
        targets=targets,
        ignore=None if row["ignore"] is None else _rle(row["ignore"], size_hw),
        conversations=tuple((turn["question"], turn["answer"]) for turn in row["conversations"]),
    )


def _extents(image: AnnotatedImage, starts: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The numbers of `EXTENT` for each anchor; all targets of the image count where they share an answer."""
    if image.conversations:
        return [(sum(len(text) for turn in image.conversations for text in turn), 0, 0, 0, 0)]
    each = np.array([_target_extent(target, image.size_hw[0]) for target in image.targets])
    mean = each[:, 1:].mean(axis=0)
    own = each[list(starts)] if image.family == "referring" else np.tile(each.sum(axis=0), (len(starts), 1))
    return [tuple(int(value) for value in (*row, *mean)) for row in own]


def _target_extent(target: Target, height: int) -> tuple[int, int, int]:
    """Letters of the words, rows in thousandths of the image, rows times letters."""
    label = sum(map(len, target.names)) // len(target.names)
    if target.mask is None:
        rows = 0
    else:
        _, top, _, bottom = rle_box_xyxy(target.mask)
        rows = round(1000 * (bottom - top) / height)
    return label + len(target.question) + len(target.answer), rows, rows * label


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """Temporary folder beside `folder` that takes its place when the block ends without an error."""
    if folder.exists() and not is_store(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is there and is no store; choose another folder, or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    new, old = room / "new", room / "old"
    new.mkdir()
    try:
        yield new
        for path in new.iterdir():
            with path.open("rb") as written:
                os.fsync(written.fileno())
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(room)
