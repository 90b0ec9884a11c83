"""Whole answers with box-wise masks: written, read back, and broken in every way."""

import numpy as np
import pytest

from llava.codec import FAULTS, Block, block_of, box_answer, clean_reference, read_boxes, write_block
from llava.settings import BRICK_ORDERS

ABSENT = "<ref>cat</ref><box></box><seg></seg>"
HALF = "<ref>dog</ref><box>(0,0),(500,999)</box><seg><f4></seg>"
LABELS = ["the dog", "dög 犬", "a|b *3", "left <box> one", "others", "", " <ref>", "x" * 300, "1 < 2 > 0"]
LABELS += ["\U0001f468\u200d\U0001f467", "so\u00adft", "bad\x96dash", "a\x00b", "\ue000", "half \ud800"]


def kinds(answer):
    return [fault.kind for fault in answer.faults]


def drawn_blocks(rng, grid_hw):
    size_hw = tuple(rng.integers(1, 80, 2).tolist())
    masks = [rng.random(size_hw) < rng.choice([0, 0.01, 0.4, 1]) for _ in range(rng.integers(1, 5))]
    return [block_of(str(rng.choice(LABELS)), mask, grid_hw) for mask in masks]


@pytest.mark.parametrize("order", BRICK_ORDERS)
def test_the_blocks_of_an_answer_come_back(order):
    rng = np.random.default_rng(0)
    for number in range(100):
        grid_hw, tail = tuple(rng.integers(1, 12, 2).tolist()), bool(number % 2)
        blocks = drawn_blocks(rng, grid_hw)
        text = box_answer("Sure:", [write_block(block, order=order, tail=tail) for block in blocks])
        answer = read_boxes(text, grid_hw, order=order, tail=tail, strict=True)
        assert answer.faults == () and len(answer.blocks) == len(blocks)
        for read, block in zip(answer.blocks, blocks, strict=True):
            assert (read.label, read.box) == (block.label, block.box)
            assert np.array_equal(read.cells, block.cells)


def test_an_answer_is_a_sentence_and_blocks_with_nothing_between():
    blocks = [block_of("dog", np.ones((2, 4)), (2, 2)), block_of("cat", np.zeros((2, 4)), (2, 2))]
    text = box_answer("Sure:", [write_block(block) for block in blocks])
    assert text == f"Sure:\n<ref>dog</ref><box>(0,0),(999,999)</box><seg><f4></seg>{ABSENT}"


def test_a_box_without_foreground_is_written_as_absent():
    assert write_block(Block("cat", (0, 0, 9, 9), np.zeros((2, 2), bool))) == ABSENT


def test_a_given_box_is_kept_and_its_cells_are_those_of_the_mask_inside():
    block = block_of("dog", np.eye(4), (2, 2), box=(0, 500, 500, 999))
    assert (block.box, block.cells.any()) == ((0, 500, 500, 999), False)
    assert block_of("dog", np.eye(4), (1, 1), box=(0, 0, 500, 500)).cells.tolist() == [[True]]


def test_words_cleaned_once_are_left_alone():
    for label in LABELS:
        cleaned = clean_reference(label)
        assert cleaned and clean_reference(cleaned) == cleaned and not set("<>\n") & set(cleaned)
    assert clean_reference("left <box> one") == "left one" and clean_reference(" <ref>") == "object"


def test_outcomes_tell_a_mask_an_absent_target_and_prose_apart():
    outcomes = [read_boxes(text, (2, 2)).outcome for text in (HALF, ABSENT + HALF, ABSENT, "No.", "<ref>dog")]
    assert outcomes == ["mask", "mask", "empty", "no_mask", "no_mask"]


def test_masks_of_blocks_are_joined_and_labels_counted_together():
    right = HALF.replace("(0,0),(500,999)", "(250,0),(999,999)")
    other = HALF.replace("dog", "cow")
    answer = read_boxes(HALF + right + other + ABSENT, (2, 2))
    assert answer.mask((2, 4)).all() and answer.areas((2, 4)) == {"dog": 8, "cow": 4}
    assert answer.areas((2, 4), "nearest") == {"dog": 8, "cow": 4}
    assert not read_boxes(ABSENT, (2, 2)).mask((3, 5)).any()


WHOLE = (0, 0, 999, 999)
MALFORMED = [
    ("", [], ["no_mask"]),
    ("I cannot see a dog (1,2),(3,4).", [], ["no_mask"]),
    ("<seg><f4></seg>", [("object", WHOLE, 4)], ["no_label", "no_box"]),
    ("<seg>", [("object", None, 0)], ["unclosed", "no_label", "few_cells", "no_box"]),
    ("<f4>", [("object", WHOLE, 4)], ["unopened", "no_label", "no_box"]),
    ("<ref>dog</ref><seg><f4></seg>", [("dog", WHOLE, 4)], ["no_box"]),
    ("<ref> </ref><box>(1,2),(3,4)</box><seg><f4></seg>", [("object", (1, 2, 3, 4), 4)], ["no_label"]),
    ("<box>(1,2),(3,4)</box><seg><f4></seg>", [("object", (1, 2, 3, 4), 4)], ["no_label"]),
    ("<ref>dog</ref><box>(1,2),(3,4)</box>", [], ["no_seg", "no_mask"]),
    (f"<ref>dog{HALF}", [("dog", (0, 0, 500, 999), 4)], ["unclosed_tag", "no_seg"]),
    ("<ref>dog</ref><box>(1,2),(3,4)</box><seg><f1>", [("dog", (1, 2, 3, 4), 1)], ["unclosed", "few_cells"]),
    (f"<ref>a</ref><box>(1,2),(3,4)</box><seg><f4>{HALF}", [("a", (1, 2, 3, 4), 4), ("dog",)], ["unclosed"]),
    (
        "<ref>a<box>(1,2),(3,4)<seg><f4>",
        [("a", (1, 2, 3, 4), 4)],
        ["unclosed_tag", "unclosed_tag", "unclosed"],
    ),
    ("<ref>a</ref>(1,2),(3,4)</box><seg><f4></seg>", [("a", (1, 2, 3, 4), 4)], ["unopened"]),
    ("<ref>a</ref><box>(1,2),(3,4)</box><f4></seg>", [("a", (1, 2, 3, 4), 4)], ["unopened"]),
    ("<ref>a</ref><box>(1,2),(3,4)</box><seg><f1></seg><f3>", [("a", (1, 2, 3, 4), 4)], ["unopened"]),
    (f"{HALF}<seg><f4></seg>", [("dog",), ("object", WHOLE, 4)], ["no_label", "no_box"]),
    ("<ref>a</ref><box></box><seg><f4></seg>", [("a", None, 0)], ["bricks_without_box"]),
    ("<ref>a</ref><box></box><seg><b2></seg>", [("a", None, 0)], []),
    ("<ref>a</ref><box>(1,2),(3,4)</box><seg><b4></seg>", [("a", (1, 2, 3, 4), 0)], ["no_foreground"]),
    ("<ref>a</ref></box><box>(1,2),(3,4)</box><seg><f4></seg>", [("a", (1, 2, 3, 4), 4)], []),
    (HALF.replace("><", "> <"), [("dog", (0, 0, 500, 999), 4)], []),
]


@pytest.mark.parametrize(("text", "blocks", "found"), MALFORMED)
def test_a_malformed_answer_is_read_as_far_as_it_goes(text, blocks, found):
    answer = read_boxes(text, (2, 2))
    read = [(block.label, block.box, int(block.cells.sum())) for block in answer.blocks]
    assert [each[: len(known)] for each, known in zip(read, blocks, strict=True)] == blocks
    assert sorted(kinds(answer)) == sorted(found)


BOXES = [
    ("(1,2),(3,4)", (1, 2, 3, 4), []),
    (" ( 1 , 2 ) , ( 3 , 4 )\n", (1, 2, 3, 4), []),
    ("1,2,3,4", (1, 2, 3, 4), ["box_spelling"]),
    ("[[1, 2], [3, 4]", (1, 2, 3, 4), ["box_spelling"]),
    ("(3,2),(1,4)", (1, 2, 3, 4), ["box_inverted"]),
    ("(1,4),(3,2)", (1, 2, 3, 4), ["box_inverted"]),
    ("(1,2),(1,4)", (1, 2, 2, 4), ["box_flat"]),
    ("(999,2),(999,2)", (998, 2, 999, 3), ["box_flat"]),
    ("(1,2),(1000,4)", (1, 2, 999, 4), ["box_outside"]),
    ("(-5,2),(3,4)", (0, 2, 3, 4), ["box_spelling", "box_outside"]),
    (f"(1,2),({'9' * 5000},4)", (1, 2, 999, 4), ["box_outside"]),
    ("(2000,2),(1500,4)", (998, 2, 999, 4), ["box_outside", "box_flat"]),
    ("(1,2),(3", WHOLE, ["unreadable_box"]),
    ("(0.1,0.2),(0.3,0.4)", WHOLE, ["unreadable_box"]),
    ("left", WHOLE, ["unreadable_box"]),
    ("(1,2),(3,4),(5,6)", WHOLE, ["unreadable_box"]),
    ("(١,٢),(٣,٤)", WHOLE, ["unreadable_box"]),
]


@pytest.mark.parametrize(("text", "box", "found"), BOXES)
def test_a_box_is_read_and_repaired_with_a_name_for_each_repair(text, box, found):
    answer = read_boxes(f"<ref>a</ref><box>{text}</box><seg><f4></seg>", (2, 2))
    assert (answer.blocks[0].box, kinds(answer)) == (box, found)


def test_faults_of_the_answer_come_before_those_of_its_blocks():
    answer = read_boxes(f"<ref>x</ref>{HALF.replace('f4', 'f5')}", (2, 2))
    assert kinds(answer) == ["no_seg", "many_cells"]
    assert answer.faults[1:] == answer.blocks[0].faults


def test_any_edit_of_an_answer_is_read_without_an_exception():
    rng = np.random.default_rng(1)
    parts = ["<ref>", "</ref>", "<box>", "</box>", "<seg>", "</seg>", "<f70>", "(", ",", "9", "犬", "\n"]
    for number in range(600):
        blocks = drawn_blocks(rng, (3, 4))
        raw = box_answer("Sure:", [write_block(block) for block in blocks])
        for _ in range(rng.integers(1, 5)):
            start, stop = np.sort(rng.integers(0, len(raw) + 1, 2))
            stop = stop if number % 5 == 0 else min(start + rng.integers(0, 9), len(raw))
            raw = raw[:start] + (str(rng.choice(parts)) if rng.random() < 0.6 else "") + raw[stop:]
        answer = read_boxes(raw, (3, 4), strict=bool(number % 2))
        assert set(kinds(answer)) <= FAULTS.keys()
        assert answer.mask((5, 7)).shape == (5, 7) and sum(answer.areas((5, 7)).values()) >= 0
        assert all(fault in answer.faults for block in answer.blocks for fault in block.faults)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="unknown brick order 'zigzag'"):
        read_boxes("", (2, 2), order="zigzag")
    with pytest.raises(ValueError, match=r"grid_hw \(2, 0\)"):
        read_boxes("", (2, 0))
    with pytest.raises(ValueError, match=r"grid_hw \(2, 0\)"):
        block_of("dog", np.zeros((2, 2)), (2, 0))
