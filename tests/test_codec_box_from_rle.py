"""Boxes and cells straight from run lengths equal those of the painted mask, to the last bit."""

import numpy as np
import pytest

from llava.codec.box_from_rle import rle_block, rle_tight_box
from llava.codec.boxes import tight_box
from llava.codec.boxwise import block_of
from llava.data.rle import encode_mask


def drawn_mask(rng):
    """Mask of random rectangles and pixels, sometimes empty or full."""
    size_hw = tuple(int(side) for side in rng.integers(1, 70, 2))
    mask = rng.random(size_hw) < rng.choice([0.0, 0.0, 0.01, 0.5, 1.0], p=[0.1, 0.5, 0.2, 0.1, 0.1])
    for _ in range(int(rng.integers(0, 4))):
        top, left = (int(rng.integers(side)) for side in size_hw)
        mask[top : top + int(rng.integers(1, 40)), left : left + int(rng.integers(1, 40))] = True
    return mask


def drawn_crop(rng, size_hw):
    """Part of a mask, None sometimes."""
    if rng.random() < 0.4:
        return None
    (top, bottom), (left, right) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in size_hw)
    return int(left), int(top), int(right), int(bottom)


def painted(mask, crop, flip):
    left, top, right, bottom = crop or (0, 0, *mask.shape[::-1])
    part = mask[top:bottom, left:right]
    return part[:, ::-1] if flip else part


def test_box_and_cells_are_those_of_the_painted_mask():
    rng = np.random.default_rng(0)
    met = {"empty": 0, "crop": 0, "flip": 0}
    for _ in range(500):
        mask = drawn_mask(rng)
        crop, flip = drawn_crop(rng, mask.shape), bool(rng.random() < 0.5)
        grid_hw = tuple(int(side) for side in rng.integers(1, 20, 2))
        shown = painted(mask, crop, flip)
        rle = encode_mask(mask)
        assert rle_tight_box(rle, crop=crop, flip=flip) == tight_box(shown)
        found, expected = (
            rle_block("dog", rle, grid_hw, crop=crop, flip=flip),
            block_of("dog", shown, grid_hw),
        )
        assert (found.label, found.box) == ("dog", expected.box)
        assert np.array_equal(found.cells, expected.cells) and found.cells.dtype == np.bool_
        met["empty"] += found.box is None
        met["crop"] += crop is not None
        met["flip"] += flip
    assert min(met.values()) > 40


def test_two_dots_far_apart_keep_a_cell():
    mask = np.zeros((64, 64), bool)
    mask[0, 0] = mask[63, 63] = True
    found = rle_block("dots", encode_mask(mask), (3, 3))
    assert found.cells.sum() == 1
    assert np.array_equal(found.cells, block_of("dots", mask, (3, 3)).cells)


def test_words_are_cleaned():
    assert rle_block(" the <box> dog", encode_mask(np.ones((2, 2), bool)), (1, 1)).label == "the dog"
    assert rle_block("<f3>", encode_mask(np.zeros((2, 2), bool)), (1, 1)).label == "object"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid_hw": (0, 4)}, r"grid_hw \(0, 4\): two sides are needed"),
        ({"crop": (0, 0, 9, 4)}, r"crop \(0, 0, 9, 4\): .* must enclose pixels of the 4x6 mask"),
        ({"rle": {"size": [4, 6], "counts": "52"}}, "run lengths add up to 7, a 4x6 mask has 24"),
    ],
)
def test_wrong_input_is_named(change, message):
    given = {"rle": encode_mask(np.ones((4, 6), bool)), "grid_hw": (2, 2), **change}
    with pytest.raises(ValueError, match=message):
        rle_block("dog", given.pop("rle"), given.pop("grid_hw"), **given)
