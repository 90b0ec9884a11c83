"""Probabilities of label cells in a record: 256 levels, one byte a cell."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from llava.types import FloatArray

LEVELS = 255
"""Steps between 0 and 1; half a step is an error of 0.002."""

ROUNDING = 1e-3
"""How far a product of probabilities in half precision may lie outside 0..1."""

Packed = dict[str, Any]
"""{"size": [rows, columns], "levels": base64 of rows x columns bytes, row by row}."""


def pack(confidence: FloatArray) -> Packed:
    """Probabilities as text.

    Args:
        confidence: float32 (rows, columns), 0..1.

    Raises:
        ValueError: a value is not in 0..1, and not by `ROUNDING` only.

    Example:
        >>> pack(np.array([[0.0, 1.0]], dtype=np.float32))
        {'size': [1, 2], 'levels': 'AP8='}
    """
    if not ((confidence >= -ROUNDING) & (confidence <= 1 + ROUNDING)).all():
        raise ValueError("confidence has values outside 0..1; these are no probabilities")
    levels = np.rint(confidence.clip(0, 1) * LEVELS).astype(np.uint8)
    return {"size": list(levels.shape), "levels": base64.b64encode(levels.tobytes()).decode("ascii")}


def unpack(packed: Packed) -> FloatArray:
    """float32 (rows, columns), what `pack` was given to within 0.002.

    Raises:
        ValueError: the text has not one byte for each cell.
    """
    levels = np.frombuffer(base64.b64decode(packed["levels"]), dtype=np.uint8)
    rows, columns = packed["size"]
    if levels.size != rows * columns:
        raise ValueError(f"confidence of {levels.size} cells for a grid of {rows} x {columns}")
    return levels.reshape(rows, columns).astype(np.float32) / np.float32(LEVELS)


def certainty(packed: Packed) -> float:
    """How sure the answer is, 0.5..1: mean over the cells of the probability of what was decided there.

    Example:
        >>> certainty({"size": [1, 2], "levels": "AP8="})
        1.0
    """
    inside = unpack(packed)
    return float(np.maximum(inside, 1 - inside).mean(dtype=np.float64))


def found_confidence(packed: Packed) -> float:
    """How sure an answer is of what it draws, 0..1, to rank answers and to abstain.

    The mean probability of the cells that are more likely inside than not, so that the size of the
    background does not matter; without such a cell that of the likeliest one.

    Example:
        >>> found_confidence({"size": [1, 2], "levels": "AP8="})
        1.0
    """
    inside = unpack(packed)
    likely = inside[inside > 0.5]
    return float(likely.mean(dtype=np.float64) if len(likely) else inside.max())
