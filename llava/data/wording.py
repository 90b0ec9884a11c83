"""Lists of questions and sentences, read from one YAML file that users may swap for their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llava.constants import BRICK_TOKENS, IMAGE_TOKEN

OWN_FILE = Path(__file__).with_name("wording.yaml")

CLASS_NAME, OBJECT, PART, QUESTION = "[class_name]", "[object]", "[part]", "[question]"
"""Places that are filled; the first three are those of Text4Seg (arXiv 2410.09855)."""

PLACES = {
    "question_partial": {CLASS_NAME},
    "answer_partial": {CLASS_NAME},
    "question_all": set(),
    "answer_all": set(),
    "question_condition": {CLASS_NAME},
    "answer_condition": set(),
    "question_object_all": {OBJECT},
    "answer_object_all": {OBJECT},
    "question_object_part": {PART, OBJECT},
    "answer_object_part": {PART, OBJECT},
    "question_reasoning": {QUESTION},
    "answer_reasoning": set(),
    "answer_reasoning_absent": set(),
}
"""Places that every entry of a list must have."""

OPTIONAL_PLACES = {"answer_condition": {CLASS_NAME}}
"""Places that an entry may have besides."""

_PLACE = re.compile("|".join(map(re.escape, (CLASS_NAME, OBJECT, PART, QUESTION))))
_TAGS = (IMAGE_TOKEN, *BRICK_TOKENS)


@dataclass(frozen=True)
class Wording:
    """Templates of each task form; see `wording.yaml` for what the lists are for.

    Raises:
        ValueError: lists without entries, entries with missing or unknown places; all are named at once.
    """

    question_partial: tuple[str, ...]
    answer_partial: tuple[str, ...]
    question_all: tuple[str, ...]
    answer_all: tuple[str, ...]
    question_condition: tuple[str, ...]
    answer_condition: tuple[str, ...]
    question_object_all: tuple[str, ...]
    answer_object_all: tuple[str, ...]
    question_object_part: tuple[str, ...]
    answer_object_part: tuple[str, ...]
    question_reasoning: tuple[str, ...]
    answer_reasoning: tuple[str, ...]
    answer_reasoning_absent: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check every list."""
        problems = [
            problem
            for entry in fields(self)
            for problem in _list_problems(entry.name, getattr(self, entry.name))
        ]
        if problems:
            raise ValueError("; ".join(problems))


def _list_problems(name: str, entries: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with one list."""
    if not entries:
        yield f"{name} has no entry; give at least one"
    allowed = PLACES[name] | OPTIONAL_PLACES.get(name, set())
    for number, text in enumerate(entries, start=1):
        found = set(_PLACE.findall(text))
        if not text.strip():
            yield f"{name}, entry {number} is empty"
        for place in sorted(PLACES[name] - found):
            yield f"{name}, entry {number} {text!r} lacks {place}"
        for place in sorted(found - allowed):
            yield f"{name}, entry {number} {text!r} has {place}, which is not filled in this list"
        for tag in _TAGS:
            if tag in text:
                yield f"{name}, entry {number} {text!r} has the tag {tag}, which is added by the code"


@cache
def load_wording(path: Path | None = None) -> Wording:
    """Wording of a file.

    Args:
        path: YAML file with all lists of `Wording`; None is the project's own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, lists are missing or unknown, or entries are wrong.

    Example:
        >>> load_wording().question_all[1]
        'Can you segment and label the image?'
    """
    path = Path(path or OWN_FILE)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found - give a wording file; copy {OWN_FILE.name} to begin with")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML ({error}); correct it") from error
    lists = _checked_lists(content, path)
    try:
        return Wording(**{name: tuple(entries) for name, entries in lists.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _checked_lists(content: Any, path: Path) -> dict[str, list[str]]:  # noqa: ANN401 - raw YAML
    """All lists of a file, each a list of texts.

    Raises:
        ValueError: the lists are not exactly those that are needed.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, needed the lists {', '.join(PLACES)}")
    missing = [name for name in PLACES if name not in content]
    unknown = [str(name) for name in content if name not in PLACES]
    if missing or unknown:
        told = [
            f"{what} {', '.join(names)}"
            for what, names in (("lacks", missing), ("has the unknown", unknown))
            if names
        ]
        raise ValueError(f"{path} {' and '.join(told)}; the lists are {', '.join(PLACES)}")
    for name, entries in content.items():
        if not isinstance(entries, list) or not all(isinstance(text, str) for text in entries):
            raise ValueError(f"{path}: {name} must be a list of texts; put texts with a colon into quotes")
    return content


def fill_places(template: str, values: dict[str, str]) -> str:
    """Template with its places filled; a value that brings its own "the" does not repeat one before it.

    A place inside a value is no place.

    Args:
        template: text with places such as "[object]".
        values: what to put into each place.

    Example:
        >>> fill_places("the [part] of the [object]", {"[part]": "leg", "[object]": "the dog"})
        'the leg of the dog'
    """
    text, end = "", 0
    for place in _PLACE.finditer(template):
        text += template[end : place.start()]
        text += (
            _without_second_article(values[place.group()], text) if place.group() in values else place.group()
        )
        end = place.end()
    return text + template[end:]


ARTICLE = "the "


def _without_second_article(value: str, before: str) -> str:
    """The value, its leading "the" left out where the text before it ends in one."""
    bare = value[len(ARTICLE) :].lstrip() if value.lower().startswith(ARTICLE) else ""
    ends_with_article = before.lower() == ARTICLE or before.lower().endswith(" " + ARTICLE)
    return bare if bare and ends_with_article else value
