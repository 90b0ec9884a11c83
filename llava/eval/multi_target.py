"""Questions about several targets, each asked once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from llava.data.readers.reasonseg import TARGET_LABEL
from llava.data.rle import merge_rles
from llava.types import Sample

FEW_TARGETS = 3
"""PixelLM calls a question with more targets than these one with many."""


def one_per_question(samples: Iterable[Sample]) -> Iterator[Sample]:
    """One sample for each question, its mask the union of all its targets.

    The union needs no match: a system that writes one mask for all targets is measured like one that writes
    one for each. The masks of the targets go along as `Sample.instances`, for `llava.eval.targets`, which
    scores them one by one as PixelLM (arXiv 2312.02228) does; Text4Seg++ does not tell how it scores.

    Args:
        samples: one for each target, those of a question one behind the other; their ids differ in the number
            behind the last point, "muse|val|0.1.0|0" and "muse|val|0.1.1|0".

    Yields:
        Samples with ids like "muse|val|0.1|0", no target's name in the expression, the classes of the targets
        as category and how many there are as group.
    """
    for question, group in groupby(samples, key=lambda one: one.id.rpartition(".")[0]):
        yield _joined(f"{question}|0", list(group))


def _joined(sample_id: str, targets: Sequence[Sample]) -> Sample:
    first = targets[0]
    classes = dict.fromkeys((*one.synonyms, one.expression)[0] for one in targets)
    return Sample(
        id=sample_id,
        image_path=first.image_path,
        image_id=first.image_id,
        size_hw=first.size_hw,
        expression=TARGET_LABEL,
        mask=merge_rles([one.mask for one in targets], first.size_hw),
        boxes_xyxy=tuple(box for one in targets for box in one.boxes_xyxy),
        group=f"up to {FEW_TARGETS} targets" if len(targets) <= FEW_TARGETS else "more targets",
        question=first.question,
        answer=first.answer,
        category=", ".join(classes),
        instances=tuple(one.mask for one in targets),
    )
