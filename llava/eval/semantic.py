"""Maps of classes in the evaluation: one question per image, and what its answer draws of each label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from llava.codec import grid_to_mask, read_answer
from llava.codec.boxwise import Block, read_boxes
from llava.constants import BACKGROUND
from llava.data.problems import Problems
from llava.data.questions import EVAL_CLASSES, NAMES_BAR
from llava.data.readers import DATASETS, instance_maps
from llava.data.readers.classes import ClassName, class_names
from llava.data.readers.semantic import SOURCES
from llava.data.rle import encode_mask, merge_rles
from llava.data.wording import CLASS_NAME, fill_places
from llava.settings import BRICKS
from llava.types import BoolArray, Rle, Sample

WHOLE_MAP = "map of classes"
"""Expression of every map, which a system reads as the target: it must not tell what the image shows."""

MASK_OPTIONS = ("codec", "upsample", "brick_order", "brick_tail")
"""Options of a run that decide how `label_masks` reads an answer."""


@dataclass(frozen=True)
class ClassSet:
    """Classes of one data set of label maps.

    Attributes:
        class_list: what `llava.data.readers.classes.class_names` knows them by.
        background: pixels without a class are decided to be none of the classes; False: they are undecided.
    """

    class_list: str
    background: bool

    @property
    def names(self) -> tuple[ClassName, ...]:
        """All classes, in the order of their numbers."""
        return tuple(class_names(self.class_list).values())


CLASS_SETS: Mapping[str, ClassSet] = {
    **{source.name: ClassSet(source.class_list, bool(source.background)) for source in SOURCES},
    "coco_panoptic": ClassSet("coco_panoptic", background=False),
    instance_maps.NAME: ClassSet("refshapes", background=True),
}
"""Data sets that can be asked for a map of classes, by name."""


def class_set(split: str) -> ClassSet:
    """Classes of the data set that a split or a spec names.

    Raises:
        ValueError: it has no maps of classes.
    """
    name = split.partition("|")[0].strip()
    if name not in CLASS_SETS:
        raise ValueError(f"{split!r}: {name} has no maps of classes; known: {', '.join(CLASS_SETS)}")
    return CLASS_SETS[name]


def class_question(classes: ClassSet) -> str:
    """The question for a map: the background, then all classes by their first names, as in Text4Seg.

    Example:
        >>> class_question(CLASS_SETS["refshapes"])[-54:]
        'others|circle|square|triangle|star|cross|heart|moon.'
    """
    names = NAMES_BAR.join((BACKGROUND, *(each.name for each in classes.names)))
    return fill_places(EVAL_CLASSES, {CLASS_NAME: names})


def read_maps(root: Path, spec: str) -> list[Sample]:
    """One sample for each image of a split, with the masks of all its classes.

    An image without a single class is left out: under no definition it has anything to score.

    Args:
        root: folder that holds the data sets.
        spec: "ade20k|val", "refshapes|unc|val", ….

    Raises:
        ValueError: the data set has no maps of classes, the split is unknown, or a file is wrong.
        FileNotFoundError: a file is missing.
    """
    classes = class_set(spec)
    name, _, split = (part.strip() for part in spec.partition("|"))
    if name == instance_maps.NAME:
        found = instance_maps.read_instance_maps(root, split)
    else:
        found = DATASETS[name].read(root, split, Problems())
    return list(_by_image(found, class_question(classes)))


def _by_image(samples: Iterator[Sample], question: str) -> Iterator[Sample]:
    for place, group in groupby(samples, key=lambda one: one.id.rpartition(".")[0]):
        parts = list(group)
        yield replace(
            parts[0],
            id=f"{place}|0",
            expression=WHOLE_MAP,
            mask=merge_rles([part.mask for part in parts], parts[0].size_hw),
            boxes_xyxy=(),
            synonyms=(),
            question=question,
            category=", ".join(part.expression for part in parts),
            classes=tuple((part.expression, part.mask) for part in parts),
        )


def label_masks(
    answer: str,
    size_hw: tuple[int, int],
    *,
    grid_hw: tuple[int, int],
    codec: str = "rrle",
    upsample: str = "bilinear",
    brick_order: str = "raster",
    brick_tail: bool = True,
) -> dict[str, BoolArray]:
    """Pixels of each label of an answer, background left out; no two overlap.

    A pixel goes to the label that has more than half of its weight, see `grid_to_mask`; where none has, as at
    corners of three labels, to the label of the nearest cell. Of several masks in an answer later ones lie
    on top.

    Args:
        answer: raw model text.
        size_hw: height and width of the image in pixels.
        grid_hw: rows and columns of the checkpoint's grid.
        codec: of the checkpoint.
        upsample: of the checkpoint.
        brick_order: of the checkpoint, with bricks.
        brick_tail: of the checkpoint, with bricks.

    Returns:
        bool (height, width) by label, in order of first use.

    Example:
        >>> masks = label_masks("<seg>sky *1| sea *1</seg>", (1, 4), grid_hw=(1, 2))
        >>> {label: mask.tolist() for label, mask in masks.items()}
        {'sky': [[True, True, False, False]], 'sea': [[False, False, True, True]]}
    """
    if codec == BRICKS:
        return _box_masks(
            read_boxes(answer, grid_hw, order=brick_order, tail=brick_tail).blocks, size_hw, upsample
        )
    cells: dict[str, BoolArray] = {BACKGROUND: np.ones(grid_hw, dtype=bool)}
    for block in read_answer(answer, grid_hw, codec=codec).blocks:
        for number, label in enumerate(block.labels[1:], start=1):
            here = block.grid == number
            cells = {other: old & ~here for other, old in cells.items()} | {
                label: cells[label] | here if label in cells else here
            }
    drawn = {label: grid_to_mask(grid, size_hw, method=upsample) for label, grid in cells.items()}
    open_ = ~np.any(list(drawn.values()), axis=0)
    for label, grid in cells.items():
        drawn[label] |= open_ & grid_to_mask(grid, size_hw, method="nearest")
    return {label: mask for label, mask in drawn.items() if label != BACKGROUND}


def _box_masks(blocks: Sequence[Block], size_hw: tuple[int, int], upsample: str) -> dict[str, BoolArray]:
    """`label_masks` of box-wise blocks; one that says "not there" names no label."""
    drawn: dict[str, BoolArray] = {}
    for block in blocks:
        if block.box is not None:
            here = block.mask(size_hw, method=upsample)
            own = drawn.get(block.label, np.zeros(size_hw, dtype=bool)) | here
            drawn = {label: mask & ~here for label, mask in drawn.items()} | {block.label: own}
    return {label: mask for label, mask in drawn.items() if label != BACKGROUND}


def layered(masks: Sequence[BoolArray]) -> list[BoolArray]:
    """Masks cut so that none overlap: painted from the largest to the smallest, equals in order.

    Refined masks may overlap. Text4Seg paints them in the order of the class numbers; by size, a small object
    never goes under a large one.

    Args:
        masks: bool (height, width) each.
    """
    cut = [mask.copy() for mask in masks]
    painted = sorted(range(len(masks)), key=lambda place: -int(masks[place].sum()))
    for number, place in enumerate(painted):
        for later in painted[number + 1 :]:
            cut[place] &= ~masks[later]
    return cut


def map_regions(
    sample: Sample, coarse: Mapping[str, BoolArray], refined: Sequence[BoolArray] | None
) -> dict[str, dict[str, Rle]]:
    """`Record.regions` of an answer to `class_question`; empty for a sample that is no map.

    Args:
        sample: what was asked.
        coarse: `label_masks` of the answer.
        refined: mask of each label after the refiner, None where there was none.
    """
    if not sample.classes:
        return {}
    regions = {
        "truth": dict(sample.classes),
        "coarse": {label: encode_mask(mask) for label, mask in coarse.items()},
    }
    if refined is not None:
        cut = zip(coarse, layered(refined), strict=True)
        regions["refined"] = {label: encode_mask(mask) for label, mask in cut}
    return regions
