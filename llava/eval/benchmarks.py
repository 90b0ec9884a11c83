"""The benchmarks: which splits, asked in which words, scored under which definitions, beside which numbers.

A benchmark has a version, which is written into every run and result: whoever changes its wording or its
rules gives it the next one, so that two results of one version are answers to the same questions.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.data.problems import Problems
from llava.data.questions import EVAL_CLASSES, EVAL_QUESTION, EVAL_WHOLE_QUESTION
from llava.data.readers import DATASETS, read_dataset
from llava.data.readers.muse import NAME as MUSE_NAME
from llava.data.readers.reasonseg import GENERATED, read_reasonshapes
from llava.data.readers.refer import REFER_DATASETS, read_refer
from llava.eval.anchors import BOTH_IOUS, CLASSES, EARTH, GRES, MUSE, RES, RRSIS_D, WRITTEN_BOX
from llava.eval.definitions import Definition, find_definition
from llava.eval.multi_target import one_per_question
from llava.eval.semantic import CLASS_SETS, read_maps
from llava.eval.targets import TARGETS
from llava.types import Sample

REFERRING = tuple(name for name, info in DATASETS.items() if info.family == "referring")
REASONS = ("reasonseg", "earthreason", MUSE_NAME, GENERATED)
"""Sets of whole questions, each asked once, for one mask."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: that of its script.
        version: of wording and rules.
        splits: those of the papers, asked when none are named.
        datasets: names of the data sets that it can be run on.
        questions: wording of the questions that it asks, each for its kind of sample.
        definitions: names of those whose scores the tables show, the first one as the main one.
        compared: (definition, metric) of the tables that stand beside published numbers; of metrics joined
            by "+" the mean.
        by_group: kinds of expressions have columns of their own, as papers print them.
        has_mean: papers print the mean over all its splits.
    """

    name: str
    version: int
    splits: tuple[str, ...]
    datasets: tuple[str, ...]
    questions: tuple[str, ...]
    definitions: tuple[str, ...]
    compared: tuple[tuple[str, str], ...]
    by_group: bool = False
    has_mean: bool = True

    @property
    def label(self) -> str:
        """Name and version, for example "gres v1"."""
        return f"{self.name} v{self.version}"

    @property
    def by_target(self) -> bool:
        """Answers are scored target by target too."""
        return any(name == TARGETS for name, _ in self.compared)

    @property
    def shown(self) -> list[Definition]:
        """Definitions whose scores the tables show."""
        return [find_definition(name) for name in self.definitions]

    def settings(self) -> dict[str, Any]:
        """What a run of this benchmark writes about it into `run.json`."""
        return {"name": self.name, "version": self.version, "questions": list(self.questions)}

    def read(self, root: Path, spec: str) -> list[Sample]:
        """Samples of one split.

        Raises:
            ValueError: the benchmark does not know this data set, the split is unknown, or a file is wrong.
            FileNotFoundError: a file is missing.
        """
        name = spec.partition("|")[0].strip()
        if name not in self.datasets:
            raise ValueError(f"{self.name} cannot be run on {spec!r}; it can on {', '.join(self.datasets)}")
        if EVAL_CLASSES in self.questions:
            return read_maps(root, spec)
        if name in REFER_DATASETS:
            return read_refer(root, spec)
        if name == GENERATED:
            return list(read_reasonshapes(root, spec.rpartition("|")[2].strip()))
        samples = read_dataset(root, spec, Problems())
        return list(one_per_question(samples) if name == MUSE_NAME else samples)

    def read_all(self, root: Path, splits: Sequence[str], *, limit: int | None, seed: int) -> list[Sample]:
        """Samples of several splits in order; with `limit` a seeded random choice of each split.

        Raises:
            ValueError: `limit` is below 1, or a split has no sample; or see `read`.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"--limit {limit}: at least 1; leave it out for all samples")
        chosen: list[Sample] = []
        for spec in splits:
            samples = self.read(root, spec)
            if not samples:
                raise ValueError(
                    f"{spec!r} in {root} has nothing to ask; name another split, or fetch the set again"
                )
            if limit is not None and limit < len(samples):
                kept = sorted(random.Random(seed).sample(range(len(samples)), limit))
                samples = [samples[place] for place in kept]
            chosen.extend(samples)
        return chosen


_ROWS = (
    Benchmark(
        name="refer_seg",
        version=1,
        splits=RES,
        datasets=REFERRING,
        questions=(EVAL_QUESTION,),
        definitions=("rela", "text4seg"),
        compared=(("text4seg", "cIoU"),),
    ),
    Benchmark(
        name="gres",
        version=1,
        splits=GRES,
        datasets=REFERRING,
        questions=(EVAL_QUESTION,),
        definitions=("rela:side=480", "gsva", "text4seg"),
        compared=(
            ("rela:side=480", "gIoU"),
            ("rela:side=480", "cIoU"),
            ("gsva", "gIoU"),
            ("gsva", "cIoU"),
            ("gsva", "N_acc"),
            ("gsva", "T_acc"),
            ("text4seg", "gIoU"),
            ("text4seg", "cIoU"),
            ("text4seg", BOTH_IOUS),
        ),
    ),
    Benchmark(
        name="reason_seg",
        version=1,
        splits=("reasonseg|val", "reasonseg|test"),
        datasets=REASONS + REFERRING,
        questions=(EVAL_WHOLE_QUESTION, EVAL_QUESTION),
        definitions=("lisa",),
        compared=(("lisa", "gIoU"), ("lisa", "cIoU"), ("lisa", BOTH_IOUS)),
        by_group=True,
        has_mean=False,
    ),
    Benchmark(
        name="muse",
        version=2,
        splits=MUSE,
        datasets=REASONS + REFERRING,
        questions=(EVAL_WHOLE_QUESTION, EVAL_QUESTION),
        definitions=("lisa",),
        compared=((TARGETS, BOTH_IOUS),),
    ),
    Benchmark(
        name="rrsis_d",
        version=1,
        splits=RRSIS_D,
        datasets=REFERRING,
        questions=(EVAL_QUESTION,),
        definitions=("lavt:side=480",),
        compared=(("lavt:side=480", "cIoU+mIoU"),),
    ),
    Benchmark(
        name="earth_reason",
        version=1,
        splits=EARTH,
        datasets=REASONS + REFERRING,
        questions=(EVAL_WHOLE_QUESTION, EVAL_QUESTION),
        definitions=("lisa", "rela"),
        compared=(("lisa", BOTH_IOUS),),
    ),
    Benchmark(
        name="refer_comprehension",
        version=1,
        splits=RES,
        datasets=REFERRING,
        questions=(EVAL_QUESTION,),
        definitions=("rec", WRITTEN_BOX, "text4seg"),
        compared=(("rec", "box_acc"), (WRITTEN_BOX, "box_acc"), ("text4seg", "box_acc")),
    ),
    Benchmark(
        name="semantic_seg",
        version=1,
        splits=CLASSES,
        datasets=tuple(CLASS_SETS),
        questions=(EVAL_CLASSES,),
        definitions=(),
        compared=(("standard", "mIoU"), ("text4seg", "mIoU")),
        has_mean=False,
    ),
)
BENCHMARKS: Mapping[str, Benchmark] = {row.name: row for row in _ROWS}
"""All benchmarks by name."""


def benchmark_of(options: Mapping[str, Any]) -> Benchmark | None:
    """Benchmark that a run's `RunSettings.options` name; None for a run that names none.

    Raises:
        ValueError: the run is of another version than this code asks and scores.
    """
    told = options.get("benchmark")
    if told is None:
        return None
    if told["name"] not in BENCHMARKS or BENCHMARKS[told["name"]].version != told["version"]:
        known = ", ".join(each.label for each in BENCHMARKS.values())
        raise ValueError(
            f"the run is of {told['name']} v{told['version']}, this code knows {known}; "
            "score it with the version of the code that answered, see run.json"
        )
    return BENCHMARKS[told["name"]]
