import html
import json
import os
from dataclasses import replace
from pathlib import Path

import metric_references
import numpy as np
import pytest
from eval_fakes import (
    SETTINGS,
    SPLIT,
    FakeRefiner,
    FakeSegmenter,
    box_mask,
    drawn_samples,
    make_sample,
    still_clock,
)
from test_metrics_definitions import MEASURED, REAL_DATA, random_answers

from llava.data.rle import decode_rle, encode_mask, union_rle
from llava.eval.definitions import DEFINITIONS, MAIN, find_definition
from llava.eval.loop import evaluate
from llava.eval.merged import merge_answers
from llava.eval.page import text_table
from llava.eval.predictions import PREDICTIONS_FILE, Record, RecordWriter, read_records
from llava.eval.report import REPORT_FILE, RESULTS_FILE, main, write_report
from llava.eval.run import describe_samples
from llava.eval.scoring import add_up, score_record, score_records, summarise, under_definitions


def make_record(number, coarse, truth, **changes):
    fields = {
        "id": f"{SPLIT}|{number}|0",
        "image": "1.png",
        "expression": "it",
        "group": "",
        "no_target": not truth.any(),
        "truth": encode_mask(truth),
        "answer": "",
        "absent": False,
        "coarse": encode_mask(coarse),
    }
    return Record(**{**fields, **changes})


def random_records(seed, number=40):
    """Records whose refined masks are those of another answer where the sizes allow it."""
    answers = list(random_answers(seed, number))
    records = [
        make_record(
            place,
            prediction,
            truth,
            absent=rejected,
            refined=encode_mask(truth & prediction),
            ignore=encode_mask(ignore) if ignore.any() else None,
        )
        for place, (prediction, truth, ignore, rejected, _) in enumerate(answers)
    ]
    return answers, records


def saved(folder, records):
    with RecordWriter(folder / PREDICTIONS_FILE) as writer:
        writer.append(records)
    return read_records(folder / PREDICTIONS_FILE)


def scored(records, shown=()):
    settings = replace(SETTINGS, grid_hw=(2, 2))
    return under_definitions(records, score_records(records, settings), settings, shown=shown)


@pytest.mark.parametrize("seed", range(3))
def test_one_records_file_gives_every_definition_at_every_stage(tmp_path, seed):
    answers, records = random_records(seed)
    told = scored(saved(tmp_path, records))
    assert list(told) == list(DEFINITIONS)
    refined = [(p & t, t, i, r, e) for p, t, i, r, e in answers]
    for name in MEASURED:
        for stage, spelt_out in (("coarse", answers), ("refined", refined)):
            expected = getattr(metric_references, name)(spelt_out)
            found = {key: told[name]["splits"][SPLIT][stage][key] for key in expected}
            assert found == pytest.approx(expected, abs=1e-12), (name, stage)


def test_plain_scores_are_those_of_the_definition_that_results_name():
    _, records = random_records(9)
    records += [replace(one, id=one.id.replace("val", "testA")) for one in records[:25]]
    settings = replace(SETTINGS, grid_hw=(2, 2))
    results = summarise(records, score_records(records, settings), settings)
    assert results["definition"] == "rela" and results["shown"] == ["rela"]
    named = results["definitions"]["rela"]
    assert named["mean"] == results["mean"] and named["mean"]["coarse"]["gIoU"] is not None
    assert named["splits"] == {split: content["scores"] for split, content in results["splits"].items()}
    assert "NaN" not in json.dumps(results)
    assert results["definitions"]["gsva"]["rules"]["ignore"] == "target"


def test_cells_know_no_minimum_area_no_side_and_no_boxes():
    big = np.ones((20, 20), dtype=bool)
    overlaps = [score_record(make_record(0, big, big, boxes_xyxy=((0, 0, 20, 20),)), (2, 2))]
    scores = add_up(overlaps, find_definition("text4seg:min_area=500"))
    assert (scores["grid"]["cIoU"], scores["coarse"]["cIoU"]) == (1.0, 0.0)
    assert scores["grid"]["box_acc"] is None and "boxes" not in scores["grid"]
    assert list(add_up(overlaps, DEFINITIONS["rec"])) == ["coarse"]
    squashed = score_record(make_record(0, big, big), (2, 2), side=5)
    assert (squashed["grid"].union, squashed["coarse"].union) == (4, 25)


def test_squashing_before_counting_weighs_small_images_like_large_ones():
    small = make_record(0, box_mask(0, 0, 2, 4, (4, 4)), np.ones((4, 4), dtype=bool))
    large = make_record(1, np.ones((40, 40), dtype=bool), np.ones((40, 40), dtype=bool))
    told = scored([small, large], [find_definition("rela:side=8")])
    assert told["rela"]["splits"][SPLIT]["coarse"]["cIoU"] == (8 + 1600) / (16 + 1600)
    assert told["rela:side=8"]["splits"][SPLIT]["coarse"]["cIoU"] == (32 + 64) / (64 + 64)


WORDINGS = [
    # predicted columns of three wordings, their majority, and with a fourth wording the tie
    box_mask(0, 0, 4, 4, (4, 8)),
    box_mask(2, 0, 6, 4, (4, 8)),
    box_mask(2, 0, 4, 4, (4, 8)),
    box_mask(4, 0, 8, 4, (4, 8)),
]


def worded(masks, absent=(False,) * 4):
    truth = box_mask(2, 0, 4, 4, (4, 8))
    return [
        make_record(7, mask, truth, id=f"{SPLIT}|7|{place}", expression=f"w{place}", absent=gone)
        for place, (mask, gone) in enumerate(zip(masks, absent, strict=False))
    ]


def test_merged_answers_keep_what_most_wordings_draw():
    (one,) = merge_answers(worded(WORDINGS[:3]), "background")
    assert np.array_equal(decode_rle(one.coarse), box_mask(2, 0, 4, 4, (4, 8)))
    assert (one.id, one.split, one.expression, one.refined) == (
        f"{SPLIT}|7|merged",
        SPLIT,
        "w0 / w1 / w2",
        None,
    )
    told = scored(worded(WORDINGS[:3]), [find_definition("lavt:query=merged")])
    assert told["lavt"]["splits"][SPLIT]["coarse"]["samples"] == 3
    assert told["lavt:query=merged"]["splits"][SPLIT]["coarse"] == pytest.approx(
        {"samples": 1, "cIoU": 1.0, "mIoU": 1.0, **{f"P@0.{t}": 1.0 for t in (5, 6, 7, 8, 9)}}
    )


@pytest.mark.parametrize(("tie", "columns"), [("background", (2, 4)), ("target", (2, 6))])
def test_a_tie_of_merged_answers_falls_as_the_rule_says(tie, columns):
    (one,) = merge_answers(worded(WORDINGS), tie)
    assert np.array_equal(decode_rle(one.coarse), box_mask(columns[0], 0, columns[1], 4, (4, 8)))
    (half,) = merge_answers(worded(WORDINGS, (True, False, True, False)), tie)
    assert half.absent is (tie == "background")
    (most,) = merge_answers(worded(WORDINGS, (True, True, True, False)), tie)
    assert most.absent is True


def test_wordings_with_different_targets_cannot_be_merged():
    records = worded(WORDINGS[:2])
    records[1] = replace(records[1], truth=records[1].coarse)
    with pytest.raises(ValueError, match=r"\|7\|1 and .*\|7\|0 name one target, but their true masks differ"):
        merge_answers(records, "background")


def test_records_of_a_run_carry_ignored_pixels_and_boxes(tmp_path):
    first, *rest = drawn_samples(tmp_path / "data", images=1)
    sample = replace(first, ignore=encode_mask(box_mask(12, 4, 16, 12)), boxes_xyxy=((4.0, 4.0, 12.0, 12.0),))
    records = evaluate(
        FakeSegmenter(), [sample, *rest], tmp_path / "run", settings=SETTINGS, clock=still_clock
    )
    assert (records[0].ignore, records[0].boxes_xyxy) == (sample.ignore, sample.boxes_xyxy)
    assert read_records(tmp_path / "run" / PREDICTIONS_FILE) == records
    # The answer is four columns too wide, and these are the ones without a decision.
    one = score_record(records[0], (6, 8))["coarse"]
    assert one.iou == 1.0 and (one.ignored, one.ignored_predicted) == (32, 32)
    assert one.annotated_box == (800 * 800, 1200 * 800)


def test_other_boxes_or_ignored_pixels_make_another_run(tmp_path):
    sample = make_sample(0, tmp_path / "0.png", "square 4 4 12 12")
    others = (replace(sample, boxes_xyxy=((4.0, 4.0, 12.0, 12.0),)), replace(sample, ignore=sample.mask))
    assert len({describe_samples([one])["digest"] for one in (sample, *others)}) == 3


def test_records_without_boxes_have_no_box_accuracy(tmp_path):
    mask = box_mask(1, 1, 5, 5)
    fields = json.loads(make_record(0, mask, mask).to_line())
    del fields["ignore"], fields["boxes_xyxy"]
    record = Record.from_fields(fields)
    assert (record.ignore, record.boxes_xyxy) == (None, ())
    scores = scored([record])["rec"]["splits"][SPLIT]["coarse"]
    assert scores == {"samples": 1, "boxes": 0, "box_acc": None}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("llava.eval.report.SHEET_CARDS", 1)
    samples = drawn_samples(tmp_path / "data", images=1)
    settings = replace(SETTINGS, data_root=str(tmp_path / "data"))
    evaluate(
        FakeSegmenter(),
        samples,
        tmp_path / "run",
        settings=settings,
        refiner=FakeRefiner(),
        clock=still_clock,
    )
    return tmp_path / "run"


def test_the_report_shows_the_definitions_that_are_asked_for(run, capsys):
    main([str(run), "--definition", "gsva", "--definition", "rela:side=48", "--definition", "gsva"])
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].split()
        == "split stage definition cIoU gIoU P@0.5 P@0.6 P@0.7 P@0.8 P@0.9 N_acc T_acc".split()
    )
    assert [line.split()[1:4] for line in lines[1:7:5]] == [
        ["grid", "gsva", "66.67"],
        ["refined", "rela:side=48", "100.00"],
    ]
    assert len(lines) == 8
    results = json.loads((run / RESULTS_FILE).read_text())
    assert results["shown"] == ["gsva", "rela:side=48"]
    assert list(results["definitions"]) == [*DEFINITIONS, "rela:side=48"]
    page = (run / REPORT_FILE).read_text(encoding="utf-8")
    assert all(html.escape(rules.source) in page for rules in DEFINITIONS.values())
    assert "By kind of expression, rela: " in page


def test_every_printed_score_stands_beside_the_name_of_its_definition(run):
    results = write_report(run, shown=list(DEFINITIONS.values()))
    rows = [line.split() for line in text_table(results).splitlines()[1:]]
    assert {row[2] for row in rows} == set(DEFINITIONS)
    assert len(rows) == 3 * len(DEFINITIONS) - 1


def test_an_unknown_definition_is_refused_before_anything_is_written(run):
    with pytest.raises(SystemExit, match="error: unknown definition 'miou'; known: text4seg"):
        main([str(run), "--definition", "miou"])
    assert not (run / RESULTS_FILE).exists()


@pytest.mark.real_data
@REAL_DATA
def test_real_masks_score_as_pycocotools_scored_them():
    """Masks of a detector on COCO photographs, against counts and scores made with pycocotools alone."""
    folder = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "coco128_mini"
    data, results, expected = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("instances.json", "fakesegm_results.json", "expected_metrics.json")
    )
    truths = {one["id"]: one for one in data["annotations"]}
    sizes = {one["id"]: (one["height"], one["width"]) for one in data["images"]}
    records = []
    for row in expected["per_ann"]:
        mask, _ = union_rle(truths[row["ann_id"]]["segmentation"], sizes[row["image_id"]])
        found = results[row["result_index"]]["segmentation"]
        empty = np.zeros(sizes[row["image_id"]], dtype=bool)
        blank = make_record(row["ann_id"], empty, empty)
        records.append(replace(blank, no_target=False, truth=mask, coarse=found))
    overlaps = [score_record(one, (16, 16)) for one in records]
    assert [(one["coarse"].intersection, one["coarse"].union) for one in overlaps] == [
        (row["inter"], row["union"]) for row in expected["per_ann"]
    ]
    scores = add_up(overlaps, DEFINITIONS["lavt"])["coarse"]
    assert scores["cIoU"] == pytest.approx(expected["aggregate"]["cIoU"], abs=1e-12)
    assert scores["mIoU"] == pytest.approx(expected["aggregate"]["gIoU"], abs=1e-12)
    for threshold, value in expected["aggregate"]["prec"].items():
        assert scores[f"P@{threshold}"] == pytest.approx(value, abs=1e-12)
    assert add_up(overlaps, MAIN)["coarse"]["gIoU"] == scores["mIoU"]
