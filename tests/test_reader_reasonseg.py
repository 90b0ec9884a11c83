"""ReasonSeg. No real sample is at hand: the files are drawn from the schema that LISA's loader reads."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from llava.data.problems import Problems
from llava.data.readers import read_dataset
from llava.data.readers.reasonseg import paint
from llava.data.rle import decode_rle

SIZE_HW = (20, 30)
SQUARE = [[2, 2], [9, 2], [9, 9], [2, 9]]
LARGE = [[0, 0], [19, 0], [19, 15], [0, 15]]


def shape(label, points, **more):
    return {"label": label, "points": points, "shape_type": "polygon", "group_id": None, "flags": {}, **more}


def record(shapes, *, text=("what holds water",), is_sentence=False):
    return {"text": list(text), "is_sentence": is_sentence, "shapes": shapes}


def write(root, records, *, split="train", explanations=None):
    """Write annotation files and their images; values are records or raw bytes."""
    folder = root / "reason_seg/ReasonSeg" / split
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in records.items():
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / f"{name}.json").write_bytes(raw)
        Image.new("RGB", (SIZE_HW[1], SIZE_HW[0])).save(folder / f"{name}.jpg")
    if explanations is not None:
        (folder.parent / "explanatory").mkdir(exist_ok=True)
        (folder.parent / "explanatory/train.json").write_text(json.dumps(explanations))
    return root


def read(root, split="train", problems=None):
    return list(read_dataset(root, f"reasonseg|{split}", problems or Problems()))


def mask_of(tmp_path, *shapes):
    (sample,) = read(write(tmp_path, {"a": record(list(shapes))}))
    return sample


def area(*corners):
    mask = np.zeros(SIZE_HW, dtype=bool)
    (x0, y0), (x1, y1) = corners
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


SQUARE_AREA, LARGE_AREA = area((2, 2), (9, 9)), area((0, 0), (19, 15))


def test_every_label_but_flag_and_ignore_is_target(tmp_path):
    far = [[20, 10], [25, 10], [25, 15], [20, 15]]
    sample = mask_of(tmp_path, shape("target", SQUARE), shape("cup", far), shape("Flag", LARGE))
    assert np.array_equal(decode_rle(sample.mask), SQUARE_AREA | area((20, 10), (25, 15)))
    assert sample.ignore is None
    assert sample.boxes_xyxy == ((2.0, 2.0, 26.0, 16.0),)


def test_a_label_that_only_starts_with_flag_is_target(tmp_path):
    assert decode_rle(mask_of(tmp_path, shape("flagpole", SQUARE)).mask).sum() == 64


@pytest.mark.parametrize("order", [1, -1])
def test_a_small_target_stays_on_a_large_ignored_area(tmp_path, order):
    sample = mask_of(tmp_path, *[shape("target", SQUARE), shape("Ignore_1", LARGE)][::order])
    assert np.array_equal(decode_rle(sample.mask), SQUARE_AREA)
    assert np.array_equal(decode_rle(sample.ignore), LARGE_AREA & ~SQUARE_AREA)


@pytest.mark.parametrize("order", [1, -1])
def test_a_small_ignored_area_is_cut_from_a_large_target(tmp_path, order):
    sample = mask_of(tmp_path, *[shape("target", LARGE), shape("ignore", SQUARE)][::order])
    assert np.array_equal(decode_rle(sample.mask), LARGE_AREA & ~SQUARE_AREA)
    assert np.array_equal(decode_rle(sample.ignore), SQUARE_AREA)


def test_corners_are_cut_to_whole_pixels_and_the_outline_counts():
    loose = [[x + 0.9, y + 0.9] for x, y in SQUARE]
    assert np.array_equal(paint(loose, SIZE_HW), SQUARE_AREA)
    generator = np.random.default_rng(0)
    for _ in range(50):
        points = generator.uniform(0, 20, (5, 2)).tolist()
        layer = np.zeros(SIZE_HW, dtype=np.uint8)
        cv2.polylines(layer, np.array([points], dtype=np.int32), True, 1, 1)
        cv2.fillPoly(layer, np.array([points], dtype=np.int32), 1)
        assert np.array_equal(paint(points, SIZE_HW), layer.astype(bool))


def test_wordings_of_one_question_share_everything_but_the_last_part_of_the_id(tmp_path):
    texts = ["the thing to sit on", "where one sits"]
    samples = read(write(tmp_path, {"b": record([shape("target", SQUARE)], text=texts)}))
    assert [sample.id for sample in samples] == ["reasonseg|train|b|0", "reasonseg|train|b|1"]
    assert [sample.expression for sample in samples] == texts
    assert [(sample.question, sample.group) for sample in samples] == [("", "short query")] * 2
    assert samples[0].mask == samples[1].mask


def test_a_sentence_comes_as_question_and_its_target_has_a_short_name(tmp_path):
    text = "Which part of the bicycle makes it stop? "
    (sample,) = read(write(tmp_path, {"b": record([shape("target", SQUARE)], text=[text], is_sentence=True)}))
    assert (sample.question, sample.expression, sample.group) == (text.strip(), "target", "long query")


def test_explanations_belong_to_their_training_image(tmp_path):
    explanations = [{"image": "b.jpg", "query": "q", "outputs": "It is round. "}]
    records = {name: record([shape("target", SQUARE)]) for name in ("a", "b")}
    root = write(tmp_path, records, explanations=explanations)
    assert [sample.answer for sample in read(root)] == ["", "It is round."]
    write(tmp_path, records, split="val")
    assert [sample.answer for sample in read(root, "val")] == ["", ""]


def test_missing_explanations_are_noted_and_never_stop(tmp_path):
    problems = Problems()
    read(write(tmp_path, {"a": record([shape("target", SQUARE)])}), problems=problems)
    assert dict(problems.counts) == {"explanations not found, samples come without": 1}


def test_an_image_that_asks_to_be_turned_is_noted_and_its_mask_lies_on_the_stored_pixels(tmp_path):
    root = write(tmp_path, {"a": record([shape("target", SQUARE)])}, split="val")
    turned = Image.Exif()
    turned[274] = 3
    Image.new("RGB", (SIZE_HW[1], SIZE_HW[0])).save(root / "reason_seg/ReasonSeg/val/a.jpg", exif=turned)
    problems = Problems()
    (sample,) = read(root, "val", problems)
    assert np.array_equal(decode_rle(sample.mask), SQUARE_AREA)
    assert dict(problems.counts) == {"images that ask to be turned, masks lie on the pixels as stored": 1}


def test_a_file_in_cp1252_is_read_and_noted(tmp_path):
    raw = json.dumps(
        record([shape("target", SQUARE)], text=["the caf\u00e9\u2019s door"]), ensure_ascii=False
    )
    problems = Problems()
    (sample,) = read(write(tmp_path, {"a": raw.encode("cp1252")}, split="val"), "val", problems)
    assert sample.expression == "the caf\u00e9\u2019s door"
    assert dict(problems.counts) == {"text in cp1252 read as such": 1}


WRONG = {
    "damaged annotation": b'{"text": [',
    "record without its fields": {"text": ["a"]},
    "no question": record([shape("target", SQUARE)], text=["a", " "]),
    "odd polygon": record([shape("target", [[1, 2], [3, 4], [5]])]),
    "shape without corners": record([shape("target", [])]),
    "polygon outside the image": record([shape("target", [[1, 2], [300, 4], [5, 6]])]),
    "polygon of other things than numbers": record([shape("target", [[1, 2], ["x", 4], [5, 6]])]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_named_or_left_out_and_counted(tmp_path, kind):
    root = write(tmp_path, {"a": WRONG[kind], "b": record([shape("target", SQUARE)])}, split="val")
    with pytest.raises(ValueError, match=r"val/a\.json"):
        read(root, "val")
    problems = Problems("skip")
    assert [sample.id for sample in read(root, "val", problems)] == ["reasonseg|val|b|0"]
    assert dict(problems.counts) == {kind: 1}


@pytest.mark.parametrize(("ending", "kind"), [("jpg", "missing image"), ("json", "image without annotation")])
def test_a_file_without_its_partner_is_told(tmp_path, ending, kind):
    root = write(tmp_path, {name: record([shape("target", SQUARE)]) for name in "ab"}, split="test")
    (root / f"reason_seg/ReasonSeg/test/a.{ending}").unlink()
    with pytest.raises(ValueError, match=r"test/a\.json"):
        read(root, "test")
    problems = Problems("skip")
    assert len(read(root, "test", problems)) == 1
    assert dict(problems.counts) == {kind: 1}


def test_an_image_without_a_target_shape_has_an_empty_mask_and_is_no_no_target(tmp_path):
    sample = mask_of(tmp_path, shape("ignore", SQUARE))
    assert not decode_rle(sample.mask).any()
    assert not sample.no_target


def test_unknown_split_and_missing_folder_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'testA' for reasonseg; known: train, val, test"):
        read(tmp_path, "testA")
    with pytest.raises(FileNotFoundError, match=r"reason_seg/ReasonSeg/val not found .*check_data\.py"):
        read(tmp_path, "val")
