"""Box of a mask and the cells inside it straight from a COCO run-length mask."""

from __future__ import annotations

import numpy as np

from llava.codec.boxes import Box, box_centres, mask_in_box, quantise_box
from llava.codec.boxwise import Block
from llava.codec.from_rle import Crop, checked_crop, inside_pixels, run_ends
from llava.codec.grid import check_sides
from llava.codec.labels import clean_reference
from llava.types import BoolArray, Rle


def rle_block(
    label: str, rle: Rle, grid_hw: tuple[int, int], *, crop: Crop | None = None, flip: bool = False
) -> Block:
    """Block that describes a mask given as COCO RLE.

    Equal in every bit to painting the mask, cutting out `crop`, mirroring it left to right, and handing it to
    `block_of`; but looks only at the runs, and at the pixels that decide a cell.

    Args:
        label: words of the target; go through `clean_reference`.
        rle: compressed COCO RLE with text or bytes counts.
        grid_hw: rows and columns of the cells.
        crop: part of the mask that the image shows, (left, top, right, bottom) in pixels of the mask; None is
            all of it.
        flip: mirror left and right, after the crop.

    Raises:
        ValueError: the run lengths do not fill the size that the RLE states, the crop does not lie inside it,
            or a side is wrong.

    Example:
        >>> block = rle_block("dog", {"size": [3, 4], "counts": "6140"}, (1, 2))
        >>> block.box, block.cells.tolist()
        ((499, 0, 999, 999), [[True, False]])
    """
    grid_hw = check_sides(grid_hw, "grid_hw")
    edges = rle_tight_box(rle, crop=crop, flip=flip)
    if edges is None:
        return Block(clean_reference(label), None, np.zeros(grid_hw, bool))
    left, top, right, bottom = checked_crop(crop, check_sides(rle["size"], "RLE size"))
    box = quantise_box(edges, (bottom - top, right - left))
    return Block(
        clean_reference(label), box, _cells(rle, box, grid_hw, (left, top, right, bottom), flip=flip)
    )


def rle_tight_box(
    rle: Rle, *, crop: Crop | None = None, flip: bool = False
) -> tuple[int, int, int, int] | None:
    """Edges of the smallest box around what a crop shows of a mask, in its pixels; None around nothing.

    Args:
        rle: compressed COCO RLE with text or bytes counts.
        crop: as for `rle_block`.
        flip: mirror left and right, after the crop.

    Example:
        >>> rle_tight_box({"size": [3, 4], "counts": "6140"})
        (2, 0, 4, 3)
    """
    size_hw = check_sides(rle["size"], "RLE size")
    height = size_hw[0]
    left, top, right, bottom = checked_crop(crop, size_hw)
    ends = run_ends(rle["counts"], size_hw)
    starts, stops = np.maximum(ends[:-1:2], left * height), np.minimum(ends[1::2], right * height)
    starts, stops = starts[stops > starts], stops[stops > starts]
    first, last = starts // height, (stops - 1) // height
    above, below = starts - first * height, stops - last * height
    # A run is its piece in the first column, whole columns, and its piece in the last one; or one piece.
    one, none, full = first == last, np.zeros_like(first), np.full_like(first, height)
    x0, x1 = np.concatenate([first, first + 1, last]), np.concatenate([first + 1, last, last + 1])
    y0 = np.concatenate([above, none, np.where(one, above, 0)]).clip(top)
    y1 = np.concatenate([np.where(one, below, height), full, below]).clip(max=bottom)
    seen = (x1 > x0) & (y1 > y0)
    if not seen.any():
        return None
    low, high = int(x0[seen].min()), int(x1[seen].max())
    low, high = (right - high, right - low) if flip else (low - left, high - left)
    return low, int(y0[seen].min()) - top, high, int(y1[seen].max()) - top


def _cells(rle: Rle, box: Box, grid_hw: tuple[int, int], crop: Crop, *, flip: bool) -> BoolArray:
    """Cells of a box around a mask, as `mask_in_box` has them."""
    height, width = check_sides(rle["size"], "RLE size")
    left, top, right, bottom = crop
    ends = run_ends(rle["counts"], (height, width))
    rows, columns = box_centres(box, (bottom - top, right - left), grid_hw)
    columns = right - 1 - columns if flip else columns + left
    runs = ends.searchsorted(np.add.outer(columns * height, rows + top), side="right")
    cells: BoolArray = np.ascontiguousarray(runs.T & 1).astype(bool)
    if cells.any():
        return cells
    mask = np.zeros((width, height), bool)
    mask.flat[inside_pixels(ends)] = True
    part = mask.T[top:bottom, left:right]
    return mask_in_box(part[:, ::-1] if flip else part, box, grid_hw)
