"""One image with everything that a dataset says about it: the stored form that records are drawn from.

The mask stays an RLE and the words stay words; grid, codec, crop, flip and wording come with the draw.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava.data.rle import merge_rles
from llava.types import Rle, Sample

if TYPE_CHECKING:
    from llava.data.readers.info import DatasetInfo

CONVERSATION = "conversation"
"""Family of records that are taken as they are, beside the families of `llava.data.readers.info`."""


@dataclass(frozen=True)
class Target:
    """One thing that can be asked about an image.

    Attributes:
        id: unique in its image, stable over runs.
        names: the sentences of a referring expression, or the class name and its synonyms; never empty.
        mask: COCO RLE of the image's size, without a pixel where the annotation marks none; None when the
            target is not in the image.
        part_of: object that the part belongs to, "" for whole objects.
        question: whole question in the dataset's words, "" where a template asks.
        answer: what the dataset says about the target in words, "" where it says nothing.
        group: kind of the expression where the dataset knows it, else "".
        instances: mask of each object, where `mask` joins several that the dataset tells apart; else empty.
    """

    id: str
    names: tuple[str, ...]
    mask: Rle | None
    part_of: str = ""
    question: str = ""
    answer: str = ""
    group: str = ""
    instances: tuple[Rle, ...] = ()


@dataclass(frozen=True)
class AnnotatedImage:
    """One image with its targets, or one conversation as it is.

    Attributes:
        id: "dataset|image path", unique in its dataset.
        dataset: name of the dataset.
        family: one of `llava.data.readers.info.FAMILIES`, or "conversation".
        image: posix path under the image folder, "" for a conversation without an image.
        size_hw: height and width of the image in pixels; (0, 0) where a conversation does not know it.
        targets: what can be asked, in the order of the dataset.
        ignore: pixels that belong to no decision, COCO RLE of `size_hw`; None where there are none.
        conversations: (question, answer) rounds of a record that is taken as it is.
    """

    id: str
    dataset: str
    family: str
    image: str
    size_hw: tuple[int, int]
    targets: tuple[Target, ...]
    ignore: Rle | None = None
    conversations: tuple[tuple[str, str], ...] = ()


def anchors(image: AnnotatedImage) -> tuple[int, ...]:
    """Which targets start a record of their own, as indices into `targets`.

    Every expression of a referring set, one target of every question, one of every object with its parts.
    A semantic image and a conversation start one record, with index 0.
    """
    if image.family not in ("referring", "reasoning", "parts"):
        return (0,)
    first: dict[str, int] = {}
    for index, target in enumerate(image.targets):
        first.setdefault(unit_name(target, image.family), index)
    return tuple(first.values())


def unit_name(target: Target, family: str) -> str:
    """What targets have in common that are asked for together: their object, their question, or nothing."""
    if family == "parts":
        return object_name(target)
    return f"question {target.question}" if target.question else f"target {target.id}"


def object_name(target: Target) -> str:
    """Object that a part belongs to, or the name of the whole object itself."""
    return target.part_of or target.names[0]


def part_phrase(part: str, name: str) -> str:
    """Part with its object, as class lists of part sets have it: "handle of the mug"."""
    return f"{part} of the {name}"


def collect(samples: Iterable[Sample], info: DatasetInfo, image_folder: Path) -> Iterator[AnnotatedImage]:
    """Samples by image, in the order in which the images first come.

    Samples of one ref become one target with several names: their ids agree up to the last bar, their masks
    are equal and none brings a question of its own. In semantic and part sets every sample is a target.

    Args:
        samples: samples of one dataset; all are held until the last is read, as datasets mix their images.
        info: the dataset.
        image_folder: folder that the stored image paths start from.

    Raises:
        ValueError: a sample id stands twice, an image lies outside the folder, or the samples of an image
            disagree about its size.
    """
    by_image: dict[Path, list[Sample]] = {}
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise ValueError(f"sample id {sample.id} stands twice; give each sample once")
        seen.add(sample.id)
        by_image.setdefault(sample.image_path, []).append(sample)
    for path, group in by_image.items():
        yield _annotated(path, group, info, image_folder)


def relative_image(path: Path, folder: Path) -> str:
    """Image path under the image folder, with forward slashes.

    Links stay as they are: a folder that is one keeps its name in the path.

    Raises:
        ValueError: the image lies elsewhere.
    """
    try:
        return Path(os.path.abspath(path)).relative_to(os.path.abspath(folder)).as_posix()
    except ValueError:
        raise ValueError(
            f"image {path} does not lie under the image folder {folder}; give a folder above it"
        ) from None


def _annotated(path: Path, samples: Sequence[Sample], info: DatasetInfo, folder: Path) -> AnnotatedImage:
    """One image with its samples as targets."""
    first = samples[0]
    for sample in samples:
        if sample.size_hw != first.size_hw:
            raise ValueError(
                f"{path}: sample {first.id} states the size {first.size_hw}, {sample.id} {sample.size_hw} "
                "(height, width); correct the annotation"
            )
    ignored = {sample.ignore["counts"]: sample.ignore for sample in samples if sample.ignore}
    image = relative_image(path, folder)
    return AnnotatedImage(
        id=f"{info.name}|{image}",
        dataset=info.name,
        family=info.family,
        image=image,
        size_hw=first.size_hw,
        targets=tuple(_targets(samples, info.family)),
        ignore=merge_rles(list(ignored.values()), first.size_hw) if ignored else None,
    )


def _targets(samples: Sequence[Sample], family: str) -> Iterator[Target]:
    """Targets of one image in the order of their first sample."""
    refs: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        own = family in ("semantic", "parts") or bool(sample.question)
        ref_id = sample.id if own else sample.id.rpartition("|")[0]
        refs.setdefault((ref_id, "" if sample.no_target else str(sample.mask["counts"])), []).append(sample)
    used: set[str] = set()
    for (ref_id, _), ref in refs.items():
        target_id = ref[0].id if ref_id in used else ref_id
        used.add(target_id)
        yield _target(target_id, ref)


def _target(target_id: str, ref: Sequence[Sample]) -> Target:
    """One target with the words of all its samples."""
    first = ref[0]
    words = tuple(sample.expression for sample in ref)
    return Target(
        id=target_id,
        names=words + tuple(dict.fromkeys(name for name in first.synonyms if name not in words)),
        mask=None if first.no_target else first.mask,
        part_of=first.part_of,
        question=first.question,
        answer=first.answer,
        group=first.group,
        instances=first.instances,
    )
