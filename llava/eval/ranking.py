"""What is left to get wrong when a system answers only where it is sure: risk against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava.eval.breakdown import confidence_of, part_row
from llava.eval.predictions import Record
from llava.eval.scoring import StageOverlaps

PARTS = 4
"""Steps of the coverage: the surest quarter, half, three quarters, all."""


def risk_coverage(records: Sequence[Record], overlaps: Sequence[StageOverlaps]) -> list[dict[str, Any]]:
    """Scores of the surest answers among those that draw something, under the main definition.

    Answers are ranked by `confidence_of`, equals in the order of the records. A score that tells right from
    wrong answers makes the first rows better than the last one, which holds all of them. Empty masks abstain
    already and are left out.

    Args:
        records: all answers; those without a confidence are left out.
        overlaps: counts of each.

    Returns:
        Rows as of `break_down`, with "coverage", the share of them kept, and "threshold", the confidence
        of the last one kept: who abstains below it keeps these. Empty where no answer has a confidence.
    """
    pairs = [
        (sure, record, stages)
        for record, stages in zip(records, overlaps, strict=True)
        if (sure := confidence_of(record)) is not None
    ]
    ranked = sorted(pairs, key=lambda pair: -pair[0])
    rows = []
    for part in range(1, PARTS + 1) if ranked else ():
        kept = ranked[: max(len(ranked) * part // PARTS, 1)]
        row = part_row(f"surest {100 * part // PARTS} %", [pair[1:] for pair in kept])
        rows.append({**row, "coverage": part / PARTS, "threshold": kept[-1][0]})
    return rows
