"""Mixture files: which datasets a training draws from, how often, and how.

    seed: 1                       # of all draws; without it the training's seed
    records_per_epoch: 400000     # only with weights
    test_images: playground/data/refer_seg       # root of RefCOCO and its kin; their val and test images are
                                                 # left out of `records`, as builders do for stores
    datasets:
      - store: playground/data/stores/refcoco_train      # a folder that a builder wrote
        repeat: 3                                        # times per epoch, 0.5 is another half each epoch
        draw: {rounds: 2, flip: 0.5}                     # see `llava.data.draw.DrawSettings`
      - records: playground/data/llava_v1_5_mix665k.json # conversations as they are, json or jsonl
        images: llava                                    # put in front of their image paths

Either every dataset has a `repeat` (1 where it is left out) or every one has a `weight`, its share of
`records_per_epoch`. Paths start from the working directory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from llava.data.draw import DrawSettings
from llava.data.held_out import HeldOut, held_out_images
from llava.data.record_form import FORM_FIELDS
from llava.data.record_index import RecordFile
from llava.data.store import Store, is_store
from llava.data.wording import load_wording

FILE_SUFFIXES = (".yaml", ".yml")

_TOP_KEYS = ("seed", "records_per_epoch", "test_images", "datasets")
_KEYS = ("store", "records", "repeat", "weight", "draw", "images")
_DRAW_KEYS = tuple(item.name for item in fields(DrawSettings) if item.name not in FORM_FIELDS)


@dataclass(frozen=True)
class Portion:
    """One dataset of a mixture.

    Attributes:
        name: how it is called in tables and messages.
        source: a store, drawn from live, or a file of records as they are.
        count: records of one epoch.
        draw: settings that differ from those of the checkpoint.
        images: folder under the image folder that its image paths start from, "" for the image folder itself.
    """

    name: str
    source: Store | RecordFile
    count: int
    draw: dict[str, Any] = field(default_factory=dict)
    images: str = ""

    @property
    def repeat(self) -> float:
        """How often an epoch takes each record."""
        return self.count / len(self.source)

    def settings(self, base: DrawSettings) -> DrawSettings:
        """Draw settings of this dataset.

        Raises:
            ValueError: a value is wrong.
            FileNotFoundError: the wording file is missing.
        """
        changes = dict(self.draw)
        if "wording" in changes:
            changes["wording"] = load_wording(Path(changes["wording"]))
        try:
            return replace(base, **changes)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.name}: {error}") from error

    def held_out(self) -> str:
        """What is known about val and test images of the RefCOCO family among its images."""
        facts: Any
        if isinstance(self.source, Store):
            facts = self.source.about.get("held_out")
        else:
            held_out = self.source.held_out
            facts = held_out and {**held_out.facts(), "left_out_images": f"{self.source.left_out} records"}
        if not isinstance(facts, dict):
            return "not looked for"
        missing = facts.get("missing")
        unknown = f", not those of {', '.join(missing)}" if missing else ""
        return f"{facts.get('left_out_images', 0)} left out{unknown}"


@dataclass(frozen=True)
class Mixture:
    """Datasets to train on together.

    Attributes:
        name: the file, or the data paths it was made of.
        portions: the datasets, those that an epoch takes nothing of left out.
        seed: of all draws; None takes the training's.
    """

    name: str
    portions: tuple[Portion, ...]
    seed: int | None = None

    def __len__(self) -> int:
        return sum(portion.count for portion in self.portions)

    def facts(self) -> list[dict[str, Any]]:
        """What must be the same for the same draws, ready for JSON."""
        return [
            {
                "name": portion.name,
                "records": len(portion.source),
                "per epoch": portion.count,
                "draw": portion.draw,
                "images": portion.images,
            }
            for portion in self.portions
        ]

    def table(self) -> str:
        """What is mixed, one line per dataset."""
        head = ("dataset", "family", "images", "records", "repeat", "per epoch", "share", "test images")
        rows = [head, *(self._row(portion) for portion in self.portions)]
        rows.append(("all", "", "", "", "", f"{len(self):,}", "100.0 %", ""))
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = []
        for row in rows:
            cells = [
                cell.ljust(width) if column in (0, 1, 7) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return f"mixture {self.name}\n" + "\n".join(lines)

    def _row(self, portion: Portion) -> tuple[str, ...]:
        """Cells of one dataset."""
        source = portion.source
        return (
            portion.name,
            source.family if isinstance(source, Store) else "records as they are",
            f"{source.image_count if isinstance(source, Store) else int(source.has_image().sum()):,}",
            f"{len(source):,}",
            f"{portion.repeat:.3g}",
            f"{portion.count:,}",
            f"{100 * portion.count / len(self):.1f} %",
            portion.held_out(),
        )


def is_mixture(path: str | Path) -> bool:
    """Whether a data path names a mixture file or a store, not a file of records."""
    return Path(path).suffix.lower() in FILE_SUFFIXES or Path(path).is_dir()


def open_mixture(paths: Sequence[str | Path]) -> Mixture:
    """Mixture of a YAML file, or of stores and record files that are each taken once.

    Raises:
        FileNotFoundError: a file or a store is missing.
        ValueError: the file is wrong, with all that is wrong in it, or stands beside others.
    """
    given = [Path(path) for path in paths]
    files = [path for path in given if path.suffix.lower() in FILE_SUFFIXES]
    if files and len(given) > 1:
        raise ValueError(f"{files[0]} is a mixture file and must stand alone; name the other data inside it")
    if files:
        return _read_mixture(files[0])
    entries = [{"store" if is_mixture(path) else "records": str(path)} for path in given]
    return _mixture({"datasets": entries}, " ".join(map(str, given)))


def _read_mixture(path: Path) -> Mixture:
    """Mixture of a YAML file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found - examples of mixture files lie in scripts/v1_5/mixtures")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML ({error}); correct it") from error
    return _mixture(content, str(path))


def _mixture(content: Any, name: str) -> Mixture:  # noqa: ANN401 - raw YAML
    """Checked mixture of a file's content."""
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("datasets"), list)
        or not content["datasets"]
    ):
        raise ValueError(f"{name} has no list `datasets`; see scripts/v1_5/mixtures for examples")
    entries = content["datasets"]
    problems = [*_top_problems(content), *_share_problems(content)]
    for number, entry in enumerate(entries, start=1):
        problems += [f"dataset {number}: {problem}" for problem in _entry_problems(entry)]
    if problems:
        raise ValueError(f"mixture {name}:\n" + "\n".join(f"- {problem}" for problem in problems))
    held_out = held_out_images(Path(content["test_images"])) if content.get("test_images") else None
    sources = [_open(entry, held_out) for entry in entries]
    counts = _counts(content, [len(source) for source in sources])
    portions = tuple(
        Portion(
            name=_short_name(entry),
            source=source,
            count=count,
            draw=entry.get("draw") or {},
            images=str(PurePosixPath(entry["images"])) if entry.get("images") else "",
        )
        for entry, source, count in zip(entries, sources, counts, strict=True)
        if count
    )
    if not portions:
        raise ValueError(f"mixture {name} takes no record at all; raise a repeat or weight above 0")
    return Mixture(name, portions, content.get("seed"))


def _top_problems(content: dict[str, Any]) -> list[str]:
    """What is wrong with the keys above the datasets."""
    problems = [_unknown(key, _TOP_KEYS) for key in content if key not in _TOP_KEYS]
    seed = content.get("seed")
    if seed is not None and not (type(seed) is int and seed >= 0):
        problems.append(f"seed {seed!r}: must be a whole number from 0")
    size = content.get("records_per_epoch")
    if size is not None and not (type(size) is int and size >= 1):
        problems.append(f"records_per_epoch {size!r}: must be a whole number from 1")
    root = content.get("test_images")
    if root is not None and not (isinstance(root, str) and Path(root).is_dir()):
        problems.append(f"test_images {root!r}: must be the folder of the RefCOCO family's datasets")
    return problems


def _share_problems(content: dict[str, Any]) -> list[str]:
    """What is wrong with repeats and weights taken together."""
    entries = [entry for entry in content["datasets"] if isinstance(entry, dict)]
    weighted = [entry for entry in entries if "weight" in entry]
    if weighted and len(weighted) < len(entries):
        return [
            "some datasets have a weight and some have none; give every one a weight, or every one a repeat"
        ]
    if content.get("records_per_epoch") is not None and not weighted:
        return ["records_per_epoch goes with weights; with repeats the datasets say how long an epoch is"]
    if weighted and content.get("records_per_epoch") is None:
        return ["weights need records_per_epoch, the number of records in one epoch"]
    return []


def _entry_problems(entry: Any) -> list[str]:  # noqa: ANN401 - raw YAML
    """What is wrong with one dataset."""
    if not isinstance(entry, dict):
        return [f"{entry!r} is no mapping; write `store: FOLDER` or `records: FILE`"]
    problems = [_unknown(key, _KEYS) for key in entry if key not in _KEYS]
    if ("store" in entry) == ("records" in entry):
        problems.append("give either `store`, a folder, or `records`, a file")
    for key in ("store", "records", "images"):
        if key in entry and not (isinstance(entry[key], str) and entry[key]):
            problems.append(f"{key} {entry[key]!r}: must be a path")
    if "store" in entry and isinstance(entry["store"], str) and not is_store(Path(entry["store"])):
        problems.append(
            f"store {entry['store']} not found or no store; make it with "
            "playground/data/create_json/create_*.py, or remove the dataset"
        )
    if "records" in entry and isinstance(entry["records"], str) and not Path(entry["records"]).is_file():
        problems.append(f"records {entry['records']} not found; get the file, or remove the dataset")
    for key in ("repeat", "weight"):
        value = entry.get(key, 1)
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            problems.append(f"{key} {value!r}: must be a number from 0")
    return problems + _draw_problems(entry)


def _draw_problems(entry: dict[str, Any]) -> list[str]:
    """What is wrong with the draw settings of one dataset; their values are checked by `DrawSettings`."""
    draw = entry.get("draw")
    if draw is None:
        return []
    if not isinstance(draw, dict):
        return [f"draw {draw!r} is no mapping; known are {', '.join(_DRAW_KEYS)}"]
    if "records" in entry:
        return ["draw goes with a store; records are taken as they are"]
    problems = []
    for key in draw:
        if key in FORM_FIELDS:
            problems.append(f"draw: {key} belongs to the checkpoint and is the same for all; remove it here")
        elif key not in _DRAW_KEYS:
            problems.append(f"draw: {_unknown(key, _DRAW_KEYS)}")
    if not isinstance(draw.get("wording", ""), str):
        problems.append(f"draw: wording {draw['wording']!r}: must be a path")
    return problems


def _unknown(key: object, known: Sequence[str]) -> str:
    return f"unknown key {key!r}; known are {', '.join(known)}"


def _open(entry: dict[str, Any], held_out: HeldOut | None) -> Store | RecordFile:
    """Source of one dataset."""
    return Store(Path(entry["store"])) if "store" in entry else RecordFile(Path(entry["records"]), held_out)


def _short_name(entry: dict[str, Any]) -> str:
    """Last part of the path."""
    return Path(entry.get("store") or entry["records"]).name


def _counts(content: dict[str, Any], sizes: Sequence[int]) -> list[int]:
    """Records that one epoch takes of each dataset."""
    entries = content["datasets"]
    times = [float(entry.get("repeat", 1)) * size for entry, size in zip(entries, sizes, strict=True)]
    if "weight" in entries[0]:
        total = sum(entry["weight"] for entry in entries) or 1.0
        times = [content["records_per_epoch"] * entry["weight"] / total for entry in entries]
    return [max(1, round(count)) if count else 0 for count in times]
