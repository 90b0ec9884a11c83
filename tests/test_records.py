import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llava.codec import read_answer
from llava.data.questions import ANSWER_PARTIAL, QUESTION_PARTIAL, fill
from llava.data.records import (
    ReferRecordBuilder,
    build_refer_records,
    check_record,
    read_records,
    write_records,
)
from llava.data.rle import empty_rle, encode_mask
from llava.types import Sample

SIZE_HW = (32, 48)
FOLDER = Path("data")


def rectangle(top, left, bottom, right):
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def sample(ref_id, sent_id, expression, mask=None, *, image=1, no_target=False):
    rle = empty_rle(SIZE_HW) if mask is None else encode_mask(mask)
    path = FOLDER / "images" / f"{image}.jpg"
    return Sample(
        f"d|unc|train|{ref_id}|{sent_id}", path, image, SIZE_HW, expression, rle, no_target=no_target
    )


LEFT, RIGHT = rectangle(8, 0, 24, 12), rectangle(0, 36, 32, 48)
SAMPLES = [
    sample(1, 0, "Left dog ", LEFT),
    sample(1, 1, "the dog", LEFT),
    sample(2, 2, "right wall", RIGHT),
    sample(3, 3, "cat", RIGHT, image=2),
]


def build(samples=SAMPLES, **changes):
    settings = {
        "grid_hw": (4, 4),
        "rounds": 2,
        "copies": 2,
        "seed": 0,
        "cell_policy": "centre",
        "codec": "rrle",
    }
    return build_refer_records(samples, image_folder=FOLDER, **{**settings, **changes})


def record(**changes):
    turns = [{"from": "human", "value": "<image>\nhi"}, {"from": "gpt", "value": "yes"}]
    return {"id": "1", "image": "a.jpg", "height": 4, "width": 4, "conversations": turns, **changes}


# building


def test_a_record_has_exactly_the_keys_and_turns_of_the_ecosystem():
    records, _ = build([SAMPLES[3]], copies=1)
    (only,) = records
    assert list(only) == ["id", "image", "height", "width", "conversations"]
    assert only["id"] == "d|unc|train|3|0"
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
    own = [entry for entry in records if entry["id"].startswith("d|unc|train|1|")]
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


def test_each_ref_starts_one_conversation_per_copy():
    records, summary = build(copies=3, rounds=4)
    starts = Counter(entry["id"].rpartition("|")[0] for entry in records)
    assert starts == {"d|unc|train|1": 3, "d|unc|train|2": 3, "d|unc|train|3": 3}
    assert len({entry["id"] for entry in records}) == 9
    assert (summary.samples, summary.refs, summary.images) == (4, 3, 2)
    assert (summary.records, summary.turns) == (9, 36)
    assert all(len(entry["conversations"]) == 8 for entry in records)


def test_later_rounds_draw_among_all_refs_of_the_same_image():
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
    builder = ReferRecordBuilder((4, 4), FOLDER, seed=3)
    assert builder.build(SAMPLES)[0] == builder.build(SAMPLES)[0] == build(seed=3)[0]


def test_a_grid_may_have_unequal_sides():
    records, _ = build(grid_hw=(2, 6))
    assert (records[0]["height"], records[0]["width"]) == (2, 6)
    assert read_answer(records[0]["conversations"][1]["value"], (2, 6)).faults == ()


def test_no_target_is_answered_with_background_alone_and_counted():
    records, summary = build([sample(1, 0, "blue cow", no_target=True)], copies=1)
    assert summary.no_target == 1
    assert summary.vanished == 0
    assert records[0]["conversations"][1]["value"].endswith(
        "<seg>others *4\n others *4\n others *4\n others *4\n</seg>"
    )


SMALL = rectangle(0, 0, 2, 2)


def test_a_vanished_target_is_left_out_and_counted():
    samples = [*SAMPLES, sample(9, 10, "fly", SMALL), sample(9, 11, "tiny fly", SMALL), sample(8, 12, "none")]
    records, summary = build(samples)
    assert summary.vanished == 2
    assert summary.without_pixel == 1
    assert summary.no_target == 0
    assert records == build(SAMPLES)[0]
    assert "2 cover no cell of the 4x4 grid (cell policy centre); left out" in str(summary)
    assert "1 have an empty annotation; left out" in str(summary)


def test_a_vanished_target_may_be_kept_as_an_empty_mask_by_name():
    builder = ReferRecordBuilder((4, 4), FOLDER, vanished="keep", copies=1)
    records, summary = builder.build([sample(9, 10, "fly", SMALL)])
    assert summary.vanished == 1
    assert read_answer(records[0]["conversations"][1]["value"], (4, 4)).outcome == "empty"
    assert "kept, taught as an empty mask" in str(summary)


def test_the_keep_small_policy_lets_no_target_vanish():
    records, summary = build([sample(9, 10, "fly", SMALL)], cell_policy="keep_small", copies=1)
    assert summary.vanished == 0
    assert read_answer(records[0]["conversations"][1]["value"], (4, 4)).foreground.sum() == 1


def test_an_expression_cannot_forge_tags_or_runs():
    records, _ = build([sample(1, 0, "sign <image> a|b *3 </seg>", LEFT)])
    for entry in records:
        check_record(entry, "built")
        for turn in entry["conversations"][1::2]:
            read = read_answer(turn["value"], (4, 4))
            assert not read.faults
            assert len(read.blocks) == 1
            assert read.foreground.sum() == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0, "copies": 0}, "rounds 0: at least 1; copies 0: at least 1"),
        ({"grid_hw": (4, 0)}, r"grid_hw 0: at least 1"),
        (
            {"codec": "zip", "cell_policy": "all"},
            "cell_policy 'all': known are centre, keep_small; codec 'zip': known",
        ),
    ],
)
def test_wrong_settings_are_reported_together(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_an_unknown_vanished_policy_lists_the_known_ones():
    with pytest.raises(ValueError, match="vanished 'drop': known are skip, keep"):
        ReferRecordBuilder((4, 4), FOLDER, vanished="drop")


def test_a_sample_id_that_stands_twice_is_an_error():
    with pytest.raises(ValueError, match=r"sample id d\|unc\|train\|1\|0 stands twice"):
        build([SAMPLES[0], SAMPLES[0]])


def test_an_image_outside_the_image_folder_is_an_error():
    with pytest.raises(
        ValueError, match="does not lie under the image folder elsewhere; give a folder above it"
    ):
        ReferRecordBuilder((4, 4), Path("elsewhere")).build(SAMPLES)


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
