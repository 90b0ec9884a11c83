"""Semantic sets with label maps: COCO-Stuff, ADE20K (150 and 847), PASCAL VOC and Context, Mapillary Vistas.

Each yields one sample for each class in each image; names and numbers stand in `llava/data/classes`.

What a pixel without a class means differs by dataset, and is kept apart here:

- unlabelled, no decision (`Sample.ignore`): 255 everywhere, 65535 in ADE20K-847, 123 in Mapillary, and 0 in
  ADE20K-150, whose benchmark leaves those pixels out;
- background, decided to be none of the classes: 0 in PASCAL VOC and PASCAL Context.

Text4Seg (arXiv 2410.09855) calls both "others"; its evaluation leaves out 0 and counts 255.

Sources: https://github.com/nightrome/cocostuff, https://github.com/CSAILVision/sceneparsing, MaskFormer's
script for ADE20K-847, http://host.robots.ox.ac.uk/pascal/VOC/voc2012, mmsegmentation's script for PASCAL
Context, https://www.mapillary.com/dataset/vistas. The numbers come from these pages' lists and scripts.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava.data.readers.info import DatasetInfo
from llava.data.readers.label_maps import MapSource, MapSplit
from llava.data.readers.lookup import coco_folders


def _places(bases: Sequence[str], *rest: str) -> tuple[str, ...]:
    """Each of several places under each of several bases."""
    return tuple(f"{base}/{each}" for base in bases for each in rest)


def _coco_stuff(part: str) -> MapSplit:
    """Maps of one part of COCO 2017, as "val2017"."""
    bases = ("cocostuff", "cocostuff/stuffthingmaps", "coco/stuffthingmaps", "stuffthingmaps")
    return MapSplit(_places(bases, part), coco_folders(part))


def _ade20k(part: str) -> MapSplit:
    """Maps of the scene parsing benchmark."""
    bases = ("ade20k", "ADEChallengeData2016", "ade20k/ADEChallengeData2016", "ade/ADEChallengeData2016")
    return MapSplit(_places(bases, f"annotations/{part}"), _places(bases, f"images/{part}"))


def _ade20k_full(part: str) -> MapSplit:
    """Maps of the full dataset as MaskFormer's script writes them."""
    bases = ("ADE20K_2021_17_01", "ade20k_full", "ade20k_full/ADE20K_2021_17_01")
    return MapSplit(
        _places(bases, f"annotations_detectron2/{part}"), _places(bases, f"images_detectron2/{part}")
    )


def _pascal(year: int, maps: str, listing: str) -> MapSplit:
    """Maps inside a VOCdevkit."""
    bases = (
        f"VOCdevkit/VOC{year}",
        f"VOC{year}",
        f"pascal/VOCdevkit/VOC{year}",
        f"vlpart/pascal_part/VOCdevkit/VOC{year}",
    )
    return MapSplit(
        _places(bases, maps), _places(bases, "JPEGImages"), _places(bases, f"ImageSets/{listing}.txt")
    )


def _mapillary(part: str) -> MapSplit:
    """Maps of version 2.0."""
    bases = ("mapillary", "mapillary_vistas", "mapillary-vistas-dataset_public_v2.0")
    return MapSplit(_places(bases, f"{part}/v2.0/labels"), _places(bases, f"{part}/images"))


_DIRECTORIES = {"train": "training", "val": "validation"}
_COCO = {split: _coco_stuff(f"{split}2017") for split in ("train", "val")}
_VOC = {
    split: _pascal(2012, "SegmentationClass", f"Segmentation/{split}")
    for split in ("train", "val", "trainval")
}
_CONTEXT = {
    split: _pascal(2010, "SegmentationClassContext", f"SegmentationContext/{split}")
    for split in ("train", "val")
}

SOURCES = (
    MapSource("cocostuff", "coco_stuff", _COCO, rank_ending="_labelTrainIds"),
    MapSource(
        "ade20k",
        "ade20k150",
        {split: _ade20k(part) for split, part in _DIRECTORIES.items()},
        unlabelled=frozenset({0, 255}),
    ),
    MapSource(
        "ade20k847",
        "ade20k847",
        {split: _ade20k_full(part) for split, part in _DIRECTORIES.items()},
        unlabelled=frozenset({65535}),
        map_suffix=".tif",
    ),
    MapSource("voc20", "voc20", _VOC, background=frozenset({0})),
    MapSource("pc59", "pascal_context59", _CONTEXT, background=frozenset({0})),
    MapSource(
        "mapillary",
        "mapillary_v2",
        {split: _mapillary(part) for split, part in _DIRECTORIES.items()},
        unlabelled=frozenset({123, 255}),
    ),
)
"""The datasets, each with its maps and what their values mean."""

_COCO_IMAGES = "https://cocodataset.org/#download (2017 images)"
_PAGES = {
    "cocostuff": ("https://github.com/nightrome/cocostuff (stuffthingmaps_trainval2017.zip)", _COCO_IMAGES),
    "ade20k": ("http://sceneparsing.csail.mit.edu (ADEChallengeData2016.zip)", ""),
    "ade20k847": (
        "https://groups.csail.mit.edu/vision/datasets/ADE20K, then the script of MaskFormer for it",
        "",
    ),
    "voc20": ("http://host.robots.ox.ac.uk/pascal/VOC/voc2012", ""),
    "pc59": (
        "https://cs.stanford.edu/~roozbeh/pascal-context, then mmsegmentation's tools for pascal_context",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010",
    ),
    "mapillary": ("https://www.mapillary.com/dataset/vistas (v2.0)", ""),
}


def _info(source: MapSource) -> DatasetInfo:
    """Table entry of one dataset."""
    page, images_page = _PAGES[source.name]
    needs = [
        " or ".join(places)
        for split in source.splits.values()
        for places in (split.maps, split.images, split.listing)
        if places
    ]
    return DatasetInfo(
        name=source.name,
        family="semantic",
        splits=tuple(source.splits),
        read=source.read,
        needs=tuple(dict.fromkeys(needs)),
        page=page,
        images_page=images_page,
        classes=tuple(names.name for names in source.classes.values()),
        coco_images=source.name == "cocostuff",
    )


INFOS: tuple[DatasetInfo, ...] = tuple(_info(source) for source in SOURCES)
"""COCO-Stuff, ADE20K 150 and 847, PASCAL VOC, PASCAL Context, Mapillary Vistas."""
