"""Several sentences, one target: their answers put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llava.data.rle import decode_rle, encode_mask
from llava.eval.metrics import binarise
from llava.eval.predictions import Record
from llava.types import Rle

MERGED = "merged"
"""Stands in an id where the number of the sentence stood."""


def merge_answers(records: Sequence[Record], tie: str) -> list[Record]:
    """One record per target: what the answers to all its sentences say together, by their majority.

    A pixel belongs to the merged mask when more than half of the answers draw it, and the target is rejected
    unless more than half of them find it; `tie` decides at exactly half. A system that reads all sentences
    in one question is another thing: its records are merged already. Written boxes have no majority and go.

    Raises:
        ValueError: the sentences of one target have different true masks.
    """
    targets: dict[str, list[Record]] = {}
    for record in records:
        targets.setdefault(record.id.rpartition("|")[0], []).append(record)
    return [_merge(answers, tie) for answers in targets.values()]


def _merge(answers: Sequence[Record], tie: str) -> Record:
    first = answers[0]
    other = [one.id for one in answers if (one.truth, one.no_target) != (first.truth, first.no_target)]
    if other:
        raise ValueError(
            f"{other[0]} and {first.id} name one target, but their true masks differ; "
            "these records cannot be scored with query=merged"
        )
    refined = [one.refined for one in answers if one.refined is not None]
    return replace(
        first,
        id=f"{first.id.rpartition('|')[0]}|{MERGED}",
        expression=" / ".join(one.expression for one in answers),
        absent=not binarise(np.array(sum(1 - 2 * one.absent for one in answers)), tie),
        coarse=_majority([one.coarse for one in answers], tie),
        refined=_majority(refined, tie) if len(refined) == len(answers) else None,
        boxes=None,
    )


def _majority(rles: Sequence[Rle], tie: str) -> Rle:
    votes = sum(2 * decode_rle(rle).astype(np.int64) - 1 for rle in rles)
    return encode_mask(binarise(np.asarray(votes), tie))
