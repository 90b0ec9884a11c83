from dataclasses import replace

import numpy as np
import pytest
from eval_fakes import SETTINGS, SPLIT, FakeRefiner, FakeSegmenter, box_mask, drawn_samples, still_clock
from test_predictions import record

from llava.data.rle import encode_mask
from llava.eval.breakdown import (
    CATEGORIES,
    OTHER_CATEGORIES,
    break_down,
    costs,
    length_of,
    refinement,
    size_of,
)
from llava.eval.confidence import pack
from llava.eval.loop import evaluate
from llava.eval.page_tables import cost_blocks, parts_table
from llava.eval.predictions import Record
from llava.eval.report import REPORT_FILE, write_report
from llava.eval.scoring import score_record
from llava.eval.sheets import choose_hurt

TRUTH = (4, 4, 12, 12)


def answer(number, truth=TRUTH, coarse=TRUTH, refined=None, **changes):
    """A record whose masks are boxes in an image of 24 x 32 pixels; None for an empty truth."""
    fields = {
        "id": f"{SPLIT}|{number}|0",
        "image": f"{number}.png",
        "expression": "the red square",
        "group": "",
        "no_target": truth is None,
        "truth": encode_mask(box_mask(*(truth or (0, 0, 0, 0)))),
        "answer": "text",
        "absent": False,
        "coarse": encode_mask(box_mask(*coarse)),
        "refined": None if refined is None else encode_mask(box_mask(*refined)),
    }
    return Record(**{**fields, **changes})


def counted(records):
    return [score_record(one, (6, 8)) for one in records]


def names(rows):
    return [(row["name"], row["samples"]) for row in rows]


@pytest.mark.parametrize(
    ("box", "name"),
    [
        (None, "no target"),
        ((0, 0, 3, 1), "under 0.5 %"),
        ((0, 0, 4, 1), "0.5 to 2 %"),
        ((0, 0, 8, 6), "2 to 8 %"),
        ((0, 0, 16, 14), "8 to 30 %"),
        ((0, 0, 16, 15), "30 % and more"),
    ],
)
def test_the_size_of_a_target_is_its_part_of_the_image(box, name):
    assert size_of(answer(0, truth=box)) == name


@pytest.mark.parametrize(
    ("words", "name"),
    [(1, "1 or 2"), (2, "1 or 2"), (3, "3 or 4"), (7, "5 to 7"), (8, "8 to 12"), (13, "13")],
)
def test_the_length_of_an_expression_is_counted_in_words(words, name):
    assert length_of(answer(0, expression=" ".join(["word"] * words))).startswith(name)


def test_parts_have_the_scores_of_their_own_answers_in_a_fixed_order():
    records = [
        answer(0, truth=(0, 0, 16, 15), coarse=(0, 0, 16, 15)),
        answer(1, truth=None, coarse=(0, 0, 2, 2), faults=("row 1 is missing",)),
        answer(2, truth=(0, 0, 8, 8), coarse=(0, 0, 8, 4)),
    ]
    rows = break_down(records, counted(records))["size"]
    assert names(rows) == [("no target", 1), ("8 to 30 %", 1), ("30 % and more", 1)]
    assert [row["invalid"] for row in rows] == [1, 0, 0]
    assert [row["scores"]["coarse"]["gIoU"] for row in rows] == [0.0, 0.5, 1.0]


def test_every_answer_is_in_exactly_one_row_of_each_part():
    words = ["a", "a b c", "a b c d e f g h i", " ".join("abcdefghijklmnop")]
    records = [answer(k, expression=words[k % 4], truth=(0, 0, k + 1, k + 1)) for k in range(20)]
    for rows in break_down(records, counted(records)).values():
        assert sum(row["samples"] for row in rows) == 20


def test_frequent_classes_have_rows_and_the_rest_share_one():
    records = [answer(k, category=f"class {k // 2:02d}") for k in range(2 * CATEGORIES + 6)]
    records += [answer(1000, category="dog")] * 3 + [answer(1001)]
    rows = break_down(records, counted(records))["category"]
    assert names(rows)[:2] == [("dog", 3), ("class 00", 2)]
    assert names(rows)[-1] == (OTHER_CATEGORIES, 8)
    assert len(rows) == CATEGORIES + 1
    assert sum(row["samples"] for row in rows) == len(records) - 1


def test_parts_that_no_record_tells_about_are_left_out():
    assert set(break_down([answer(0)], counted([answer(0)]))) == {"size", "length"}
    sure = pack(np.full((6, 8), 0.97, dtype=np.float32))
    unsure = pack(np.full((6, 8), 0.4, dtype=np.float32))
    records = [answer(0, confidence=sure), answer(1, confidence=unsure)]
    assert names(break_down(records, counted(records))["certainty"]) == [
        ("under 0.9", 1),
        ("0.95 to 0.98", 1),
    ]


def test_refinement_is_counted_by_size_as_helped_hurt_and_left_alone():
    half, whole = (4, 4, 12, 8), TRUTH
    records = [
        answer(0, coarse=half, refined=whole),
        answer(1, coarse=whole, refined=half),
        answer(2, coarse=whole, refined=half),
        answer(3, coarse=whole, refined=whole, note="guard"),
        answer(4, truth=(0, 0, 16, 15), coarse=(0, 0, 16, 15), refined=(0, 0, 16, 15)),
        answer(5, truth=None, coarse=half, refined=half),
    ]
    rows = refinement(records, counted(records))
    assert [(row["name"], row["samples"], row["helped"], row["hurt"], row["kept"]) for row in rows] == [
        ("8 to 30 %", 4, 1, 2, 1),
        ("30 % and more", 1, 0, 0, 0),
        ("all sizes", 5, 1, 2, 1),
    ]
    assert rows[0]["change"] == pytest.approx(-0.5 / 4)
    assert (rows[0]["before"], rows[0]["after"]) == (224 / 256, 192 / 256)
    assert choose_hurt(counted(records)) == [1, 2]
    assert refinement(records[:1], [{"coarse": counted(records)[0]["coarse"]}]) == []


def test_costs_are_spread_over_the_answers_that_tell_them():
    records = [
        answer(k, seconds={"generate": float(k)}, stats={"tokens": 10 * k} if k else {}, answer="x" * k)
        for k in range(5)
    ]
    told = costs(records)
    assert told["seconds"]["generate"] == {"sum": 10.0, "mean": 2.0, "median": 2.0, "p95": 3.8, "max": 4.0}
    assert told["seconds"]["refine"]["sum"] == 0.0
    assert told["text"]["tokens"]["mean"] == 25.0
    assert told["text"]["letters"]["max"] == 4.0
    shown = "".join(cost_blocks({"costs": told}))
    assert "<td class=left>tokens</td><td>100.0</td><td>25.0</td>" in shown


def test_what_decoding_counts_is_explained_where_it_is_shown():
    spread = {"sum": 4.0, "mean": 1.0, "median": 1.0, "p95": 1.0, "max": 1.0}
    plain = {"seconds": {"generate": spread}, "text": {"tokens": spread}}
    fast = {**plain, "text": {"tokens": spread, "drafted": spread}}
    assert not any("guessed ahead" in one for one in cost_blocks({"costs": plain}))
    assert ["guessed ahead" in one for one in cost_blocks({"costs": fast})] == [False, True]


def test_tables_have_columns_only_for_stages_that_ran():
    records = [answer(0)]
    rows = break_down(records, counted(records))["size"]
    shown = parts_table("size", rows)
    assert "coarse gIoU" in shown
    assert "refined" not in shown
    assert "<td>0.0 %</td>" in shown


def test_the_report_of_a_run_whose_refiner_hurts_shows_it(tmp_path, monkeypatch):
    monkeypatch.setattr("llava.eval.report.SHEET_CARDS", 2)

    class Eraser(FakeRefiner):
        def refine(self, image, masks, *, soft=None):
            return replace(super().refine(image, masks), masks=np.zeros_like(masks))

    settings = replace(SETTINGS, refiner="sam", data_root=str(tmp_path / "data"))
    samples = [replace(one, category="square") for one in drawn_samples(tmp_path / "data")]
    out = tmp_path / "run"
    evaluate(FakeSegmenter(), samples, out, settings=settings, refiner=Eraser(), clock=still_clock)
    results = write_report(out)
    assert results["refinement"][-1]["hurt"] == 8
    page = (out / REPORT_FILE).read_text(encoding="utf-8")
    assert "Answers that the refiner made worse (2 of 8)" in page
    assert (out / "hurt.png").is_file()
    assert names(results["breakdown"]["category"]) == [("square", 12)]
    assert 'class="hurt" style="width:100.0%"' in page
    for heading in ("By size of the target, rela", "By class, rela", "Length of the answers"):
        assert heading in page


def test_a_class_cannot_break_the_page():
    bad = replace(record("a"), category="<b>x</b>")
    shown = parts_table("class", break_down([bad], counted([bad]))["category"])
    assert "<b>" not in shown
    assert "&lt;b&gt;x" in shown
