"""D-cube. No real sample is at hand: the pickles are drawn from the toolkit's documentation."""

import pickle

import numpy as np
import pytest
from PIL import Image

from llava.data.problems import Problems
from llava.data.readers import read_dataset
from llava.data.rle import decode_rle, encode_mask

SIZE_HW = (20, 30)
LEASHED, LOOSE, HATLESS = 1, 2, 3


def rows(first, last):
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[first:last] = True
    return mask


def rle(mask):
    """As pycocotools writes it: counts in bytes."""
    encoded = encode_mask(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].encode()}


def annotation(number, mask, sentences, *, image_id=0):
    return {
        "id": number,
        "sent_id": sentences,
        "segmentation": [rle(mask)],
        "area": np.array([mask.sum()]),
        "iscrowd": 0,
        "image_id": image_id,
        "bbox": np.array([[0, 0, 30, 5]]),
        "group_id": 0,
    }


def sentence(number, text, *, is_negative=False):
    return {"id": number, "anno_id": [], "group_id": [0], "is_negative": is_negative, "raw_sent": text}


def tables():
    """Two images of one group: the first with two dogs, the second empty."""
    image = {"height": 20, "width": 30, "flickr_url": "", "license": "", "group_id": 0}
    return {
        "images": {
            0: {**image, "id": 0, "file_name": "0.jpg", "anno_id": [10, 11]},
            1: {**image, "id": 1, "file_name": "dogs/1.jpg", "anno_id": []},
        },
        "sentences": {
            LEASHED: sentence(LEASHED, "dog on a leash"),
            LOOSE: sentence(LOOSE, "a dog without leash", is_negative=True),
            HATLESS: sentence(HATLESS, "someone without a hat ", is_negative=True),
        },
        "annotations": {
            10: annotation(10, rows(0, 5), [LEASHED]),
            11: annotation(11, rows(3, 8), [LEASHED, HATLESS]),
        },
        "groups": {0: {"id": 0, "inner_sent_id": [LEASHED, LOOSE], "img_id": [0, 1], "group_name": "dog"}},
    }


def write(root, content):
    folder = root / "d_cube/d3_pkl"
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in content.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(table))
    (root / "d_cube/d3_images/dogs").mkdir(parents=True, exist_ok=True)
    for name in ("0.jpg", "dogs/1.jpg"):
        Image.new("RGB", (30, 20)).save(root / "d_cube/d3_images" / name)
    return root


def read(root, split="full", problems=None):
    return list(read_dataset(root, f"dcube|{split}", problems or Problems()))


def test_an_image_is_asked_its_groups_descriptions_and_those_that_hold(tmp_path):
    samples = read(write(tmp_path, tables()))
    assert [sample.id for sample in samples] == [
        "dcube|full|0.1|0",
        "dcube|full|0.2|0",
        "dcube|full|0.3|0",
        "dcube|full|1.1|0",
        "dcube|full|1.2|0",
    ]
    assert [sample.no_target for sample in samples] == [False, True, False, True, True]
    assert [sample.group for sample in samples[:3]] == ["presence", "absence", "absence"]
    assert samples[2].expression == "someone without a hat"
    assert samples[3].image_path.is_file()


def test_the_mask_is_the_union_and_every_object_has_its_box(tmp_path):
    sample = read(write(tmp_path, tables()))[0]
    assert np.array_equal(decode_rle(sample.mask), rows(0, 8))
    assert sample.boxes_xyxy == ((0.0, 0.0, 30.0, 5.0), (0.0, 3.0, 30.0, 8.0))


def test_the_settings_of_the_benchmark_part_the_descriptions_by_kind(tmp_path):
    root = write(tmp_path, tables())
    assert {sample.group for sample in read(root, "pres")} == {"presence"}
    assert len(read(root, "pres")) + len(read(root, "abs")) == len(read(root))


def damaged(kind):
    content = tables()
    if kind == "image without its annotation":
        content["images"][0]["anno_id"] = [10, 12]
    elif kind == "image without its group":
        content["images"][0]["group_id"] = 5
    elif kind == "image of another size":
        content["images"][0]["height"] = 30
    elif kind == "missing image":
        content["images"][0]["file_name"] = "2.jpg"
    return content


@pytest.mark.parametrize(
    "kind",
    ["image without its annotation", "image without its group", "image of another size", "missing image"],
)
def test_a_wrong_image_is_named_or_left_out_and_counted(tmp_path, kind):
    root = write(tmp_path, damaged(kind))
    with pytest.raises(ValueError, match=r"images\.pkl: image 0: "):
        read(root)
    problems = Problems("skip")
    assert {sample.image_id for sample in read(root, problems=problems)} == {1}
    assert dict(problems.counts) == {kind: 1}


def test_an_annotation_of_another_image_is_wrong(tmp_path):
    content = tables()
    content["annotations"][10]["image_id"] = 1
    with pytest.raises(ValueError, match="annotation 10 belongs to image 1"):
        read(write(tmp_path, content))


def test_a_damaged_mask_leaves_out_the_descriptions_it_belongs_to(tmp_path):
    content = tables()
    content["annotations"][10]["segmentation"] = [{"size": [20, 31], "counts": b"1"}]
    root = write(tmp_path, content)
    with pytest.raises(ValueError, match=r"annotations\.pkl: annotation 10: an RLE states the size"):
        read(root)
    problems = Problems("skip")
    assert "dcube|full|0.1|0" not in {sample.id for sample in read(root, problems=problems)}
    assert dict(problems.counts) == {"damaged segmentation": 1}


def test_a_sentence_that_is_not_listed_is_told(tmp_path):
    content = tables()
    content["sentences"].pop(LOOSE)
    root = write(tmp_path, content)
    with pytest.raises(ValueError, match=r"sentences \[2\] are missing"):
        read(root)
    assert len(read(root, problems=Problems("skip"))) == 3


def test_a_record_without_its_fields_is_named(tmp_path):
    content = tables()
    content["groups"][0].pop("inner_sent_id")
    with pytest.raises(ValueError, match=r"groups\.pkl: record 0: lacks inner_sent_id"):
        read(write(tmp_path, content))


def test_unknown_split_and_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'train' for dcube; known: full, pres, abs"):
        read(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"d_cube/d3_pkl not found .*check_data\.py"):
        read(tmp_path)
    write(tmp_path, tables())
    (tmp_path / "d_cube/d3_pkl/groups.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"groups\.pkl not found"):
        read(tmp_path)
