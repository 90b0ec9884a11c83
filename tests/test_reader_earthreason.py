"""EarthReason. No real sample is at hand: the files are drawn from what SegEarth-R1's loaders read."""

import json

import numpy as np
import pytest
from PIL import Image

from llava.data.problems import Problems
from llava.data.readers import read_dataset
from llava.data.rle import decode_rle

MASK = np.zeros((20, 30), dtype=np.uint8)
MASK[4:9, 3:20] = 255


def write(root, name, *, mask=MASK, words=None, label_name=None):
    """Write one image with label and questions under earthreason/val."""
    base = root / "earthreason/val"
    for folder in ("images", "labels", "QAs"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20)).save(base / f"images/{name}.jpg")
    Image.fromarray(mask).save(base / f"labels/{label_name or name}.png")
    content = {"questions": ["Where do ships land?"], "answer": ["At the pier."]} if words is None else words
    (base / f"QAs/{label_name or name}.json").write_text(json.dumps(content))
    return root


def read(root, problems=None):
    return list(read_dataset(root, "earthreason|val", problems or Problems()))


def test_questions_of_an_image_are_words_for_one_target(tmp_path):
    words = {"questions": ["Where do ships land?", "What is the harbour for?", "c?"], "answer": ["x", "y"]}
    samples = read(write(tmp_path, "7", words=words))
    assert [sample.id for sample in samples] == [f"earthreason|val|7|{k}" for k in range(3)]
    assert [sample.question for sample in samples] == words["questions"]
    assert [sample.answer for sample in samples] == ["x", "y", "x"]
    assert {sample.expression for sample in samples} == {"target"}
    assert np.array_equal(decode_rle(samples[0].mask), MASK > 0)
    assert samples[0].boxes_xyxy == ((3.0, 4.0, 20.0, 9.0),)


def test_no_answer_is_no_target(tmp_path):
    (sample,) = read(write(tmp_path, "7", mask=MASK * 0, words={"questions": ["a?"], "answer": []}))
    assert sample.no_target
    assert (sample.answer, sample.boxes_xyxy) == ("", ())


def test_an_empty_label_with_an_answer_is_an_empty_mask_but_a_target(tmp_path):
    (sample,) = read(write(tmp_path, "7", mask=MASK * 0))
    assert not sample.no_target


def test_any_value_but_zero_is_target_in_every_kind_of_png(tmp_path):
    colours = np.stack([MASK // 255, MASK * 0, MASK * 0, MASK * 0 + 255], axis=2)
    for name, mask in (("a", MASK // 255), ("b", colours), ("c", MASK.astype(np.uint16)), ("d", MASK > 0)):
        write(tmp_path, name, mask=mask)
    write(tmp_path, "e", mask=np.stack([MASK, MASK * 0 + 255], axis=2))
    samples = read(tmp_path)
    assert len(samples) == 5
    assert all(np.array_equal(decode_rle(sample.mask), MASK > 0) for sample in samples)


def test_a_missing_file_shifts_nothing(tmp_path):
    for number in range(3):
        write(tmp_path, f"{number}", mask=np.roll(MASK, number, axis=0))
    (tmp_path / "earthreason/val/labels/0.png").unlink()
    with pytest.raises(ValueError, match="val: 0: has no file in labels"):
        read(tmp_path)
    problems = Problems("skip")
    samples = read(tmp_path, problems)
    assert [sample.image_path.stem for sample in samples] == ["1", "2"]
    assert np.array_equal(decode_rle(samples[0].mask), np.roll(MASK, 1, axis=0) > 0)
    assert dict(problems.counts) == {"incomplete item": 1}


def test_files_of_other_names_are_paired_by_order_and_noted(tmp_path):
    write(tmp_path, "image_a", label_name="qa_1")
    write(tmp_path, "image_b", label_name="qa_2", mask=np.roll(MASK, 2, axis=0))
    problems = Problems()
    samples = read(tmp_path, problems)
    assert [(sample.image_path.stem, sample.id) for sample in samples] == [
        ("image_a", "earthreason|val|qa_1|0"),
        ("image_b", "earthreason|val|qa_2|0"),
    ]
    assert dict(problems.counts) == {"files paired by order, as their names differ": 1}


def test_one_sentence_may_stand_in_the_place_of_a_list(tmp_path):
    words = {"questions": "Where do ships land?", "answer": "At the pier."}
    (sample,) = read(write(tmp_path, "7", words=words))
    assert (sample.question, sample.answer) == (words["questions"], words["answer"])


WRONG = {
    "words that are no list": {"words": {"questions": [{"q": "a?"}], "answer": ["x"]}},
    "no target or a target": {"words": {"questions": ["a?"], "answer": []}},
    "no question": {"words": {"questions": [" "], "answer": ["x"]}},
    "record without its fields": {"words": {"questions": ["a?"]}},
    "image of another size": {"mask": MASK[:10]},
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_item_is_named_or_left_out_and_counted(tmp_path, kind):
    write(tmp_path, "7", **WRONG[kind])
    write(tmp_path, "8")
    with pytest.raises(ValueError, match=r"val/(QAs|labels)/7\."):
        read(tmp_path)
    problems = Problems("skip")
    assert [sample.id for sample in read(tmp_path, problems)] == ["earthreason|val|8|0"]
    assert dict(problems.counts) == {kind: 1}


@pytest.mark.parametrize(
    ("name", "kind"), [("QAs/7.json", "damaged annotation"), ("labels/7.png", "damaged label")]
)
def test_a_damaged_file_is_named_or_left_out_and_counted(tmp_path, name, kind):
    write(tmp_path, "7")
    (tmp_path / "earthreason/val" / name).write_text("<html>")
    with pytest.raises(ValueError, match=name):
        read(tmp_path)
    problems = Problems("skip")
    assert read(tmp_path, problems) == []
    assert dict(problems.counts) == {kind: 1}


def test_unknown_split_and_missing_folder_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'testA' for earthreason; known: train, val, test"):
        list(read_dataset(tmp_path, "earthreason|testA", Problems()))
    with pytest.raises(FileNotFoundError, match=r"earthreason/val not found .*check_data\.py"):
        read(tmp_path)
