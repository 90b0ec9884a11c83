"""Readers for the referring-expression files of the community: REFER and gRefCOCO layouts.

A dataset folder holds `refs(<split_by>).p` or `.json` (gRefCOCO: `grefs(<split_by>)`) and `instances.json`;
the images lie in a folder that several datasets share.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from llava.data.pickles import load_plain_pickle
from llava.data.readers.refer_sources import REFER_DATASETS, ReferSource
from llava.data.rle import empty_rle, merge_rles, rle_area, rle_box_xyxy, union_rle
from llava.types import Rle, Sample

__all__ = ["REFER_DATASETS", "ReferSource", "ReferSpec", "parse_spec", "read_refer"]

HELP = 'see "Datasets" in README, or run python scripts/check_data.py'
DOWNLOAD_AGAIN = "it is cut or damaged, download it again"
DOWNLOAD_BOTH = "the two files do not belong together or one is damaged, download both again"

_LOG = logging.getLogger(__name__)

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


def read_refer(root: Path, spec: str, *, check_images: bool = True) -> list[Sample]:
    """All expressions of one split, in the order of the file, with true masks.

    Images are taken from `instances.json`, never from a ref's own `file_name` (which carries a number that
    no image file has). A mask is the union of all parts of all targets, crowd regions included. The
    expression is the `sent` of a sentence as it stands. Refs without sentences and sentences without words
    are left out, polygons that enclose nothing are dropped; each is counted in one log line.

    Args:
        root: folder that holds the dataset folders and `images`.
        spec: "refcoco|unc|val" or "refcoco|val", see `parse_spec`.
        check_images: look whether every image of the split is there and not empty.

    Returns:
        Samples with ids "dataset|split_by|split|ref_id|sent_id"; sentences of one ref share one mask object.

    Raises:
        FileNotFoundError: a file or an image is missing; the message names it and says what to do.
        ValueError: unknown dataset or split, or a damaged file.
    """
    parsed = parse_spec(spec)
    root = Path(root)
    source = REFER_DATASETS[parsed.dataset]
    refs_path = find_refs(root, parsed.dataset, parsed.split_by)
    refs = _refs_of_split(_load(refs_path), refs_path, parsed.split)
    index = _Instances.load(find_instances(root, source))
    folder = find_image_folder(root, source, index.file_names(refs, refs_path) if check_images else ())
    reader = _Reader(parsed, index, folder, refs_path)
    progress = tqdm(refs, desc=f"masks of {parsed}", unit="ref", disable=len(refs) < 2000)
    samples = [sample for ref in progress for sample in reader.samples(ref)]
    reader.report()
    repeated = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{refs_path}: {len(repeated)} ids stand twice, the first is {repeated[0]}; {DOWNLOAD_AGAIN}"
        )
    return samples


def find_refs(root: Path, dataset: str, split_by: str) -> Path:
    """The refs file of a dataset: the pickle or the JSON form.

    Raises:
        FileNotFoundError: neither is there.
    """
    source = REFER_DATASETS[dataset]
    names = [f"{source.stem}({split_by}){suffix}" for suffix in source.suffixes]
    folder = Path(root) / dataset
    for name in names:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path.name for path in folder.glob(f"{source.stem}(*")) if folder.is_dir() else []
    found = (
        f"; the folder has {', '.join(others)}"
        if others
        else ""
        if folder.is_dir()
        else "; the folder is missing"
    )
    raise FileNotFoundError(f"{folder / names[0]} not found (nor {names[1]}){found} - {HELP}")


def find_instances(root: Path, source: ReferSource) -> Path:
    """The `instances.json` of a dataset.

    Raises:
        FileNotFoundError: it is missing.
    """
    candidates = [Path(root) / folder / "instances.json" for folder in source.instances]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"{candidates[0]} not found - {HELP}")


def find_image_folder(root: Path, source: ReferSource, names: Sequence[str]) -> Path:
    """The candidate folder that holds most of the named images.

    Raises:
        FileNotFoundError: no candidate folder exists, or images are missing or empty in the best one.
    """
    candidates = [Path(root) / folder for folder in source.image_folders]
    existing = [folder for folder in candidates if folder.is_dir()]
    if not existing:
        places = " or ".join(str(folder) for folder in candidates)
        raise FileNotFoundError(f"no image folder {places} - {HELP}")
    best, missing = existing[0], list(names)
    for folder in existing:
        absent = [name for name in names if not _is_filled_file(folder / name)]
        if len(absent) < len(missing):
            best, missing = folder, absent
    if missing:
        raise FileNotFoundError(
            f"{best}: {len(missing)} of {len(names)} images are missing or empty, "
            f"the first is {missing[0]} - unpack the images again ({source.images_page})"
        )
    return best


def _is_filled_file(path: Path) -> bool:
    """True for a file with content."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _load(path: Path) -> Any:  # noqa: ANN401 - raw file content
    """Content of a pickle or JSON file.

    Raises:
        ValueError: it cannot be read as what its name says.
    """
    if path.suffix == ".p":
        return load_plain_pickle(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {DOWNLOAD_AGAIN}") from error


def _refs_of_split(refs: object, path: Path, split: str) -> list[dict[str, Any]]:
    """Refs that belong to a split.

    RefCLEF marks refs of several test parts as "testAB": they belong to testA and to testB, and all of them
    to "test", as in the REFER interface.

    Raises:
        ValueError: the file holds no list of refs, or none of this split.
    """
    if not isinstance(refs, list):
        raise ValueError(f"{path} holds a {type(refs).__name__}, needed a list of refs; {DOWNLOAD_AGAIN}")
    for number, ref in enumerate(refs):
        _require(ref, _REF_KEYS, f"{path}: ref number {number}")
        for sentence in ref["sentences"]:
            _require(sentence, _SENTENCE_KEYS, f"{path}: a sentence of ref number {number}")
    chosen = [ref for ref in refs if _belongs(str(ref["split"]), split)]
    if not chosen:
        counts = Counter(str(ref["split"]) for ref in refs)
        held = ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"
        raise ValueError(f"{path} has no refs of split {split!r}; it holds {held}")
    return chosen


_REF_KEYS = frozenset({"ref_id", "ann_id", "image_id", "split", "sentences"})
_SENTENCE_KEYS = frozenset({"sent", "sent_id"})
_IMAGE_KEYS = frozenset({"id", "file_name", "height", "width"})
_ANNOTATION_KEYS = frozenset({"id", "image_id", "segmentation"})


def _require(record: object, keys: frozenset[str], place: str) -> dict[str, Any]:
    """The record itself, refused if it is no object or lacks keys."""
    fields = record if isinstance(record, dict) else {}
    if not keys <= set(fields):
        raise ValueError(f"{place} lacks {', '.join(sorted(keys - set(fields)))}; {DOWNLOAD_AGAIN}")
    return fields


def _belongs(ref_split: str, split: str) -> bool:
    """True where a ref's own split name includes the asked split."""
    if split == "test":
        return ref_split.startswith("test")
    if split in ("testA", "testB", "testC"):
        return ref_split.startswith("test") and split[-1] in ref_split[4:]
    return ref_split == split


@dataclass(frozen=True)
class _Instances:
    """Images and annotations of one `instances.json` by id."""

    path: Path
    images: Mapping[int, dict[str, Any]]
    annotations: Mapping[int, dict[str, Any]]

    @classmethod
    def load(cls, path: Path) -> _Instances:
        """Index of the file."""
        content = _load(path)
        if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
            raise ValueError(f"{path} has no images and annotations; {DOWNLOAD_AGAIN}")
        return cls(
            path,
            images=_by_id(content["images"], _IMAGE_KEYS, f"{path}: image"),
            annotations=_by_id(content["annotations"], _ANNOTATION_KEYS, f"{path}: annotation"),
        )

    def image(self, ref: Mapping[str, Any], refs_path: Path) -> dict[str, Any]:
        """Record of a ref's image."""
        if ref["image_id"] not in self.images:
            raise ValueError(
                f"{self.path} has no image {ref['image_id']}, "
                f"which ref {ref['ref_id']} of {refs_path.name} needs; {DOWNLOAD_BOTH}"
            )
        return self.images[ref["image_id"]]

    def annotation(self, ann_id: int, ref: Mapping[str, Any], refs_path: Path) -> dict[str, Any]:
        """Record of one target of a ref."""
        annotation = self.annotations.get(ann_id)
        if annotation is None or annotation["image_id"] != ref["image_id"]:
            state = "has no annotation" if annotation is None else "puts in another image the annotation"
            raise ValueError(
                f"{self.path} {state} {ann_id}, "
                f"which ref {ref['ref_id']} of {refs_path.name} needs; {DOWNLOAD_BOTH}"
            )
        return annotation

    def file_names(self, refs: Sequence[Mapping[str, Any]], refs_path: Path) -> list[str]:
        """Image files of some refs, each once, in order."""
        return list(dict.fromkeys(self.image(ref, refs_path)["file_name"] for ref in refs))


def _by_id(records: Sequence[object], keys: frozenset[str], place: str) -> dict[int, dict[str, Any]]:
    """Records by their id; two different records with one id are an error."""
    index: dict[int, dict[str, Any]] = {}
    for number, record in enumerate(records):
        fields = _require(record, keys, f"{place} number {number}")
        if index.setdefault(fields["id"], fields) != fields:
            raise ValueError(f"{place} id {fields['id']} stands twice, not the same; {DOWNLOAD_AGAIN}")
    return index


@dataclass
class _Reader:
    """Turns refs into samples and counts what it leaves out."""

    spec: ReferSpec
    index: _Instances
    folder: Path
    refs_path: Path
    left_out: Counter[str] = field(default_factory=Counter)
    without_pixel: int = 0

    def samples(self, ref: Mapping[str, Any]) -> list[Sample]:
        """One sample for each sentence of a ref."""
        image = self.index.image(ref, self.refs_path)
        size_hw = (int(image["height"]), int(image["width"]))
        sentences = [sentence for sentence in ref["sentences"] if str(sentence["sent"]).strip()]
        self.left_out["sentences without words"] += len(ref["sentences"]) - len(sentences)
        self.left_out["refs without sentences"] += not ref["sentences"]
        if not sentences:
            return []
        ann_ids = self._targets(ref)
        mask, boxes = self._mask(ann_ids, ref, size_hw)
        self.without_pixel += bool(ann_ids) and not rle_area(mask)
        return [
            Sample(
                id=f"{self.spec}|{ref['ref_id']}|{sentence['sent_id']}",
                image_path=self.folder / image["file_name"],
                image_id=int(ref["image_id"]),
                size_hw=size_hw,
                expression=str(sentence["sent"]),
                mask=mask,
                no_target=not ann_ids,
                boxes_xyxy=boxes,
                group=str(sentence.get("group", ref.get("group", ""))),
            )
            for sentence in sentences
        ]

    def _targets(self, ref: Mapping[str, Any]) -> list[int]:
        """Annotation ids of a ref's targets; none for a no-target ref."""
        given = ref["ann_id"] if isinstance(ref["ann_id"], (list, tuple)) else [ref["ann_id"]]
        ann_ids = [int(ann_id) for ann_id in given if ann_id != -1]
        if bool(ref.get("no_target", not ann_ids)) == bool(ann_ids):
            raise ValueError(
                f"{self.refs_path}: ref {ref['ref_id']} says no_target {ref.get('no_target')} "
                f"and names the annotations {list(given)}; correct the file or {DOWNLOAD_AGAIN}"
            )
        return ann_ids

    def _mask(
        self, ann_ids: Sequence[int], ref: Mapping[str, Any], size_hw: tuple[int, int]
    ) -> tuple[Rle, tuple[Box, ...]]:
        """Union of the targets, and the annotated box of each."""
        masks, boxes = [], []
        for ann_id in ann_ids:
            annotation = self.index.annotation(ann_id, ref, self.refs_path)
            try:
                mask, dropped = union_rle(annotation.get("segmentation"), size_hw)
            except ValueError as error:
                raise ValueError(
                    f"{self.index.path}: annotation {ann_id}: {error}; {DOWNLOAD_AGAIN}"
                ) from error
            self.left_out["polygons that enclose nothing"] += dropped
            masks.append(mask)
            boxes.append(_box_xyxy(annotation.get("bbox"), mask))
        return (merge_rles(masks, size_hw) if masks else empty_rle(size_hw)), tuple(boxes)

    def report(self) -> None:
        """Log what was left out and what looks wrong, if anything does."""
        counts = [f"{count} {kind}" for kind, count in self.left_out.items() if count]
        if counts:
            _LOG.warning("%s: left out %s", self.spec, ", ".join(counts))
        if self.without_pixel:
            _LOG.warning("%s: %d refs have a target without a single pixel", self.spec, self.without_pixel)


def _box_xyxy(bbox_xywh: Sequence[float] | None, mask: Rle) -> Box:
    """Annotated box as corners, or the tight box of the mask where none is annotated."""
    if not bbox_xywh:
        return rle_box_xyxy(mask)
    x, y, width, height = (float(value) for value in bbox_xywh)
    return x, y, x + width, y + height
