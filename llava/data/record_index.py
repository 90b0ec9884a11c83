"""Conversation records of a file by number, read when they are needed.

Only the place of each record is held in memory, 21 bytes a record, so that LLaVA's 665,000 conversations cost
14 megabytes instead of gigabytes. Such records are taken as they are; what is drawn live lies in a
`llava.data.store.Store`.
"""

from __future__ import annotations

import codecs
import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from llava.data.held_out import HeldOut
from llava.data.record_files import WRITE_AGAIN, Record, check_record
from llava.data.record_form import Counts, add_form

_CHUNK = 1 << 22
"""Bytes read at once; a record may be longer."""


class RecordFile:
    """Records of one JSON list or JSONL file. Safe to fork and to pickle.

    Args:
        path: the file; it is read once from end to end, every record checked.
        held_out: images whose records are left out; None leaves out none.

    Attributes:
        path: the same.
        left_out: number of records on held out images.
        forms: in which forms masks are written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or a record is wrong; the message names file and record, from 0.
    """

    def __init__(self, path: Path, held_out: HeldOut | None = None) -> None:
        self.path = Path(path)
        self.held_out = held_out
        self.left_out = 0
        self.forms: Counts = {}
        starts, ends, letters, shown = array("q"), array("q"), array("i"), array("b")
        for start, end, record in _spans(self.path):
            if self._is_held_out(record):
                self.left_out += 1
                continue
            starts.append(start)
            ends.append(end)
            letters.append(sum(len(turn["value"]) for turn in record["conversations"]))
            shown.append("image" in record)
            add_form(self.forms, record)
        if not starts:
            raise ValueError(f"{self.path} holds no record" + " to train on" * bool(self.left_out))
        self._places = np.stack([np.frombuffer(starts, np.int64), np.frombuffer(ends, np.int64)], axis=1)
        self._letters = np.frombuffer(letters, np.int32)[:, None]
        self._shown = np.frombuffer(shown, np.int8).astype(np.bool_)

    def _is_held_out(self, record: Record) -> bool:
        """Whether a record shows an image that is kept out."""
        return self.held_out is not None and "image" in record and self.held_out.covers(record["image"])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self.path}, which has {len(self)}")
        start, end = (int(place) for place in self._places[index])
        with self.path.open("rb") as stream:
            stream.seek(start)
            text = stream.read(end - start)
        try:
            record: Record = json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"{self.path}, record {index}: the file has changed since it was opened; start again"
            ) from error
        return record

    def extents(self) -> NDArray[np.int32]:
        """What record lengths depend on: letters of the conversation, int32 (records, 1)."""
        return self._letters

    def has_image(self) -> NDArray[np.bool_]:
        """For every record whether it shows an image, bool (records,)."""
        return self._shown

    def image_names(self) -> Iterator[str]:
        """Image path of every record under the image folder, "" for text alone; reads the whole file."""
        for _, _, record in _spans(self.path):
            if not self._is_held_out(record):
                yield record.get("image", "")


def _spans(path: Path) -> Iterator[tuple[int, int, Record]]:
    """Start and end in bytes of every record of a file, with the record."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found - a mixture names files of records by `records`")
    with path.open("rb") as stream:
        head = stream.read(4096).lstrip()
    quiet = int(os.environ.get("RANK", "0")) > 0
    with tqdm(
        total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, delay=2, disable=quiet
    ) as bar:
        parsed = _list_items(path) if head.startswith(b"[") else _lines(path)
        for number, (start, end, item) in enumerate(parsed):
            yield start, end, check_record(item, f"{path}, record {number}")
            bar.update(end - bar.n)


def _lines(path: Path) -> Iterator[tuple[int, int, Any]]:
    """Objects of a JSONL file, empty lines left out."""
    end = number = 0
    with path.open("rb") as stream:
        for line in stream:
            start, end = end, end + len(line)
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}, record {number}: not valid JSON ({error}); {WRITE_AGAIN}"
                ) from error
            yield start, end, item
            number += 1


def _list_items(path: Path) -> Iterator[tuple[int, int, Any]]:
    """Items of a JSON list, of which a few megabytes are in memory at a time."""
    decoder, utf8 = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")()
    text, place, number, done = "", 0, 0, 0
    with path.open("rb") as stream:
        while True:
            chunk = stream.read(max(_CHUNK, len(text)))
            try:
                text += utf8.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 text ({error}); write it again") from error
            if not place:
                place = done = text.find("[") + 1
            while (start := _behind_commas(text, done)) < len(text) and text[start] != "]":
                try:
                    item, end = decoder.raw_decode(text, start)
                except json.JSONDecodeError as error:
                    if not chunk:
                        raise _damaged(path, number, str(error)) from error
                    break
                first = place + len(text[done:start].encode())
                place = first + len(text[start:end].encode())
                yield first, place, item
                number, done = number + 1, end
            if text[start : start + 1] == "]":
                return
            if not chunk:
                raise _damaged(path, number, "the list has no end")
            text, done = text[done:], 0


def _behind_commas(text: str, start: int) -> int:
    """Where the next item or the end of a list begins."""
    while start < len(text) and text[start] in " \t\r\n,":
        start += 1
    return start


def _damaged(path: Path, number: int, problem: str) -> ValueError:
    """Error of a list that cannot be read on."""
    return ValueError(f"{path}, record {number}: not valid JSON ({problem}); {WRITE_AGAIN}")
