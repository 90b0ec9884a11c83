"""Boxes in steps of 1/999 and the cells inside them, against exact fractions and loops."""

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from llava.codec import (
    box_edges,
    grid_to_mask,
    mask_from_box,
    mask_in_box,
    quantise_box,
    tight_box,
)
from llava.codec.boxes import WHOLE_IMAGE, box_centres

HALF = Fraction(1, 2)


def draws(count, seed=0):
    """Image size and a box of whole steps inside it."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        (x0, x1), (y0, y1) = (np.sort(rng.choice(1000, 2, replace=False)).tolist() for _ in range(2))
        yield rng, tuple(rng.integers(1, 60, 2).tolist()), (x0, y0, x1, y1)


def exact_edges(box, size_hw):
    return [Fraction(step * size_hw[(axis + 1) % 2], 999) for axis, step in enumerate(box)]


def place_in_cells(pixel, low, high, cells):
    """Where the centre of a pixel lies, in cells from the first edge of the box."""
    return (pixel + HALF - low) / (high - low) * cells


def pixels_inside(low, high, length):
    """Pixels whose centres lie in a box, or the one in its middle."""
    inside = [pixel for pixel in range(length) if low <= pixel + HALF < high]
    return inside or [int((low + high) / 2)]


def weight(cells, row, column):
    """Bilinear value of cells at a place told in cells, edges repeated."""
    total = Fraction(0)
    down, across = (
        min(max(place - HALF, Fraction(0)), Fraction(side - 1))
        for place, side in zip((row, column), cells.shape, strict=True)
    )
    for y, x in zip(*np.nonzero(cells), strict=True):
        total += max(0, 1 - abs(down - int(y))) * max(0, 1 - abs(across - int(x)))
    return total


def drawn_slowly(cells, box, size_hw, method):
    x0, y0, x1, y1 = exact_edges(box, size_hw)
    mask = np.zeros(size_hw, bool)
    for y in pixels_inside(y0, y1, size_hw[0]):
        for x in pixels_inside(x0, x1, size_hw[1]):
            row, column = place_in_cells(y, y0, y1, len(cells)), place_in_cells(x, x0, x1, len(cells[0]))
            if method == "bilinear":
                mask[y, x] = weight(cells, row, column) > HALF
            else:
                nearest = (
                    min(max(int(p), 0), s - 1) for p, s in zip((row, column), cells.shape, strict=True)
                )
                mask[y, x] = cells[tuple(nearest)]
    return mask


def test_a_box_of_steps_goes_to_pixels_and_comes_back():
    for rng, _, box in draws(3000):
        size_hw = tuple(rng.integers(1, 5000, 2).tolist())
        assert quantise_box(box_edges(box, size_hw), size_hw) == box


def test_edges_are_rounded_outwards_and_never_further_than_to_the_next_step():
    for rng, _, _ in draws(1000, seed=1):
        length = int(rng.integers(1, 5000))
        low, high = np.sort(rng.choice(length + 1, 2, replace=False)).tolist()
        for box in (
            quantise_box((low, 0, high, 1), (1, length)),
            quantise_box((0, low, 1, high), (length, 1)),
        ):
            start, stop = (step for step in (box[0::2] if box[1::2] == (0, 999) else box[1::2]))
            assert Fraction(start * length, 999) <= low < Fraction((start + 1) * length, 999)
            assert Fraction((stop - 1) * length, 999) < high <= Fraction(stop * length, 999)


def test_a_box_that_encloses_nothing_or_leaves_the_image_is_refused():
    for edges in ((3, 0, 3, 2), (0, 0, 11, 2), (-1, 0, 2, 2), (0, 2, 2, 1)):
        with pytest.raises(ValueError, match=r"must enclose pixels of the 5x10 image"):
            quantise_box(edges, (5, 10))


def test_edges_closer_than_rounding_still_give_a_box():
    assert quantise_box((0.5, 0, 0.5 + 1e-9, 1), (1, 1)) == (499, 0, 500, 999)
    assert quantise_box((1 - 1e-9, 0, 1, 1), (1, 1)) == (998, 0, 999, 999)


def test_the_tight_box_is_that_of_all_marked_pixels():
    for rng, size_hw, _ in draws(300, seed=2):
        mask = rng.random(size_hw) < rng.choice([0.0, 0.02, 0.5])
        places = np.argwhere(mask)
        expected = None
        if len(places):
            (y0, x0), (y1, x1) = places.min(axis=0).tolist(), (places.max(axis=0) + 1).tolist()
            expected = (x0, y0, x1, y1)
        assert tight_box(mask) == expected


def test_cells_are_the_pixels_at_their_centres():
    for rng, size_hw, box in draws(200, seed=3):
        mask = rng.random(size_hw) < 0.5
        grid_hw = tuple(rng.integers(1, 9, 2).tolist())
        x0, y0, x1, y1 = exact_edges(box, size_hw)
        rows = [int(y0 + (y1 - y0) * (2 * row + 1) / (2 * grid_hw[0])) for row in range(grid_hw[0])]
        columns = [int(x0 + (x1 - x0) * (2 * at + 1) / (2 * grid_hw[1])) for at in range(grid_hw[1])]
        assert [side.tolist() for side in box_centres(box, size_hw, grid_hw)] == [rows, columns]
        expected = mask[np.ix_(rows, columns)]
        if expected.any():
            assert np.array_equal(mask_in_box(mask, box, grid_hw), expected)


def test_two_dots_far_apart_keep_the_cell_that_holds_most_of_them():
    mask = np.zeros((40, 40), bool)
    mask[0, 0] = mask[39, 37:] = True
    cells = mask_in_box(mask, WHOLE_IMAGE, (4, 4))
    assert np.argwhere(cells).tolist() == [[3, 3]]
    assert not mask_in_box(mask, (300, 300, 700, 700), (4, 4)).any()


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_drawing_equals_the_exact_formula(method):
    for rng, _, box in draws(60, seed=4):
        size_hw = tuple(rng.integers(1, 16, 2).tolist())
        cells = rng.random(tuple(rng.integers(1, 6, 2).tolist())) < 0.5
        expected = drawn_slowly(cells, box, size_hw, method)
        if expected.any():
            assert np.array_equal(mask_from_box(cells, box, size_hw, method=method), expected)


def test_a_box_around_the_whole_image_is_drawn_as_an_image_wise_grid():
    for rng, size_hw, _ in draws(100, seed=5):
        cells = rng.random(tuple(rng.integers(1, 12, 2).tolist())) < 0.7
        expected = grid_to_mask(cells, size_hw)
        if expected.any():
            assert np.array_equal(mask_from_box(cells, WHOLE_IMAGE, size_hw), expected)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_objects_no_larger_than_the_cells_come_back_pixel_for_pixel(method):
    for rng, _, _ in draws(100, seed=6):
        mask = np.zeros((480, 640), bool)
        height, width = rng.integers(1, 17, 2)
        y, x = rng.integers(0, 480 - height), rng.integers(0, 640 - width)
        mask[y : y + height, x : x + width] = rng.random((height, width)) < 0.6
        if mask.any():
            box = quantise_box(tight_box(mask), mask.shape)
            drawn = mask_from_box(mask_in_box(mask, box, (64, 64)), box, mask.shape, method=method)
            assert np.array_equal(drawn, mask)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_nothing_with_a_pixel_vanishes(method):
    for rng, size_hw, _ in draws(300, seed=7):
        mask = rng.random(size_hw) < 0.003
        mask.flat[rng.integers(mask.size)] = True
        box = quantise_box(tight_box(mask), size_hw)
        cells = mask_in_box(mask, box, tuple(rng.integers(1, 9, 2).tolist()))
        assert cells.any() and mask_from_box(cells, box, size_hw, method=method).any()


def test_a_box_between_two_pixel_centres_marks_the_pixel_in_its_middle():
    assert np.argwhere(mask_from_box([[1]], (500, 0, 501, 999), (1, 10))).tolist() == [[0, 5]]


def test_wrong_boxes_and_methods_are_refused():
    for box in ((5, 0, 5, 9), (0, 0, 1000, 9), (-1, 0, 5, 9), (0, 9, 5, 3)):
        with pytest.raises(ValueError, match=r"needed are 0 <= x0 < x1 <= 999, and the same for y"):
            mask_from_box(np.ones((2, 2)), box, (4, 4))
    with pytest.raises(ValueError, match="unknown method 'cubic' to draw a box; known: bilinear, nearest"):
        mask_from_box(np.ones((2, 2)), WHOLE_IMAGE, (4, 4), method="cubic")


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
def test_real_objects_in_64_cells_of_their_box_keep_97_percent_on_average():
    from llava.data.rle import decode_rle, union_rle

    ious = []
    for path in sorted(Path(os.environ["TEXT4SEG_REAL_DATA"], "refcoco_mini").glob("*/instances.json")):
        content = json.loads(path.read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        for annotation in content["annotations"]:
            if annotation["iscrowd"]:
                continue
            size_hw = sizes[annotation["image_id"]]
            mask = decode_rle(union_rle(annotation["segmentation"], size_hw)[0]) != 0
            box = quantise_box(tight_box(mask), size_hw)
            drawn = mask_from_box(mask_in_box(mask, box, (64, 64)), box, size_hw)
            ious.append(np.sum(drawn & mask) / np.sum(drawn | mask))
    assert len(ious) > 100 and np.mean(ious) > 0.97
