"""Conversations that are taken as they are, in the form of LLaVA-665k (arXiv 2310.03744).

A record is `{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, …]}`; text alone has no
`image`. The file is one JSON list or one object a line, and only a few megabytes of it are in memory at a
time.

Two slips of conversation files in use are mended and noted, as LLaVA's own loader mends the first: an answer
before the first question goes, and a question after the last answer goes. Ids stand several times in the
published file, so each gets the number of its record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from llava.data.annotated import CONVERSATION, AnnotatedImage
from llava.data.problems import Problems
from llava.data.readers.lookup import HELP, is_filled_file
from llava.data.record_files import SPEAKERS, check_record
from llava.data.record_index import _lines, _list_items

PAGE = "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K (llava_v1_5_mix665k.json)"
"""Where the usual file comes from."""

IMAGE_FOLDERS = (
    "coco/train2017",
    "gqa/images",
    "ocr_vqa/images",
    "textvqa/train_images",
    "vg/VG_100K",
    "vg/VG_100K_2",
)
"""Folders that its image paths start with."""


def read_conversations(
    path: Path, *, problems: Problems | None = None, image_folder: Path | None = None, name: str = ""
) -> Iterator[AnnotatedImage]:
    """Conversations of one file in its order, each with its texts unchanged.

    Args:
        path: a JSON list, or one JSON object per line; told apart by the first character.
        problems: what to do with wrong records; None stops at the first.
        image_folder: folder that image paths start from; None leaves unchecked whether images are there.
        name: of the dataset; "" takes the file's stem.

    Yields:
        Images of family "conversation", ids "name|record number|own id", `size_hw` (0, 0), no targets.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or a record is wrong and `problems` does not admit it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found - {HELP}")
    problems = problems or Problems()
    name = name or path.stem
    with path.open("rb") as stream:
        head = stream.read(4096).lstrip()
    progress = tqdm(total=path.stat().st_size, desc=name, unit="B", unit_scale=True, delay=2)
    items = _list_items(path) if head.startswith(b"[") else _lines(path)
    for number, (_, end, item) in enumerate(items):
        progress.update(end - progress.n)
        place = f"{path}, record {number}"
        fault = _fault(item, image_folder)
        if fault is not None:
            problems.report(fault[0], place, fault[1])
            continue
        turns = _whole_rounds(item, problems, place)
        try:
            check_record({"id": number, **item, "conversations": turns}, place)
        except ValueError as error:
            problems.report("damaged conversation", place, str(error).removeprefix(f"{place}: "))
            continue
        texts = [turn["value"] for turn in turns]
        yield AnnotatedImage(
            id=f"{name}|{number}|{item.get('id', '')}",
            dataset=name,
            family=CONVERSATION,
            image=item.get("image", ""),
            size_hw=(0, 0),
            targets=(),
            conversations=tuple(zip(texts[::2], texts[1::2], strict=True)),
        )
    progress.close()


def _fault(item: object, image_folder: Path | None) -> tuple[str, str] | None:
    """Kind and description of what keeps a record from being a conversation, None if nothing does."""
    if not isinstance(item, dict) or not isinstance(item.get("conversations"), list):
        return "damaged conversation", "needed an object with id, image, and a list of conversations"
    if "height" in item or "width" in item:
        return (
            "record with a label grid",
            "height and width say that its answers show masks on a grid, which is lost here; "
            "name such a file under `records` of a mixture",
        )
    image = item.get("image")
    if not isinstance(image, str) or not image:
        return None
    parts = PurePosixPath(image)
    if parts.is_absolute() or ".." in parts.parts or "\\" in image:
        return "image outside the folder", f"image {image!r} must be a path under the image folder"
    if image_folder is not None and not is_filled_file(Path(image_folder) / image):
        return "missing image", f"image {Path(image_folder) / image} is missing or empty - {HELP}"
    return None


def _whole_rounds(item: dict[str, Any], problems: Problems, place: str) -> list[Any]:
    """Turns without an answer at the start and a question at the end that have no counterpart."""
    turns = list(item["conversations"])
    if turns and _speaker(turns[0]) == SPEAKERS[1]:
        problems.note("answers before the first question", place)
        del turns[0]
    if len(turns) > 1 and _speaker(turns[-1]) == SPEAKERS[0]:
        problems.note("questions after the last answer", place)
        del turns[-1]
    return turns


def _speaker(turn: object) -> object:
    """Who speaks in a turn."""
    return turn.get("from") if isinstance(turn, dict) else None
