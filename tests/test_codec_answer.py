"""Whole answers: sentences with masks between tags."""

import random

import numpy as np
import pytest

from llava.codec import encode, mask_answer, read_answer

CENTRE = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
GOLDEN = (
    "Sure, here is the segmentation mask for 'dog':\n<seg>others *4\n others *1| dog *2| others *1\n "
    "others *1| dog *2| others *1\n others *4\n</seg>"
)
MASK = "others *1| dog *1\n others *2\n"


def test_the_golden_answer_is_written_byte_for_byte():
    text = encode(np.array(CENTRE), ("others", "dog"))
    assert mask_answer("Sure, here is the segmentation mask for 'dog':", text) == GOLDEN


def test_the_golden_answer_is_read_back_whole():
    answer = read_answer(GOLDEN, (4, 4))
    assert (answer.outcome, answer.faults, len(answer.blocks)) == ("mask", (), 1)
    assert answer.foreground.dtype == bool
    assert answer.foreground.tolist() == (np.array(CENTRE) == 1).tolist()


def test_a_whole_image_target_is_all_foreground():
    answer = read_answer("<seg>the left black dog *4\n the left black dog *4\n</seg>", (2, 4))
    assert answer.outcome == "mask"
    assert answer.foreground.all()


# name: (answer for a 2x2 grid, outcome, blocks, foreground, fault kinds)
ANSWERS = {
    "nothing": ("", "no_mask", 0, [[0, 0], [0, 0]], ["no_mask"]),
    "prose": ("I cannot see a dog.", "no_mask", 0, [[0, 0], [0, 0]], ["no_mask"]),
    "tag never opened": (f"{MASK}</seg>", "no_mask", 0, [[0, 0], [0, 0]], ["no_mask"]),
    "no target": ("No dog:\n<seg>others *2\n others *2\n</seg>", "empty", 1, [[0, 0], [0, 0]], []),
    "empty block": ("<seg></seg>", "empty", 1, [[0, 0], [0, 0]], ["few_rows"]),
    "never closed": (f"Sure:\n<seg>{MASK}", "mask", 1, [[0, 1], [0, 0]], ["unclosed"]),
    "cut in a run": (
        "<seg>dog *2\n dog",
        "mask",
        1,
        [[1, 1], [0, 0]],
        ["unclosed", "unreadable_run", "few_cells"],
    ),
    "two blocks": (
        f"Dog:<seg>{MASK}</seg>Cat:<seg>others *2\n cat *1| others *1\n</seg>.",
        "mask",
        2,
        [[0, 1], [1, 0]],
        [],
    ),
    "opened twice": (f"<seg>{MASK}<seg>{MASK}</seg>", "mask", 2, [[0, 1], [0, 0]], ["unclosed"]),
    "closed twice": (f"<seg>{MASK}</seg></seg>", "mask", 1, [[0, 1], [0, 0]], []),
    "first block broken": (f"<seg>dog</seg><seg>{MASK}</seg>", "mask", 2, [[0, 1], [0, 0]], None),
}


@pytest.mark.parametrize(("text", "outcome", "blocks", "foreground", "kinds"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_gives_its_outcome_foreground_and_faults(text, outcome, blocks, foreground, kinds):
    answer = read_answer(text, (2, 2))
    assert (answer.outcome, len(answer.blocks)) == (outcome, blocks)
    assert answer.foreground.astype(int).tolist() == foreground
    expected = ["unreadable_run", "few_cells", "few_rows"] if kinds is None else kinds
    assert [fault.kind for fault in answer.faults] == expected


def test_an_unclosed_list_of_cells_loses_its_last_label_that_may_be_half_a_word():
    cut = "<seg>others| others| oth"
    assert read_answer(cut, (2, 2), codec="full").outcome == "empty"
    whole = read_answer("<seg>others| dog| dog| dog</seg>", (2, 2), codec="full")
    assert (whole.foreground.tolist(), whole.faults) == ([[False, True], [True, True]], ())


def test_an_answer_without_a_mask_has_a_foreground_of_the_right_size():
    assert read_answer("", (3, 5)).foreground.shape == (3, 5)


def test_the_unclosed_block_is_named():
    (fault,) = read_answer(f"<seg>{MASK}</seg><seg>{MASK}", (2, 2)).faults
    assert str(fault) == "unclosed: mask 2 of the answer has no </seg>"


@pytest.mark.parametrize("codec", ["rrle", "full", "irle"])
def test_reading_never_raises_whatever_bytes_are_edited(codec):
    rng = random.Random(9)
    text = mask_answer("Sure:", encode(np.array(CENTRE), ("others", "dog"), codec=codec)).encode()
    outcomes = set()
    for _ in range(1000):
        data = bytearray(text)
        for _ in range(rng.randint(1, 5)):
            start = rng.randint(0, len(data))
            new = rng.choice([b"", b"<seg>", b"</seg>", rng.randbytes(2)])
            data[start : start + rng.randint(0, 29)] = new
        answer = read_answer(data.decode(errors="replace"), (4, 4), codec=codec)
        assert all(block.grid.shape == (4, 4) for block in answer.blocks)
        assert answer.foreground.shape == (4, 4)
        outcomes.add(answer.outcome)
    assert outcomes == {"mask", "empty", "no_mask"}


def test_wrong_settings_are_refused_even_when_there_is_nothing_to_read():
    with pytest.raises(ValueError, match=r"grid_hw \(4, 0\)"):
        read_answer("", (4, 0))
    with pytest.raises(ValueError, match="codec 'lzw'"):
        read_answer("", (4, 4), codec="lzw")
