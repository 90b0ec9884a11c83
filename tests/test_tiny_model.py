"""Training of the tiny models: what a round writes, where in the image it is about, and the command kept."""

import importlib
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from llava.codec import read_answer
from llava.codec.boxwise import read_boxes
from llava.constants import IGNORE_INDEX
from llava.settings import SegmentationSettings

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts" / "tiny_model"


def script(name):
    """Module of one of the scripts."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def rounds():
    return script("rounds")


def two_objects():
    masks = np.zeros((2, 40, 40), bool)
    masks[0, 20:30, 20:40] = True
    masks[1, 0:20, 0:10] = True
    return masks


def test_an_image_wise_mask_has_one_block_over_the_whole_image(rounds):
    mask = rounds.write_mask("dog", two_objects(), SegmentationSettings(grid_hw=(4, 4)))
    answer = read_answer(mask.text, (4, 4))
    assert answer.foreground.tolist() == [
        [True, False, False, False],
        [True, False, False, False],
        [False, False, True, True],
        [False, False, False, False],
    ]
    assert mask.lines == ((0.125, 0.375, 0.625, 0.875),)


def test_a_box_wise_mask_has_a_block_for_each_object_from_left_to_right(rounds):
    settings = SegmentationSettings(codec="bricks", grid_hw=(2, 2))
    mask = rounds.write_mask("dog", two_objects(), settings)
    answer = read_boxes(mask.text, (2, 2))
    assert not answer.faults
    assert [block.box[0] for block in answer.blocks] == [0, 499]
    assert all(block.cells.all() for block in answer.blocks)
    assert np.allclose(mask.lines, ((0.125, 0.375), (0.5625, 0.6875)), atol=2e-3)


def test_an_absent_target_is_written_as_such(rounds):
    nothing = np.zeros((0, 8, 8), bool)
    settings = SegmentationSettings(codec="bricks", grid_hw=(2, 2))
    mask = rounds.write_mask("dog", nothing, settings)
    assert read_boxes(mask.text, (2, 2)).outcome == "empty"
    assert mask.lines == ((),)
    grid = rounds.write_mask("dog", nothing, SegmentationSettings(grid_hw=(2, 2)))
    assert read_answer(grid.text, (2, 2)).outcome == "empty"


def test_places_follow_the_rows_of_an_image_wise_mask(rounds):
    pieces = ["Sure:\n<", "seg", ">", "others *2\n", "others *1| ", "dog", " *1\n", "</seg>"]
    blocks, rows, columns = rounds.places_of(pieces, 2)
    out = IGNORE_INDEX
    assert rows == [out, out, 0, 1, 1, 1, 2, out]
    assert columns == [out, out, 0, 0, 1, 1, 0, out]
    assert blocks == [-1, -1, 0, 0, 0, 0, 0, 0]


def test_places_start_again_with_every_box(rounds):
    block = ["<ref>", "a", "</ref>", "<box>", "(1,2),(3,4)", "</box>", "<seg>", "<f3>", "<b2>", "</seg>"]
    blocks, rows, columns = rounds.places_of(block * 2, 4)
    out = IGNORE_INDEX
    assert rows == ([out] * 6 + [0, 0, 1, out]) * 2
    assert columns == ([out] * 6 + [0, 3, 1, out]) * 2
    assert blocks[6] == 0 and blocks[16] == 1


def test_a_row_looks_at_the_patches_that_show_the_target_on_its_line(rounds):
    mask = two_objects().any(0)
    assert rounds.patches_at(mask, 0.6, 2).reshape(2, 2).tolist() == [[False, False], [False, True]]
    assert rounds.patches_at(mask, 0.1, 2).reshape(2, 2).tolist() == [[True, False], [False, False]]
    assert not rounds.patches_at(mask, 0.9, 2).any()


def test_the_command_that_is_kept_gives_the_same_options_again():
    parse = script("train_llava").parse
    first = parse(["--start", "runs/a folder", "--steps", "7"])
    assert parse(shlex.split(first.command)[2:]) == first
    assert first.grounding is None and first.start == Path("runs/a folder")


@pytest.mark.parametrize("name", ["tiny-llava-refshapes", "tiny-llava-refshapes-bricks"])
def test_the_command_of_a_shipped_model_names_no_folder_that_never_was(name):
    folder = SCRIPTS.parents[1] / "playground" / "checkpoints" / name
    words = shlex.split(SegmentationSettings.load(folder).training["command"])
    assert words[:2] == ["python", "scripts/tiny_model/train_llava.py"]
    assert script("train_llava").parse(words[2:]).grounding is None
