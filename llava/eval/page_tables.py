"""Tables of a report page: parts of a run, what refinement did, what answers cost, published numbers."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llava.eval.scoring import STAGES, percent

PARTS = {
    "size": ("By size of the target", "part of the image"),
    "length": ("By length of the expression", "words"),
    "category": ("By class", "class"),
    "certainty": ("By how sure the answer is of all cells, background too", "mean probability"),
}
SCORES = ("cIoU", "gIoU")
DECODING_NOTE = (
    "passes: through the model. drafted: tokens guessed ahead, accepted: those that held. forced: tokens "
    "without another choice. closed_early: masks completed where the tokens ended."
)


def table(header: Sequence[str], rows: Iterable[str]) -> str:
    """HTML of a table from escaped rows."""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def row(cells: Sequence[str], *, left: int = 1) -> str:
    """HTML of a row, its text escaped; the first `left` cells are aligned to the left."""
    places = enumerate(cells)
    return f"<tr>{''.join(_cell(cell, place < left) for place, cell in places)}</tr>"


def _cell(text: str, to_the_left: bool) -> str:
    return f"<td{' class=left' if to_the_left else ''}>{html.escape(text)}</td>"


def block(heading: str, body: str) -> str:
    """A table under its heading, for a row of blocks."""
    return f"<div><h2>{html.escape(heading)}</h2>{body}</div>"


def parts_table(first: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Samples and scores of parts of a run.

    Args:
        first: heading of the names.
        rows: "name", "samples" and "scores" by stage, each with `SCORES`; "invalid", "confidence" and
            "threshold" where they are known.
    """
    stages = [stage for stage in STAGES[1:] if any(stage in one["scores"] for one in rows)]
    header = [first, "samples", *(["invalid"] if "invalid" in rows[0] else [])]
    sure = [name for name in ("confidence", "threshold") if any(one.get(name) for one in rows)]
    header += sure + [f"{stage} {name}" for stage in stages for name in SCORES]
    lines = []
    for one in rows:
        cells = [one["name"], str(one["samples"])]
        cells += [f"{percent(one['invalid'] / one['samples'])} %"] if "invalid" in one else []
        cells += ["–" if one[name] is None else f"{one[name]:.3f}" for name in sure]
        cells += [percent(one["scores"].get(stage, {}).get(name)) for stage in stages for name in SCORES]
        lines.append(row(cells))
    return table(header, lines)


def breakdown_blocks(results: Mapping[str, Any]) -> Iterable[str]:
    """One block for each part that the run can be broken into, and one for each split with kinds."""
    for part, rows in results["breakdown"].items():
        heading, first = PARTS[part]
        yield block(f"{heading}, {results['definition']}", parts_table(first, rows))
    for split, content in results["splits"].items():
        rows = [
            {"name": group, "samples": stages["coarse"]["samples"], "scores": stages}
            for group, stages in content["groups"].items()
        ]
        if rows:
            heading = f"By kind of expression, {results['definition']}: {split}"
            yield block(heading, parts_table("kind", rows))


def ranking_block(results: Mapping[str, Any]) -> Iterable[str]:
    """Scores of the surest answers; nothing where no answer tells how sure it is."""
    if results["ranking"]:
        heading = f"If only the surest masks are kept, {results['definition']}"
        yield block(heading, parts_table("kept", results["ranking"]))


def refinement_block(results: Mapping[str, Any]) -> Iterable[str]:
    """How often the refiner helped or hurt, by size; nothing where none ran."""
    lines = []
    for one in results["refinement"]:
        samples = one["samples"]
        shares = [percent(one[name] / samples) + " %" for name in ("helped", "hurt", "kept")]
        scores = [percent(one[name]) for name in ("before", "after")]
        cells = row([one["name"], str(samples), *shares, f"{100 * one['change']:+.1f}", *scores])
        lines.append(cells.removesuffix("</tr>") + f"<td>{_bar(one)}</td></tr>")
    if lines:
        header = ["part of the image", "targets", "helped", "hurt", "left alone", "mean change of IoU"]
        header += ["coarse cIoU", "refined cIoU", "helped | same | hurt"]
        yield block("Did refinement help? By size of the target", table(header, lines))


def _bar(one: Mapping[str, Any]) -> str:
    """Shares of helped, unchanged and hurt targets as a bar."""
    helped, hurt = one["helped"], one["hurt"]
    shares = {"helped": helped, "same": one["samples"] - helped - hurt, "hurt": hurt}
    parts = (
        f'<i class="{name}" style="width:{100 * count / one["samples"]:.1f}%"></i>'
        for name, count in shares.items()
    )
    return f'<span class="bar">{"".join(parts)}</span>'


def cost_blocks(results: Mapping[str, Any]) -> Iterable[str]:
    """Seconds by step, and tokens and the like."""
    columns = ("sum", "mean", "median", "p95", "max")
    header = ["all", "per answer", "median", "95 % below", "largest"]
    for name, first, digits in (("seconds", "step", 3), ("text", "per answer", 1)):
        lines = [
            row([step, f"{spread['sum']:.1f}", *(f"{spread[one]:.{digits}f}" for one in columns[1:])])
            for step, spread in results["costs"][name].items()
        ]
        note = f"<p>{DECODING_NOTE}</p>" if "drafted" in results["costs"][name] else ""
        heading = {"seconds": "Seconds", "text": "Length of the answers"}[name]
        yield block(heading, table([first, *header], lines) + note)


def published_tables(results: Mapping[str, Any]) -> Iterable[str]:
    """Tables of the run's benchmark, see `llava.eval.tables`."""
    for told in results["tables"]:
        note = f"<p>{html.escape(told['note'])}</p>" if told["note"] else ""
        shown = table(told["header"], map(row, told["rows"])) if told["rows"] else ""
        yield f"<h3>{html.escape(told['title'])}</h3>{shown}{note}"
