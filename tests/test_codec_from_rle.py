"""Cells straight from run lengths, against painting the mask with pycocotools first."""

import doctest
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from llava.codec import from_rle, mask_to_grid, rle_to_grid, run_lengths

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""pycocotools.decode raises it under numpy 2."""

GRIDS = ((16, 16), (24, 24), (32, 32), (64, 64), (5, 11))


def rle_of(mask):
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


def painted_grid(mask, grid_hw, *, policy, crop, flip):
    if crop is not None:
        left, top, right, bottom = crop
        mask = mask[top:bottom, left:right]
    return mask_to_grid(mask[:, ::-1] if flip else mask, grid_hw, policy=policy)


def random_mask(rng, size_hw):
    """Blobs, noise, stripes, a speck, or nothing."""
    height, width = size_hw
    kind = rng.integers(5)
    if kind == 0:
        return rng.random(size_hw) < rng.random()
    mask = np.zeros(size_hw, bool)
    if kind == 1:
        mask[:: rng.integers(1, 5)] = True
    elif kind == 2:
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == 3:
        ys, xs = np.ogrid[:height, :width]
        for _ in range(rng.integers(1, 4)):
            y, x, radius = rng.integers(height), rng.integers(width), rng.integers(1, 1 + max(size_hw) // 3)
            mask |= (ys - y) ** 2 + (xs - x) ** 2 < radius**2
    return mask


def random_crop(rng, size_hw):
    height, width = size_hw
    left, top = rng.integers(width), rng.integers(height)
    return left, top, rng.integers(left, width) + 1, rng.integers(top, height) + 1


def test_examples_in_the_docstrings_are_true():
    result = doctest.testmod(from_rle)
    assert result.attempted >= 2 and result.failed == 0


def test_run_lengths_equal_the_column_runs_of_the_mask():
    rng = np.random.default_rng(0)
    for _ in range(400):
        mask = random_mask(rng, tuple(rng.integers(1, 80, 2)))
        column = mask.T.ravel()
        changes = np.flatnonzero(np.diff(column)) + 1
        expected = np.diff([0, *changes, column.size])
        if column[0]:
            expected = [0, *expected]
        counts = rle_of(mask)["counts"]
        assert run_lengths(counts).tolist() == list(expected)
        assert run_lengths(counts.decode()).dtype == np.int64


def test_run_lengths_of_millions_survive_the_code():
    lengths = [0, 5_000_000, 3, 2_499_999, 1, 1, 12_499_996]
    rle = coco_mask.frPyObjects({"size": [4000, 5000], "counts": lengths}, 4000, 5000)
    assert run_lengths(rle["counts"]).tolist() == lengths


def test_cells_equal_those_of_the_painted_mask_for_thousands_of_random_masks():
    rng = np.random.default_rng(1)
    kept = 0
    for _ in range(3000):
        size_hw = tuple(rng.integers(1, 90, 2).tolist())
        mask = random_mask(rng, size_hw)
        draw = {
            "policy": ("centre", "keep_small")[rng.integers(2)],
            "crop": random_crop(rng, size_hw) if rng.random() < 0.5 else None,
            "flip": bool(rng.integers(2)),
        }
        grid_hw = tuple(rng.integers(1, 40, 2).tolist())
        grid = rle_to_grid(rle_of(mask), grid_hw, **draw)
        assert grid.dtype == np.int64 and grid.flags.c_contiguous
        assert np.array_equal(grid, painted_grid(mask, grid_hw, **draw)), (size_hw, grid_hw, draw)
        kept += grid.any() and not painted_grid(mask, grid_hw, **{**draw, "policy": "centre"}).any()
    assert kept > 20


def test_a_crop_counts_before_the_flip():
    mask = np.zeros((2, 6), bool)
    mask[:, 2] = True
    rle = rle_of(mask)
    assert rle_to_grid(rle, (1, 3), crop=(2, 0, 5, 2)).tolist() == [[1, 0, 0]]
    assert rle_to_grid(rle, (1, 3), crop=(2, 0, 5, 2), flip=True).tolist() == [[0, 0, 1]]


def test_an_object_outside_the_crop_is_not_kept_by_keep_small():
    mask = np.zeros((20, 20), bool)
    mask[0, 0] = True
    inside, outside = (0, 0, 10, 10), (10, 10, 20, 20)
    sums = [rle_to_grid(rle_of(mask), (2, 2), policy="keep_small", crop=c).sum() for c in (inside, outside)]
    assert sums == [1, 0]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("52#03", "the character '#', which no COCO RLE has"),
        ("52\u00e903", "the character .* which no COCO RLE has"),
        ("5220P", "stop in the middle of a number"),
        ("P" * 12 + "0", "a number of more than 12 characters"),
        ([5, 2, 2, 2, 5], "counts are list; needed are the text or bytes"),
    ],
)
def test_counts_outside_the_code_are_refused_in_words(counts, message):
    with pytest.raises(ValueError, match=message):
        run_lengths(counts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": "522"}, "add up to 9, a 4x4 mask has 16"),
        ({"counts": ""}, "add up to 0, a 4x4 mask has 16"),
        ({"counts": "52N`0"}, "add up to|stop in the middle"),
        ({"size": [4, 4, 1]}, r"RLE size \(4, 4, 1\): two sides"),
        ({"grid_hw": (0, 2)}, r"grid_hw \(0, 2\): two sides .* at least 1"),
        ({"policy": "area"}, "unknown cell policy 'area'; known: centre, keep_small"),
        ({"crop": (0, 0, 5, 4)}, r"crop \(0, 0, 5, 4\): .* must enclose pixels of the 4x4 mask"),
        ({"crop": (2, 0, 2, 4)}, r"crop \(2, 0, 2, 4\)"),
        ({"crop": (0, -1, 2, 4)}, r"crop \(0, -1, 2, 4\)"),
    ],
)
def test_wrong_input_is_refused_in_words(change, message):
    given = {"size": [4, 4], "counts": "52203", "grid_hw": (2, 2), **change}
    rle = {"size": given.pop("size"), "counts": given.pop("counts")}
    with pytest.raises(ValueError, match=message):
        rle_to_grid(rle, given.pop("grid_hw"), **given)


def real_masks():
    """COCO RLE of every annotation in the real check data, through pycocotools only."""
    root = Path(os.environ["TEXT4SEG_REAL_DATA"])
    files = sorted([*root.glob("refcoco_mini/*/instances.json"), root / "coco128_mini" / "instances.json"])
    assert len(files) == 4
    for path in files:
        content = json.loads(path.read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        for annotation in content["annotations"]:
            size_hw, segmentation = sizes[annotation["image_id"]], annotation["segmentation"]
            rle = coco_mask.frPyObjects(segmentation, *size_hw)
            yield rle if isinstance(rle, dict) else coco_mask.merge(rle)


@pytest.mark.real_data
@pytest.mark.parametrize("policy", ["centre", "keep_small"])
def test_cells_equal_those_of_the_painted_mask_for_every_real_mask(policy):
    rng = np.random.default_rng(2)
    count = 0
    for rle in real_masks():
        count += 1
        mask = coco_mask.decode(rle)
        crop = random_crop(rng, mask.shape)
        for number, grid_hw in enumerate(GRIDS):
            for part, flip in ((None, False), (crop, number % 2 == 0)):
                draw = {"policy": policy, "crop": part, "flip": flip}
                assert np.array_equal(rle_to_grid(rle, grid_hw, **draw), painted_grid(mask, grid_hw, **draw))
    assert count > 900
