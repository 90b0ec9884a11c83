"""COCO Panoptic: drawn files for what can be wrong, 29 real COCO images for what is right."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava.data.annotated import collect
from llava.data.problems import Problems
from llava.data.readers.panoptic import INFOS, read_panoptic
from llava.data.rle import decode_rle

INFO = INFOS[0]
WALL, DOG_A, DOG_B = 70_000, 513, 514


def ids():
    """Segment ids, int64 (20, 30): a wall over two dogs, two columns of nothing."""
    values = np.zeros((20, 30), dtype=np.int64)
    values[:12, 2:], values[12:, 2:10], values[12:, 10:] = WALL, DOG_A, DOG_B
    return values


def segment(number, category, **changes):
    area = int((ids() == number).sum())
    return {"id": number, "category_id": category, "area": area, "iscrowd": 0, "bbox": [], **changes}


def segments():
    return [segment(WALL, 199), segment(DOG_A, 18), segment(DOG_B, 18, iscrowd=1)]


def annotation(parts=None, *, image_id=7):
    parts = segments() if parts is None else parts
    return {"image_id": image_id, "file_name": f"{image_id:012d}.png", "segments_info": parts}


def write(root, annotations):
    maps, images = root / "coco/annotations/panoptic_train2017", root / "coco/train2017"
    for folder in (maps, images):
        folder.mkdir(parents=True, exist_ok=True)
    colours = np.stack([ids() % 256, ids() // 256 % 256, ids() // 65536], axis=2).astype(np.uint8)
    for number in (7, 8):
        Image.fromarray(colours).save(maps / f"{number:012d}.png")
        Image.new("RGB", (30, 20)).save(images / f"{number:012d}.jpg")
    content = {"images": [], "annotations": annotations, "categories": []}
    (root / "coco/annotations/panoptic_train2017.json").write_text(json.dumps(content))
    return root


def read(root, problems=None):
    return list(read_panoptic(root, "train", problems or Problems()))


def test_segments_of_one_class_are_one_target_crowds_included(tmp_path):
    dog, wall = read(write(tmp_path, [annotation()]))
    assert (dog.id, wall.id) == ("coco_panoptic|train|7.18|0", "coco_panoptic|train|7.199|0")
    assert (dog.expression, wall.expression) == ("dog", "wall")
    assert dog.synonyms == ("domestic dog",)
    assert np.array_equal(decode_rle(dog.mask), (ids() == DOG_A) | (ids() == DOG_B))
    assert np.array_equal(decode_rle(wall.mask), ids() == WALL)
    assert np.array_equal(decode_rle(dog.ignore), ids() == 0)
    assert (dog.image_id, dog.size_hw, dog.boxes_xyxy) == (7, (20, 30), ((2.0, 12.0, 30.0, 20.0),))


def test_an_image_gathers_its_classes(tmp_path):
    root = write(tmp_path, [annotation(), annotation(image_id=8)])
    images = list(collect(read(root), INFO, root))
    assert [image.image for image in images] == [
        f"coco/train2017/00000000000{number}.jpg" for number in (7, 8)
    ]
    assert [target.names[0] for target in images[0].targets] == ["dog", "wall"]
    assert np.array_equal(decode_rle(images[0].ignore), ids() == 0)


FAULTS = [
    (segments()[:2], "pixels of an unknown segment", r"image 7: the map has pixels of id 514"),
    ([*segments(), segment(99, 1)], "segment without a pixel", r"image 7, segment 3: no pixel of id 99"),
    ([*segments(), segments()[0]], "segment without a pixel", r"segment 3: no pixel of id 70000 is left"),
    ([segment(WALL, 12), *segments()[1:]], "unknown class", r"category 12 is none of COCO's 133"),
    (
        [segment(WALL, 199, area=3), *segments()[1:]],
        "segment of another area",
        r"segment 0: stated are 3 pixels, the map has 336",
    ),
    ([{"id": WALL}], "record without its fields", r"segment 0: lacks area, category_id"),
]


@pytest.mark.parametrize(("parts", "kind", "message"), FAULTS, ids=[str(number) for number in range(6)])
def test_a_wrong_segment_is_named_and_costs_its_image_only(tmp_path, parts, kind, message):
    root = write(tmp_path, [annotation(parts), annotation(image_id=8)])
    with pytest.raises(ValueError, match=message):
        read(root)
    problems = Problems("skip")
    assert {sample.image_id for sample in read(root, problems)} == {8}
    assert dict(problems.counts) == {kind: 1}


def test_images_and_maps_that_cannot_be_used_are_counted_by_kind(tmp_path):
    root = write(tmp_path, [annotation(), annotation(), annotation(image_id=8), annotation(image_id=9)])
    Image.new("RGB", (20, 30)).save(root / "coco/train2017/000000000008.jpg")
    problems = Problems("skip")
    assert {sample.image_id for sample in read(root, problems)} == {7}
    assert dict(problems.counts) == {
        "id that stands twice": 1,
        "image of another size": 1,
        "missing label map": 1,
    }


def test_a_map_of_grey_values_is_no_panoptic_map(tmp_path):
    root = write(tmp_path, [annotation()])
    path = root / "coco/annotations/panoptic_train2017/000000000007.png"
    Image.fromarray(ids().astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"000000000007\.png: the image has mode L, needed one of RGB"):
        read(root)


def test_missing_files_and_unknown_splits_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"panoptic_train2017\.json not found .*check_data"):
        read(tmp_path)
    with pytest.raises(ValueError, match="unknown split 'test' for coco_panoptic; known: train, val"):
        list(read_panoptic(tmp_path, "test", Problems()))


@pytest.mark.real_data
def test_real_images_agree_with_their_semantic_maps(tmp_path):
    base = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "coco128_mini"
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/train2017").symlink_to(base / "images")
    (tmp_path / "coco/annotations/panoptic_train2017").symlink_to(base / "panoptic")
    (tmp_path / "coco/annotations/panoptic_train2017.json").symlink_to(base / "panoptic.json")
    problems = Problems()
    samples = read(tmp_path, problems)
    assert not problems.counts
    assert len({sample.image_id for sample in samples}) == 29
    painted = {}
    for sample in samples:
        canvas = painted.setdefault(sample.image_path.stem, np.zeros(sample.size_hw, dtype=int))
        canvas[decode_rle(sample.mask)] = int(sample.id.split(".")[1].removesuffix("|0"))
    for stem, canvas in painted.items():
        with Image.open(base / "semantic_130" / f"{stem}.png") as picture:
            assert np.array_equal(canvas, np.asarray(picture)), stem
