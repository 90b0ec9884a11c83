"""Segmentations of COCO files: which polygons count, and unions of parts."""

import math

import numpy as np
import pytest

from llava.data.rle import decode_rle, union_rle

SQUARE = [2, 2, 10, 2, 10, 10, 2, 10]


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e6, 10**400, -(10**400), "3", None])
def test_a_polygon_with_one_number_that_is_none_is_dropped_wherever_it_stands(place, value):
    polygon = [value if index == place else number for index, number in enumerate(SQUARE)]
    merged, dropped = union_rle([polygon, SQUARE], (20, 30))
    assert dropped == 1
    assert decode_rle(merged).sum() == 64


def test_whole_and_broken_numbers_may_mix_and_overlapping_parts_erase_nothing():
    merged, dropped = union_rle([SQUARE, [6.0, 6, 14.0, 6, 14, 14, 6, 14]], (20, 30))
    expected = np.zeros((20, 30), bool)
    expected[2:10, 2:10] = expected[6:14, 6:14] = True
    assert dropped == 0
    assert np.array_equal(decode_rle(merged), expected)
