"""Files of the REFER layout: refs, instances and image folders of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.data.pickles import load_plain_pickle
from llava.data.readers.lookup import DOWNLOAD_AGAIN, HELP, Pictures, is_filled_file, load_json, require
from llava.data.readers.refer_sources import REFER_DATASETS, ReferSource

DOWNLOAD_BOTH = "the two files do not belong together or one is damaged, download both again"


class WrongRefError(ValueError):
    """One ref cannot be used, though the files as a whole can.

    Attributes:
        kind: a few words to count by.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def refs_candidates(dataset: str, split_by: str) -> list[str]:
    """Where the refs file of a dataset may lie under the root, first choice first."""
    source = REFER_DATASETS[dataset]
    names = [f"{source.stem}({split_by}){suffix}" for suffix in source.suffixes]
    return [f"{folder}/{name}" for folder in source.folders or (dataset,) for name in (*names, *source.names)]


def find_refs(root: Path, dataset: str, split_by: str) -> Path:
    """The refs file of a dataset: the pickle or the JSON form.

    Raises:
        FileNotFoundError: neither is there.
    """
    candidates = [Path(root) / name for name in refs_candidates(dataset, split_by)]
    for path in candidates:
        if path.is_file():
            return path
    folder = candidates[0].parent
    others = sorted(path.name for path in folder.glob(f"{REFER_DATASETS[dataset].stem}(*"))
    state = f"; the folder has {', '.join(others)}" if others else ""
    if not folder.is_dir():
        state = "; the folder is missing"
    raise FileNotFoundError(f"{candidates[0]} not found (nor {candidates[1].name}){state} - {HELP}")


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
        FileNotFoundError: no candidate folder exists, or some images lie in none of them.
    """
    folders = Pictures(root, source.image_folders).folders
    absent = [{name for name in names if not is_filled_file(folder / name)} for folder in folders]
    missing = [name for name in names if all(name in some for some in absent)]
    best = folders[min(range(len(folders)), key=lambda number: len(absent[number]))]
    if missing:
        raise FileNotFoundError(
            f"{best}: {len(missing)} of {len(names)} images are missing or empty, "
            f"the first is {missing[0]} - unpack the images again ({source.images_page})"
        )
    return best


def load_refs(path: Path) -> object:
    """Content of a refs file, pickle or JSON.

    Raises:
        ValueError: it cannot be read as what its name says, or asks for more than plain data.
    """
    return load_plain_pickle(path) if path.suffix == ".p" else load_json(path)


def refs_of_split(refs: object, path: Path, split: str) -> list[dict[str, Any]]:
    """Refs that belong to a split.

    RefCLEF marks refs of several test parts as "testAB": they belong to testA and to testB, and all of them
    to "test", as in the REFER interface.

    Raises:
        ValueError: the file holds no list of refs, or none of this split.
    """
    if not isinstance(refs, list):
        raise ValueError(f"{path} holds a {type(refs).__name__}, needed a list of refs; {DOWNLOAD_AGAIN}")
    for number, ref in enumerate(refs):
        require(ref, _REF_KEYS, f"{path}: ref number {number}")
        for sentence in ref["sentences"]:
            require(sentence, _SENTENCE_KEYS, f"{path}: a sentence of ref number {number}")
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


def _belongs(ref_split: str, split: str) -> bool:
    """True where a ref's own split name includes the asked split."""
    if split == "test":
        return ref_split.startswith("test")
    if split in ("testA", "testB", "testC"):
        return ref_split.startswith("test") and split[-1] in ref_split[4:]
    return ref_split == split


@dataclass(frozen=True)
class Instances:
    """Images, annotations and class names of one `instances.json` by id."""

    path: Path
    images: Mapping[int, dict[str, Any]]
    annotations: Mapping[int, dict[str, Any]]
    categories: Mapping[int, str]

    @classmethod
    def load(cls, path: Path) -> Instances:
        """Index of the file."""
        content = load_json(path)
        if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
            raise ValueError(f"{path} has no images and annotations; {DOWNLOAD_AGAIN}")
        require(content, frozenset({"images", "annotations"}), str(path))
        given = content.get("categories")
        categories = given if isinstance(given, list) else []
        return cls(
            path,
            images=_by_id(content["images"], _IMAGE_KEYS, f"{path}: image"),
            annotations=_by_id(content["annotations"], _ANNOTATION_KEYS, f"{path}: annotation"),
            categories={
                fields["id"]: str(fields["name"])
                for fields in categories
                if isinstance(fields, dict) and isinstance(fields.get("id"), int) and "name" in fields
            },
        )

    def image(self, ref: Mapping[str, Any], refs_path: Path) -> dict[str, Any]:
        """Record of a ref's image."""
        if ref["image_id"] not in self.images:
            raise WrongRefError(
                "ref without image record",
                f"{self.path} has no image {ref['image_id']}, "
                f"which ref {ref['ref_id']} of {refs_path.name} needs; {DOWNLOAD_BOTH}",
            )
        return self.images[ref["image_id"]]

    def annotation(self, ann_id: int, ref: Mapping[str, Any], refs_path: Path) -> dict[str, Any]:
        """Record of one target of a ref."""
        annotation = self.annotations.get(ann_id)
        if annotation is None or annotation["image_id"] != ref["image_id"]:
            state = "has no annotation" if annotation is None else "puts in another image the annotation"
            raise WrongRefError(
                "ref without annotation",
                f"{self.path} {state} {ann_id}, "
                f"which ref {ref['ref_id']} of {refs_path.name} needs; {DOWNLOAD_BOTH}",
            )
        return annotation

    def file_names(self, refs: Sequence[Mapping[str, Any]], refs_path: Path) -> list[str]:
        """Image files of some refs, each once, in order."""
        return list(dict.fromkeys(self.image(ref, refs_path)["file_name"] for ref in refs))


def _by_id(records: Sequence[object], keys: frozenset[str], place: str) -> dict[int, dict[str, Any]]:
    """Records by their id; two different records with one id are an error."""
    index: dict[int, dict[str, Any]] = {}
    for number, record in enumerate(records):
        fields = require(record, keys, f"{place} number {number}")
        if index.setdefault(fields["id"], fields) != fields:
            raise ValueError(f"{place} id {fields['id']} stands twice, not the same; {DOWNLOAD_AGAIN}")
    return index
