"""What is known about a dataset before it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llava.data.problems import Problems
from llava.types import Sample

Reader = Callable[[Path, str, Problems], Iterator[Sample]]
"""(root, split, problems) -> samples of a split in the order of its files."""

FAMILIES = ("referring", "semantic", "parts", "reasoning")
"""Kinds of task: one expression at a time; classes of an image; parts of objects; whole questions."""


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset: how to read it, what it needs, where that comes from.

    Attributes:
        name: as specs and commands call it.
        family: one of `FAMILIES`; decides which questions are asked about it.
        splits: names of its splits.
        read: reads one split.
        needs: files and folders under the root, each a path or several alternatives parted by " or ".
        page: where annotations come from.
        images_page: where images come from, "" when they come along.
        classes: names that a question may use as absent distractors; empty where there is no closed list.
        coco_images: true when the images are COCO's, which RefCOCO's test splits share.
    """

    name: str
    family: str
    splits: tuple[str, ...]
    read: Reader
    needs: tuple[str, ...]
    page: str
    images_page: str = ""
    classes: tuple[str, ...] = ()
    coco_images: bool = False
