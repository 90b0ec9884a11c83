"""Grid of cells straight from a COCO run-length mask, without painting a single pixel of it."""

from __future__ import annotations

import numpy as np

from llava.codec.grid import centre_indices, check_cell_policy, check_sides, fullest_cell
from llava.types import IntArray, Rle

Crop = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels; right and bottom lie just outside."""

_BITS = 5
"""Bits of a number in each character, low bits first."""

_LONGEST = 12
"""Characters of one number: 60 bits, the most that int64 can shift, and more than any image needs."""

_GOES_ON, _NO_CODE = 64, 128
"""What `_DIGITS` adds for a character that is not its number's last, and gives for one outside the code."""


def _digits() -> IntArray:
    """Meaning of each byte: the code starts at 48, its sixth bit says that the number goes on.

    The last character of a number carries the sign in its fifth bit, so it stands for -16 to 15.
    """
    digits = np.full(256, _NO_CODE)
    digits[48:112] = [*range(16), *range(-16, 0), *range(_GOES_ON, _GOES_ON + 32)]
    return digits


_DIGITS = _digits()

_KEPT: dict[tuple[tuple[int, int], tuple[int, int], Crop, bool], IntArray] = {}
"""What `_places` has worked out; at 64x64 cells an entry has 32 KB."""

_MOST_KEPT = 256


def run_lengths(counts: str | bytes) -> IntArray:
    r"""Run lengths inside compressed COCO counts, as far as possible without a Python loop.

    Five bits per character, low bits first; the sign sits in the last character of a number. From the fourth
    number on a number is the difference to the one two before, which two running sums undo.

    Args:
        counts: `counts` of a compressed COCO RLE.

    Returns:
        int64 (runs,): pixels outside, inside, outside, … down the columns. Sizes are not checked here.

    Raises:
        ValueError: the text stops inside a number, or has characters or numbers outside the code.

    Example:
        >>> run_lengths("52203").tolist()
        [5, 2, 2, 2, 5]

    Source: the format of the COCO API (`rleToString` of maskApi.c), which has no other description.
    """
    raw = counts.encode() if isinstance(counts, str) else counts
    if not isinstance(raw, bytes):
        raise ValueError(f"RLE counts are {type(raw).__name__}; needed are the text or bytes of a COCO RLE")
    digits = _DIGITS.take(np.frombuffer(raw, np.uint8))
    if not digits.size:
        return digits
    largest = digits.max()
    if largest == _NO_CODE:
        character = chr(raw[int(digits.argmax())])
        raise ValueError(f"RLE counts hold the character {character!r}, which no COCO RLE has")
    numbers = _joined(digits) if largest >= _GOES_ON else digits
    for chain in (numbers[1::2], numbers[2::2]):
        np.add.accumulate(chain, out=chain)
    return numbers


def _joined(digits: IntArray) -> IntArray:
    """Numbers of several characters made one; changes `digits`."""
    goes_on = digits >= _GOES_ON
    if goes_on[-1]:
        raise ValueError("RLE counts stop in the middle of a number")
    places = goes_on.nonzero()[0]
    is_first = np.ones(digits.size, bool)
    is_first[places + 1] = False
    digits[places] -= _GOES_ON
    reach = 1
    # Each round takes over what stands one character further; bits that are there already do no harm.
    while places.size:
        if reach == _LONGEST:
            raise ValueError(f"RLE counts hold a number of more than {_LONGEST} characters")
        digits[places] |= digits[places + 1] << _BITS
        places = places[goes_on[places + reach]]
        reach += 1
    return digits[is_first]


def rle_to_grid(
    rle: Rle,
    grid_hw: tuple[int, int],
    *,
    policy: str = "centre",
    crop: Crop | None = None,
    flip: bool = False,
) -> IntArray:
    """Cells that belong to a mask given as COCO RLE.

    Equal in every bit to painting the mask, cutting out `crop`, mirroring it left to right, and handing it to
    `mask_to_grid`; but looks only at the pixels that decide a cell.

    Args:
        rle: compressed COCO RLE with text or bytes counts.
        grid_hw: rows and columns of the grid.
        policy: "centre" or "keep_small", see `mask_to_grid`.
        crop: part of the mask that the grid covers, (left, top, right, bottom) in pixels of the mask; None is
            all of it.
        flip: mirror left and right, after the crop.

    Returns:
        int64 (rows, columns) of 0 and 1.

    Raises:
        ValueError: the run lengths do not fill the size that the RLE states, the crop does not lie inside it,
            or a side or the policy is wrong.

    Example:
        >>> rle_to_grid({"size": [3, 4], "counts": "6140"}, (3, 4)).tolist()
        [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    """
    check_cell_policy(policy)
    grid_hw = check_sides(grid_hw, "grid_hw")
    size_hw = check_sides(rle["size"], "RLE size")
    left, top, right, bottom = checked_crop(crop, size_hw)
    ends = run_ends(rle["counts"], size_hw)
    runs = ends.searchsorted(_places(size_hw, grid_hw, (left, top, right, bottom), flip), side="right")
    grid: IntArray = np.bitwise_and(runs.T, 1, order="C")
    if policy == "keep_small" and not grid.any():
        inside = inside_pixels(ends)
        ys, xs = inside % size_hw[0], inside // size_hw[0]
        kept = (ys >= top) & (ys < bottom) & (xs >= left) & (xs < right)
        if kept.any():
            xs = right - 1 - xs[kept] if flip else xs[kept] - left
            size_hw = (bottom - top, right - left)
            grid.flat[fullest_cell(ys[kept] - top, xs, size_hw=size_hw, grid_hw=grid_hw)] = 1
    return grid


def run_ends(counts: str | bytes, size_hw: tuple[int, int]) -> IntArray:
    """Where each run ends, counted down the columns; int64 (runs,), rising to the number of pixels."""
    height, width = size_hw
    lengths = run_lengths(counts)
    ends = np.add.accumulate(lengths)
    total = int(ends[-1]) if ends.size else 0
    if total != height * width:
        raise ValueError(f"RLE run lengths add up to {total}, a {height}x{width} mask has {height * width}")
    if lengths.min() < 0:
        raise ValueError(f"RLE counts hold a run of {lengths.min()} pixels; the file is cut or damaged")
    return ends


def _places(size_hw: tuple[int, int], grid_hw: tuple[int, int], crop: Crop, flip: bool) -> IntArray:
    """Centre pixel of each cell, counted down the columns of the mask; int64 (columns, rows).

    Columns come first as in the run lengths: neighbours then fall into the same run. The last few hundred
    answers are kept, as images of a dataset share their sizes.
    """
    key = (size_hw, grid_hw, crop, flip)
    if key not in _KEPT:
        left, top, right, bottom = crop
        rows = centre_indices(bottom - top, grid_hw[0]) + top
        columns = centre_indices(right - left, grid_hw[1])
        columns = right - 1 - columns if flip else columns + left
        if len(_KEPT) >= _MOST_KEPT:
            _KEPT.clear()
        _KEPT[key] = np.add.outer(columns * size_hw[0], rows)
    return _KEPT[key]


def checked_crop(crop: Crop | None, size_hw: tuple[int, int]) -> Crop:
    """The crop, or the whole mask where there is none."""
    height, width = size_hw
    if crop is None:
        return 0, 0, width, height
    left, top, right, bottom = (int(side) for side in crop)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"crop {tuple(crop)}: (left, top, right, bottom) must enclose pixels of the {height}x{width} mask"
        )
    return left, top, right, bottom


def inside_pixels(ends: IntArray) -> IntArray:
    """Places of all pixels inside, counted down the columns; int64 (pixels,). `ends`: summed run lengths."""
    starts, stops = ends[:-1:2], ends[1::2]
    lengths = stops - starts
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
