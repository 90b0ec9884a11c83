"""Predictions on disk: one JSON line per expression, appended as they come, merged once all are there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from llava.eval.confidence import Packed
from llava.files import write_text_atomic
from llava.types import Edges, Rle

PREDICTIONS_FILE = "predictions.jsonl"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""Errors of network file systems that know no locks; the run goes on without."""

RANK_FILE = re.compile(r"predictions\.rank(\d+)\.jsonl")


@dataclass(frozen=True)
class Record:
    """All that is known of one answer: enough to score and to draw it without model and dataset.

    Attributes:
        id: id of the sample, "dataset|split_by|split|ref_id|sent_id".
        image: image file, relative to the data root where it lies below it.
        expression: what was asked for.
        group: kind of the expression, "" where unknown.
        no_target: the expression describes nothing in the image.
        truth: true mask, COCO RLE of the image size.
        answer: text of the model.
        absent: the answer says that the target is not there.
        coarse: mask of the answer, COCO RLE of the image size.
        refined: mask after the refiner, None when there was none.
        note: why the refiner kept the coarse mask, "" when it did not.
        faults: what was wrong with the answer, in words.
        mode: "generated" or "forced".
        seconds: this answer's share of its batch, per step.
        ignore: pixels that belong to no decision, COCO RLE of the image size; None where there are none.
        boxes_xyxy: annotated box of each target in pixels, (x0, y0, x1, y1).
        category: class names of the targets, "" where the data set has none.
        stats: what writing the answer cost, such as "tokens" and "passes"; empty where the system is silent.
        confidence: probability of each label cell to be inside, see `llava.eval.confidence`; None for none.
        regions: of a map of classes, masks by name: "truth" by class, "coarse" and "refined" by label of the
            answer; no two masks of one map overlap. Empty for everything else.
        boxes: box that the answer itself writes, in pixels (x0, y0, x1, y1), one entry for each target, None
            for a target without any; None where the system writes no boxes.
        targets: true mask of each target, where the answer to a question is scored target by target too.
        run: `digest` of the settings of the run that the answer belongs to, "" where it is not told.
    """

    id: str
    image: str
    expression: str
    group: str
    no_target: bool
    truth: Rle
    answer: str
    absent: bool
    coarse: Rle
    refined: Rle | None = None
    note: str = ""
    faults: tuple[str, ...] = ()
    mode: str = "generated"
    seconds: dict[str, float] = field(default_factory=dict)
    ignore: Rle | None = None
    boxes_xyxy: tuple[tuple[float, ...], ...] = ()
    category: str = ""
    stats: dict[str, int] = field(default_factory=dict)
    confidence: Packed | None = None
    regions: dict[str, dict[str, Rle]] = field(default_factory=dict)
    run: str = ""
    boxes: tuple[Edges | None, ...] | None = None
    targets: tuple[Rle, ...] = ()

    @property
    def split(self) -> str:
        """Split that the sample belongs to, for example "refcoco|unc|val"."""
        return split_of(self.id)

    def to_line(self) -> bytes:
        """One line of JSON, UTF-8, ending with a line break."""
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Record:
        """Record of a decoded line; raises TypeError where it is no object with these fields."""
        if not isinstance(fields, dict):
            raise TypeError(f"{type(fields).__name__}, needed is an object")
        read: dict[str, Any] = {
            "faults": tuple(fields.get("faults", ())),
            "boxes_xyxy": tuple(tuple(box) for box in fields.get("boxes_xyxy", ())),
            "targets": tuple(fields.get("targets", ())),
        }
        if fields.get("boxes") is not None:
            read["boxes"] = tuple(None if box is None else tuple(box) for box in fields["boxes"])
        return cls(**{**fields, **read})


def split_of(sample_id: str) -> str:
    """A sample id without its last two parts, target and words: dataset|split_by|split or dataset|split."""
    return sample_id.rsplit("|", 2)[0]


def rank_path(folder: Path, rank: int) -> Path:
    """File that one process appends to."""
    return folder / f"predictions.rank{rank}.jsonl"


def read_records(path: Path) -> list[Record]:
    """Records of one file, in its order. A last line without a line break was cut by a kill and is left out.

    Raises:
        ValueError: a whole line is no record; file and line are named.
    """
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            records.append(Record.from_fields(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is not a prediction record ({error}); "
                "delete that line to have the sample answered again"
            ) from error
    return records


def rank_files(folder: Path) -> list[Path]:
    """Files of processes whose records are not merged yet."""
    return sorted(path for path in folder.glob("predictions.rank*.jsonl") if RANK_FILE.fullmatch(path.name))


def read_run(folder: Path) -> dict[str, Record]:
    """Every record of a run folder by id, finished or not.

    Rank files are read first: the merge writes `predictions.jsonl` before it removes them, so a process that
    reads while another merges misses nothing.

    Raises:
        ValueError: rank files hold the same id twice, or a line is no record.
    """
    records: dict[str, Record] = {}
    for path in rank_files(folder):
        try:
            found = read_records(path)
        except FileNotFoundError:
            continue
        for record in found:
            if record.id in records:
                raise ValueError(
                    f"{path} holds {record.id} a second time; two runs wrote into this folder at once. "
                    "Delete the repeated line, or start again in another folder"
                )
            records[record.id] = record
    merged = folder / PREDICTIONS_FILE
    if merged.is_file():
        records.update((record.id, record) for record in read_records(merged))
    return records


def merge(folder: Path, ids: Sequence[str]) -> list[Record]:
    """Write `predictions.jsonl` in the order of `ids` and remove the rank files.

    Raises:
        ValueError: a sample has no prediction, or a prediction has no sample.
    """
    records = read_run(folder)
    missing = [one for one in ids if one not in records]
    unknown = sorted(set(records) - set(ids))
    if missing or unknown:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(ids)} samples have no prediction{_first(missing)}, "
            f"{len(unknown)} predictions belong to no sample{_first(unknown)}; "
            "run the same command again to resume"
        )
    ordered = [records[one] for one in ids]
    if rank_files(folder) or not (folder / PREDICTIONS_FILE).is_file():
        write_text_atomic(folder / PREDICTIONS_FILE, b"".join(one.to_line() for one in ordered).decode())
        for path in rank_files(folder):
            path.unlink()
    return ordered


def _first(ids: Sequence[str]) -> str:
    return f" (first: {ids[0]})" if ids else ""


class RecordWriter:
    """Appends records to a file; every batch is on the disk before the next one starts.

    Holds an open, locked file. A line cut by an earlier kill is removed on opening.

    Raises:
        ValueError: another process has the file open for writing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(
                f"another process is writing {path}; wait for it or end it (a killed torchrun can leave "
                "its workers behind), then run the same command again"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        self._file.truncate(self._end_of_last_line())

    def _end_of_last_line(self) -> int:
        self._file.seek(0)
        return self._file.read().rfind(b"\n") + 1

    def append(self, records: Iterable[Record]) -> None:
        """Write records and wait until the disk has them."""
        self._file.write(b"".join(record.to_line() for record in records))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
