"""Grid of cells straight from a COCO run-length mask, without painting a single pixel of it."""

from __future__ import annotations

import numpy as np

from llava.codec.grid import centre_indices, check_cell_policy, check_sides, fullest_cell
from llava.types import IntArray, Rle

Crop = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels; right and bottom lie just outside."""

_FIRST_CODE = 48
"""Character that stands for the number 0 in compressed COCO counts."""

_BITS = 5
"""Bits of a number in each character; the sixth bit says that the number goes on."""

_MORE, _SIGN, _DIGIT = 0x20, 0x10, 0x1F

_LONGEST = 12
"""Characters of one number: 60 bits, the most that int64 can shift, and more than any image needs."""


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
    codes = np.frombuffer(raw, np.uint8) - np.uint8(_FIRST_CODE)
    if not codes.size:
        return np.zeros(0, np.int64)
    if codes.max() >= 2 * _MORE:
        character = chr(raw[int(np.argmax(codes >= 2 * _MORE))])
        raise ValueError(f"RLE counts hold the character {character!r}, which no COCO RLE has")
    lasts = np.flatnonzero(codes < _MORE)
    if not lasts.size or lasts[-1] != codes.size - 1:
        raise ValueError("RLE counts stop in the middle of a number")
    firsts = np.zeros_like(lasts)
    firsts[1:] = lasts[:-1] + 1
    characters = lasts - firsts + 1
    longest = int(characters.max())
    if longest > _LONGEST:
        raise ValueError(f"RLE counts hold a number of {longest} characters; {_LONGEST} are the most")
    digits = (codes & _DIGIT).astype(np.int64)
    numbers = digits[firsts]
    for place in range(1, longest):
        goes_on = np.flatnonzero(characters > place)
        numbers[goes_on] |= digits[firsts[goes_on] + place] << (_BITS * place)
    numbers -= (codes[lasts] & _SIGN != 0) * (np.int64(1) << (_BITS * characters))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


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
    left, top, right, bottom = _checked_crop(crop, size_hw)
    ends = np.cumsum(_checked_lengths(rle["counts"], size_hw))
    rows = top + centre_indices(bottom - top, grid_hw[0])
    columns = centre_indices(right - left, grid_hw[1])
    columns = right - 1 - columns if flip else left + columns
    # Runs go down the columns; the needles, too, so that neighbours hit the same run.
    places = columns[:, None] * size_hw[0] + rows
    grid = np.ascontiguousarray((np.searchsorted(ends, places, side="right") & 1).T)
    if policy == "keep_small" and not grid.any():
        inside = _pixels(ends)
        ys, xs = inside % size_hw[0], inside // size_hw[0]
        kept = (ys >= top) & (ys < bottom) & (xs >= left) & (xs < right)
        if kept.any():
            xs = right - 1 - xs[kept] if flip else xs[kept] - left
            size_hw = (bottom - top, right - left)
            grid.flat[fullest_cell(ys[kept] - top, xs, size_hw=size_hw, grid_hw=grid_hw)] = 1
    return grid


def _checked_lengths(counts: str | bytes, size_hw: tuple[int, int]) -> IntArray:
    """Run lengths that fill a mask of this size exactly."""
    lengths = run_lengths(counts)
    total = int(lengths.sum())
    if total != size_hw[0] * size_hw[1] or lengths.min() < 0:
        height, width = size_hw
        raise ValueError(f"RLE run lengths add up to {total}, a {height}x{width} mask has {height * width}")
    return lengths


def _checked_crop(crop: Crop | None, size_hw: tuple[int, int]) -> Crop:
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


def _pixels(ends: IntArray) -> IntArray:
    """Places of all pixels inside, counted down the columns; int64 (pixels,). `ends`: summed run lengths."""
    starts, stops = ends[:-1:2], ends[1::2]
    lengths = stops - starts
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
