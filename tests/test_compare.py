import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from eval_fakes import SETTINGS, SPLIT, FakeRefiner, FakeSegmenter, box_mask, drawn_samples, still_clock
from PIL import Image

from llava.data.rle import encode_mask
from llava.eval.bootstrap import compare, quotients
from llava.eval.compare import main, read_runs
from llava.eval.definitions import DEFINITIONS, MAIN, find_definition
from llava.eval.loop import evaluate
from llava.eval.metrics import Overlap, RegionScores
from llava.eval.predictions import PREDICTIONS_FILE, read_records
from llava.eval.run import RUN_FILE


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch):
    monkeypatch.setattr("llava.eval.changes.SHEET_CARDS", 2)


class Sharp(FakeSegmenter):
    """Draws squares as they are, and everything else as the fake does."""

    def answer(self, query):
        prediction = super().answer(query)
        (words,) = query.targets
        if not words.startswith("square"):
            return prediction
        mask = box_mask(*map(int, words.split()[-4:]))
        return replace(prediction, masks=mask[None, None])


@pytest.fixture
def runs(tmp_path):
    """Two runs over twelve samples of four images: the second has four perfect masks more."""
    samples = drawn_samples(tmp_path / "data")
    for name, segmenter in (("a", FakeSegmenter()), ("b", Sharp())):
        settings = replace(SETTINGS, weights=name, data_root=str(tmp_path / "data"))
        evaluate(segmenter, samples, tmp_path / name, settings=settings, clock=still_clock)
    return tmp_path / "a", tmp_path / "b"


def random_overlaps(seed, number=60):
    rng = np.random.default_rng(seed)
    for _ in range(number):
        true, predicted = (int(value) * int(rng.random() > 0.2) for value in rng.integers(1, 400, 2))
        common = int(rng.integers(0, min(true, predicted) + 1))
        yield Overlap(
            common,
            predicted,
            true,
            rejected=bool(rng.random() < 0.2),
            no_target=true == 0,
            mask_box=(common, true + predicted - common),
            annotated_box=(common, true + predicted - common) if rng.random() > 0.5 else None,
        )


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_metric_is_the_quotient_that_the_scores_print(name):
    rules = DEFINITIONS[name]
    overlaps = list(random_overlaps(3))
    scores = RegionScores(overlaps).compute(rules)
    found = quotients(overlaps, rules)
    assert set(found) == set(rules.reports)
    for metric, value in found.items():
        assert value == pytest.approx(scores[metric], rel=1e-12), metric


def test_the_interval_is_that_of_plain_resampling_of_images():
    first, second = list(random_overlaps(1)), list(random_overlaps(2))
    images = [f"{place // 3}.jpg" for place in range(60)]
    found = compare(first, second, images, rules=MAIN, draws=4000)["gIoU"]
    rng = np.random.default_rng(9)
    drawn = []
    for _ in range(2000):
        places = [3 * one + more for one in rng.integers(0, 20, 20) for more in range(3)]
        drawn.append(
            np.mean([second[one].iou for one in places]) - np.mean([first[one].iou for one in places])
        )
    # Two independent samples of a distribution about 0.1 wide: ends differ by a few thousandths.
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.02)
    assert found.above == pytest.approx(np.mean(np.array(drawn) > 0), abs=0.05)


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says():
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        pairs = [
            (Overlap(int(a), 100, 100, False, False), Overlap(int(b), 100, 100, False, False))
            for a, b in rng.integers(0, 101, (80, 2))
        ]
        first, second = zip(*pairs, strict=True)
        one = compare(first, second, [str(k) for k in range(80)], rules=MAIN, draws=200, seed=seed)["gIoU"]
        held += one.low <= 0 <= one.high
    assert 88 <= held <= 100


def test_the_same_seed_draws_the_same_and_another_seed_does_not():
    first, second = list(random_overlaps(1)), list(random_overlaps(2))
    images = [str(place) for place in range(60)]
    draws = [compare(first, second, images, rules=MAIN, draws=50, seed=seed) for seed in (4, 4, 5)]
    assert draws[0] == draws[1] != draws[2]


def test_equal_systems_have_an_empty_interval_and_no_verdict():
    first = list(random_overlaps(1))
    one = compare(first, first, ["x"] * 60, rules=MAIN, draws=20)["cIoU"]
    assert (one.low, one.high, one.above, one.verdict) == (0.0, 0.0, 0.0, "")


def test_what_was_never_measured_has_no_interval():
    target = Overlap(1, 2, 2, rejected=False, no_target=False)
    one = compare([target], [target], ["x"], rules=MAIN, draws=3)["N_acc"]
    assert (one.first, one.second, one.low, one.verdict) == (None, None, None, "")


@pytest.mark.parametrize(("answers", "images", "draws"), [(0, 0, 9), (1, 2, 9), (1, 1, 0)])
def test_nothing_to_draw_from_is_an_error(answers, images, draws):
    one = [Overlap(1, 2, 2, rejected=False, no_target=False)]
    with pytest.raises(ValueError, match="at least one draw"):
        compare(one * answers, one * answers, ["x"] * images, rules=MAIN, draws=draws)


def test_a_comparison_tells_scores_intervals_and_changes(runs, capsys):
    a, b = runs
    main([str(a), str(b), "--definition", "rela", "--definition", "lisa"])
    results = json.loads((b / "compare_a" / "compare.json").read_text())
    giou = results["definitions"]["rela"][SPLIT]["gIoU"]
    # Eight squares of IoU 2/3 and four right rejections; in B four of the squares are perfect.
    assert giou["first"] == pytest.approx((8 * 2 / 3 + 4) / 12)
    assert giou["second"] == pytest.approx((4 * 2 / 3 + 8) / 12)
    assert giou["low"] == pytest.approx(giou["high"]) == pytest.approx(4 / 3 / 12)
    assert results["changes"] == {
        "samples": 12,
        "better": 4,
        "worse": 0,
        "same mask": 8,
        "same text": 12,
        "only A invalid": 0,
        "only B invalid": 0,
    }
    assert [one["id"] for one in results["samples"]] == [f"{SPLIT}|{number}|0" for number in range(4)]
    assert results["settings"] == {"weights": ["a", "b"]}
    shown = capsys.readouterr().out
    assert re.search(
        r"rela +drawn\|unc\|val +gIoU +77\.78 +88\.89 +\+11\.11 +\+11\.11 to \+11\.11 +100\.0 +better", shown
    )
    assert "4 better, 0 worse" in shown
    assert list(results["definitions"]) == ["rela", "lisa"]


def test_the_page_needs_no_other_file_and_shows_what_changed(runs, tmp_path):
    a, b = runs
    main([str(b), str(a), "--out", str(tmp_path / "page")])
    page = (tmp_path / "page" / "compare.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "B worse than A (2 of 4)" in page
    assert "B better than A" not in page
    assert not (tmp_path / "page" / "better.png").exists()
    with Image.open(tmp_path / "page" / "worse.png") as picture:
        assert picture.width > 400
    assert "<td class=left>weights</td><td class=left>b</td><td class=left>a</td>" in page


def test_a_comparison_is_the_same_each_time(runs, tmp_path):
    a, b = runs
    for name in ("one", "two"):
        main([str(a), str(b), "--out", str(tmp_path / name), "--draws", "30"])
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["better.png", "compare.html", "compare.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_stage_that_a_run_has_not_is_named(runs, tmp_path, capsys):
    a, b = runs
    with pytest.raises(SystemExit, match=r"error: .*/a: drawn\|unc\|val\|0\|0 has no refined mask"):
        main([str(a), str(b), "--stage", "refined"])
    samples = drawn_samples(tmp_path / "data")
    out = tmp_path / "sam"
    evaluate(FakeSegmenter(), samples, out, settings=replace(SETTINGS, refiner="sam"), refiner=FakeRefiner())
    main([str(a), str(out), "--out", str(tmp_path / "last")])
    assert "8 better" in capsys.readouterr().out
    main([str(a), str(out), "--out", str(tmp_path / "coarse"), "--stage", "coarse"])
    assert "0 better, 0 worse" in capsys.readouterr().out


def test_runs_over_other_samples_are_compared_only_on_request(runs, tmp_path, capsys):
    a, _ = runs
    some = tmp_path / "some"
    evaluate(Sharp(), drawn_samples(tmp_path / "data")[:6], some, settings=SETTINGS, clock=still_clock)
    with pytest.raises(SystemExit, match=r"a has 12, .*some has 6, in common 6; --shared takes only"):
        main([str(a), str(some)])
    main([str(a), str(some), "--shared"])
    assert "6 samples, 4 better" in capsys.readouterr().out
    none = tmp_path / "none"
    other = [replace(one, id=one.id.replace("val", "testA")) for one in drawn_samples(tmp_path / "data")[:2]]
    evaluate(Sharp(), other, none, settings=SETTINGS, clock=still_clock)
    with pytest.raises(SystemExit, match="in common 0; evaluate the same splits with all"):
        main([str(a), str(none), "--shared"])


def test_runs_with_different_truths_are_not_compared(runs):
    a, b = runs
    records = read_records(b / PREDICTIONS_FILE)
    records[2] = replace(records[2], truth=encode_mask(box_mask(0, 0, 2, 2)))
    (b / PREDICTIONS_FILE).write_bytes(b"".join(one.to_line() for one in records))
    with pytest.raises(ValueError, match=r"drawn\|unc\|val\|2\|0: the runs have different truths"):
        read_runs([a, b])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--draws", "0"), "--draws 0: at least 1"),
        (("--definition", "nonsense"), "unknown definition 'nonsense'"),
        (("--data-root", "/nowhere"), "--data-root /nowhere is no folder"),
        (("--out", f"{__file__}/page"), "--out .*test_compare.py is a file; choose another folder"),
    ],
)
def test_wrong_options_end_with_one_sentence(runs, more, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        main([str(runs[0]), str(runs[1]), *more])


def test_a_folder_without_a_finished_run_is_told(runs, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*run\.json not found"):
        main([str(runs[0]), str(tmp_path / "nowhere")])
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(runs[0] / RUN_FILE, half)
    with pytest.raises(SystemExit, match=r"error: .*half holds 0 of 12 predictions"):
        main([str(runs[0]), str(half)])


def test_merged_questions_are_compared_by_target(runs):
    a, b = runs
    main([str(a), str(b), "--definition", "rela:query=merged"])
    name = find_definition("rela:query=merged").name
    results = json.loads((b / "compare_a" / "compare.json").read_text())
    assert results["definitions"][name][SPLIT]["gIoU"]["second"] > 0.8
