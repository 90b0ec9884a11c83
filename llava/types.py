"""The records that travel between data, model and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Rle = dict[str, Any]
"""Compressed COCO run-length mask: {"size": [height, width] in pixels, "counts": str}."""

Edges = tuple[float, float, float, float]
"""Edges of a box, (x0, y0, x1, y1) in pixels, x1 and y1 behind its last pixel."""


@dataclass(frozen=True)
class Sample:
    """One target of one image: its words and its true mask.

    Referring sets give one sample per expression, semantic sets one per class in an image, part sets one per
    part of an object class, reasoning sets one per target of a question. Samples whose ids differ behind the
    last bar only are other words for one target.

    Attributes:
        id: unique in its dataset, stable over runs: "refcoco|unc|val|<ref_id>|<sent_id>".
        image_path: the image file.
        image_id: id of the image in `instances.json`.
        size_hw: height and width of the image in pixels.
        expression: the referring expression, or the name of the class or part, as the dataset gives it.
        mask: union of all targets as COCO RLE of `size_hw`; all zeros when `no_target`.
        no_target: true when the expression describes nothing in the image.
        boxes_xyxy: annotated box of each target in pixels, (x0, y0, x1, y1).
        group: name of the expression's kind where the dataset knows it ("colour", "ordinal", …), else "".
        synonyms: other names that mean the same class.
        part_of: object that the part belongs to, "" for whole objects.
        question: whole question in the dataset's words; "" where a template asks for the expression.
        answer: what the dataset says about the target in words, "" where it says nothing.
        ignore: pixels that belong to no decision, neither target nor background; None where there are none.
        category: class names of the targets where the dataset has classes, joined by ", ", else "".
        classes: (name, mask) of each class, where the sample is a whole map and `mask` their union.
        instances: mask of each object, where `mask` joins several that the dataset tells apart; else empty.
    """

    id: str
    image_path: Path
    image_id: int
    size_hw: tuple[int, int]
    expression: str
    mask: Rle
    no_target: bool = False
    boxes_xyxy: tuple[tuple[float, float, float, float], ...] = ()
    group: str = ""
    synonyms: tuple[str, ...] = ()
    part_of: str = ""
    question: str = ""
    answer: str = ""
    ignore: Rle | None = None
    category: str = ""
    classes: tuple[tuple[str, Rle], ...] = ()
    instances: tuple[Rle, ...] = ()


@dataclass(frozen=True)
class Query:
    """One thing asked of a system.

    Attributes:
        frames: one image, or the frames of a clip, all of one size.
        targets: what is asked for, in answer order.
        question: whole question text; None lets the system word it from its own fixed prompt.
    """

    frames: Sequence[Image.Image]
    targets: Sequence[str]
    question: str | None = None

    def __post_init__(self) -> None:
        """Check that there is an image, a target, and one size."""
        if isinstance(self.targets, str):
            raise ValueError(
                f"targets {self.targets!r}: needed is a list of targets, here [{self.targets!r}]"
            )
        if not self.frames or not self.targets:
            raise ValueError("a query needs at least one frame and one target")
        if any(not target.strip() for target in self.targets):
            raise ValueError("a query target is empty; name what to segment, for example 'the red car'")
        if len({frame.size for frame in self.frames}) > 1:
            raise ValueError(f"frames differ in size: {sorted({frame.size for frame in self.frames})}")


@dataclass(frozen=True)
class Prediction:
    """What a system said, as masks at the size of the input.

    Attributes:
        masks: bool (targets, frames, height, width), pixels of the input.
        absent: bool (targets,); true where the answer says that the target is not there.
        text: raw answer, "" when the system writes none; answers to several prompts joined by newlines.
        faults: what was wrong with the answer, in words; empty means it parsed cleanly.
        mode: "generated" by the model alone, or "forced" along a given answer.
        labels: pixel count of each label that the answer names, background left out.
        confidence: float32 (targets, rows, columns), probability of each label cell to be inside; None where
            the system gives none.
        stats: what writing the answer cost, in numbers: "tokens", "passes" through the model, and whatever
            else the system counts.
        boxes: for each target the box (x0, y0, x1, y1) that the answer itself writes, in pixels, which need
            not be whole; of several boxes the one around them, None for a target without any. None for
            systems that write no boxes.
    """

    masks: BoolArray
    absent: BoolArray
    text: str
    faults: tuple[str, ...] = ()
    mode: Literal["generated", "forced"] = "generated"
    labels: dict[str, int] = field(default_factory=dict)
    confidence: FloatArray | None = None
    stats: dict[str, int] = field(default_factory=dict)
    boxes: tuple[Edges | None, ...] | None = None

    def __post_init__(self) -> None:
        """Check shapes and dtypes."""
        if self.boxes is not None and len(self.boxes) != len(self.masks):
            raise ValueError(f"{len(self.boxes)} boxes for {len(self.masks)} targets; needed is one for each")
        if self.masks.ndim != 4 or self.masks.dtype != np.bool_:
            given = f"{self.masks.dtype} {self.masks.shape}"
            raise ValueError(f"masks must be bool (targets, frames, H, W), got {given}")
        if self.absent.shape != (self.masks.shape[0],):
            raise ValueError(f"absent has shape {self.absent.shape}, needed ({self.masks.shape[0]},)")
        soft = self.confidence
        if soft is not None and (soft.ndim != 3 or len(soft) != len(self.masks) or soft.dtype != np.float32):
            raise ValueError(
                f"confidence must be float32 (targets, rows, columns), got {soft.dtype} {soft.shape}"
            )


class Segmenter(Protocol):
    """A system that answers queries. Takes a batch, because batching belongs to the system."""

    def segment(self, queries: Sequence[Query]) -> list[Prediction]:
        """One prediction for each query, in order."""
        ...


@dataclass(frozen=True)
class Refined:
    """Masks after refinement.

    Attributes:
        masks: bool (n, H, W).
        notes: for each mask "" where it was refined, else why the coarse one was kept.
    """

    masks: BoolArray
    notes: tuple[str, ...]


class Refiner(Protocol):
    """A system that improves the coarse masks of one image."""

    def refine(self, image: Image.Image, masks: BoolArray, *, soft: FloatArray | None = None) -> Refined:
        """Refined masks of coarse masks.

        Args:
            image: the image, any mode.
            masks: bool (n, H, W), coarse masks at the size of the image.
            soft: float32 (n, rows, columns), probability of each cell or pixel of the image to be inside;
                a softer prompt than the mask itself. None: there is none.
        """
        ...
