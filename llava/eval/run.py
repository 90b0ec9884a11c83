"""What a run is: the settings that all its records share, written to `run.json` before the first one."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import llava
from llava.constants import SEGMENTATION_FILE
from llava.eval.predictions import PREDICTIONS_FILE, Record, rank_files, read_run
from llava.files import write_text_atomic
from llava.settings import BRICKS
from llava.types import Sample

RUN_FILE = "run.json"
MAY_CHANGE = ("data_root", "code")
"""Fields that may differ when a run is resumed: where the data lies now, and the version of the code."""

WEIGHT_SUFFIXES = (".safetensors", ".bin")
ENDS_BYTES = 1 << 20
"""How much is read of the start and of the end of each weight file; enough to tell two trainings apart."""


@dataclass(frozen=True)
class RunSettings:
    """All that decides what the records of a run say.

    Attributes:
        checkpoint: folder of the model.
        weights: `fingerprint` of that folder.
        splits: what is scored, each "dataset|split_by|split".
        grid_hw: rows and columns of the checkpoint's label grid.
        cell_policy: how the checkpoint turns a mask into cells; used for the `grid` scores.
        refiner: folder of SAM, or "none".
        limit: samples per split, None for all.
        seed: of everything drawn at random.
        options: further settings of the model and of the refiner.
        data_root: folder that holds the datasets.
        samples: number of samples and digest of their ids, expressions and true masks.
        code: versions of the code that answered.
    """

    checkpoint: str
    weights: str
    splits: tuple[str, ...]
    grid_hw: tuple[int, int]
    cell_policy: str = "centre"
    refiner: str = "none"
    limit: int | None = None
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    data_root: str = ""
    samples: dict[str, Any] = field(default_factory=dict)
    code: tuple[str, ...] = ()

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> RunSettings:
        """Settings of a decoded `run.json`."""
        lists = {name: tuple(fields[name]) for name in ("splits", "grid_hw", "code")}
        return cls(**{**fields, **lists})

    @property
    def cells_hw(self) -> tuple[int, int] | None:
        """Rows and columns of cells over the image that answers are made of; None where they lie in boxes."""
        return None if self.options.get("codec") == BRICKS else self.grid_hw

    @property
    def digest(self) -> str:
        """Short digest of all that may not change; every record of the run carries it."""
        fixed = {name: value for name, value in _plain(self).items() if name not in MAY_CHANGE}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:12]


def fingerprint(folder: Path) -> str:
    """Short digest of the weights and `segmentation.json` in a folder, or of one file of weights.

    "none" when there are neither, as for a name on the hub.
    """
    names = [Path(folder)] if Path(folder).is_file() else []
    names += [path for path in sorted(Path(folder).glob("*")) if path.suffix in WEIGHT_SUFFIXES]
    names += [path for path in (Path(folder) / SEGMENTATION_FILE,) if path.is_file()]
    digest = hashlib.sha256()
    for path in names:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as weights:
            digest.update(weights.read(ENDS_BYTES))
            weights.seek(max(size - ENDS_BYTES, 0))
            digest.update(weights.read())
    return digest.hexdigest()[:16] if names else "none"


def code_version() -> str:
    """Version of this package, and the git commit of its source where there is one ("+" = changed since)."""
    folder = Path(llava.__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return llava.__version__
    return f"{llava.__version__} {described}"


def describe_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """Number of samples and a digest that changes when one of them, its words, masks or boxes change."""
    digest = hashlib.sha256()
    for sample in samples:
        told = [sample.id, sample.expression, sample.mask, sample.no_target, sample.ignore, sample.boxes_xyxy]
        told += [sample.question, sample.classes]
        digest.update(json.dumps(told).encode())
    return {"count": len(samples), "digest": digest.hexdigest()[:16]}


def read_settings(folder: Path) -> RunSettings:
    """Settings of a run folder.

    Raises:
        FileNotFoundError: there is no `run.json`.
        ValueError: it is damaged.
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; run scripts/v1_5/eval/refer_seg.sh to make a run folder")
    try:
        return RunSettings.from_fields(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); start the run again in another folder") from error


def differences(old: RunSettings, new: RunSettings) -> list[str]:
    """One sentence for each setting that would mix two different runs; empty when `new` may resume `old`."""
    before, now = _plain(old), _plain(new)
    return [
        f"{name} was {before[name]!r}, now {now[name]!r}"
        for name in before
        if name not in MAY_CHANGE and before[name] != now[name]
    ]


def check_records(folder: Path, records: Iterable[Record], settings: RunSettings) -> None:
    """Refuse predictions that another run left or that somebody copied into the folder.

    Raises:
        ValueError: a record belongs to another run: another checkpoint, split, refiner, ….
    """
    strange = [record for record in records if record.run not in ("", settings.digest)]
    if strange:
        raise ValueError(
            f"{folder}: {len(strange)} predictions belong to another run (first: {strange[0].id} of run "
            f"{strange[0].run}, this one is {settings.digest}): another checkpoint, split, refiner or other "
            "samples. Take their file out of the folder, or choose another folder"
        )


def check_out(folder: Path) -> None:
    """Look whether a folder is there or can be made.

    Raises:
        ValueError: it, or a folder above it, is a file.
    """
    absolute = Path(folder).absolute()
    there = next(path for path in (absolute, *absolute.parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"--out {folder}: {there} is a file; choose another folder")


def open_run(folder: Path, settings: RunSettings, *, first: bool = True) -> RunSettings:
    """Start a run in `folder`, or resume the one that is there, and return its settings.

    A run that ended before its first answer, as after a wrong path of SAM, leaves the folder to any settings.

    Args:
        folder: run folder, made if needed.
        settings: settings of this call.
        first: True in one process of a run; it notes a changed code version.

    Raises:
        ValueError: the folder is a file, or holds a run with other settings or predictions without a
            `run.json`.
    """
    folder = Path(folder)
    check_out(folder)
    if not (folder / RUN_FILE).is_file():
        if read_run(folder):
            raise ValueError(f"{folder} holds predictions but no {RUN_FILE}; choose another folder")
        _write(folder, settings)
        return settings
    old = read_settings(folder)
    changed = differences(old, settings)
    if changed and not (rank_files(folder) or (folder / PREDICTIONS_FILE).exists()):
        _write(folder, settings)
        return settings
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. "
            "Use the old settings to resume it, or another --out to start a new run"
        )
    new_code = tuple(version for version in settings.code if version not in old.code)
    resumed = replace(settings, code=old.code + new_code)
    if first and resumed != old:
        _write(folder, resumed)
    return resumed


def _write(folder: Path, settings: RunSettings) -> None:
    write_text_atomic(folder / RUN_FILE, json.dumps(_plain(settings), indent=1) + "\n")


def _plain(settings: RunSettings) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return plain
