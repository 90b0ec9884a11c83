"""Sets with label maps. No real map of these sets is at hand: the maps are drawn, in the published layouts.

The real-data test takes COCO's own panoptic classes as a label map.
"""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava.data.problems import Problems
from llava.data.readers.label_maps import MapSource, MapSplit
from llava.data.readers.semantic import INFOS, SOURCES
from llava.data.rle import decode_rle

INFO = {info.name: info for info in INFOS}
LAYOUT = {
    "cocostuff": ("stuffthingmaps/train2017", "coco/train2017", ".png"),
    "ade20k": ("ADEChallengeData2016/annotations/training", "ADEChallengeData2016/images/training", ".png"),
    "ade20k847": (
        "ADE20K_2021_17_01/annotations_detectron2/training",
        "ADE20K_2021_17_01/images_detectron2/training",
        ".tif",
    ),
    "voc20": ("VOCdevkit/VOC2012/SegmentationClass", "VOCdevkit/VOC2012/JPEGImages", ".png"),
    "pc59": ("VOCdevkit/VOC2010/SegmentationClassContext", "VOCdevkit/VOC2010/JPEGImages", ".png"),
    "mapillary": ("mapillary/training/v2.0/labels", "mapillary/training/images", ".png"),
}
LISTING = {"voc20": "VOC2012/ImageSets/Segmentation", "pc59": "VOC2010/ImageSets/SegmentationContext"}


def labels(*values, dtype=np.uint8):
    """Label map (10, 12): columns of equal width, one for each value."""
    return np.repeat(np.array(values, dtype=dtype), 12 // len(values))[None].repeat(10, axis=0)


def write(root, name, picture, *, stem="000000000009", image_hw=(10, 12), ending=""):
    """A map and its image in the layout of a dataset; returns the map's path."""
    maps, images, suffix = LAYOUT[name]
    for folder in (root / maps, root / images):
        folder.mkdir(parents=True, exist_ok=True)
    path = root / maps / f"{stem}{ending}{suffix}"
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(path)
    Image.new("RGB", image_hw[::-1]).save(root / images / f"{stem}.jpg")
    if name in LISTING:
        listing = root / "VOCdevkit" / LISTING[name] / "train.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(sorted(each.stem for each in (root / maps).iterdir())) + "\n")
    return path


def read(root, name, problems=None):
    return list(INFO[name].read(root, "train", problems or Problems()))


def test_each_class_of_an_image_is_one_sample_with_its_names_and_mask(tmp_path):
    values = labels(0, 155, 255)
    write(tmp_path, "cocostuff", values)
    first, second = read(tmp_path, "cocostuff")
    assert (first.id, second.id) == ("cocostuff|train|000000000009.0|0", "cocostuff|train|000000000009.155|0")
    assert (first.expression, second.expression) == ("person", "shelf")
    assert first.synonyms == ("human", "human being")
    assert (first.image_id, first.size_hw) == (9, (10, 12))
    assert np.array_equal(decode_rle(first.mask), values == 0)
    assert np.array_equal(decode_rle(second.mask), values == 155)
    assert np.array_equal(decode_rle(first.ignore), values == 255)
    assert second.boxes_xyxy == ((4.0, 0.0, 8.0, 10.0),)


def test_maps_that_count_the_classes_without_gaps_mean_the_same(tmp_path):
    write(tmp_path / "raw", "cocostuff", labels(0, 12, 181, 255))
    write(tmp_path / "ranked", "cocostuff", labels(0, 11, 170, 255), ending="_labelTrainIds")
    raw, ranked = read(tmp_path / "raw", "cocostuff"), read(tmp_path / "ranked", "cocostuff")
    assert [sample.expression for sample in raw] == ["person", "stop sign", "wood"]
    assert [(sample.id, sample.mask, sample.ignore) for sample in ranked] == [
        (sample.id, sample.mask, sample.ignore) for sample in raw
    ]


def test_where_both_kinds_of_maps_lie_the_official_ones_are_read(tmp_path):
    write(tmp_path, "cocostuff", labels(181))
    write(tmp_path, "cocostuff", labels(0), ending="_labelTrainIds")
    assert [sample.expression for sample in read(tmp_path, "cocostuff")] == ["wood"]


def test_a_number_past_the_last_rank_is_no_class(tmp_path):
    write(tmp_path, "cocostuff", labels(0, 181), ending="_labelTrainIds")
    with pytest.raises(ValueError, match=r"pixels of value 181; the classes of cocostuff are 0 to 170"):
        read(tmp_path, "cocostuff")


@pytest.mark.parametrize(
    ("name", "values", "dtype", "expected", "ignored"),
    [
        ("ade20k", (0, 1, 150, 150), np.uint8, ["wall", "flag"], 0),
        ("ade20k847", (0, 846, 65535, 65535), np.uint16, ["wall", "adding machine"], 65535),
        ("voc20", (0, 15, 20, 255), np.uint8, ["person", "tv monitor"], 255),
        ("pc59", (0, 1, 59, 59), np.uint8, ["aeroplane", "wood"], None),
        ("mapillary", (0, 61, 123, 123), np.uint8, ["bird", "sky"], 123),
    ],
)
def test_pixels_without_a_class_are_ignored_or_background_as_the_dataset_means(
    tmp_path, name, values, dtype, expected, ignored
):
    drawn = labels(*values, dtype=dtype)
    write(tmp_path, name, drawn, stem="x_1")
    samples = read(tmp_path, name)
    assert [sample.expression for sample in samples] == expected
    for sample in samples:
        if ignored is None:
            assert sample.ignore is None
        else:
            assert np.array_equal(decode_rle(sample.ignore), drawn == ignored)


def test_a_palette_map_gives_its_numbers_and_not_its_colours(tmp_path):
    picture = Image.fromarray(labels(15, 3)).convert("P")
    picture.putpalette([value for number in range(256) for value in (255 - number, number, 7)])
    picture.putdata(labels(15, 3).reshape(-1).tolist())
    write(tmp_path, "voc20", picture, stem="2007_000032")
    assert [sample.expression for sample in read(tmp_path, "voc20")] == ["bird", "person"]


def test_sixteen_bits_and_thirty_two_keep_large_numbers(tmp_path):
    for dtype in (np.uint16, np.int32):
        write(tmp_path / dtype.__name__, "ade20k847", labels(700, 300, dtype=dtype), stem="a")
        found = read(tmp_path / dtype.__name__, "ade20k847")
        assert [sample.id.split(".")[1] for sample in found] == ["300|0", "700|0"]


def test_a_listing_says_which_maps_belong_to_the_split_and_in_which_order(tmp_path):
    for stem in ("2007_1", "2007_2", "2007_3"):
        write(tmp_path, "voc20", labels(15), stem=stem)
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("2007_3\n2007_1\n\n")
    samples = read(tmp_path, "voc20")
    assert [sample.id for sample in samples] == ["voc20|train|2007_3.15|0", "voc20|train|2007_1.15|0"]
    assert len({sample.image_id for sample in samples}) == 2


def test_a_listed_image_without_a_map_is_told_or_counted(tmp_path):
    write(tmp_path, "voc20", labels(15), stem="a")
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("b\na\n")
    with pytest.raises(ValueError, match=r"SegmentationClass/b.png: the file is missing.*check_data"):
        read(tmp_path, "voc20")
    problems = Problems("skip")
    assert len(read(tmp_path, "voc20", problems)) == 1
    assert dict(problems.counts) == {"missing label map": 1}


def wrong_maps(root):
    """Five maps that cannot be used and one that can, with the kind of each fault."""
    write(root, "ade20k", labels(1), stem="a")
    write(root, "ade20k", labels(1), stem="b", image_hw=(12, 10))
    write(root, "ade20k", Image.new("RGB", (12, 10)), stem="c")
    write(root, "ade20k", labels(1), stem="d").write_bytes(b"no picture")
    write(root, "ade20k", labels(1), stem="e")
    (root / LAYOUT["ade20k"][1] / "e.jpg").unlink()
    write(root, "ade20k", labels(1, 151), stem="f")


def test_everything_wrong_is_counted_by_its_kind_and_the_rest_is_read(tmp_path):
    wrong_maps(tmp_path)
    problems = Problems("skip")
    samples = read(tmp_path, "ade20k", problems)
    assert [sample.id for sample in samples] == ["ade20k|train|a.1|0", "ade20k|train|f.1|0"]
    assert dict(problems.counts) == {
        "image of another size": 1,
        "label map of another mode": 1,
        "damaged label map": 1,
        "missing image": 1,
        "unknown label value": 1,
    }


@pytest.mark.parametrize(
    ("stem", "message"),
    [
        (
            "b",
            r"b\.png: the annotation states \(height, width\) \(10, 12\), the file .*b\.jpg has \(12, 10\)",
        ),
        ("c", r"c\.png: the image has mode RGB, needed one of P, L, I"),
        ("d", r"d\.png: cannot be read"),
        ("e", r"e\.png: image .*e\.jpg is missing or empty"),
        ("f", r"f\.png: the map has pixels of value 151; the classes of ade20k are 1 to 150"),
    ],
)
def test_each_wrong_map_is_named(tmp_path, stem, message):
    wrong_maps(tmp_path)
    for path in (tmp_path / LAYOUT["ade20k"][0]).iterdir():
        if path.stem != stem:
            path.unlink()
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "ade20k")


def test_a_map_without_a_class_is_noted(tmp_path):
    write(tmp_path, "voc20", labels(0, 255), stem="a")
    problems = Problems()
    assert read(tmp_path, "voc20", problems) == []
    assert dict(problems.counts) == {"maps without a class": 1}


@pytest.mark.parametrize("name", INFO)
def test_missing_folders_and_unknown_splits_say_what_to_do(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"not found .*check_data"):
        read(tmp_path, name)
    with pytest.raises(ValueError, match=f"unknown split 'minival' for {name}; known: train, val"):
        list(INFO[name].read(tmp_path, "minival", Problems()))


def test_an_empty_folder_of_maps_says_so(tmp_path):
    write(tmp_path, "ade20k", labels(1)).unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no \.png label map"):
        read(tmp_path, "ade20k")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_no_value_means_two_things(source):
    assert not set(source.classes) & (source.unlabelled | source.background)
    assert not source.unlabelled & source.background
    assert INFO[source.name].classes == tuple(names.name for names in source.classes.values())


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_table_entries_can_be_sent_to_other_processes(info):
    copy = pickle.loads(pickle.dumps(info))
    assert (copy.name, copy.needs, copy.read.__self__) == (info.name, info.needs, info.read.__self__)


@pytest.mark.real_data
def test_classes_of_real_coco_images_cover_every_pixel_once():
    base = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "coco128_mini"
    split = MapSplit(("semantic_130",), ("images",))
    source = MapSource("own", "coco_panoptic", {"all": split}, frozenset({0}))
    samples = list(source.read(base, "all", Problems()))
    by_image = {}
    for sample in samples:
        by_image.setdefault(sample.image_path, []).append(sample)
    assert len(by_image) == 29
    for path, group in by_image.items():
        with Image.open(base / "semantic_130" / f"{path.stem}.png") as picture:
            values = np.asarray(picture)
        painted = np.zeros(values.shape, dtype=int)
        for sample in group:
            mask = decode_rle(sample.mask)
            assert not painted[mask].any()
            painted[mask] = int(sample.id.split(".")[1].removesuffix("|0"))
        assert np.array_equal(painted, values)
        ignored = decode_rle(group[0].ignore) if group[0].ignore else np.zeros(values.shape, dtype=bool)
        assert np.array_equal(ignored, values == 0)
