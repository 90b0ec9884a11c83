"""Plain questions about scenes: true answers, records to train on, and the comparison of two models."""

import json
import sys
import weakref

import numpy as np
import pytest
from shell_commands import ROOT

from llava.data.record_files import check_record
from llava.data.refshapes.questions import (
    COUNTS,
    KINDS,
    SHORT_ANSWER,
    question_records,
    scene_questions,
)
from llava.data.refshapes.scene import NEW_SHAPES, SHAPES, Item, Scene
from llava.eval import scene_vqa
from llava.eval.scene_vqa import Asked, difference_interval, guess_share, is_right, normal_form
from llava.types import Prediction

sys.path.insert(0, str(ROOT / "playground" / "data"))

import create_scene_questions


def item(colour, shape, x, y):
    return Item(colour, shape, "plain", (x, y), 40.0, 0.0)


SCENE = Scene((100, 200), (item("red", "circle", 30, 20), item("blue", "cross", 170, 50)))
TWINS = Scene((100, 200), (*SCENE.items, item("green", "circle", 100, 80)))


def asked_about(scene, kind):
    return {one.question.removesuffix(f" {SHORT_ANSWER}"): one.answer for one in KINDS[kind](scene, SHAPES)}


def test_colours_are_asked_of_objects_that_words_single_out():
    assert asked_about(SCENE, "colour") == {
        "What colour is the circle?": "red",
        "What colour is the cross?": "blue",
    }
    twins = asked_about(TWINS, "colour")
    assert "What colour is the circle?" not in twins
    assert twins["What colour is the leftmost circle?"] == "red"
    assert twins["What colour is the bottommost circle?"] == "green"


def test_counts_know_missing_shapes_and_plurals():
    counts = asked_about(TWINS, "count")
    assert counts["How many objects are in the image?"] == "3"
    assert counts["How many circles are in the image?"] == "2"
    assert counts["How many crosses are in the image?"] == "1"
    assert counts["How many stars are in the image?"] == "0"


def test_positions_follow_the_centres_and_close_calls_are_left_out():
    places = asked_about(SCENE, "position")
    assert places["Is the red circle to the left or to the right of the blue cross?"] == "left"
    assert places["Is the blue cross above or below the red circle?"] == "below"
    level = Scene((100, 200), (item("red", "circle", 30, 50), item("blue", "cross", 170, 55)))
    assert not any("above" in words for words in asked_about(level, "position"))


def test_questions_of_drawn_scenes_are_balanced_and_answers_are_among_the_options():
    asked = scene_vqa.draw_questions("val", 60)
    by_kind = {kind: [one.question for one in asked if one.question.kind == kind] for kind in KINDS}
    assert all(len(questions) > 45 for questions in by_kind.values())
    assert all(one.question.answer in one.question.options for one in asked)
    assert {one.answer for one in by_kind["position"]} == {"left", "right", "above", "below"}
    assert {one.answer for one in by_kind["count"]} >= {"0", "1", "2"} and len(COUNTS) == 6
    assert guess_share(asked) < 0.5


def test_the_same_seed_asks_the_same_and_another_asks_something_else():
    rng = np.random.default_rng
    assert scene_questions(TWINS, rng(1), each=3) == scene_questions(TWINS, rng(1), each=3)
    assert scene_questions(TWINS, rng(1), each=3) != scene_questions(TWINS, rng(2), each=3)
    assert len(scene_questions(TWINS, rng(1), each=3)) == 9


def test_records_are_conversations_about_the_images_of_the_benchmark(tmp_path, capsys):
    output = tmp_path / "questions.json"
    create_scene_questions.main(["--output", str(output), "--scenes", "3", "--shapes", *NEW_SHAPES])
    records = json.loads(output.read_text())
    assert records == question_records("train", 3, each=2, shapes=NEW_SHAPES)
    assert [record["image"] for record in records] == [
        f"images/refshapes/train_{number:06d}.jpg" for number in range(3)
    ]
    for record in records:
        check_record(record, "here")
        values = [turn["value"] for turn in record["conversations"]]
        assert sum("<image>" in value for value in values) == 1 and values[0].startswith("<image>\n")
        assert not any("<seg>" in value for value in values)
    assert "questions about 3 scenes" in capsys.readouterr().out


@pytest.mark.parametrize("count", [0, -1])
def test_no_scene_is_refused(count):
    with pytest.raises(ValueError, match="at least 1"):
        question_records("train", count)
    with pytest.raises(ValueError, match="at least 1"):
        scene_vqa.draw_questions("val", count)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("2", True), (" Two. ", True), ("two circles", False), ("12", False), ("", False)],
)
def test_an_answer_counts_in_any_spelling_but_not_in_other_words(answer, right):
    question = next(one for one in KINDS["count"](TWINS, ("circle",)) if one.answer == "2")
    assert is_right(answer, question) == right


def test_articles_case_and_punctuation_do_not_count():
    assert normal_form("The RED!") == "red" and normal_form("to the left") == "to left"


def test_the_interval_holds_the_difference_and_is_a_point_without_one():
    asked = [Asked(number // 2, None, None) for number in range(40)]
    before = [number % 4 == 0 for number in range(40)]
    after = [number % 4 == 0 or number < 20 for number in range(40)]
    assert difference_interval(asked, before, before) == (0.0, 0.0)
    low, high = difference_interval(asked, before, after)
    assert 0.1 < low < 0.375 < high < 0.65
    assert difference_interval(asked, after, before) != (low, high)


class Knows:
    """Answers from a list, as a system would."""

    def __init__(self, answers):
        self.answers = iter(answers)

    def segment(self, queries):
        blank = np.zeros((1, 1, 4, 4), dtype=bool)
        return [Prediction(blank, np.array([False]), next(self.answers)) for _ in queries]


def test_the_table_compares_two_systems_and_counts_masks():
    asked = scene_vqa.draw_questions("val", 8)
    truth = [one.question.answer for one in asked]
    wrong = [
        "Sure: <seg>others *16" if one.question.kind == "count" else one.question.answer for one in asked
    ]
    answers = {
        key: scene_vqa.answer_all(Knows(said), asked, batch_size=5)
        for key, said in (("before", truth), ("after", wrong))
    }
    rows = {line.split(" | ")[0]: line for line in scene_vqa.table(asked, answers).splitlines()}
    counts = sum(one.question.kind == "count" for one in asked)
    assert "| 100.0 | 0.0 | -100.0 to -100.0 |" in rows["| count"]
    assert "| 100.0 | 100.0 | +0.0 to +0.0 |" in rows["| colour"]
    assert f"after {counts}" in scene_vqa.table(asked, answers).splitlines()[-1]
    lines = [json.loads(line) for line in scene_vqa.answer_lines(asked, answers)]
    assert [line["answers"]["before"] for line in lines] == truth


def test_the_command_asks_both_checkpoints(tiny_llava_folder, tmp_path, capsys):
    both = ["--model-path", str(tiny_llava_folder), "--before", str(tiny_llava_folder)]
    scene_vqa.main([*both, "--scenes", "2", "--out", str(tmp_path), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "| all |" in printed and "+0.0 to +0.0" in printed
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(lines) >= 5
    assert all(line["answers"]["before"] == line["answers"]["after"] for line in lines)


def test_a_missing_checkpoint_is_told_before_anything_is_drawn(tmp_path):
    with pytest.raises(SystemExit, match="not found"):
        scene_vqa.main(["--model-path", str(tmp_path / "none")])


@pytest.mark.parametrize(
    ("more", "message"),
    [(("--batch-size", "-1"), "--batch-size -1: at least 1"), (("--out", "FILE"), "is a file")],
)
def test_wrong_options_are_told_before_anything_is_drawn(
    tiny_llava_folder, tmp_path, monkeypatch, more, message
):
    monkeypatch.setattr(scene_vqa, "draw_questions", lambda *given, **more: pytest.fail("drawn"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        scene_vqa.main(["--model-path", str(tiny_llava_folder), *more])


def test_one_model_is_gone_before_the_next_is_loaded(tiny_llava_folder, tmp_path, monkeypatch):
    class Silent:
        def segment(self, queries):
            nothing = np.zeros((1, 1, 4, 4), dtype=bool)
            return [Prediction(nothing, np.array([False]), "") for _ in queries]

    alive = weakref.WeakSet()
    loaded = []

    def load(path, **options):
        loaded.append(len(alive))
        segmenter = Silent()
        alive.add(segmenter)
        return segmenter

    monkeypatch.setattr("llava.model.segmenter.load_segmenter", load)
    both = ["--model-path", str(tiny_llava_folder), "--before", str(tiny_llava_folder)]
    scene_vqa.main([*both, "--scenes", "1", "--out", str(tmp_path)])
    assert loaded == [0, 0]
