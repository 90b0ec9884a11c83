"""Confidence of an answer, and what the surest answers score."""

import json

import numpy as np
import pytest
from eval_fakes import SETTINGS, FakeSegmenter, drawn_samples, still_clock
from test_breakdown import answer, counted

from llava.eval.breakdown import break_down
from llava.eval.confidence import found_confidence, pack
from llava.eval.loop import evaluate
from llava.eval.page_tables import parts_table
from llava.eval.ranking import risk_coverage
from llava.eval.report import REPORT_FILE, RESULTS_FILE, write_report
from llava.types import Prediction


def cells(*values):
    return pack(np.array([values], dtype=np.float32))


@pytest.mark.parametrize(
    ("values", "expected"), [((0.0, 0.0, 0.8, 1.0), 0.9), ((0.0, 0.4, 0.2), 0.4), ((0.0, 0.0), 0.0)]
)
def test_an_answer_is_as_sure_as_the_cells_that_it_draws(values, expected):
    assert found_confidence(cells(*values)) == pytest.approx(expected, abs=1e-6)


def test_the_background_does_not_make_an_answer_surer():
    assert found_confidence(cells(0.7, *[0.0] * 200)) == found_confidence(cells(0.7))


def ranked(qualities, confidences):
    """Answers of 64 true pixels of which so many rows are drawn, with their confidence."""
    records = [
        answer(number, coarse=(4, 4, 12, 4 + rows), confidence=cells(sure))
        for number, (rows, sure) in enumerate(zip(qualities, confidences, strict=True))
    ]
    return risk_coverage(records, counted(records))


def test_the_surest_answers_are_scored_by_themselves():
    rows = ranked([8, 2, 8, 4], [0.8, 0.6, 1.0, 0.72])
    assert [(row["name"], row["samples"], row["coverage"]) for row in rows] == [
        ("surest 25 %", 1, 0.25),
        ("surest 50 %", 2, 0.5),
        ("surest 75 %", 3, 0.75),
        ("surest 100 %", 4, 1.0),
    ]
    assert [row["scores"]["coarse"]["cIoU"] for row in rows] == [1.0, 1.0, 160 / 192, 176 / 256]
    assert [round(row["threshold"], 2) for row in rows] == [1.0, 0.8, 0.72, 0.6]
    assert rows[1]["confidence"] == pytest.approx(0.9, abs=1e-6)


def test_answers_that_are_equally_sure_keep_their_order():
    (first, *_) = ranked([8, 2, 2, 2], [0.8] * 4)
    assert first["scores"]["coarse"]["cIoU"] == 1.0


def test_answers_without_a_confidence_or_without_a_mask_are_not_ranked():
    empty = answer(2, coarse=(0, 0, 0, 0), confidence=cells(0.0))
    records = [answer(0), answer(1, confidence=cells(1.0)), empty]
    assert [row["samples"] for row in risk_coverage(records, counted(records))] == [1, 1, 1, 1]
    assert risk_coverage(records[:1], counted(records[:1])) == []


def test_parts_show_their_mean_confidence_where_one_is_told():
    records = [answer(0, truth=None, coarse=(0, 0, 0, 0)), answer(1, confidence=cells(0.6, 1.0))]
    rows = break_down(records, counted(records))["size"]
    shown = parts_table("part", rows)
    assert [row["confidence"] for row in rows] == [None, pytest.approx(0.8)]
    assert "<th>confidence</th>" in shown and "<td>0.800</td>" in shown and "<td>–</td>" in shown
    silent = parts_table("part", break_down(records[:1], counted(records[:1]))["size"])
    assert "confidence" not in silent


class Sure(FakeSegmenter):
    """Knows how sure it is of every answer."""

    def answer(self, query):
        said = super().answer(query)
        soft = np.where(said.masks[:, 0, ::4, ::4], np.float32(0.9), np.float32(0.05))
        return Prediction(said.masks, said.absent, said.text, said.faults, confidence=soft)


def test_the_report_shows_what_the_surest_answers_score(tmp_path, monkeypatch):
    monkeypatch.setattr("llava.eval.report.SHEET_CARDS", 1)
    samples = drawn_samples(tmp_path / "data")
    for system, out in ((Sure(), tmp_path / "sure"), (FakeSegmenter(), tmp_path / "silent")):
        evaluate(system, samples, out, settings=SETTINGS, clock=still_clock)
        write_report(out, data_root=str(tmp_path / "data"))
    results = json.loads((tmp_path / "sure" / RESULTS_FILE).read_text())
    assert [row["samples"] for row in results["ranking"]] == [2, 4, 6, 8]
    page = (tmp_path / "sure" / REPORT_FILE).read_text(encoding="utf-8")
    assert "If only the surest masks are kept, rela" in page and "surest 25 %" in page
    assert json.loads((tmp_path / "silent" / RESULTS_FILE).read_text())["ranking"] == []
    assert "surest" not in (tmp_path / "silent" / REPORT_FILE).read_text(encoding="utf-8")
