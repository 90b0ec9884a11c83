"""Mask to grid and back, against Pillow, torch and slow obvious references."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from llava.codec import grid_to_mask, mask_to_grid, sample_centres


def random_sides(seed, count, largest=500, cells=70):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng, tuple(rng.integers(1, largest, 2).tolist()), tuple(rng.integers(1, cells, 2).tolist())


def interpolate(grid, size_hw, mode):
    return functional.interpolate(torch.from_numpy(grid.astype(np.float64))[None, None], size_hw, mode=mode)[
        0, 0
    ].numpy()


def test_sampling_equals_pillow_in_every_bit():
    for rng, size_hw, grid_hw in random_sides(0, 400):
        array = rng.integers(0, 256, size_hw, dtype=np.uint8)
        expected = np.asarray(Image.fromarray(array).resize(grid_hw[::-1], Image.Resampling.NEAREST))
        sampled = sample_centres(array, grid_hw)
        assert sampled.dtype == np.uint8
        assert np.array_equal(sampled, expected), (size_hw, grid_hw)


def test_sampling_equals_pillow_where_centres_fall_between_pixels():
    for side in range(1, 200):
        array = np.arange(side, dtype=np.int32)[None].repeat(2, 0)
        for cells in (2, 3, 6, 10, 14, 25, side, 2 * side):
            expected = np.asarray(Image.fromarray(array).resize((cells, 2), Image.Resampling.NEAREST))
            assert np.array_equal(sample_centres(array, (2, cells)), expected), (side, cells)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32, object, "<U3"])
def test_sampling_keeps_any_dtype(dtype):
    array = np.ones((4, 6), dtype)
    assert sample_centres(array, (2, 3)).dtype == array.dtype


def test_the_centre_pixel_decides_a_cell():
    mask = np.zeros((4, 4), bool)
    mask[1, 3] = True
    assert mask_to_grid(mask, (2, 2)).tolist() == [[0, 1], [0, 0]]
    mask[1, 3] = False
    mask[0, 2:] = mask[1, 2] = True
    assert mask_to_grid(mask, (2, 2)).tolist() == [[0, 0], [0, 0]]


def test_a_mask_becomes_whole_numbers_whatever_its_dtype():
    mask = np.array([[0, 255], [128, 0]], np.uint8)
    grid = mask_to_grid(mask, (2, 2))
    assert grid.dtype == np.int64
    assert grid.tolist() == [[0, 1], [1, 0]]


def test_keep_small_marks_the_cell_with_most_pixels_when_all_would_vanish():
    mask = np.zeros((9, 12), bool)
    mask[0, 0] = mask[2, 9] = mask[2, 11] = mask[3, 9] = True
    assert not mask_to_grid(mask, (3, 4)).any()
    assert np.argwhere(mask_to_grid(mask, (3, 4), policy="keep_small")).tolist() == [[0, 3]]


def test_keep_small_never_loses_an_object_and_changes_nothing_else():
    vanished = 0
    for rng, size_hw, grid_hw in random_sides(1, 400, largest=90, cells=30):
        mask = np.zeros(size_hw, bool)
        top, left = rng.integers(0, size_hw)
        mask[top : top + rng.integers(1, 12), left : left + rng.integers(1, 12)] = True
        centre, kept = (mask_to_grid(mask, grid_hw, policy=policy) for policy in ("centre", "keep_small"))
        if centre.any():
            assert np.array_equal(centre, kept)
            continue
        vanished += 1
        counts = np.zeros(grid_hw, int)
        for y, x in np.argwhere(mask):
            counts[y * grid_hw[0] // size_hw[0], x * grid_hw[1] // size_hw[1]] += 1
        assert kept.sum() == 1
        assert counts[kept == 1] == counts.max()
    assert vanished > 20


@pytest.mark.parametrize("policy", ["centre", "keep_small"])
def test_an_empty_mask_stays_empty_and_a_full_one_full(policy):
    assert not mask_to_grid(np.zeros((30, 40), bool), (4, 6), policy=policy).any()
    assert mask_to_grid(np.ones((30, 40), bool), (4, 6), policy=policy).all()


def test_nearest_equals_torch():
    for rng, size_hw, grid_hw in random_sides(2, 300):
        grid = rng.integers(0, 2, grid_hw)
        mask = grid_to_mask(grid, size_hw, method="nearest")
        assert mask.dtype == bool
        assert np.array_equal(mask, interpolate(grid, size_hw, "nearest") > 0.5), (size_hw, grid_hw)


def test_nearest_takes_the_cell_at_the_floor_of_the_scaled_index():
    grid = np.arange(6).reshape(2, 3) % 2 == 0
    expected = [[grid[i * 2 // 5, j * 3 // 7] for j in range(7)] for i in range(5)]
    assert grid_to_mask(grid, (5, 7), method="nearest").tolist() == expected


def test_bilinear_equals_torch_wherever_rounding_does_not_decide():
    for rng, size_hw, grid_hw in random_sides(3, 300):
        grid = rng.integers(0, 2, grid_hw)
        values = interpolate(grid, size_hw, "bilinear")
        mask = grid_to_mask(grid, size_hw)
        assert mask.dtype == bool
        # Torch rounds in float64, we do not round: only exact ties at 0.5 may differ.
        assert np.abs(values[mask != (values > 0.5)] - 0.5).max(initial=0) < 1e-12, (size_hw, grid_hw)


def test_a_pixel_half_way_between_cells_is_outside():
    assert grid_to_mask(np.array([[1, 0]]), (1, 3)).tolist() == [[True, False, False]]
    assert grid_to_mask(np.array([[0, 1]]), (1, 3)).tolist() == [[False, False, True]]


def test_a_single_cell_drawn_bilinearly_has_the_stated_share_of_its_area():
    grid = np.zeros((3, 3), int)
    grid[1, 1] = 1
    assert grid_to_mask(grid, (900, 900)).sum() / 300**2 == pytest.approx(2 - 2 * np.log(2), abs=0.01)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_a_grid_drawn_large_and_sampled_again_is_the_same_grid(method):
    for rng, _, grid_hw in random_sides(4, 60, cells=20):
        grid = rng.integers(0, 2, grid_hw)
        size_hw = tuple(
            side * int(factor) for side, factor in zip(grid_hw, rng.choice([3, 5, 9], 2), strict=True)
        )
        assert np.array_equal(mask_to_grid(grid_to_mask(grid, size_hw, method=method), grid_hw), grid)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mask_to_grid(np.ones((4, 4)), (2, 2), policy="area"),
            "cell policy 'area'; known: centre, keep_s",
        ),
        (
            lambda: grid_to_mask(np.ones((4, 4)), (2, 2), method="cubic"),
            "method 'cubic' .* known: bilinear, nea",
        ),
        (lambda: mask_to_grid(np.ones((4, 4)), (16, 0)), r"grid_hw \(16, 0\): two sides .* both at least 1"),
        (lambda: sample_centres(np.ones((4, 4)), (2, 2, 2)), r"grid_hw \(2, 2, 2\): two sides"),
        (lambda: mask_to_grid(np.ones((4, 4, 3)), (2, 2)), r"array shape \(4, 4, 3\): two sides"),
        (lambda: mask_to_grid(np.ones((0, 4)), (2, 2)), r"array shape \(0, 4\)"),
        (lambda: grid_to_mask(np.ones((2, 2)), (0, 5)), r"size_hw \(0, 5\)"),
        (lambda: grid_to_mask(np.ones(4), (5, 5)), r"grid shape \(4,\)"),
    ],
)
def test_wrong_input_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
