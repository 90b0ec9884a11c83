"""The page of a comparison, one HTML file that needs no other file, and its table for a terminal."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from llava.eval.bootstrap import Comparison
from llava.eval.page import align, document, embed
from llava.eval.page_tables import block, row, table
from llava.eval.scoring import percent

COMPARE_PAGE = "compare.html"

NOTE = (
    "Scores in percent. Difference: B minus A, with the interval that holds 95 % of the draws of a paired "
    "bootstrap over images; where it leaves out 0, B is called better or worse. “B above A” is the share of "
    "draws in which B is strictly better. Many rows are many chances: some intervals miss 0 by luck."
)
HEADER = ("definition", "split", "metric", "A", "B", "B - A", "95 % interval", "B above A", "B is")

Compared = Mapping[str, Mapping[str, Mapping[str, Comparison]]]
"""By definition, split and metric."""


def compare_table(compared: Compared) -> str:
    """Table for a terminal."""
    return align([list(HEADER), *_rows(compared)], left=3)


def _rows(compared: Compared) -> list[list[str]]:
    return [
        [definition, split, metric, *_cells(one)]
        for definition, splits in compared.items()
        for split, metrics in splits.items()
        for metric, one in metrics.items()
    ]


def _cells(one: Comparison) -> list[str]:
    values = [percent(one.first, 2), percent(one.second, 2)]
    if one.first is None or one.second is None or one.low is None or one.high is None:
        return [*values, "–", "–", "–", ""]
    interval = f"{100 * one.low:+.2f} to {100 * one.high:+.2f}"
    return [*values, f"{100 * (one.second - one.first):+.2f}", interval, percent(one.above), one.verdict]


def render(results: Mapping[str, Any], compared: Compared, sheets: Sequence[tuple[str, bytes]]) -> str:
    """HTML of a comparison.

    Args:
        results: content of `compare.json`.
        compared: the metrics.
        sheets: heading and PNG file content of each sheet.
    """
    names = "".join(
        f"<p>{letter}: {html.escape(name)}</p>" for letter, name in zip("AB", results["runs"], strict=True)
    )
    told = f"stage {results['stage']} · {results['draws']} draws, seed {results['seed']}"
    settings = [row([name, str(a), str(b)], left=3) for name, (a, b) in results["settings"].items()]
    counts = [row([name, str(number)]) for name, number in results["changes"].items()]
    scores = table(HEADER, [row(one, left=3) for one in _rows(compared)])
    parts = [
        names,
        f"<p>{html.escape(told)}</p>",
        f'<h2>Scores</h2><div class="scroll">{scores}</div>',
        f"<p>{NOTE}</p>",
        '<div class="tables">',
        block("Answers", table(["answers", "number"], counts)),
        block("Settings that differ", table(["setting", "A", "B"], settings)),
        "</div>",
        *(f"<h2>{html.escape(heading)}</h2>{embed(png, heading)}" for heading, png in sheets),
    ]
    return document("Two runs compared", parts)
