"""MUSE. No real sample is at hand: the files are drawn from the schema that PixelLM's loaders read."""

import json

import pytest
from PIL import Image

from llava.data.annotated import anchors, collect
from llava.data.problems import Problems
from llava.data.readers import DATASETS, read_dataset
from llava.data.readers.muse import without_placeholders
from llava.data.rle import decode_rle

SQUARE = [2, 2, 10, 2, 10, 10, 2, 10]
SHIFTED = [value + 8 for value in SQUARE]


def target(segmentation, name="tea_cup", **more):
    return {"segmentation": segmentation, "category_name": name, "category_id": 3, **more}


CUP, POT = target([SQUARE], rephrased_name="white cup"), target([SHIFTED], "teapot")


def record(questions, answers, **more):
    fields = {"file_name": "COCO_train2014_000000000009.jpg", "height": 20, "width": 30, "ann_list": []}
    return {**fields, "questions": questions, "answers": answers, **more}


def write(root, records, *, split="train"):
    for folder, name in (
        ("train2014", "COCO_train2014_000000000009.jpg"),
        ("train2017", "000000000123.jpg"),
        ("val2017", "000000000139.jpg"),
    ):
        path = root / "images/mscoco/images" / folder
        path.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(path / name)
    (root / "muse").mkdir(exist_ok=True)
    (root / f"muse/MUSE_{split}.json").write_text(json.dumps(records))
    return root


def read(root, split="train", problems=None):
    return list(read_dataset(root, f"muse|{split}", problems or Problems()))


def test_every_target_of_a_question_is_a_sample_with_that_question(tmp_path):
    texts = [None, "The {seg} cup is beside the pot {seg}."]
    records = [record(["What is hot?", "What is for tea?"], [[CUP], [CUP, POT]], text_answers=texts)]
    samples = read(write(tmp_path, records))
    assert [sample.id for sample in samples] == [
        "muse|train|0.0.0|0",
        "muse|train|0.1.0|0",
        "muse|train|0.1.1|0",
    ]
    assert [sample.question for sample in samples] == ["What is hot?", *["What is for tea?"] * 2]
    assert [sample.expression for sample in samples] == ["white cup", "white cup", "teapot"]
    assert [sample.synonyms for sample in samples] == [("tea cup",), ("tea cup",), ()]
    assert [sample.answer for sample in samples] == ["", *["The cup is beside the pot."] * 2]
    assert [sample.image_id for sample in samples] == [9] * 3
    assert decode_rle(samples[2].mask)[10:18, 10:18].all()
    assert samples[2].boxes_xyxy == ((10, 10, 18, 18),)


def test_images_are_found_by_name_or_by_address(tmp_path):
    page = "http://images.cocodataset.org"
    records = [
        record(["a?"], [[CUP]]),
        record(["b?"], [[CUP]], file_name=None, coco_url=f"{page}/train2017/000000000123.jpg"),
        record(["c?"], [[CUP]], file_name=None, coco_url=f"{page}/val2017/000000000139.jpg"),
    ]
    samples = read(write(tmp_path, records, split="test_many"), "test_many")
    assert [sample.image_id for sample in samples] == [9, 123, 139]
    assert [sample.image_path.parent.name for sample in samples] == ["train2014", "train2017", "val2017"]
    assert DATASETS["muse"].coco_images


def test_text_answers_that_do_not_fit_leave_out_their_question_only(tmp_path):
    texts = ["The {seg} and the {seg}.", "The {seg}."]
    problems = Problems()
    samples = read(
        write(tmp_path, [record(["a?", "b?"], [[CUP], [POT]], text_answers=texts)]), problems=problems
    )
    assert [sample.question for sample in samples] == ["b?"]
    assert dict(problems.counts) == {"text answers that do not fit their targets": 1}


def test_questions_without_targets_are_noted(tmp_path):
    problems = Problems()
    assert len(read(write(tmp_path, [record(["a?", "b?", " "], [[], [CUP], [CUP]])]), problems=problems)) == 1
    assert dict(problems.counts) == {"questions without words or targets": 2}


def test_run_lengths_are_masks_too(tmp_path):
    (sample,) = read(
        write(tmp_path, [record(["a?"], [[target({"size": [20, 30], "counts": [0, 40, 560]})]])])
    )
    assert decode_rle(sample.mask).sum() == 40


WRONG = {
    "record without its fields": {"height": 20, "width": 30},
    "record without an image": record(["a?"], [[CUP]], file_name=None),
    "missing image": record(["a?"], [[CUP]], file_name="COCO_train2014_000000000010.jpg"),
    "image of another size": record(["a?"], [[CUP]], height=21),
    "questions without answers": record(["a?", "b?"], [[CUP]]),
    "odd polygon": record(["a?"], [[CUP, target([SQUARE[:-1]])]]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_record_is_named_or_left_out_and_counted(tmp_path, kind):
    root = write(tmp_path, [WRONG[kind], record(["z?"], [[CUP]])])
    with pytest.raises(ValueError, match=r"MUSE_train\.json: record 0"):
        read(root)
    problems = Problems("skip")
    assert [sample.question for sample in read(root, problems=problems)] == ["z?"]
    assert dict(problems.counts) == {kind: 1}


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("{seg}", ""),
        ("Use the cup ({seg}) , or [{seg}] the pot{seg}.", "Use the cup , or the pot."),
        ("no placeholder", "no placeholder"),
    ],
)
def test_placeholders_leave_no_trace_in_an_answer(text, bare):
    assert without_placeholders(text) == bare


def test_unknown_split_and_missing_file_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'test' for muse; known: train, val, test_less"):
        read(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match=r"muse/MUSE_val\.json not found \(nor muse/muse_val\.json\)"):
        read(tmp_path, "val")


def test_the_targets_of_a_question_start_one_record_together(tmp_path):
    root = write(tmp_path, [record(["a?", "b?"], [[CUP, POT], [POT]])])
    (image,) = collect(read(root), DATASETS["muse"], root)
    assert [target.question for target in image.targets] == ["a?", "a?", "b?"]
    assert anchors(image) == (0, 2)
