"""Conversation records of the LLaVA ecosystem: check, read, write.

A record is a JSON object with `id`, `conversations` (turns {"from": "human" | "gpt", "value": text}, in turn)
and, where there is an image, its path under the image folder as `image`. Records that teach a mask also carry
`height` and `width`: the sides of the label GRID in cells, not of the image in pixels (Text4Seg,
arXiv 2410.09855); masks written box by box say so besides (`llava.data.record_form`). Such a record may show
a part of its image, `crop_size` [left, top, right, bottom] in pixels (Text4Seg), and mirror what it shows
left to right, `flip` true (ours).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llava.constants import IMAGE_TOKEN
from llava.data.record_form import form_problems
from llava.files import atomic_path

Record = dict[str, Any]

WRITE_AGAIN = "it is cut or damaged, write it again"

SPEAKERS = ("human", "gpt")
"""Who speaks in even and in odd turns."""


_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""Half of a pair that stands for one character; alone it is no text, and no tokenizer or file takes it."""


def check_record(record: object, place: str) -> Record:
    """The record itself, if it is one.

    Args:
        record: parsed JSON.
        place: file and record number, for the error message.

    Raises:
        ValueError: names the place and everything that is wrong with the record.
    """
    if not isinstance(record, dict):
        raise ValueError(
            f"{place} is a {type(record).__name__}, needed an object with id, image, conversations"
        )
    problems = [*_field_problems(record), *_turn_problems(record.get("conversations"), "image" in record)]
    if problems:
        raise ValueError(f"{place}: {'; '.join(problems)}")
    return record


def _field_problems(record: Record) -> Iterator[str]:
    """What is wrong with id, image, form of the masks, crop and mirror."""
    if not isinstance(record.get("id"), (str, int)):
        yield f"id {record.get('id')!r} must be text or a number"
    image = record.get("image", "x")
    if not isinstance(image, str) or not image:
        yield f"image {image!r} must be a path under the image folder; leave it out where there is none"
    yield from form_problems(record)
    if "crop_size" in record and not _is_crop(record["crop_size"]):
        yield f"crop_size {record['crop_size']!r} must be [left, top, right, bottom] in pixels of the image"
    if not isinstance(record.get("flip", False), bool):
        yield f"flip {record['flip']!r} must be true or false"


def _is_crop(crop: object) -> bool:
    """Whether this is a part of an image with at least one pixel."""
    if not isinstance(crop, list) or len(crop) != 4 or any(type(side) is not int for side in crop):
        return False
    left, top, right, bottom = crop
    return 0 <= left < right and 0 <= top < bottom


def _turn_problems(turns: object, has_image: bool) -> Iterator[str]:
    """What is wrong with the conversation."""
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        yield "conversations must be a list of pairs of a human and a gpt turn"
        return
    texts = []
    for number, turn in enumerate(turns):
        speaker = SPEAKERS[number % 2]
        text = turn.get("value") if isinstance(turn, dict) and turn.get("from") == speaker else None
        if not isinstance(text, str) or not text.strip():
            yield f'turn {number} must be {{"from": "{speaker}", "value": some text}}'
        elif not text.isascii() and _HALF_CHARACTER.search(text):
            yield f"turn {number} holds half a character, as from an emoji that was cut; take it out"
        texts.append(text if isinstance(text, str) else "")
    places = [number for number, text in enumerate(texts) for _ in range(text.count(IMAGE_TOKEN))]
    if places != ([0] if has_image else []):
        needed = "exactly once, in turn 0" if has_image else "nowhere, as the record has no image"
        yield f"{IMAGE_TOKEN} stands in turns {places}; it must stand {needed}"


def read_records(path: Path) -> list[Record]:
    """All records of a file, each checked.

    Args:
        path: a JSON list, or one JSON object per line (JSONL); told apart by the first character.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or a record is wrong; the message names file and record, from 0.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found - make it with playground/data/create_json/create_refcoco.py"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); write it again") from error
    parsed = _parse_list(text, path) if text.lstrip().startswith("[") else _parse_lines(text, path)
    if not parsed:
        raise ValueError(f"{path} holds no record")
    return [check_record(record, f"{path}, record {number}") for number, record in enumerate(parsed)]


def _parse_list(text: str, path: Path) -> list[object]:
    """Items of a JSON list."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {WRITE_AGAIN}") from error


def _parse_lines(text: str, path: Path) -> list[object]:
    """Objects of a JSONL text, empty lines left out."""
    parsed: list[object] = []
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, record {len(parsed)}: not valid JSON ({error}); {WRITE_AGAIN}"
            ) from error
    return parsed


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records whole or not at all: JSONL for a name that ends in .jsonl, else a JSON list.

    Both forms have one record per line.

    Raises:
        ValueError: a record is wrong, or there is none; nothing is written then.
    """
    path = Path(path)
    start, between, end = ("", "\n", "\n") if path.suffix == ".jsonl" else ("[\n", ",\n", "\n]\n")
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for count, record in enumerate(records, start=1):
            checked = check_record(record, f"record {count - 1} for {path}")
            stream.write((between if count > 1 else start) + json.dumps(checked, ensure_ascii=False))
        stream.write(end)
        if not count:
            raise ValueError(f"no record to write to {path}")
