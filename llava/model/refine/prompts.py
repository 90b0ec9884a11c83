"""Coarse masks turned into prompts for SAM, in SAM's own geometry."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from llava.types import BoolArray, FloatArray

MASK_LOGIT = 6.9068
"""Logit of a pixel inside the mask prompt, its negative outside: logit(1 - 1e-3), as Text4Seg prompts SAM."""

GAUSSIAN_PEAK = 30.0
GAUSSIAN_NARROWNESS = 4.0
"""Logit in the deepest pixel of the Gaussian mask prompt, and how fast it falls off, as SAMRefiner has it."""

SIMILAR = 0.5
BOX_STEP = 0.1
BOX_SHARE = 0.5
"""The elastic box: cosine from which a place looks like the object, length of one step in sides of the box
(both SAMRefiner's), and the share of similar places from which a side moves."""

_CANDIDATES = 4000
"""Pixels among which points are chosen: more change a point by a pixel or two and cost time."""


def frame_hw(size_hw: tuple[int, ...], side: int, *, keep_aspect: bool = True) -> tuple[int, int]:
    """Height and width of an image inside SAM's square frame.

    Args:
        size_hw: height and width of the image in pixels.
        side: side of the frame.
        keep_aspect: True for SAM and SAM-HQ: longest side `side`, the rest in proportion. False for SAM 2,
            which stretches the image over the whole frame.

    Example:
        >>> frame_hw((480, 640), 256)
        (192, 256)
    """
    if not keep_aspect:
        return side, side
    scale = side / max(size_hw)
    return max(1, int(size_hw[0] * scale + 0.5)), max(1, int(size_hw[1] * scale + 0.5))


def inside_frame(mask: BoolArray, side: int, *, keep_aspect: bool = True) -> BoolArray:
    """The mask in the pixels of the frame, bool (frame height, frame width).

    A pixel is inside when more than half of what it covers is. Where that leaves nothing of a small mask,
    every pixel that it touches is inside.
    """
    height, width = frame_hw(mask.shape, side, keep_aspect=keep_aspect)
    method = cv2.INTER_AREA if max(mask.shape) > side else cv2.INTER_LINEAR
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=method)
    inside: BoolArray = cover > 0.5
    return inside if inside.any() else cover > 0


def mask_prompt(mask: BoolArray, side: int, *, keep_aspect: bool = True) -> FloatArray:
    """Mask prompt for SAM: the mask in the frame of the image, zeros beside it.

    Args:
        mask: bool (H, W), pixels of the image.
        side: side of the prompt, four times that of SAM's image embedding; 256 for the published models.
        keep_aspect: as for `frame_hw`.

    Returns:
        float32 (side, side): ±`MASK_LOGIT` inside the frame, 0 in its padding.

    Source: Text4Seg (arXiv 2410.09855) prompts SAM so; its released code stretches the mask over the whole
    square, which fits square images only.
    """
    inside = inside_frame(mask, side, keep_aspect=keep_aspect)
    return _padded(np.where(inside, MASK_LOGIT, -MASK_LOGIT), side)


def soft_prompt(
    probability: FloatArray, size_hw: tuple[int, int], side: int, *, keep_aspect: bool = True
) -> FloatArray:
    """Mask prompt for SAM from the probability of each cell or pixel.

    Args:
        probability: float32 (rows, columns) in 0 to 1, spread evenly over the whole image: a label grid, or
            the pixels themselves.
        size_hw: height and width of the image.
        side: side of the prompt.
        keep_aspect: as for `frame_hw`.

    Returns:
        float32 (side, side): logits within ±`MASK_LOGIT` inside the frame, interpolated between the centres
        of the cells; 0 in its padding.
    """
    height, width = frame_hw(size_hw, side, keep_aspect=keep_aspect)
    shrinks = probability.shape[0] > height or probability.shape[1] > width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    share = cv2.resize(probability.astype(np.float32), (width, height), interpolation=method)
    highest = 1 / (1 + np.exp(-MASK_LOGIT))
    share = np.clip(share, 1 - highest, highest)
    return _padded(np.log(share / (1 - share)), side)


def gaussian_prompt(mask: BoolArray, side: int, *, keep_aspect: bool = True) -> FloatArray:
    """Mask prompt for SAM that trusts the middle of a coarse mask more than its border.

    Inside, the logit is `GAUSSIAN_PEAK` where the mask is deepest and falls off with the depth that is
    missing, exp(-missing² * `GAUSSIAN_NARROWNESS` / area); outside it is -`GAUSSIAN_PEAK`.

    Args:
        mask: bool (H, W) with at least one pixel.
        side: side of the prompt.
        keep_aspect: as for `frame_hw`.

    Returns:
        float32 (side, side), 0 in the padding.

    Source: SAMRefiner (arXiv 2502.06756), which computes it at the size of the image; here it is computed in
    the frame, where a pixel of the prompt is the unit. The formula has no unit, so that the two agree.
    """
    inside = inside_frame(mask, side, keep_aspect=keep_aspect)
    depth = _depth(inside)
    spread = max(float(inside.sum()) / GAUSSIAN_NARROWNESS, 1.0)
    weight = np.exp(-np.square(depth - depth.max()) / spread)
    return _padded(np.where(inside, GAUSSIAN_PEAK * weight, -GAUSSIAN_PEAK), side)


def spread_points(mask: BoolArray, count: int, *, seed: int = 0) -> FloatArray:
    """Points inside a mask, deep in it and far from one another.

    The first lies deepest; each next one has the largest distance to the border and to the points before it.
    The border of the image counts as border of the mask. A large mask is represented by a seeded sample of
    its pixels, so that equal calls give equal points.

    Args:
        mask: bool (H, W).
        count: how many points; fewer where the mask has fewer pixels, none for an empty mask.
        seed: of the sample.

    Returns:
        float32 (points, 2), x and y in pixels, pixel centres at whole numbers.
    """
    depth = _depth(mask)
    rows, columns = np.nonzero(mask)
    if len(rows) > _CANDIDATES:
        sample = np.random.default_rng(seed).choice(len(rows), _CANDIDATES, replace=False)
        sample[0] = depth[rows, columns].argmax()
        rows, columns = rows[sample], columns[sample]
    reach = depth[rows, columns]
    chosen: list[int] = []
    while len(chosen) < min(count, len(rows)) and reach.max() > 0:
        best = int(reach.argmax())
        chosen.append(best)
        reach = np.minimum(reach, np.hypot(rows - rows[best], columns - columns[best]))
    return np.stack([columns[chosen], rows[chosen]], axis=1).astype(np.float32)


def point_prompt(mask: BoolArray, count: int, *, seed: int = 0) -> tuple[FloatArray, NDArray[np.int64]]:
    """Points and labels for SAM: `count` inside and `count` outside of a mask that is not empty.

    Where one side has fewer pixels its points are repeated, and where nothing is outside all points are
    inside, so that all prompts of a batch have one length.

    Returns:
        float32 (2 * count, 2), x and y in pixels; int64 (2 * count,), 1 inside and 0 outside.
    """
    inside = spread_points(mask, count, seed=seed)
    outside = spread_points(~mask, count, seed=seed)
    second, label = (outside, 0) if len(outside) else (inside, 1)
    points = np.concatenate([np.resize(inside, (count, 2)), np.resize(second, (count, 2))])
    return points, np.repeat(np.array([1, label], np.int64), count)


def distance_points(mask: BoolArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """One point in the deepest place of a mask, and one in its box where the mask is farthest away.

    Args:
        mask: bool (H, W) with at least one pixel.

    Returns:
        float32 (2, 2), x and y in pixels; int64 (2,), 1 inside and 0 outside. A mask that fills its box has
        no second place: its first point is repeated, so that all prompts of a batch have one length.

    Source: the distance-guided points of SAMRefiner (arXiv 2502.06756).
    """
    x0, y0, x1, y1 = box_prompt(mask).astype(int)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)[y0:y1, x0:x1]
    row, column = np.unravel_index(_depth(mask).argmax(), mask.shape)
    far_row, far_column = np.unravel_index(away.argmax(), away.shape)
    first, second, label = (column, row), (column, row), 1
    if away[far_row, far_column] > 0:
        second, label = (far_column + x0, far_row + y0), 0
    return np.array([first, second], np.float32), np.array([1, label], np.int64)


def box_prompt(mask: BoolArray) -> FloatArray:
    """Box around a mask that is not empty: float32 (4,), x0, y0, x1, y1 in pixels, the last two exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def similar_places(mask: BoolArray, features: FloatArray, *, keep_aspect: bool = True) -> BoolArray:
    """Where the image looks like the inside of a mask.

    Args:
        mask: bool (H, W) with at least one pixel.
        features: float32 (channels, side, side), SAM's embedding of the image in its frame.
        keep_aspect: as for `frame_hw`.

    Returns:
        bool (H, W): the cosine between the place and the mean over the mask is above `SIMILAR`.
    """
    height, width = frame_hw(mask.shape, features.shape[-1], keep_aspect=keep_aspect)
    here = features[:, :height, :width]
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    mean = (here * cover).sum(axis=(1, 2)) / max(float(cover.sum()), 1e-6)
    length = np.linalg.norm(here, axis=0) * np.linalg.norm(mean)
    cosine = np.tensordot(mean, here, axes=1) / np.maximum(length, 1e-6)
    full = cv2.resize(cosine.astype(np.float32), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    similar: BoolArray = full > SIMILAR
    return similar


def elastic_box(mask: BoolArray, similar: BoolArray) -> FloatArray:
    """Box around a mask, each side moved a step outwards where the image goes on looking like the object.

    Args:
        mask: bool (H, W) with at least one pixel.
        similar: bool (H, W), of `similar_places`.

    Returns:
        float32 (4,), x0, y0, x1, y1 in pixels, the last two exclusive. A side moves by `BOX_STEP` of the box
        where more than `BOX_SHARE` of that strip is similar, never beyond the image.

    Source: the context-aware elastic box of SAMRefiner (arXiv 2502.06756).
    """
    x0, y0, x1, y1 = box_prompt(mask).astype(int)
    high, wide = max(1, round(BOX_STEP * (y1 - y0))), max(1, round(BOX_STEP * (x1 - x0)))
    left, top, right, bottom = max(0, x0 - wide), max(0, y0 - high), x1 + wide, y1 + high
    grown = [
        left if _mostly(similar[y0:y1, left:x0]) else x0,
        top if _mostly(similar[top:y0, x0:x1]) else y0,
        min(right, mask.shape[1]) if _mostly(similar[y0:y1, x1:right]) else x1,
        min(bottom, mask.shape[0]) if _mostly(similar[y1:bottom, x0:x1]) else y1,
    ]
    return np.array(grown, np.float32)


def _mostly(strip: BoolArray) -> bool:
    return strip.size > 0 and bool(strip.mean() > BOX_SHARE)


def _depth(mask: BoolArray) -> FloatArray:
    """Distance of each pixel to the nearest one outside, float32 (H, W); outside begins at the border."""
    padded = np.pad(mask, 1).astype(np.uint8)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1].astype(np.float32)


def _padded(frame: NDArray[np.floating], side: int) -> FloatArray:
    """The frame in the top left of a square of zeros, float32 (side, side)."""
    square = np.zeros((side, side), np.float32)
    square[: frame.shape[0], : frame.shape[1]] = frame
    return square
