"""Readers for the referring-expression files of the community: REFER and gRefCOCO layouts.

A dataset folder holds `refs(<split_by>).p` or `.json` (gRefCOCO: `grefs(<split_by>)`) and `instances.json`;
the images lie in a folder that several datasets share. RefCOCO, RefCOCO+, RefCOCOg and RefCLEF come from the
REFER page, RRSIS-D (RMSIN, CVPR 2024; masks as a list of one RLE) and Ref-ZOM (DMMI, ICCV 2023; a ref says
"zero", "one" or "many" in `source` and lists its annotations) keep the same files.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from llava.data.problems import Problems
from llava.data.readers.info import DatasetInfo
from llava.data.readers.lookup import DOWNLOAD_AGAIN, HELP, Pictures
from llava.data.readers.refer_files import (
    Instances,
    WrongRefError,
    find_image_folder,
    find_instances,
    find_refs,
    load_refs,
    refs_candidates,
    refs_of_split,
)
from llava.data.readers.refer_sources import REFER_DATASETS, ReferSource
from llava.data.readers.shapes import SHORT_POLYGONS, checked_union
from llava.data.rle import merge_rles, rle_area, rle_box_xyxy, union_rle
from llava.types import Rle, Sample

__all__ = [
    "HELP",
    "INFOS",
    "REFER_DATASETS",
    "ReferSource",
    "ReferSpec",
    "find_image_folder",
    "find_instances",
    "find_refs",
    "parse_spec",
    "read_refer",
]

_LOG = logging.getLogger(__name__)
_PROGRESS_FROM = 2000

Box = tuple[float, float, float, float]


class ReferSpec(NamedTuple):
    """One split of one dataset, as "dataset|split_by|split"."""

    dataset: str
    split_by: str
    split: str

    def __str__(self) -> str:
        return "|".join(self)


def parse_spec(spec: str) -> ReferSpec:
    """Checked parts of a spec.

    Args:
        spec: "refcoco|unc|val", or "refcoco|val" for the dataset's usual split_by.

    Raises:
        ValueError: unknown dataset, split_by or split; the message lists the known ones.

    Example:
        >>> str(parse_spec("refcocog|val"))
        'refcocog|umd|val'
    """
    parts = [part.strip() for part in spec.split("|")]
    if len(parts) not in (2, 3):
        raise ValueError(
            f"spec {spec!r}: give dataset|split or dataset|split_by|split, as in 'refcoco|unc|val'"
        )
    dataset = parts[0]
    if dataset not in REFER_DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; known: {', '.join(REFER_DATASETS)}")
    source = REFER_DATASETS[dataset]
    split_by = parts[1] if len(parts) == 3 else source.split_by
    if split_by not in source.splits:
        raise ValueError(f"unknown split_by {split_by!r} for {dataset}; known: {', '.join(source.splits)}")
    split, known = parts[-1], source.splits[split_by]
    if split not in known:
        raise ValueError(f"unknown split {split!r} for {dataset}|{split_by}; known: {', '.join(known)}")
    return ReferSpec(dataset, split_by, split)


def read_refer(
    root: Path, spec: str, *, check_images: bool = True, problems: Problems | None = None
) -> list[Sample]:
    """All expressions of one split, in the order of the file, with true masks.

    Images are taken from `instances.json`, never from a ref's own `file_name` (which carries a number that
    no image file has). A mask is the union of all parts of all targets, crowd regions included. The
    expression is the `sent` of a sentence as it stands. Refs without sentences and sentences without words
    are left out, polygons that enclose nothing are dropped; each is counted.

    Args:
        root: folder that holds the dataset folders and `images`.
        spec: "refcoco|unc|val" or "refcoco|val", see `parse_spec`.
        check_images: look whether every image of the split is there and not empty.
        problems: decides what becomes of wrong refs, and has image sizes and polygons checked as well. None:
            the first wrong ref is an error, polygons that are none are dropped, one log line tells counts.

    Returns:
        Samples with ids "dataset|split_by|split|ref_id|sent_id"; sentences of one ref share one mask object.

    Raises:
        FileNotFoundError: a file or an image is missing; the message names it and says what to do.
        ValueError: unknown dataset or split, a damaged file, or a wrong ref that `problems` does not admit.
    """
    parsed = parse_spec(spec)
    root = Path(root)
    source = REFER_DATASETS[parsed.dataset]
    refs_path = find_refs(root, parsed.dataset, parsed.split_by)
    refs = refs_of_split(load_refs(refs_path), refs_path, parsed.split)
    index = Instances.load(find_instances(root, source))
    if problems is None:
        find_image_folder(root, source, index.file_names(refs, refs_path) if check_images else ())
    pictures = Pictures(root, source.image_folders)
    reader = _Reader(parsed, index, pictures, refs_path, problems, check_images)
    progress = tqdm(refs, desc=f"masks of {parsed}", unit="ref", disable=len(refs) < _PROGRESS_FROM)
    samples = [sample for ref in progress for sample in reader.usable(ref)]
    reader.report()
    return samples


@dataclass
class _Reader:
    """Turns refs into samples and counts what it leaves out."""

    spec: ReferSpec
    index: Instances
    pictures: Pictures
    refs_path: Path
    problems: Problems | None
    check_images: bool
    left_out: Counter[str] = field(default_factory=Counter)
    without_pixel: int = 0
    seen: set[str] = field(default_factory=set)

    def usable(self, ref: Mapping[str, Any]) -> list[Sample]:
        """Samples of a ref, none where it is wrong and wrong refs may be left out."""
        try:
            return self._samples(ref)
        except WrongRefError as error:
            if self.problems is None:
                raise
            self.problems.report(error.kind, self._place(ref), str(error))
            return []

    def _place(self, ref: Mapping[str, Any]) -> str:
        """File and record of a ref."""
        return f"{self.refs_path}: ref {ref['ref_id']}"

    def _samples(self, ref: Mapping[str, Any]) -> list[Sample]:
        """One sample for each sentence of a ref."""
        image = self.index.image(ref, self.refs_path)
        size_hw = (int(image["height"]), int(image["width"]))
        sentences = [sentence for sentence in ref["sentences"] if str(sentence["sent"]).strip()]
        self._leave_out("sentences without words", len(ref["sentences"]) - len(sentences), ref)
        self._leave_out("refs without sentences", not ref["sentences"], ref)
        path = self._picture(image["file_name"], size_hw, ref) if sentences else None
        if path is None:
            return []
        ann_ids = self._targets(ref)
        masked = self._mask(ann_ids, ref, size_hw)
        if masked is None:
            return []
        self.without_pixel += bool(ann_ids) and not rle_area(masked[0])
        category = self._category(ann_ids, ref)
        return [
            Sample(
                id=self._new_id(ref, sentence),
                image_path=path,
                image_id=int(ref["image_id"]),
                size_hw=size_hw,
                expression=str(sentence["sent"]),
                mask=masked[0],
                no_target=not ann_ids,
                boxes_xyxy=masked[1],
                instances=masked[2],
                group=str(sentence.get("group", ref.get("group", ref.get("source", "")))),
                category=category,
            )
            for sentence in sentences
        ]

    def _picture(self, name: str, size_hw: tuple[int, int], ref: Mapping[str, Any]) -> Path | None:
        """The image file of a ref; None after a report."""
        if self.problems is None or not self.check_images:
            return self.pictures.path(name)
        found = self.pictures.check(name, size_hw, problems=self.problems, place=self._place(ref))
        return found[0] if found else None

    def _new_id(self, ref: Mapping[str, Any], sentence: Mapping[str, Any]) -> str:
        """Id of a sentence, refused if it was given before."""
        sample_id = f"{self.spec}|{ref['ref_id']}|{sentence['sent_id']}"
        if sample_id in self.seen:
            raise WrongRefError(
                "id that stands twice", f"{self.refs_path}: id {sample_id} stands twice; {DOWNLOAD_AGAIN}"
            )
        self.seen.add(sample_id)
        return sample_id

    def _targets(self, ref: Mapping[str, Any]) -> list[int]:
        """Annotation ids of a ref's targets; none for a no-target ref.

        Ref-ZOM says "zero" in `source`, gRefCOCO true in `no_target`, with -1 as annotation.
        """
        given = ref["ann_id"] if isinstance(ref["ann_id"], (list, tuple)) else [ref["ann_id"]]
        zero = ref.get("source") == "zero"
        if not all(type(ann_id) is int for ann_id in given):
            raise WrongRefError(
                "annotation that is no number",
                f"{self.refs_path}: ref {ref['ref_id']} names the annotations {given}, needed numbers",
            )
        ann_ids = [] if zero else [ann_id for ann_id in given if ann_id != -1]
        absent = ref.get("no_target", zero if "source" in ref else not ann_ids)
        if bool(absent) == bool(ann_ids):
            key = "no_target" if "no_target" in ref else "source"
            raise WrongRefError(
                "no target or a target",
                f"{self.refs_path}: ref {ref['ref_id']} says {key} {ref.get(key)} "
                f"and names the annotations {list(given)}; correct the file or {DOWNLOAD_AGAIN}",
            )
        return ann_ids

    def _category(self, ann_ids: Sequence[int], ref: Mapping[str, Any]) -> str:
        """Class names of the targets, each once, in order."""
        targets = [self.index.annotation(ann_id, ref, self.refs_path) for ann_id in ann_ids]
        numbers = [target.get("category_id", 0) for target in targets]
        names = [self.index.categories.get(number, "") for number in numbers if isinstance(number, int)]
        return ", ".join(dict.fromkeys(name for name in names if name))

    def _mask(
        self, ann_ids: Sequence[int], ref: Mapping[str, Any], size_hw: tuple[int, int]
    ) -> tuple[Rle, tuple[Box, ...], tuple[Rle, ...]] | None:
        """Union of the targets, the annotated box of each, and their masks where there are several.

        None after a report.
        """
        masks, boxes = [], []
        for ann_id in ann_ids:
            annotation = self.index.annotation(ann_id, ref, self.refs_path)
            mask = self._annotated_mask(annotation, ref, size_hw)
            if mask is None:
                return None
            masks.append(mask)
            box = _box_xyxy(annotation.get("bbox"), mask)
            if box is None:
                raise WrongRefError(
                    "box that is none",
                    f"{self.index.path}: annotation {ann_id} has the bbox {annotation['bbox']!r}, needed "
                    "[x, y, width, height] in pixels, or none",
                )
            boxes.append(box)
        return merge_rles(masks, size_hw), tuple(boxes), tuple(masks) if len(masks) > 1 else ()

    def _annotated_mask(
        self, annotation: Mapping[str, Any], ref: Mapping[str, Any], size_hw: tuple[int, int]
    ) -> Rle | None:
        """Mask of one annotation; None after a report."""
        place = f"{self.index.path}: annotation {annotation['id']}"
        if self.problems is not None:
            place += f" (ref {ref['ref_id']} of {self.refs_path.name})"
            return checked_union(annotation["segmentation"], size_hw, problems=self.problems, place=place)
        try:
            mask, dropped = union_rle(annotation["segmentation"], size_hw)
        except ValueError as error:
            raise ValueError(f"{place}: {error}; {DOWNLOAD_AGAIN}") from error
        self._leave_out(SHORT_POLYGONS, dropped, ref)
        return mask

    def _leave_out(self, kind: str, count: int, ref: Mapping[str, Any]) -> None:
        """Count what a documented rule leaves out."""
        self.left_out[kind] += count
        if self.problems is not None:
            for _ in range(count):
                self.problems.note(kind, self._place(ref))

    def report(self) -> None:
        """Log what was left out, unless `problems` tells it, and what looks wrong."""
        counts = [f"{count} {kind}" for kind, count in self.left_out.items() if count]
        if counts and self.problems is None:
            _LOG.warning("%s: left out %s", self.spec, ", ".join(counts))
        if self.without_pixel:
            _LOG.warning("%s: %d refs have a target without a single pixel", self.spec, self.without_pixel)


def _box_xyxy(bbox_xywh: Any, mask: Rle) -> Box | None:  # noqa: ANN401 - raw JSON
    """Annotated box as corners, or the tight box of the mask where none is annotated; None for no box."""
    if bbox_xywh is None or bbox_xywh == []:
        return rle_box_xyxy(mask)
    if not isinstance(bbox_xywh, (list, tuple)) or len(bbox_xywh) != 4:
        return None
    if not all(type(value) in (int, float) and math.isfinite(value) for value in bbox_xywh):
        return None
    x, y, width, height = map(float, bbox_xywh)
    return x, y, x + width, y + height


def _read(root: Path, split: str, problems: Problems, *, dataset: str) -> Iterator[Sample]:
    """Samples of one split of a dataset; `split` may carry a split_by, as "google|val"."""
    yield from read_refer(root, f"{dataset}|{split}", problems=problems)


def _info(name: str, source: ReferSource) -> DatasetInfo:
    """Table entry of one dataset."""
    return DatasetInfo(
        name=name,
        family="referring",
        splits=source.splits[source.split_by],
        read=partial(_read, dataset=name),
        needs=(
            " or ".join(refs_candidates(name, source.split_by)),
            " or ".join(f"{folder}/instances.json" for folder in source.instances),
            " or ".join(source.image_folders),
        ),
        page=source.page,
        images_page=source.images_page,
        coco_images=source.coco_images,
    )


INFOS: tuple[DatasetInfo, ...] = tuple(_info(name, source) for name, source in REFER_DATASETS.items())
"""RefCOCO, its relatives, and the generated shapes."""
