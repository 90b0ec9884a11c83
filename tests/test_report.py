import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from eval_fakes import SETTINGS, SPLIT, FakeRefiner, FakeSegmenter, drawn_samples, make_sample, still_clock
from PIL import Image

from llava.eval.loop import evaluate
from llava.eval.page import render, text_table
from llava.eval.predictions import PREDICTIONS_FILE, read_records
from llava.eval.report import REPORT_FILE, RESULTS_FILE, main, write_report
from llava.eval.run import RUN_FILE
from llava.eval.scoring import STEPS, mean_over_splits, percent, score_record, score_records
from llava.eval.sheets import (
    MISSING_IMAGE,
    choose_random,
    choose_worst,
    make_card,
    open_or_grey,
)


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path, FakeRefiner())


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch):
    monkeypatch.setattr("llava.eval.report.SHEET_CARDS", 2)


def finished_run(folder, refiner, samples=None):
    samples = samples or drawn_samples(folder / "data")
    settings = replace(SETTINGS, refiner="sam", data_root=str(folder / "data"), code=("0.1.0 abc",))
    evaluate(FakeSegmenter(), samples, folder / "run", settings=settings, refiner=refiner, clock=still_clock)
    return folder / "run"


def test_results_name_everything_that_a_score_needs(run):
    results = write_report(run)
    assert results == json.loads((run / RESULTS_FILE).read_text())
    assert (results["checkpoint"], results["mode"], results["code"]) == (
        "/models/fake",
        "generated",
        ["0.1.0 abc"],
    )
    assert results["settings"]["seed"] == 3
    assert results["settings"]["samples"]["count"] == 12
    assert set(results["seconds"]) == set(STEPS)


def test_stages_stand_side_by_side_with_the_expected_scores(run):
    scores = write_report(run)["splits"][SPLIT]["scores"]
    # 8x8 pixels of truth, 12x8 predicted: IoU 2/3. In cells of 4x4: 2x2 of 3x2, shifted boxes alike.
    assert list(scores) == ["grid", "coarse", "refined"]
    assert scores["coarse"]["cIoU"] == pytest.approx(64 / 96)
    assert scores["coarse"]["gIoU"] == pytest.approx((8 * 2 / 3 + 4) / 12)
    assert scores["grid"]["cIoU"] == pytest.approx(64 / 96)
    assert (scores["grid"]["N_acc"], scores["grid"]["T_acc"]) == (None, None)
    assert (scores["refined"]["cIoU"], scores["refined"]["gIoU"]) == (1.0, 1.0)
    assert (scores["coarse"]["P@0.6"], scores["coarse"]["P@0.7"]) == (1.0, 0.0)
    assert (scores["coarse"]["N_acc"], scores["coarse"]["T_acc"]) == (1.0, 1.0)


def test_counts_and_kinds_of_expression_are_told(run):
    split = write_report(run)["splits"][SPLIT]
    assert split["counts"] == {
        "samples": 12,
        "images": 4,
        "no_target": 4,
        "invalid": 4,
        "empty": 4,
        "without_mask": 0,
        "vanished": 0,
        "kept_coarse": {"coarse is empty": 4},
    }
    assert list(split["groups"]) == ["broken", "nothing", "square"]
    assert split["groups"]["square"]["coarse"]["samples"] == 4
    assert split["groups"]["nothing"]["coarse"]["gIoU"] == 1.0


def test_without_a_refiner_there_is_no_refined_stage(tmp_path):
    results = write_report(finished_run(tmp_path, None))
    assert list(results["splits"][SPLIT]["scores"]) == ["grid", "coarse"]
    assert (tmp_path / "run" / REPORT_FILE).is_file()


def test_a_target_without_a_cell_counts_as_vanished(tmp_path):
    path = drawn_samples(tmp_path / "data")[0].image_path
    run = finished_run(tmp_path, None, [make_sample(0, path, "square 0 0 1 1")])
    (record,) = read_records(run / PREDICTIONS_FILE)
    assert score_record(record, (6, 8))["grid"].no_target
    assert not score_record(record, (6, 8))["coarse"].no_target
    assert write_report(run)["splits"][SPLIT]["counts"]["vanished"] == 1


def test_scores_need_neither_model_nor_data(run, tmp_path, capsys):
    first = write_report(run)
    before = (run / RESULTS_FILE).read_bytes()
    for image in (tmp_path / "data" / "images").iterdir():
        image.unlink()
    main([str(run)])
    assert (run / RESULTS_FILE).read_bytes() == before
    shown = capsys.readouterr().out
    assert text_table(first) in shown
    assert "report.html" in shown


def test_moved_images_are_found_at_their_new_root(run, tmp_path):
    write_report(run)
    page = (run / REPORT_FILE).read_bytes()
    (tmp_path / "data").rename(tmp_path / "moved")
    write_report(run)
    assert (run / REPORT_FILE).read_bytes() != page
    write_report(run, data_root=str(tmp_path / "moved"))
    assert embedded(run) == embedded_in(page.decode())


def test_a_data_root_that_is_not_there_is_told(run, tmp_path):
    with pytest.raises(SystemExit, match=r"error: --data-root .*gone is no folder; leave it out"):
        main([str(run), "--data-root", str(tmp_path / "gone")])


def test_a_missing_image_is_drawn_grey_in_its_size(run):
    record = read_records(run / PREDICTIONS_FILE)[0]
    assert open_or_grey(record, "/nowhere").getpixel((3, 3)) == MISSING_IMAGE
    assert open_or_grey(record, "/nowhere").size == (32, 24)


def embedded_in(page):
    return [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]


def embedded(run):
    return embedded_in((run / REPORT_FILE).read_text(encoding="utf-8"))


def test_the_page_needs_no_other_file(run):
    write_report(run)
    page = (run / REPORT_FILE).read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "url(" not in page
    assert "<script" not in page
    pictures = [Image.open(io.BytesIO(data)) for data in embedded(run)]
    assert [picture.format for picture in pictures] == ["PNG"] * 3
    assert embedded(run) == [(run / f"{name}.png").read_bytes() for name in ("random", "worst", "faults")]


def test_the_page_shows_the_numbers_of_the_results(run):
    results = write_report(run)
    page = (run / REPORT_FILE).read_text(encoding="utf-8")
    assert page.count('<td class="main">66.67</td>') == 2
    assert "<td>4 (33.3 %)</td>" in page
    assert "4 × coarse is empty" in page
    assert results["checkpoint"] in page
    assert "row 1 of 6 describes 7 cells, needed 8" in page


def test_model_text_cannot_break_the_page(run):
    results = write_report(run)
    record = read_records(run / PREDICTIONS_FILE)[8]
    bad = replace(record, expression="<b>x</b>", answer="<script>alert(1)</script>" * 30, faults=("a < b",))
    page = render(results, [("<i>sheet</i>", b"png")], [bad])
    assert "<script" not in page
    assert "<b>x" not in page
    assert "<i>sheet" not in page
    assert "a &lt; b" in page
    assert page.count("alert(1)") < 30


def test_random_answers_are_seeded_and_in_order(run):
    records = read_records(run / PREDICTIONS_FILE)
    first = choose_random(records, 1, 8)
    assert first == choose_random(records, 1, 8) == sorted(first)
    assert len(set(first)) == 8
    assert any(first != choose_random(records, seed, 8) for seed in range(5))
    assert choose_random(records[:3], 1, 8) == [0, 1, 2]


def test_the_worst_answers_come_first(tmp_path):
    run = finished_run(tmp_path, None)
    records = read_records(run / PREDICTIONS_FILE)
    overlaps = score_records(records, SETTINGS)
    worst = choose_worst(overlaps, 0, 8)
    assert sorted(worst) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert worst == choose_worst(overlaps, 0, 8)
    overlaps[5] = score_record(replace(records[5], absent=False), (6, 8))
    assert choose_worst(overlaps, 0, 8)[0] == 5


def test_the_worst_answers_are_judged_after_refinement(run):
    records = read_records(run / PREDICTIONS_FILE)
    records[2] = replace(records[2], refined=records[7].refined)
    assert choose_worst(score_records(records, SETTINGS), 0, 8)[0] == 2


def test_a_card_captions_each_stage_with_its_iou(run):
    records = read_records(run / PREDICTIONS_FILE)
    square, nothing = (
        make_card(one, score_record(one, (6, 8)), "/nowhere") for one in (records[0], records[4])
    )
    assert [panel.caption for panel in square.panels] == [
        "square",
        "truth",
        "coarse: IoU 66.7",
        "refined: IoU 100.0",
    ]
    assert square.title == "Square 4 4 12 12"
    assert nothing.panels[1].caption == "truth: no target"
    assert nothing.panels[2].caption == "no target: IoU 100.0"
    assert np.array_equal(square.panels[3].mask, square.panels[1].mask)


def test_several_splits_get_their_own_rows_and_a_mean(tmp_path):
    samples = drawn_samples(tmp_path / "data")
    path = samples[0].image_path
    samples.append(make_sample(0, path, "square 0 0 4 4", split="drawn|unc|testA"))
    results = write_report(finished_run(tmp_path, FakeRefiner(), samples))
    assert list(results["splits"]) == [SPLIT, "drawn|unc|testA"]
    assert results["mean"]["coarse"]["cIoU"] == pytest.approx((64 / 96 + 16 / 32) / 2)
    table = text_table(results)
    assert [line.split("  ")[0] for line in table.splitlines()[7:]] == ["mean of the splits"] * 3
    assert "58.33" in table


def test_a_mean_over_splits_needs_a_score_in_each():
    def split(value):
        return {"scores": {"coarse": {"cIoU": value, "gIoU": value}}}

    assert mean_over_splits({"a": split(0.5), "b": split(None)}) == {}
    assert mean_over_splits({"a": split(0.5)}) == {}
    assert mean_over_splits({"a": split(0.5), "b": split(1.0)}) == {"coarse": {"cIoU": 0.75, "gIoU": 0.75}}


def test_percentages_are_rounded_and_nothing_is_a_dash():
    assert percent(0.66666) == "66.7"
    assert percent(1.0, 2) == "100.00"
    assert percent(None) == "–"


def test_an_unfinished_run_is_not_scored(run):
    (run / PREDICTIONS_FILE).rename(run / "predictions.rank0.jsonl")
    with pytest.raises(ValueError, match="holds 12 of 12 predictions; run the command"):
        write_report(run)


@pytest.mark.parametrize("change", [lambda lines: lines[1:], lambda lines: [*lines[1:], lines[1]]])
def test_a_missing_or_doubled_prediction_is_an_error(run, change):
    path = run / PREDICTIONS_FILE
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(ValueError, match="for 11 samples, the run has 12"):
        write_report(run)


def test_a_folder_without_a_run_is_told_in_words(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*run\.json not found; run scripts"):
        main([str(tmp_path)])


def test_a_failed_report_leaves_the_old_one(run, monkeypatch):
    write_report(run)
    before = {name: (run / name).read_bytes() for name in (RESULTS_FILE, REPORT_FILE, RUN_FILE, "worst.png")}

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llava.eval.report.write_text_atomic", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(run)
    assert before == {name: (run / name).read_bytes() for name in before}
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]
