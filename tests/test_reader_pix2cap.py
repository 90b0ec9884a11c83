"""Pix2Cap-COCO. No real caption is at hand: the files are drawn from what the authors' loader reads.

The real-data test takes real panoptic maps of COCO with captions made up here.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava.data.problems import Problems
from llava.data.readers import DATASETS, read_dataset
from llava.data.readers.shapes import masks_by_value
from llava.data.rle import decode_rle, encode_mask, rle_area

WALL, DOG = 70_000, 513


def ids():
    """Segment ids, int64 (20, 30): wall above, dog below, two columns of nothing."""
    values = np.zeros((20, 30), dtype=np.int64)
    values[:12, 2:], values[12:, 2:] = WALL, DOG
    return values


def as_colours(values):
    return np.stack([values % 256, values // 256 % 256, values // 65536], axis=2).astype(np.uint8)


def segment(number, category, caption):
    return {"id": number, "category_id": category, "description": caption, "iscrowd": 0}


def annotation(*segments, image_id=7):
    return {"image_id": image_id, "file_name": f"{image_id:012d}.png", "segments_info": list(segments)}


GOOD = segment(DOG, 18, "A dog that\n lies on the floor. ")


def write(root, annotations):
    maps, images = root / "coco/annotations/panoptic_train2017", root / "coco/train2017"
    for folder in (maps, images, root / "pix2cap"):
        folder.mkdir(parents=True, exist_ok=True)
    for number in (7, 8):
        Image.fromarray(as_colours(ids())).save(maps / f"{number:012d}.png")
        Image.new("RGB", (30, 20)).save(images / f"{number:012d}.jpg")
    content = {"images": [], "annotations": annotations}
    (root / "pix2cap/pix2cap_coco_train.json").write_text(json.dumps(content))
    return root


def read(root, problems=None):
    return list(read_dataset(root, "pix2cap|train", problems or Problems()))


def test_a_caption_asks_for_its_segment_which_goes_by_its_class(tmp_path):
    wall = segment(WALL, 199, "A wall of bricks.")
    samples = read(write(tmp_path, [annotation(wall, GOOD)]))
    assert [sample.id for sample in samples] == [f"pix2cap|train|7.{WALL}|0", f"pix2cap|train|7.{DOG}|0"]
    assert [sample.expression for sample in samples] == ["wall", "dog"]
    assert samples[1].question == "A dog that lies on the floor."
    assert np.array_equal(decode_rle(samples[0].mask), ids() == WALL)
    assert np.array_equal(decode_rle(samples[1].mask), ids() == DOG)
    assert samples[1].boxes_xyxy == ((2.0, 12.0, 30.0, 20.0),)
    assert DATASETS["pix2cap"].coco_images


@pytest.mark.parametrize("caption", ["", None, " a "])
def test_a_segment_without_a_caption_is_noted_and_costs_no_other(tmp_path, caption):
    problems = Problems()
    root = write(tmp_path, [annotation(segment(WALL, 199, caption), GOOD)])
    assert len(read(root, problems)) == 1
    assert dict(problems.counts) == {"segments without a caption": 1}


WRONG = {
    "record without its fields": {"image_id": 7},
    "segment without a pixel": annotation(segment(9, 18, "A cat.")),
    "unknown class": annotation(segment(DOG, 999, "A cat.")),
    "missing label map": annotation(GOOD, image_id=9),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_record_is_named_or_left_out_and_counted(tmp_path, kind):
    root = write(tmp_path, [WRONG[kind], annotation(GOOD, image_id=8)])
    with pytest.raises(
        ValueError, match=r"pix2cap_coco_train\.json: (image|annotation) \d|000000000009\.png"
    ):
        read(root)
    problems = Problems("skip")
    assert [sample.image_id for sample in read(root, problems)] == [8]
    assert dict(problems.counts) == {kind: 1}


def test_an_image_that_is_annotated_twice_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="image 7: the image is annotated twice"):
        read(write(tmp_path, [annotation(GOOD), annotation(GOOD)]))


def test_an_image_of_another_size_than_its_map_is_wrong(tmp_path):
    root = write(tmp_path, [annotation(GOOD)])
    Image.new("RGB", (20, 30)).save(root / "coco/train2017/000000000007.jpg")
    with pytest.raises(ValueError, match=r"image 7: the annotation states \(height, width\) \(20, 30\)"):
        read(root)


def test_a_map_without_colours_is_wrong(tmp_path):
    root = write(tmp_path, [annotation(GOOD)])
    grey = Image.fromarray(np.zeros((20, 30), dtype=np.uint8))
    grey.save(root / "coco/annotations/panoptic_train2017/000000000007.png")
    with pytest.raises(ValueError, match=r"000000000007\.png: the image has mode L, needed one of RGB"):
        read(root)


def test_every_value_of_a_map_has_its_mask_as_painting_it_would_give():
    generator = np.random.default_rng(0)
    for _ in range(100):
        size = tuple(generator.integers(1, 30, 2))
        values = generator.integers(0, generator.integers(1, 6), size) * 70_000
        masks = masks_by_value(values)
        assert sorted(masks) == np.unique(values).tolist()
        for value, mask in masks.items():
            assert mask == encode_mask(values == value)


def test_unknown_split_and_missing_file_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'test' for pix2cap; known: train, val"):
        list(read_dataset(tmp_path, "pix2cap|test", Problems()))
    with pytest.raises(FileNotFoundError, match=r"pix2cap_coco_train\.json not found .*check_data\.py"):
        read(tmp_path)


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
def test_real_panoptic_maps_give_the_areas_that_coco_states(tmp_path):
    real = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "coco128_mini"
    content = json.loads((real / "panoptic.json").read_text())
    areas = {}
    for record in content["annotations"]:
        for part in record["segments_info"]:
            part["description"] = f"segment {part['id']}"
            areas[f"pix2cap|train|{record['image_id']}.{part['id']}|0"] = part["area"]
    for folder in ("pix2cap", "coco"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pix2cap/pix2cap_coco_train.json").write_text(json.dumps(content))
    (tmp_path / "coco/panoptic_train2017").symlink_to(real / "panoptic")
    (tmp_path / "coco/train2017").symlink_to(real / "images")
    samples = read(tmp_path)
    assert {sample.id: rle_area(sample.mask) for sample in samples} == areas
    assert len(samples) == 456
