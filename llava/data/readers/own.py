"""One's own data: a folder with images, masks, and one table of sentences.

    FOLDER/images/            photographs of 8 bits a channel, any format that Pillow reads, also in folders
    FOLDER/masks/             one-channel images (PNG), each of the size of its photograph
    FOLDER/sentences.csv      or sentences.json (a list of objects), or sentences.jsonl (one object a line)

Every row says what one sentence names in one image:

    image,sentence,mask,value,split
    a.jpg,the red cup,a_cup.png,,train           mask of 0 and one other number, 255 say
    a.jpg,both spoons,a_all.png,3 4,train        mask of object numbers, those meant in `value`
    b.jpg,a fork,none,,val                       nothing in the image is a fork

- `image`, `sentence` and `mask` are needed. Without `value` a mask has 0 and one other number; a row
  without `split` is of train. In JSON `value` may be a number or a list, `sentence` a list of wordings.
- `question` may hold a whole question in place of the templates' ("Where does it leak?"); `sentence` is then
  the label that the mask is written with. `answer` may hold the words in front of the mask.
- Rows of one image with the same sentence are one target: their masks are joined, each row and each number
  of `value` is one object of it. Sentences of one image with the same mask and answer are wordings of one
  target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from llava.data.problems import Problems
from llava.data.readers.info import DatasetInfo
from llava.data.readers.label_maps import MAP_MODES, read_pixels
from llava.data.readers.lookup import PROGRESS_FROM, Pictures, asked_turn, check_split
from llava.data.readers.own_table import NOT_THERE, SPLITS, SUBFOLDER, TABLES, Row, read_table
from llava.data.readers.shapes import masks_by_value
from llava.data.rle import merge_rles, rle_box_xyxy
from llava.types import Rle, Sample

NAME = "own"

_MASK_MODES = ("1", *MAP_MODES)
_DEEP_MODES = ("I", "F")
"""How Pillow's modes of more than eight bits begin; turned into colours they are white almost everywhere."""


@dataclass
class _Folder:
    """What is read with the rows of one table.

    Attributes:
        path: of the folder.
        split: that is read.
        problems: takes what is wrong.
        found: pixels of each number in the masks of the image at hand, by file name; None after a report.
    """

    path: Path
    split: str
    problems: Problems
    found: dict[str, dict[int, Rle] | None] = field(default_factory=dict)


def read_own(root: Path, split: str, problems: Problems) -> Iterator[Sample]:
    """One sample for each sentence of each image, images in the order in which the table first names them.

    Ids are "own|split|image|<target>|<wording>".

    Args:
        root: the folder, or one that has it as `own`.
        split: one of `SPLITS`.
        problems: takes wrong rows; counts files that no row names and splits without a row.

    Raises:
        ValueError: unknown split, a table that cannot be read, or a wrong row that `problems` does not admit.
        FileNotFoundError: the table or the folder of images is missing.
    """
    check_split(split, SPLITS, NAME)
    table, rows = read_table(Path(root), problems)
    folder = _Folder(table.parent, split, problems)
    pictures = Pictures(folder.path, ("images",))
    _note_unnamed(folder, rows)
    by_image: dict[str, list[Row]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    if not any(row.split == split for row in rows):
        problems.note("splits without a row", f"{table}: no row is of split {split}")
    progress = tqdm(
        by_image.items(), desc=f"{NAME}|{split}", unit="image", disable=len(by_image) < PROGRESS_FROM
    )
    for number, (image, about) in enumerate(progress):
        own = _rows_of_split(about, split, problems)
        picture = pictures.check(image, None, problems=problems, place=own[0].place) if own else None
        if picture is not None and _is_plain(picture[0], own[0].place, problems):
            yield from _samples(folder, own, (picture[0], number), size_hw=picture[1])


def _note_unnamed(folder: _Folder, rows: Sequence[Row]) -> None:
    """Count files that lie there and that no row names."""
    for kind, named in (("images", {row.image for row in rows}), ("masks", {row.mask for row in rows})):
        base = folder.path / kind
        files = sorted(path for path in base.rglob("*") if path.is_file() and not path.name.startswith("."))
        for path in files:
            if path.relative_to(base).as_posix() not in named:
                folder.problems.note(f"{kind} that no row names", str(path))


def _rows_of_split(rows: Sequence[Row], split: str, problems: Problems) -> list[Row]:
    """Rows of an image that belong to a split; none of train after a report that it is tested on too."""
    own = [row for row in rows if row.split == split]
    others = [row for row in rows if row.split != SPLITS[0]]
    if split == SPLITS[0] and own and others:
        message = f"{own[0].image} is also in split {others[0].split} ({others[0].place}); keep it in one"
        problems.report("image of training and test", own[0].place, message)
        return []
    return own


def _is_plain(path: Path, place: str, problems: Problems) -> bool:
    """Whether a picture has eight bits a channel and lies in its file as it is seen; others are reported."""
    with Image.open(path) as picture:
        mode, turn = picture.mode, asked_turn(picture)
    if mode.startswith(_DEEP_MODES):
        message = f"{path} has more than 8 bits a channel (mode {mode}); scale it to 0 to 255 and save it so"
        problems.report("image of more than 8 bits", place, message)
        return False
    if turn != 1:
        message = (
            f"{path} asks viewers to turn it (EXIF orientation {turn}), so masks may not fit; save it upright"
        )
        problems.report("image that is to be turned", place, message)
    return turn == 1


def _samples(
    folder: _Folder, rows: Sequence[Row], image: tuple[Path, int], *, size_hw: tuple[int, int]
) -> Iterator[Sample]:
    """Samples of one image: path, number in the table, height and width."""
    folder.found.clear()
    asked: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        asked.setdefault((row.sentence.lower(), row.question), []).append(row)
    targets: dict[tuple[str, str], int] = {}
    wordings: dict[tuple[str, str], int] = {}
    for number, same in enumerate(asked.values()):
        parts = _parts(folder, same, size_hw)
        if parts is None:
            continue
        objects = [mask for part in parts for mask in part]
        mask = merge_rles(objects, size_hw)
        answer = next((row.answer for row in same if row.answer), "")
        key = (mask["counts"] if parts else f"absent {number}", answer)
        targets.setdefault(key, len(targets))
        wordings[key] = wordings.get(key, -1) + 1
        yield Sample(
            id=f"{NAME}|{folder.split}|{same[0].image}|{targets[key]}|{wordings[key]}",
            image_path=image[0],
            image_id=image[1],
            size_hw=size_hw,
            expression=same[0].sentence,
            mask=mask,
            no_target=not parts,
            boxes_xyxy=tuple(rle_box_xyxy(merge_rles(part, size_hw)) for part in parts),
            question=same[0].question,
            answer=answer,
            instances=tuple(objects) if len(objects) > 1 else (),
        )


def _parts(folder: _Folder, rows: Sequence[Row], size_hw: tuple[int, int]) -> list[list[Rle]] | None:
    """Objects of each row of one sentence, empty when it names nothing; None after a report."""
    names = [(row.mask, row.value) for row in rows]
    twice = next((row for k, row in enumerate(rows) if names[k] in names[:k]), None)
    if twice is not None:
        message = f"{twice.sentence!r} with this mask stands at {rows[0].place} already; keep one"
        folder.problems.report("row that stands twice", twice.place, message)
        return None
    absent = [row for row in rows if row.mask == NOT_THERE]
    if absent and len(absent) < len(rows):
        message = f"{rows[0].sentence!r} has a mask in one row and {NOT_THERE} in another; keep one of them"
        folder.problems.report("sentence with a mask and without", absent[0].place, message)
        return None
    parts = [part for row in rows if row.mask != NOT_THERE for part in [_part(folder, row, size_hw)]]
    kept = [part for part in parts if part is not None]
    return kept if len(kept) == len(parts) else None


def _part(folder: _Folder, row: Row, size_hw: tuple[int, int]) -> list[Rle] | None:
    """Pixels of each object that one row means, None after a report."""
    if row.mask not in folder.found:
        folder.found[row.mask] = _read_mask(folder, row, size_hw)
    found = folder.found[row.mask]
    if found is None:
        return None
    there = sorted(set(found) - {0})
    listed = ", ".join(map(str, there[:8])) + (", …" if len(there) > 8 else "")
    missing = [value for value in row.value if value not in found]
    if not there or missing:
        wanted = f" of value {', '.join(map(str, missing))} (it has {listed or 'only 0'})" if missing else ""
        message = (
            f"{row.mask} has no pixel{wanted}; if the image has no such thing, write {NOT_THERE} as mask"
        )
        folder.problems.report("mask without a pixel", row.place, message)
        return None
    if not row.value and len(there) > 1:
        message = (
            f"{row.mask} has pixels of {listed}; name those of the sentence in column value, or save a mask "
            "of 0 and 255 alone, as PNG and without soft edges"
        )
        folder.problems.report("mask of several values", row.place, message)
        return None
    return [found[value] for value in row.value or there]


def _read_mask(folder: _Folder, row: Row, size_hw: tuple[int, int]) -> dict[int, Rle] | None:
    """Pixels of each number in a mask file, None after a report."""
    path = folder.path / "masks" / row.mask
    remedy = "save one channel: 0 and 255, or the numbers of the objects"
    pixels = read_pixels(path, _MASK_MODES, folder.problems, remedy=remedy, noun="mask")
    if pixels is None:
        return None
    if pixels.shape != size_hw:
        message = f"{path} is {pixels.shape} pixels (height, width), the image {size_hw}; they must be equal"
        folder.problems.report("mask of another size", row.place, message)
        return None
    return masks_by_value(pixels)


INFOS: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name=NAME,
        family="referring",
        splits=SPLITS,
        read=read_own,
        needs=tuple(
            " or ".join(f"{base}{name}" for base in (f"{SUBFOLDER}/", "") for name in names)
            for names in (TABLES, ("images",), ("masks",))
        ),
        page='your own, see "Train on your data" in README',
    ),
)
"""A lab's own images, masks and sentences."""
