"""Names of the classes of label maps, with the number that stands for each.

A list is a text file of this package, `llava/data/classes/<name>.txt`: one class in a line, its number in the
label maps, a tab, its names parted by commas; lines that start with "#" say where the list comes from. The
first name is what the class is called, the others mean the same. Within one list a name means one class only,
as an answer that calls two classes by one name could not be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from llava.codec import clean_label

_FOLDER = Path(__file__).parents[1] / "classes"
_COMMENT = "#"


@dataclass(frozen=True)
class ClassName:
    """What one class is called.

    Attributes:
        name: as questions and answers call it.
        synonyms: other names with the same meaning.
    """

    name: str
    synonyms: tuple[str, ...] = ()


@cache
def class_names(list_name: str) -> Mapping[int, ClassName]:
    """Classes of one list by their number in the label maps, in the order of the file.

    Args:
        list_name: stem of a file under `llava/data/classes`, as "ade20k150".

    Raises:
        ValueError: unknown list; the message names the known ones.
    """
    path = _FOLDER / f"{list_name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in _FOLDER.glob("*.txt"))) or "none, install llava again"
        raise ValueError(f"unknown class list {list_name!r}; known: {known}")
    return MappingProxyType(parse_classes(path.read_text(encoding="utf-8"), str(path)))


def parse_classes(text: str, place: str) -> dict[int, ClassName]:
    r"""Classes of a list in text form.

    Args:
        text: see the module's description.
        place: file name for the error message.

    Raises:
        ValueError: a line is not "number, tab, names", a number or a name stands twice, or a name has
            characters that a mask text cannot carry.

    Example:
        >>> parse_classes("9\ttv, television", "own.txt")
        {9: ClassName(name='tv', synonyms=('television',))}
    """
    classes: dict[int, ClassName] = {}
    owner: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith(_COMMENT):
            continue
        value, names = _parse_line(line, f"{place}, line {number}")
        if value in classes:
            raise ValueError(f"{place}, line {number}: class {value} stands twice; give each number once")
        for name in names:
            if owner.setdefault(name.lower(), value) != value or names.count(name) > 1:
                raise ValueError(
                    f"{place}, line {number}: {name!r} already names class {owner[name.lower()]}; "
                    "give every class names of its own"
                )
        classes[value] = ClassName(names[0], tuple(names[1:]))
    return classes


def _parse_line(line: str, place: str) -> tuple[int, list[str]]:
    """Number and names of one line."""
    value, tab, rest = line.partition("\t")
    names = [name.strip() for name in rest.split(",")]
    if not tab or not value.strip().isdecimal() or not all(names):
        raise ValueError(f"{place}: {line!r}; needed a number, a tab, and names parted by commas")
    for name in names:
        try:
            clean_label(name, strict=True)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    return int(value), names
