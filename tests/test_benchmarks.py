"""Benchmarks: what they ask, which version they are, what stands beside their numbers."""

import json
import statistics
from dataclasses import replace

import numpy as np
import pytest
import test_reader_muse as muse
from dataset_folders import refer
from eval_fakes import SETTINGS, SPLIT, FakeSegmenter, box_mask, drawn_samples

from llava.data.problems import Problems
from llava.data.readers import DATASETS, read_dataset
from llava.data.rle import decode_rle, encode_mask
from llava.eval.anchors import BOTH_IOUS, JOINS, MEAN, PUBLISHED, RES, published
from llava.eval.benchmarks import BENCHMARKS, benchmark_of
from llava.eval.definitions import find_definition
from llava.eval.loop import evaluate, question_of
from llava.eval.merged import merge_answers
from llava.eval.predictions import PREDICTIONS_FILE, read_records
from llava.eval.report import told_in_text, write_report
from llava.eval.run import describe_samples
from llava.eval.scoring import add_up, score_record
from llava.eval.semantic_scores import RULES
from llava.eval.tables import as_text
from llava.eval.targets import TARGETS
from llava.types import Prediction, Sample

WORDED = {
    "refer_seg v1": ["Please segment only the [class_name] in the image."],
    "gres v1": ["Please segment only the [class_name] in the image."],
    "reason_seg v1": [
        "[question] Please respond with a segmentation mask.",
        "Please segment only the [class_name] in the image.",
    ],
    "muse v2": [
        "[question] Please respond with a segmentation mask.",
        "Please segment only the [class_name] in the image.",
    ],
    "rrsis_d v1": ["Please segment only the [class_name] in the image."],
    "earth_reason v1": [
        "[question] Please respond with a segmentation mask.",
        "Please segment only the [class_name] in the image.",
    ],
    "refer_comprehension v1": ["Please segment only the [class_name] in the image."],
    "semantic_seg v1": ["Please segment the image based on the category: [class_name]."],
}
"""Wording of each version: whoever changes one gives the benchmark a new version."""

AVERAGES_ONLY = ("muse", "rrsis_d", "earth_reason")
"""Benchmarks of which the paper of Text4Seg++ prints one number for each system."""

ONE_QUESTION = ("refer_seg", "gres", "reason_seg", "refer_comprehension")


def test_each_version_has_its_one_wording():
    assert {each.label: list(each.questions) for each in BENCHMARKS.values()} == WORDED


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_names_only_what_there_is(name):
    benchmark = BENCHMARKS[name]
    maps = {rules.name for rules in RULES}
    for definition, metric in benchmark.compared:
        if name == "semantic_seg":
            assert definition in maps and metric == "mIoU"
        elif definition == TARGETS:
            assert metric == BOTH_IOUS and benchmark.by_target
        else:
            assert set(metric.split(JOINS)) <= set(find_definition(definition).reports)
            assert definition in benchmark.definitions
    assert all(split.partition("|")[0] in DATASETS for split in benchmark.splits)
    assert {split.partition("|")[0] for split in benchmark.splits} <= set(benchmark.datasets)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_number_has_a_place_beside_a_result(name):
    benchmark = BENCHMARKS[name]
    rows = PUBLISHED[name]
    assert len(rows) >= 2 and all(row.source for row in rows)
    assert {(row.definition, row.metric) for row in rows} <= set(benchmark.compared)
    columns = {column for row in rows for column in row.values if column != MEAN}
    told = {column for column in columns if column.count("|") < 2 or name != "reason_seg"}
    assert told == (set() if name in AVERAGES_ONLY else set(benchmark.splits))
    assert all(0 < value < 100 for row in rows for value in row.values.values())


@pytest.mark.parametrize(
    ("benchmark", "method", "how", "mean"),
    [
        ("refer_seg", "LISA-7B", "", 69.9),
        ("refer_seg", "GSVA-7B", "", 71.4),
        ("refer_seg", "GSVA-13B", "", 72.8),
        ("refer_seg", "GLaMM-7B", "", 75.6),
        ("refer_seg", "Text4Seg LLaVA-1.5-7B", "no refiner", 67.2),
        ("refer_seg", "Text4Seg LLaVA-1.5-7B", "SAM", 74.9),
        ("refer_seg", "Text4Seg LLaVA-1.5-13B", "SAM", 76.2),
        ("refer_seg", "Text4Seg InternVL2-8B", "no refiner", 71.4),
        ("refer_seg", "Text4Seg InternVL2-8B", "SAM", 75.4),
        ("gres", "Text4Seg LLaVA-1.5-7B", "SAM", 69.9),
        ("gres", "Text4Seg LLaVA-1.5-13B", "SAM", 71.5),
        ("gres", "Text4Seg InternVL2-8B", "SAM", 71.1),
        ("refer_comprehension", "LISA-7B", "", 79.8),
        ("refer_comprehension", "GSVA-7B", "", 80.3),
        ("refer_comprehension", "Text4Seg LLaVA-1.5-7B", "SAM", 87.0),
        ("refer_comprehension", "Text4Seg LLaVA-1.5-13B", "SAM", 87.7),
        ("refer_comprehension", "Text4Seg InternVL2-8B", "no refiner", 85.0),
        ("refer_comprehension", "Text4Seg InternVL2-8B", "SAM", 87.1),
    ],
)
def test_published_rows_have_the_mean_that_is_published_with_them(benchmark, method, how, mean):
    found = [row for row in PUBLISHED[benchmark] if row.method == method and how in row.how]
    values = [value for row in found for split, value in row.values.items() if split != MEAN]
    assert len(values) in (6, 8)
    assert statistics.mean(values) == pytest.approx(mean, abs=0.0501)


def options_of(name):
    return {"benchmark": BENCHMARKS[name].settings()}


def test_a_run_of_another_version_is_not_scored():
    options = json.loads(json.dumps(options_of("gres")))
    assert benchmark_of(options) is BENCHMARKS["gres"] and benchmark_of({}) is None
    options["benchmark"]["version"] = 9
    with pytest.raises(ValueError, match=r"the run is of gres v9, this code knows refer_seg v1, gres v1"):
        benchmark_of(options)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("gres", "ade20k|val", r"gres cannot be run on 'ade20k\|val'; it can on refcoco"),
        ("semantic_seg", "refcoco|val", r"semantic_seg cannot be run on 'refcoco\|val'; it can on cocostuff"),
        ("semantic_seg", "voc20|test", "unknown split 'test' for voc20"),
        ("reason_seg", "reasonseg|testA", "unknown split 'testA' for reasonseg"),
    ],
)
def test_a_split_that_a_benchmark_cannot_ask_is_refused(tmp_path, name, spec, message):
    with pytest.raises(ValueError, match=message):
        BENCHMARKS[name].read_all(tmp_path, [spec], limit=None, seed=0)


class Listening(FakeSegmenter):
    """Keeps the queries and marks a box at the upper left."""

    def __init__(self):
        super().__init__()
        self.queries = []

    def answer(self, query):
        self.queries.append(query)
        width, height = query.frames[0].size
        mask = box_mask(0, 0, 8, 8, (height, width))
        return Prediction(mask[None, None], np.array([False]), "<seg>")


def run(samples, out, name, system=None, **changes):
    settings = replace(SETTINGS, options=options_of(name), **changes)
    records = evaluate(system or FakeSegmenter(), samples, out, settings=settings)
    return write_report(out, records=records)


def reasoning_samples(folder):
    """Two questions and two phrases, ReasonSeg's two kinds, about one picture."""
    picture = drawn_samples(folder, images=1)[0]
    mask = encode_mask(box_mask(0, 0, 8, 16))
    return [
        Sample(
            id=f"reasonseg|test|{number}|0",
            image_path=picture.image_path,
            image_id=1,
            size_hw=picture.size_hw,
            expression="target" if asked else "the Box",
            mask=mask,
            group="long query" if asked else "short query",
            question="Where would one sit <image>?" if asked else "",
        )
        for number, asked in enumerate([True, False, True, False])
    ]


def test_a_whole_question_is_asked_in_its_own_words_and_a_phrase_in_the_fixed_ones(tmp_path):
    system = Listening()
    samples = reasoning_samples(tmp_path)
    results = run(samples, tmp_path / "run", "reason_seg", system)
    asked = [(query.question, list(query.targets)) for query in system.queries]
    assert (
        asked
        == [
            ("Where would one sit ? Please respond with a segmentation mask.", ["target"]),
            (None, ["the box"]),
        ]
        * 2
    )
    assert results["benchmark"] == {"name": "reason_seg", "version": 1, "questions": WORDED["reason_seg v1"]}
    other = [replace(samples[0], question="Where else?"), *samples[1:]]
    assert describe_samples(samples) != describe_samples(other)
    assert question_of(samples[1]) is None


def test_kinds_of_questions_stand_in_columns_of_their_own(tmp_path):
    results = run(reasoning_samples(tmp_path), tmp_path / "run", "reason_seg", Listening())
    first = results["tables"][0]
    assert first["title"] == "reason_seg v1: gIoU under lisa, percent"
    assert first["header"][1:-1] == [
        "reasonseg test",
        "reasonseg test short query",
        "reasonseg test long query",
    ]
    assert first["rows"][0] == ["this run, coarse", "50.0", "50.0", "50.0", ""]
    lisa = next(row for row in first["rows"] if row[0] == "LISA-7B")
    assert lisa[1:4] == ["36.8", "37.6", "36.6"] and "arXiv 2308.00692" in lisa[4]
    assert "answers forced along the true ones" in lisa[4]


def square_samples(folder):
    """Two expressions with an annotated box two pixels wider than the mask; the answer is a cell too wide."""
    found = [one for one in drawn_samples(folder, images=2) if one.expression.startswith("Square")]
    boxes = ((4.0, 4.0, 14.0, 12.0), (5.0, 4.0, 24.0, 12.0))
    return [replace(one, boxes_xyxy=(box,)) for one, box in zip(found, boxes, strict=True)]


def test_comprehension_measures_the_annotated_box_and_by_name_that_of_the_mask(tmp_path):
    results = run(square_samples(tmp_path), tmp_path / "run", "refer_comprehension")
    assert results["shown"] == ["rec", "text4seg"]
    scores = {name: results["definitions"][name]["splits"][SPLIT]["coarse"] for name in results["shown"]}
    assert scores["rec"] == {"samples": 2, "boxes": 2, "box_acc": 1.0}
    assert scores["text4seg"]["box_acc"] == 1.0
    wide = square_samples(tmp_path)
    wide[1] = replace(wide[1], boxes_xyxy=((5.0, 4.0, 32.0, 12.0),))
    results = run(wide, tmp_path / "wide", "refer_comprehension")
    scores = {name: results["definitions"][name]["splits"][SPLIT]["coarse"] for name in results["shown"]}
    assert (scores["rec"]["box_acc"], scores["text4seg"]["box_acc"]) == (0.5, 1.0)


def test_published_numbers_stand_only_beside_their_own_splits_and_rules(tmp_path):
    samples = drawn_samples(tmp_path)
    results = run(samples, tmp_path / "drawn", "gres")
    (table,) = results["tables"]
    assert as_text([table]) == "gres v1: published numbers\nNo published numbers for these splits."
    renamed = [replace(one, id=one.id.replace(SPLIT, "grefcoco|unc|val")) for one in samples]
    results = run(renamed, tmp_path / "gres", "gres", splits=("grefcoco|unc|val",))
    told = {table["title"]: table for table in results["tables"]}
    rela, gsva = (told[f"gres v1: gIoU under {name}, percent"] for name in ("rela:side=480", "gsva"))
    assert rela["header"][1:-1] == ["grefcoco val"]
    assert [row[0] for row in rela["rows"]] == ["this run, coarse", "ReLA Swin-B"]
    assert [row[:2] for row in gsva["rows"][1:]] == [["GSVA-7B", "66.4"], ["LISA-7B", "61.6"]]
    assert "gres v1: N_acc under gsva, percent" in told_in_text(results)
    page = (tmp_path / "gres" / "report.html").read_text()
    assert "GSVA-7B" in page and "Beside published numbers" in page


def test_a_mean_is_shown_when_every_split_of_the_papers_was_scored(tmp_path):
    (sample, *_) = drawn_samples(tmp_path, images=1)
    samples = [replace(sample, id=f"{split}|1|0") for split in RES]
    whole = run(samples, tmp_path / "whole", "refer_seg", splits=RES)["tables"][0]
    assert whole["header"][-2] == MEAN and whole["header"][2] == "refcoco testA"
    rows = {(row[0], row[-1]): row for row in whole["rows"]}
    assert next(row for (name, _), row in rows.items() if name == "Text4Seg++ 7B")[1:-1] == ["–"] * 8 + [
        "79.3"
    ]
    assert rows["LISA-7B", next(last for name, last in rows if name == "LISA-7B")][-2] == "69.9"
    part = run(samples[:3], tmp_path / "part", "refer_seg", splits=RES[:3])["tables"][0]
    assert MEAN not in part["header"] and not published("refer_seg", "gsva", "cIoU", RES)
    assert as_text([part]).splitlines()[0] == "refer_seg v1: cIoU under text4seg, percent"


def test_referring_sets_can_be_asked_in_several_benchmarks(tmp_path):
    refer(tmp_path)
    read = [
        BENCHMARKS[name].read_all(tmp_path, ["refcoco|train"], limit=None, seed=0) for name in ONE_QUESTION
    ]
    assert len(read[0]) == 2 and all(samples == read[0] for samples in read)


@pytest.mark.parametrize(
    ("benchmark", "method", "number"),
    [
        ("refer_seg", "Text4Seg++ 7B", 79.3),
        ("refer_seg", "Text4Seg++ 13B", 79.7),
        ("gres", "Text4Seg++ 7B", 69.8),
        ("reason_seg", "Text4Seg++ 7B", 54.5),
        ("muse", "Text4Seg++ 7B", 63.8),
        ("muse", "POPEN", 52.5),
        ("rrsis_d", "Text4Seg++ 7B", 70.8),
        ("rrsis_d", "SegEarth-R1", 74.4),
        ("earth_reason", "Text4Seg++ 7B", 70.1),
        ("earth_reason", "SegEarth-R2", 70.9),
        ("refer_comprehension", "Text4Seg++ 7B", 91.1),
        ("refer_comprehension", "Text4Seg++ 13B", 92.0),
    ],
)
def test_averages_of_text4seg_pp_stand_under_the_mean_and_say_what_they_are(benchmark, method, number):
    found = [row for row in PUBLISHED[benchmark] if row.method == method]
    assert found and all(row.values == {MEAN: number} for row in found)
    if benchmark in AVERAGES_ONLY:
        assert all("of which metrics and splits is not told" in row.how for row in found)


def whole_run(folder, name):
    """One sample in each split of the papers; the answers are a box at the upper left."""
    (sample, *_) = reasoning_samples(folder)
    benchmark = BENCHMARKS[name]
    splits = benchmark.splits
    samples = [replace(sample, id=f"{split}|7|0", group="") for split in splits]
    return run(samples, folder / name, name, Listening(), splits=splits)["tables"]


@pytest.mark.parametrize(
    ("name", "metrics"),
    [("muse", "gIoU and cIoU"), ("rrsis_d", "cIoU and mIoU"), ("earth_reason", "gIoU and cIoU")],
)
def test_an_average_over_metrics_stands_beside_the_published_ones(tmp_path, name, metrics):
    *_, table = whole_run(tmp_path, name)
    assert table["title"].startswith(f"{BENCHMARKS[name].label}: mean of {metrics} under ")
    assert table["header"][-2] == MEAN
    assert table["rows"][0][:1] + table["rows"][0][-2:] == ["this run, coarse", "50.0", ""]
    assert len(table["rows"]) == 1 + len(PUBLISHED[name])
    assert {row[-2] for row in table["rows"][1:]} == {
        f"{value:.1f}" for row in PUBLISHED[name] for value in row.values.values()
    }


def test_questions_about_several_targets_are_scored_target_by_target_too(tmp_path):
    table, beside = whole_run(tmp_path, "muse")
    assert table["title"] == "Target by target, percent"
    assert table["rows"][0] == ["muse|val", "coarse", "1", "1", "1", "50.0", "50.0"]
    assert beside["title"].endswith("under targets, percent")
    assert {row[0] for row in beside["rows"]} >= {"LISA", "POPEN", "Text4Seg++ 7B"}


def test_the_average_leaves_kinds_of_questions_out_and_needs_every_split(tmp_path):
    titles = [table["title"] for table in whole_run(tmp_path, "reason_seg")]
    assert titles[-1] == "reason_seg v1: mean of gIoU and cIoU under lisa, percent"
    some = run(reasoning_samples(tmp_path), tmp_path / "part", "reason_seg", Listening())["tables"]
    assert not [table for table in some if "mean of" in table["title"]]
    assert not published("reason_seg", "lisa", BOTH_IOUS, ["reasonseg|test"])


def test_a_question_about_several_targets_is_asked_once_for_all_of_them(tmp_path):
    questions = ["What is hot?", "What is for tea?"]
    many = [muse.CUP, *[muse.target([[v + step for v in muse.SQUARE]], "plate") for step in (4, 6, 8)]]
    muse.write(tmp_path, [muse.record(questions, [[muse.CUP, muse.POT], many])], split="val")
    samples = BENCHMARKS["muse"].read_all(tmp_path, ["muse|val"], limit=None, seed=0)
    assert [sample.id for sample in samples] == ["muse|val|0.0|0", "muse|val|0.1|0"]
    assert [sample.question for sample in samples] == questions
    assert {sample.expression for sample in samples} == {"target"}
    assert [sample.group for sample in samples] == ["up to 3 targets", "more targets"]
    assert [sample.category for sample in samples] == ["tea cup, teapot", "tea cup, plate"]
    parts = [decode_rle(one.mask) for one in read_dataset(tmp_path, "muse|val", Problems())]
    assert np.array_equal(decode_rle(samples[0].mask), parts[0] | parts[1])
    assert len(samples[1].boxes_xyxy) == 4
    assert [decode_rle(one).sum() for one in samples[0].instances] == [part.sum() for part in parts[:2]]
    assert question_of(samples[0]) == "What is hot? Please respond with a segmentation mask."


class Writer(FakeSegmenter):
    """Draws a mask one cell too wide, and writes a box: right, one with a wrong width, or none."""

    def __init__(self, boxes):
        super().__init__()
        self.left = list(boxes)

    def answer(self, query):
        return replace(super().answer(query), boxes=(self.left.pop(0),))


def test_a_box_that_the_answer_writes_is_scored_under_a_name_of_its_own(tmp_path):
    samples = [
        replace(one, boxes_xyxy=((4.0, 4.0, 14.0, 12.0),)) for one in drawn_samples(tmp_path, images=4)
    ]
    squares = [one for one in samples if one.expression.startswith("Square")]
    written = [(4.2, 4.0, 14.0, 12.0), (4.0, 4.0, 9.0, 12.0), (4.0, 4.0, 8.9, 12.0), None]
    out = tmp_path / "run"
    results = run(squares, out, "refer_comprehension", Writer(written))
    assert results["shown"] == ["rec", "rec:box=written", "text4seg"]
    scores = results["definitions"]["rec:box=written"]["splits"][SPLIT]["coarse"]
    assert scores == {"samples": 4, "boxes": 4, "box_acc": 0.5}
    assert results["definitions"]["rec"]["splits"][SPLIT]["coarse"]["box_acc"] == 0.75
    assert "rec:box=written" in told_in_text(results)
    assert [one.boxes for one in read_records(out / PREDICTIONS_FILE)] == [(box,) for box in written]


def test_a_rejection_with_a_box_is_wrong_and_a_refiner_changes_no_written_box(tmp_path):
    sample = replace(drawn_samples(tmp_path, images=1)[0], boxes_xyxy=((4.0, 4.0, 12.0, 12.0),))
    (record,) = evaluate(Writer([(4.0, 4.0, 12.0, 12.0)]), [sample], tmp_path / "run", settings=SETTINGS)
    rules = find_definition("rec:box=written")
    refined = replace(record, refined=record.coarse)
    scores = add_up([score_record(refined, (6, 8))], rules)
    assert (scores["coarse"]["box_acc"], scores["refined"]["box_acc"]) == (1.0, None)
    empty = encode_mask(np.zeros(sample.size_hw, dtype=bool))
    assert add_up([score_record(replace(record, coarse=empty), (6, 8))], rules)["coarse"]["box_acc"] == 1.0
    absent = replace(record, absent=True)
    assert add_up([score_record(absent, (6, 8))], rules)["coarse"]["box_acc"] == 0.0
    (merged,) = merge_answers([record], "background")
    assert merged.boxes is None
