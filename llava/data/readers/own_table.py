"""The table of one's own data: file, columns and rows, checked before any image is opened."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llava.data.problems import Problems
from llava.data.readers.lookup import find_path

SPLITS = ("train", "val", "test")
NOT_THERE = "none"
"""Word of column `mask` for a sentence that names nothing in the image."""

TABLES = tuple(f"sentences.{ending}" for ending in ("csv", "json", "jsonl"))
SUBFOLDER = "own"
"""Folder that is looked into where the root itself has no table."""

NEEDED = ("image", "sentence", "mask")
COLUMNS = (*NEEDED, "value", "split", "question", "answer")


@dataclass(frozen=True)
class Row:
    """One sentence about one image.

    Attributes:
        place: file and line or record, for reports.
        image: file under `images`.
        sentence: what is named; "question" and "answer" as in `Sample`.
        mask: file under `masks`, or `NOT_THERE`.
        value: numbers of the mask's pixels that are meant; empty where the mask has only one.
        split: one of `SPLITS`.
    """

    place: str
    image: str
    sentence: str
    mask: str
    value: tuple[int, ...] = ()
    split: str = SPLITS[0]
    question: str = ""
    answer: str = ""


def read_table(root: Path, problems: Problems) -> tuple[Path, list[Row]]:
    """The one table of a folder or of its `SUBFOLDER`, and its rows in order.

    Args:
        root: where to look.
        problems: takes wrong rows; counts columns that are not read.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: there are several, one cannot be read, or a wrong row that `problems` does not admit.
    """
    table = find_path(root, [*TABLES, *(f"{SUBFOLDER}/{name}" for name in TABLES)])
    there = [name for name in TABLES if (table.parent / name).exists()]
    if len(there) > 1:
        raise ValueError(f"{table.parent} holds {' and '.join(there)}; keep one table")
    return table, [row for place, entry in _entries(table, problems) for row in _rows(place, entry, problems)]


def _entries(table: Path, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and fields of each row of a table.

    Raises:
        ValueError: the table is not UTF-8, no table of its kind, or its columns are not those of `COLUMNS`.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8 ({error}); save it as UTF-8") from error
    if table.suffix == ".csv":
        entries = _csv_entries(table, text, problems)
    else:
        entries = _json_entries(table, text)
    noted: set[str] = set()
    for place, entry in entries:
        _check_columns(place, entry, noted, problems)
        yield place, entry


def _csv_entries(table: Path, text: str, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of comma-parted text with a line of column names."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        twice = sorted({name for name in header if name in COLUMNS and header.count(name) > 1})
        if twice:
            raise ValueError(f"{table}: first line names {', '.join(twice)} twice; keep one column of each")
        _check_columns(f"{table}: first line", dict.fromkeys(header), set(), problems)
        for fields in reader:
            place = f"{table}: line {reader.line_num}"
            if len(fields) == len(header):
                yield place, dict(zip(header, fields, strict=True))
            elif fields:
                problems.report(
                    "row of another length",
                    place,
                    f"{len(fields)} fields, the first line names {len(header)}; a sentence with commas needs "
                    'quotes: "the tall, thin one"',
                )
    except csv.Error as error:
        raise ValueError(f"{table}: line {reader.line_num} is no CSV ({error}); correct it") from error


def _json_entries(table: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSON list, or of lines."""
    try:
        if table.suffix == ".jsonl":
            lines = text.split("\n")
            entries = [(k, json.loads(line)) for k, line in enumerate(lines, start=1) if line.strip()]
        else:
            content = json.loads(text)
            if not isinstance(content, list):
                raise ValueError(f"{table} holds a {type(content).__name__}, needed a list of objects")
            entries = list(enumerate(content))
    except json.JSONDecodeError as error:
        raise ValueError(f"{table} is not valid JSON ({error}); correct it") from error
    word = "line" if table.suffix == ".jsonl" else "record"
    for number, entry in entries:
        if not isinstance(entry, dict):
            raise ValueError(f"{table}: {word} {number} is {str(entry)[:40]!r}, needed an object")
        yield f"{table}: {word} {number}", entry


def _check_columns(place: str, entry: dict[str, Any], noted: set[str], problems: Problems) -> None:
    """Check names of columns; those that look like none of ours are noted once, and not read.

    Raises:
        ValueError: a needed column is missing, or one looks like a slip of the pen.
    """
    known = f"columns are {', '.join(COLUMNS)}, the first {len(NEEDED)} are needed"
    missing = [name for name in NEEDED if name not in entry]
    if missing:
        found = ", ".join(map(repr, entry)) or "none"
        raise ValueError(f"{place}: no {', '.join(missing)} among {found}; {known}")
    for name in sorted(set(entry) - set(COLUMNS) - noted):
        close = difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.75)
        if close:
            raise ValueError(f"{place}: unknown column {name!r}, did you mean {close[0]}? {known}")
        noted.add(name)
        problems.note("columns that are not read", f"{place}: {name!r}")


def _rows(place: str, entry: dict[str, Any], problems: Problems) -> Iterator[Row]:
    """One row for each wording of an entry, none after a report."""
    words = {name: entry.get(name) or "" for name in COLUMNS if name not in ("sentence", "value")}
    sentences = entry["sentence"] if isinstance(entry["sentence"], list) else [entry["sentence"]]
    texts = [*words.values(), *sentences]
    if not sentences or not all(isinstance(text, str) for text in texts):
        problems.report("row of other things than text", place, f"{str(entry)[:120]}; needed texts")
        return
    words = {name: text.strip() for name, text in words.items()}
    words["split"] = words["split"] or SPLITS[0]
    words |= {name: str(PurePosixPath(words[name])) for name in ("image", "mask") if words[name]}
    empty = [name for name in ("image", "mask") if not words[name]]
    empty += ["sentence"] * (not all(text.strip() for text in sentences))
    outside = [name for name in (words["image"], words["mask"]) if _leads_out(name)]
    value = _numbers(entry.get("value"))
    if empty:
        advice = f"fill it in; a mask of something that is not in the image is called {NOT_THERE}"
        problems.report("row with an empty field", place, f"no {', '.join(empty)}; {advice}")
    elif outside:
        problems.report("path that leads out", place, f"{outside[0]!r}: give a path under images or masks")
    elif words["split"] not in SPLITS:
        problems.report("unknown split", place, f"split {words['split']!r}; known: {', '.join(SPLITS)}")
    elif value is None:
        problems.report(
            "value that is no number", place, f"value {entry['value']!r}: give numbers above 0, as 3 or 3 4"
        )
    else:
        for text in sentences:
            yield Row(place, sentence=" ".join(text.split()), value=value, **words)


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _numbers(value: Any) -> tuple[int, ...] | None:  # noqa: ANN401 - raw JSON
    """Numbers of a `value`, sorted, each once; None if it holds something else."""
    parts = value if isinstance(value, list) else str("" if value is None else value).split()
    texts = [str(part) for part in parts]
    if not all(text.isascii() and text.isdigit() and int(text) > 0 for text in texts):
        return None
    return tuple(sorted({int(text) for text in texts}))
