import json
from collections import Counter

import numpy as np
import pytest
from annotated_images import EMPTY, LEFT, RIGHT, SMALL, image, target

from llava.codec import read_answer
from llava.data.annotated import AnnotatedImage
from llava.data.draw import DrawSettings, draw_record
from llava.data.questions import ANSWER_PARTIAL, QUESTION_PARTIAL, fill
from llava.data.records import BuildSummary, check_record, read_records, records_of, write_records

FIRST = image(target(1, ("Left dog ", "the dog")), target(2, "right wall", RIGHT))
SECOND = image(target(3, "cat", RIGHT), path="images/2.jpg")
IMAGES = [FIRST, SECOND]


def build(images=IMAGES, *, copies=2, seed=0, **changes):
    """Records and summary."""
    settings = DrawSettings(**{"grid_hw": (4, 4), **changes})
    summary = BuildSummary(settings)
    return list(records_of(images, settings, copies=copies, seed=seed, summary=summary)), summary


def record(**changes):
    turns = [{"from": "human", "value": "<image>\nhi"}, {"from": "gpt", "value": "yes"}]
    return {"id": "1", "image": "a.jpg", "height": 4, "width": 4, "conversations": turns, **changes}


# building


def test_a_record_has_exactly_the_keys_and_turns_of_the_ecosystem():
    records, _ = build([SECOND], copies=1)
    (only,) = records
    assert list(only) == ["id", "image", "height", "width", "conversations"]
    assert only["id"] == "d|train|3|0"
    assert only["image"] == "images/2.jpg"
    assert (only["height"], only["width"]) == (4, 4)
    assert [turn["from"] for turn in only["conversations"]] == ["human", "gpt", "human", "gpt"]
    assert [turn["value"].count("<image>\n") for turn in only["conversations"]] == [1, 0, 0, 0]
    assert only["conversations"][0]["value"].startswith("<image>\n")
    row = "others *3| cat *1"
    assert only["conversations"][1]["value"].endswith(f"\n<seg>{row}\n {row}\n {row}\n {row}\n</seg>")


def test_wording_comes_from_the_lists_and_the_expression_is_normalised():
    records, _ = build(copies=20)
    questions = {fill(template, text) for template in QUESTION_PARTIAL for text in ("left dog", "the dog")}
    sentences = {fill(template, text) for template in ANSWER_PARTIAL for text in ("left dog", "the dog")}
    own = [entry for entry in records if entry["id"].startswith("d|train|1|")]
    assert len(own) == 20
    for entry in own:
        question, answer = (turn["value"] for turn in entry["conversations"][:2])
        assert question.removeprefix("<image>\n") in questions
        assert answer.partition("\n<seg>")[0] in sentences
        assert "Left" not in answer


def test_every_answer_decodes_without_fault_to_the_cells_of_its_target():
    cells = {"left dog": (1, 0), "the dog": (1, 0), "right wall": (0, 3), "cat": (0, 3)}
    for codec in ("rrle", "full", "irle"):
        records, _ = build(copies=5, codec=codec)
        for entry in records:
            for turn in entry["conversations"][1::2]:
                read = read_answer(turn["value"], (4, 4), codec=codec)
                assert not read.faults
                label = read.blocks[0].labels[1]
                row, column = cells[label]
                assert read.foreground[row, column]
                assert read.foreground.sum() == (2 if "dog" in label else 4)


def test_each_target_starts_one_conversation_per_copy():
    records, summary = build(copies=3, rounds=4)
    starts = Counter(entry["id"].rpartition("|")[0] for entry in records)
    assert starts == {"d|train|1": 3, "d|train|2": 3, "d|train|3": 3}
    assert len({entry["id"] for entry in records}) == 9
    assert (summary.expressions, summary.targets, summary.images_given, summary.images) == (4, 3, 2, 2)
    assert (summary.records, summary.turns) == (9, 36)
    assert all(len(entry["conversations"]) == 8 for entry in records)


def test_later_rounds_draw_among_all_targets_of_the_same_image():
    records, _ = build(copies=40)
    second = {
        (entry["image"], read_answer(entry["conversations"][3]["value"], (4, 4)).blocks[0].labels[1])
        for entry in records
    }
    assert second == {
        ("images/1.jpg", "left dog"),
        ("images/1.jpg", "the dog"),
        ("images/1.jpg", "right wall"),
        ("images/2.jpg", "cat"),
    }


def test_the_same_seed_gives_the_same_records_and_another_seed_others():
    assert build(seed=3)[0] == build(seed=3)[0]
    assert build(seed=3)[0] != build(seed=4)[0]


def test_a_static_copy_is_what_live_drawing_gives_in_that_epoch():
    records, _ = build(copies=2, seed=5)
    settings = DrawSettings((4, 4))
    live = [
        draw_record(drawn, anchor, settings, rng=np.random.default_rng([5, epoch, index]))
        for epoch in (0, 1)
        for index, (drawn, anchor) in enumerate([(FIRST, 0), (FIRST, 1), (SECOND, 0)])
    ]
    by_copy = sorted(records, key=lambda entry: entry["id"][-1])
    assert [entry["conversations"] for entry in by_copy] == [entry["conversations"] for entry in live]


def test_a_grid_may_have_unequal_sides():
    records, _ = build(grid_hw=(2, 6))
    assert (records[0]["height"], records[0]["width"]) == (2, 6)
    assert read_answer(records[0]["conversations"][1]["value"], (2, 6)).faults == ()


def test_no_target_is_answered_with_background_alone_and_counted():
    records, summary = build([image(target(1, "blue cow", None))], copies=1)
    assert summary.no_target == 1
    assert summary.vanished == 0
    assert records[0]["conversations"][1]["value"].endswith(
        "<seg>others *4\n others *4\n others *4\n others *4\n</seg>"
    )


def test_a_vanished_target_is_left_out_and_counted():
    further = image(target(9, ("fly", "tiny fly"), SMALL), target(8, "none", EMPTY), path="images/3.jpg")
    records, summary = build([*IMAGES, further])
    assert (summary.vanished, summary.without_pixel, summary.no_target) == (2, 1, 0)
    assert records == build()[0]
    assert summary.left_out == {"vanished": 2, "without pixel": 2}
    assert (summary.images_given, summary.images) == (3, 2)
    assert "2 cover no cell of the 4x4 grid (cell policy centre); left out" in str(summary)
    assert "1 have an empty annotation; left out" in str(summary)
    assert "left out       2 conversations: vanished" in str(summary)


def test_a_vanished_target_is_never_drawn_into_a_later_round():
    records, _ = build([image(target(1, "dog"), target(9, "fly", SMALL))], copies=20)
    assert len(records) == 20
    assert "fly" not in json.dumps(records)


def test_a_vanished_target_may_be_kept_as_an_empty_mask_by_name():
    records, summary = build([image(target(9, "fly", SMALL))], vanished="keep", copies=1)
    assert summary.vanished == 1
    assert read_answer(records[0]["conversations"][1]["value"], (4, 4)).outcome == "empty"
    assert "kept, taught as an empty mask" in str(summary)


def test_the_keep_small_policy_lets_no_target_vanish():
    records, summary = build([image(target(9, "fly", SMALL))], cell_policy="keep_small", copies=1)
    assert summary.vanished == 0
    assert read_answer(records[0]["conversations"][1]["value"], (4, 4)).foreground.sum() == 1


def test_an_expression_cannot_forge_tags_or_runs():
    records, _ = build([image(target(1, "sign <image> a|b *3 </seg>", LEFT))])
    for entry in records:
        check_record(entry, "built")
        for turn in entry["conversations"][1::2]:
            read = read_answer(turn["value"], (4, 4))
            assert not read.faults
            assert len(read.blocks) == 1
            assert read.foreground.sum() == 2


def test_an_expression_without_words_is_left_out_and_told():
    records, summary = build([image(target(1, " <seg> "), target(2, "dog"))], copies=1)
    assert [entry["id"] for entry in records] == ["d|train|2|0"]
    assert "left out       1 conversations: without words" in str(summary)


def test_a_conversation_is_taken_as_it_is_and_once():
    rounds = (("What is it?\n<image>", "A dog."), ("Sure?", "Yes."))
    talk = AnnotatedImage("665k|7", "665k", "conversation", "coco/7.jpg", (0, 0), (), None, rounds)
    text = AnnotatedImage("665k|8", "665k", "conversation", "", (0, 0), (), None, (("2+2?", "4"),))
    records, summary = build([talk, text], copies=3)
    assert [entry["id"] for entry in records] == ["665k|7", "665k|8"]
    assert records[0]["image"] == "coco/7.jpg"
    assert set(records[1]) == {"id", "conversations"}
    assert [turn["value"] for turn in records[0]["conversations"]] == [
        said for turn in rounds for said in turn
    ]
    assert (summary.records, summary.turns) == (2, 3)
    for entry in records:
        check_record(entry, "built")


def test_fewer_than_one_copy_is_an_error_before_anything_is_drawn():
    with pytest.raises(ValueError, match="copies 0: at least 1"):
        records_of(IMAGES, DrawSettings((4, 4)), copies=0)


# checking


def test_records_of_the_llava_mixture_pass():
    text_only = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
    check_record({"id": 7, "conversations": text_only}, "x")
    question = [{"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "a"}]
    check_record({"id": "7", "image": "coco/1.jpg", "conversations": question}, "x")


HUMAN = {"from": "human", "value": "<image>\nq"}
GPT = {"from": "gpt", "value": "a"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "is a list, needed an object"),
        (record(id=None), "id None must be text or a number"),
        (record(image=""), "image '' must be a path"),
        (record(image=None), "image None must be a path"),
        (record(height=0), "height 0 and width 4: both grid sides"),
        (record(width=4.0), "height 4 and width 4.0"),
        (record(width=None), "height 4 and width None"),
        (record(height=True), "height True"),
        (record(crop_size=[0, 0, 8]), r"crop_size \[0, 0, 8\] must be \[left, top, right, bottom\]"),
        (record(crop_size=[8, 0, 8, 4]), "crop_size"),
        (record(crop_size=[0, 0, 8.0, 4]), "crop_size"),
        (record(flip=1), "flip 1 must be true or false"),
        (record(conversations=[]), "conversations must be a list of pairs"),
        (record(conversations=[HUMAN]), "conversations must be a list of pairs"),
        (record(conversations=None), "conversations must be a list of pairs"),
        (record(conversations=[GPT, HUMAN]), 'turn 0 must be {"from": "human"'),
        (record(conversations=[HUMAN, {"from": "gpt", "value": " "}]), 'turn 1 must be {"from": "gpt"'),
        (record(conversations=[HUMAN, "a"]), 'turn 1 must be {"from": "gpt"'),
        (record(conversations=[{"from": "human", "value": "q"}, GPT]), r"<image> stands in turns \[\]"),
        (
            record(conversations=[HUMAN, GPT, HUMAN, GPT]),
            r"stands in turns \[0, 2\]; .* exactly once, in turn 0",
        ),
        (record(conversations=[{**HUMAN, "value": "<image><image>"}, GPT]), r"turns \[0, 0\]"),
        ({"id": 1, "conversations": [HUMAN, GPT]}, "it must stand nowhere"),
        (record(conversations=[HUMAN, {"from": "gpt", "value": "\ud83d"}]), "turn 1 holds half a character"),
    ],
)
def test_a_wrong_record_is_named_by_its_number(tmp_path, wrong, message):
    path = tmp_path / "mix.json"
    path.write_text(json.dumps([record(), record(), wrong]))
    with pytest.raises(ValueError, match=f"mix.json, record 2.*{message}"):
        read_records(path)


def test_all_problems_of_a_record_are_reported_at_once():
    with pytest.raises(ValueError, match=r"id None.*; height 0.*; conversations"):
        check_record(record(id=None, height=0, conversations=3), "x")


# files


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_written_records_are_read_back_the_same(tmp_path, name):
    records = build()[0]
    records[0]["conversations"][0]["value"] += " “naïve”\u2028line"
    write_records(tmp_path / "new" / name, records)
    assert read_records(tmp_path / "new" / name) == records
    assert len((tmp_path / "new" / name).read_bytes().strip().split(b"\n")) == len(records) + 2 * (
        name == "a.json"
    )


def test_a_list_written_by_others_with_indents_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([record()] * 3, indent=4))
    assert read_records(tmp_path / "a.json") == [record()] * 3


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_records(path, [record()])
    with pytest.raises(ValueError, match=r"record 1 for .*a\.json: id None"):
        write_records(path, [record(), record(id=None)])
    with pytest.raises(ValueError, match="no record to write"):
        write_records(path, [])
    assert read_records(path) == [record()]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json not found .*create_refcoco\.py"):
        read_records(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[{", r"a\.json is not valid JSON .* write it again"),
        (
            json.dumps(record()).encode() + b'\n{"id": ',
            r"a\.json, record 1: not valid JSON .* write it again",
        ),
        (b"", "holds no record"),
        (b"[]", "holds no record"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_records(path)
