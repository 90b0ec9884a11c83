"""Coarse masks refined by Segment Anything: Text4Seg's way and SAMRefiner's, with SAM, SAM-HQ or SAM 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llava.model.refine.load import PromptedSam
from llava.model.refine.multi_prompt import MultiPromptRefiner
from llava.model.refine.prompts import box_prompt, frame_hw, mask_prompt, point_prompt, spread_points
from llava.model.refine.refiner import EMPTY, NOTHING, UNRELATED, SamRefiner, judge
from llava.refiners import NO_REFINER, refiner_options
from llava.types import Refined, Refiner

__all__ = [
    "EMPTY",
    "NOTHING",
    "UNRELATED",
    "MultiPromptRefiner",
    "PromptedSam",
    "Refined",
    "Refiner",
    "SamRefiner",
    "box_prompt",
    "frame_hw",
    "judge",
    "make_refiner",
    "mask_prompt",
    "point_prompt",
    "spread_points",
]

_CLASSES: dict[str, type[SamRefiner]] = {"sam": SamRefiner, "samrefiner": MultiPromptRefiner}


def make_refiner(
    name: str,
    path: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    seed: int = 0,
    **options: Any,  # noqa: ANN401
) -> Refiner | None:
    """The refiner of a name, or None for "none".

    Args:
        name: a key of `llava.refiners.REFINER_OPTIONS`.
        path: folder of SAM, SAM-HQ or SAM 2, or a name on the hub.
        device: None takes the GPU if there is one.
        seed: of what the way draws.
        options: those of the way; None takes its default.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: an unknown name or option, no path, or a folder that does not fit.
    """
    chosen = refiner_options(name, **options)
    if name == NO_REFINER:
        return None
    if path is None:
        raise ValueError(
            f"refiner {name!r} needs the folder of a SAM, SAM-HQ or SAM 2, or its name on the hub"
        )
    return _CLASSES[name](path, device=device, seed=seed, **chosen)
