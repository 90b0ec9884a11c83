"""Table of the referring-expression datasets: splits, files, image folders, download pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llava.data.readers.lookup import coco_folders

_COCO_FOLDERS = coco_folders("train2014")
_TRAIN_AND_VAL = tuple(
    folder for part in ("trainval2014", "train2014", "val2014") for folder in coco_folders(part)
)
_COCO_PAGE = "http://images.cocodataset.org/zips/train2014.zip"
_REFER_PAGE = "https://github.com/lichengunc/refer"
_UNC_SPLITS = ("train", "val", "testA", "testB")
_PLAIN_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ReferSource:
    """What is known about one dataset.

    Attributes:
        splits: names of the splits under each split_by.
        split_by: the split_by that papers report, used when a spec names none.
        image_folders: folders under the root where the images may lie, first choice first.
        page: where the annotation files come from.
        images_page: where the images come from.
        stem: first part of the refs file name.
        suffixes: its endings, first choice first.
        instances: folders under the root whose `instances.json` holds the masks, first choice first.
        folders: folders under the root that may hold the refs file; empty: the one of the dataset's name.
        names: other names that users know the refs file by.
        coco_images: true when the images are COCO's.
    """

    splits: Mapping[str, tuple[str, ...]]
    split_by: str
    image_folders: tuple[str, ...]
    page: str
    images_page: str
    instances: tuple[str, ...]
    stem: str = "refs"
    suffixes: tuple[str, str] = (".p", ".json")
    folders: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    coco_images: bool = False


def _coco(name: str, splits: Mapping[str, tuple[str, ...]], split_by: str) -> ReferSource:
    """A dataset of the REFER page over COCO images."""
    return ReferSource(splits, split_by, _COCO_FOLDERS, _REFER_PAGE, _COCO_PAGE, (name,), coco_images=True)


_GENERATED = "made on this machine by: python playground/data/create_refshapes.py"

REFER_DATASETS: Mapping[str, ReferSource] = {
    "refcoco": _coco("refcoco", {"unc": _UNC_SPLITS, "google": _PLAIN_SPLITS}, "unc"),
    "refcoco+": _coco("refcoco+", {"unc": _UNC_SPLITS}, "unc"),
    "refcocog": _coco("refcocog", {"umd": _PLAIN_SPLITS, "google": ("train", "val")}, "umd"),
    "refclef": ReferSource(
        splits={"unc": (*_UNC_SPLITS, "testC"), "berkeley": _PLAIN_SPLITS},
        split_by="unc",
        image_folders=("images/saiapr_tc-12",),
        page=_REFER_PAGE,
        images_page=_REFER_PAGE + ", entry saiapr_tc-12",
        instances=("refclef",),
    ),
    "grefcoco": ReferSource(
        splits={"unc": _UNC_SPLITS},
        split_by="unc",
        image_folders=_COCO_FOLDERS,
        page="https://github.com/henghuiding/gRefCOCO",
        images_page=_COCO_PAGE,
        instances=("grefcoco",),
        stem="grefs",
        suffixes=(".json", ".p"),
        coco_images=True,
    ),
    "refzom": ReferSource(
        splits={"final": ("train", "test")},
        split_by="final",
        image_folders=(*_TRAIN_AND_VAL, "refzom/train2014", "refzom/val2014"),
        page="https://github.com/toggle1995/RIS-DMMI",
        images_page="http://images.cocodataset.org/zips/train2014.zip and val2014.zip",
        instances=("refzom", "ref-zom"),
        folders=("refzom", "ref-zom"),
        names=("Ref-ZOM(final).p", "Ref_ZOM.p"),
        coco_images=True,
    ),
    "rrsisd": ReferSource(
        splits={"unc": _PLAIN_SPLITS},
        split_by="unc",
        image_folders=("images/rrsisd/JPEGImages",),
        page="https://github.com/Lsan2401/RMSIN",
        images_page="https://github.com/Lsan2401/RMSIN",
        instances=("rrsisd",),
    ),
    "refshapes": ReferSource(
        splits={"unc": _UNC_SPLITS},
        split_by="unc",
        image_folders=("images/refshapes",),
        page=_GENERATED,
        images_page=_GENERATED,
        instances=("refshapes",),
    ),
    "grefshapes": ReferSource(
        splits={"unc": _UNC_SPLITS},
        split_by="unc",
        image_folders=("images/refshapes",),
        page=_GENERATED,
        images_page=_GENERATED,
        instances=("grefshapes", "refshapes"),
        stem="grefs",
        suffixes=(".json", ".p"),
    ),
}
"""Datasets by the name of their folder under the root."""
