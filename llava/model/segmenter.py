"""From a checkpoint folder to something that answers queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llava.model.checkpoint import load_checkpoint
from llava.model.text_mask import TextMaskSegmenter
from llava.types import Segmenter

SYSTEMS = {"text4seg": TextMaskSegmenter, "text4seg++": TextMaskSegmenter}
"""Class of each system that a `segmentation.json` may name."""


def load_segmenter(
    path: str | Path,
    *,
    base: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    attn: str = "auto",
    **options: Any,  # noqa: ANN401
) -> Segmenter:
    """Segmenter of a checkpoint folder; which system it is stands in its `segmentation.json`.

    Args:
        path: plain or adapter folder.
        base: base model of an adapter, where it is not the one that the adapter names.
        device: None takes the GPU if there is one.
        dtype: None takes bfloat16 on a GPU that has it, else float32; "auto" keeps that of the files.
        attn: attention implementation, one of `llava.model.weights.ATTENTIONS`.
        options: of the system's class, for example `max_new_tokens` of `TextMaskSegmenter`.

    Raises:
        FileNotFoundError: the folder, a file of it, or the base model is missing.
        ValueError: the parts of the checkpoint do not fit, or an option is wrong.
    """
    checkpoint = load_checkpoint(path, base=base, device=device, dtype=dtype, attn=attn)
    return SYSTEMS[checkpoint.settings.system](checkpoint, **options)
