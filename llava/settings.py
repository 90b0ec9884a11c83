"""What a checkpoint is: the content of its `segmentation.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

from llava.constants import SEGMENTATION_FILE
from llava.files import write_text_atomic

SYSTEMS = ("text4seg", "text4seg++")
CODECS = ("rrle", "full", "irle")
"""Text forms of an image-wise mask: labels of the cells of the whole image."""

BRICKS = "bricks"
"""Text form of a box-wise mask: a box, and its inside as runs that are one token each (Text4Seg++)."""

BRICK_GRID = (64, 64)
"""Cells of a box where nothing says otherwise (Text4Seg++, arXiv 2509.06321)."""

ALL_CODECS = (*CODECS, BRICKS)
BRICK_ORDERS = ("raster", "rows", "rows_separated", "columns", "snake", "hilbert")
UPSAMPLING = ("bilinear", "nearest")
CELL_POLICIES = ("centre", "keep_small")
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True)
class SegmentationSettings:
    """Everything that training and inference must agree on. Never guessed from a path.

    Attributes:
        system: which published system the weights belong to, one of `SYSTEMS`.
        codec: text form of a mask, one of `ALL_CODECS`.
        grid_hw: rows and columns of the label grid; with "bricks" of the inside of each box.
        image_side: side in pixels of the square that every image is squashed to; 0 keeps its shape, where
            the model takes any (Qwen-VL).
        interpolation: how it is squashed, one of `INTERPOLATIONS`.
        prompt: name of the conversation template, a key of `llava.data.prompt.PROMPTS`.
        cell_policy: how a mask becomes cells, one of `CELL_POLICIES`.
        upsample: how cells become a mask, one of `UPSAMPLING`.
        brick_order: in which order bricks go over the cells of a box, one of `BRICK_ORDERS`.
        brick_tail: whether the bricks of the background behind the last foreground are written.
        training: command, seed and further facts of the training run, for people.
        scores: measured scores with the command that measured them, for people.
    """

    system: str = "text4seg"
    codec: str = "rrle"
    grid_hw: tuple[int, int] = (16, 16)
    image_side: int = 336
    interpolation: str = "bicubic"
    prompt: str = "text4seg_v1"
    cell_policy: str = "centre"
    upsample: str = "bilinear"
    brick_order: str = "raster"
    brick_tail: bool = True
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field and report all problems at once."""
        problems = [
            f"{name} {value!r}: known are {', '.join(known)}"
            for name, value, known in (
                ("system", self.system, SYSTEMS),
                ("codec", self.codec, ALL_CODECS),
                ("brick_order", self.brick_order, BRICK_ORDERS),
                ("cell_policy", self.cell_policy, CELL_POLICIES),
                ("upsample", self.upsample, UPSAMPLING),
                ("interpolation", self.interpolation, INTERPOLATIONS),
            )
            if value not in known
        ]
        problems += [
            f"{name} {value!r}: needed is {what}"
            for name, value, kind, what in (
                ("image_side", self.image_side, Integral, "a whole number of pixels"),
                ("prompt", self.prompt, str, "a name"),
                ("brick_tail", self.brick_tail, bool, "true or false"),
                ("training", self.training, dict, "an object"),
                ("scores", self.scores, dict, "an object"),
            )
            if not isinstance(value, kind)
        ]
        if _is_grid(self.grid_hw):
            object.__setattr__(self, "grid_hw", tuple(int(side) for side in self.grid_hw))
        else:
            problems.append(f"grid_hw {self.grid_hw!r}: two sides, both whole numbers and at least 1")
        if isinstance(self.image_side, Integral) and self.image_side < 0:
            problems.append(f"image_side {self.image_side}: pixels, or 0 for images of any shape")
        if problems:
            raise ValueError("segmentation settings: " + "; ".join(problems))

    def save(self, folder: Path) -> None:
        """Write `segmentation.json` into a checkpoint folder, whole or not at all."""
        write_text_atomic(folder / SEGMENTATION_FILE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> SegmentationSettings:
        """Settings of a checkpoint folder.

        Raises:
            FileNotFoundError: the folder or its `segmentation.json` is missing.
            ValueError: the file is no JSON object, or has unknown or wrong fields.
        """
        path = Path(folder) / SEGMENTATION_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} not found - it says with which codec, grid and prompt a checkpoint was trained. "
                "scripts/v1_5/finetune_lora.sh writes it; for weights from elsewhere write one by hand "
                "(fields: see llava/settings.py)"
            )
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} is not valid JSON ({error}); restore it from the training output"
            ) from error
        known = set(cls.__dataclass_fields__)
        if not isinstance(fields, dict):
            raise ValueError(
                f"{path} holds {fields!r:.60}; needed is an object with fields of {sorted(known)}"
            )
        if not set(fields) <= known:
            raise ValueError(
                f"{path}: unknown fields {sorted(set(fields) - known)}; known are {sorted(known)}"
            )
        try:
            return cls(**fields)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _is_grid(value: object) -> bool:
    """Whether this is rows and columns, as a list or a tuple."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(side, Integral) and int(side) >= 1 for side in value)
    )
