"""The report page: one HTML file that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

from llava.eval.definitions import METRICS
from llava.eval.page_tables import (
    block,
    breakdown_blocks,
    cost_blocks,
    published_tables,
    ranking_block,
    refinement_block,
    row,
    table,
)
from llava.eval.predictions import Record
from llava.eval.scoring import STAGES, percent
from llava.pictures import COARSE, REFINED, TRUTH, Colour

MAIN_COLUMNS = ("cIoU", "gIoU", "mIoU")
FAULT_EXAMPLES = 5
ANSWER_LETTERS = 300
"""How many invalid answers the page shows, and how much of each."""


def _css_colour(colour: Colour) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


STYLE = f"""
:root {{ --truth: {_css_colour(TRUTH)}; --coarse: {_css_colour(COARSE)}; --refined: {_css_colour(REFINED)}; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1840px; padding: 20px 28px 48px; color: #0f172a; background: #f1f5f9;
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }}
h1 {{ font-size: 22px; margin: 0 0 2px; }}
h2 {{ font-size: 16px; margin: 26px 0 8px; }}
h3 {{ font-size: 14px; margin: 14px 0 6px; }}
p {{ margin: 4px 0; color: #475569; }}
.tables {{ display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; background: #fff; border: 1px solid #cbd5e1;
  font-variant-numeric: tabular-nums; }}
th, td {{ padding: 4px 11px; text-align: right; border-bottom: 1px solid #e2e8f0; white-space: nowrap; }}
th {{ background: #e2e8f0; font-weight: 600; }}
th:first-child, td:first-child, .left {{ text-align: left; }}
tr.first td {{ border-top: 2px solid #cbd5e1; }}
td.main {{ font-weight: 700; }}
.mark {{ display: inline-block; width: 10px; height: 10px; margin-right: 6px; background: #94a3b8; }}
.mark.truth {{ background: var(--truth); }}
.mark.coarse {{ background: var(--coarse); }}
.mark.refined {{ background: var(--refined); }}
.bar {{ display: inline-flex; width: 140px; height: 10px; background: #e2e8f0; vertical-align: middle; }}
.bar .helped {{ background: var(--truth); }}
.bar .hurt {{ background: #dc2626; }}
img {{ max-width: 100%; height: auto; display: block; border: 1px solid #cbd5e1; }}
details {{ margin-top: 18px; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #fff; border: 1px solid #cbd5e1;
  padding: 8px; }}
"""

NOTE = (
    "Scores in percent, masks at image size unless the definition names a side. cIoU: all intersections over "
    "all unions. gIoU, mIoU: mean IoU per expression. P@t: targets with IoU &ge; t. N_acc: no-target "
    "expressions rejected. T_acc: targets not rejected. box_acc: boxes of masks that fit, under box=written "
    "those that the answers write. Definitions differ in what a rejection, an expression without a target "
    "and an empty mask count. Stage grid compares label "
    "cells, coarse the mask of the answer and refined the mask after SAM, both in pixels. confidence: mean "
    "probability of the cells that are drawn."
)


def render(results: dict[str, Any], sheets: Sequence[tuple[str, bytes]], invalid: Sequence[Record]) -> str:
    """HTML of a report.

    Args:
        results: content of `results.json`.
        sheets: heading and PNG file content of each sheet.
        invalid: records with faults, of which the first few are shown.
    """
    title = f"Segmentation scores of {results['checkpoint'].rstrip('/').rsplit('/', 1)[-1]}"
    published = "".join(f'<div class="scroll">{one}</div>' for one in published_tables(results))
    parts = [
        f"<p>{html.escape(_facts(results))}</p>",
        "<h2>Scores</h2>",
        f'<div class="scroll">{_score_table(results, results["shown"])}</div>',
        f"<p>{NOTE}</p>",
        f"<details><summary>Under every definition</summary>{_definitions(results)}</details>",
        f"<h2>Beside published numbers</h2>{published}" if published else "",
        '<div class="tables">',
        block("Answers", _count_table(results)),
        *refinement_block(results),
        *breakdown_blocks(results),
        *ranking_block(results),
        *cost_blocks(results),
        "</div>",
        *(f"<h2>{html.escape(heading)}</h2>{embed(png, heading)}" for heading, png in sheets),
        *_invalid_answers(invalid),
        f"<details><summary>Settings</summary>{_settings(results)}</details>",
    ]
    return document(title, parts)


def document(title: str, parts: Iterable[str]) -> str:
    """HTML of a page that needs no other file, from a title and the HTML of its parts."""
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def text_table(results: dict[str, Any]) -> str:
    """Score table of the shown definitions for a terminal."""
    columns = _columns(results, results["shown"])
    rows = [["split", "stage", "definition", *columns]]
    rows += [[*names, *cells] for *names, cells in _score_rows(results, results["shown"], columns)]
    return align(rows, left=3)


def align(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Lines with columns of equal width; the first `left` of them are aligned to the left."""
    widths = [max(len(cells[place]) for cells in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    ]
    return "\n".join(lines)


def _columns(results: dict[str, Any], definitions: Sequence[str]) -> list[str]:
    """Metrics that at least one of the definitions reports."""
    told = {metric for name in definitions for metric in results["definitions"][name]["rules"]["reports"]}
    return [metric for metric in METRICS if metric in told]


def _score_rows(
    results: dict[str, Any], definitions: Sequence[str], columns: Sequence[str]
) -> Iterable[tuple[str, str, str, list[str]]]:
    """Split, stage, definition and scores of each row."""
    for split in (*results["splits"], "mean of the splits"):
        for name in definitions:
            content = results["definitions"][name]
            scores = content["splits"].get(split, content["mean"])
            for stage in STAGES:
                if stage in scores:
                    yield split, stage, name, [percent(scores[stage].get(one), 2) for one in columns]


def _facts(results: dict[str, Any]) -> str:
    counts = results["counts"]
    facts = [
        f"{counts['samples']} expressions of {counts['images']} images",
        f"{results['mode']} answers",
        f"refiner: {results['settings']['refiner']}",
        f"code {', '.join(results['code']) or 'unknown'}",
        f"checkpoint {results['checkpoint']}",
    ]
    return " · ".join(facts)


def _stage_cell(stage: str) -> str:
    return f'<td class="left"><span class="mark {stage}"></span>{stage}</td>'


def _score_table(
    results: dict[str, Any], definitions: Sequence[str], main: Sequence[str] = MAIN_COLUMNS
) -> str:
    """Rows of some definitions; `main` are the columns in bold."""
    columns, rows, before = _columns(results, definitions), [], None
    for split, stage, definition, cells in _score_rows(results, definitions, columns):
        first = split != before
        before = split
        values = "".join(
            f'<td class="main">{cell}</td>' if name in main else f"<td>{cell}</td>"
            for name, cell in zip(columns, cells, strict=True)
        )
        names = (
            f"<td>{html.escape(split) if first else ''}</td>{_stage_cell(stage)}"
            f'<td class="left">{html.escape(definition)}</td>'
        )
        rows.append(f"<tr{' class=first' if first else ''}>{names}{values}</tr>")
    return table(["split", "stage", "definition", *columns], rows)


def _definitions(results: dict[str, Any]) -> str:
    """Scores and rules of every definition."""
    rows = []
    for name, content in results["definitions"].items():
        rules = {**content["rules"], "reports": ", ".join(content["rules"]["reports"])}
        told = "; ".join(f"{key} {value}" for key, value in rules.items() if key not in ("name", "source"))
        rows.append(row([name, rules["source"], told], left=3))
    scores = _score_table(results, list(results["definitions"]), main=())
    tables = scores, table(["definition", "source", "rules"], rows)
    return "".join(f'<div class="scroll">{table}</div>' for table in tables)


def _count_table(results: dict[str, Any]) -> str:
    names = ("samples", "no_target", "invalid", "empty", "without_mask", "vanished")
    header = ["split", "samples", "no target", "invalid", "empty", "without mask", "no cell", "coarse kept"]
    rows = []
    for split, content in results["splits"].items():
        counts = content["counts"]
        shown = [str(counts[name]) for name in names]
        shown[2] += f" ({percent(counts['invalid'] / counts['samples'])} %)"
        kept = ", ".join(f"{number} × {note}" for note, number in counts["kept_coarse"].items()) or "–"
        rows.append(row([split, *shown, kept]))
    return table(header, rows)


def embed(png: bytes, heading: str) -> str:
    """HTML of a picture inside the page."""
    source = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{source}">'


def _invalid_answers(records: Sequence[Record]) -> Iterable[str]:
    if records:
        yield f"<h2>Invalid answers ({len(records)}, the first {min(len(records), FAULT_EXAMPLES)})</h2>"
    for record in records[:FAULT_EXAMPLES]:
        answer = record.answer[:ANSWER_LETTERS] + ("…" if len(record.answer) > ANSWER_LETTERS else "")
        faults = "; ".join(record.faults)
        yield (
            f"<p>{html.escape(record.expression)} — {html.escape(faults)}</p><pre>{html.escape(answer)}</pre>"
        )


def _settings(results: dict[str, Any]) -> str:
    rows = (row([name, str(value)], left=2) for name, value in results["settings"].items())
    return table(["setting", "value"], rows)
