"""Conversations in the form of LLaVA-665k: drawn records with what is known to go wrong in such files."""

import json

import pytest
from PIL import Image

from llava.data.problems import Problems
from llava.data.readers.conversations import read_conversations

ASK, SAY = "<image>\nWhat is it?", "A dog | a *3 <odd> text."


def turns(*texts):
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def record(*texts, **more):
    return {"id": "000000000009", "conversations": turns(*(texts or (ASK, SAY))), **more}


def with_image(**more):
    return record(image="coco/train2017/000000000009.jpg", **more)


def write(path, records):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(each) for each in records) + "\n\n")
    else:
        path.write_text(json.dumps(records, indent=1))
    return path


def read(path, **more):
    return list(read_conversations(path, **more))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_texts_stay_as_they_are_in_both_forms_of_file(tmp_path, suffix):
    texts = ("What is\n<image>", "Ein Hund – „ja“ 犬", "And  now? ", "Nothing.\n")
    path = write(tmp_path / f"own{suffix}", [with_image(conversations=turns(*texts)), record("Hi", "Ho")])
    shown, plain = read(path)
    assert shown.conversations == (texts[:2], texts[2:])
    assert (shown.image, shown.family, shown.size_hw, shown.targets) == (
        "coco/train2017/000000000009.jpg",
        "conversation",
        (0, 0),
        (),
    )
    assert (plain.image, plain.conversations) == ("", (("Hi", "Ho"),))
    assert (shown.dataset, shown.ignore) == ("own", None)


def test_ids_that_stand_several_times_become_unique(tmp_path):
    path = write(tmp_path / "mix.json", [with_image(), with_image(), {**with_image(), "id": 7}])
    ids = [each.id for each in read(path, name="llava")]
    assert ids == ["llava|0|000000000009", "llava|1|000000000009", "llava|2|7"]


def test_a_record_without_an_id_goes_by_its_number(tmp_path):
    item = with_image()
    del item["id"]
    assert read(write(tmp_path / "mix.json", [item]))[0].id == "mix|0|"


def test_turns_without_counterpart_at_both_ends_are_noted(tmp_path):
    leading = {"from": "gpt", "value": "Welcome."}
    trailing = {"from": "human", "value": "And this?"}
    item = {"id": 1, "conversations": [leading, *turns("Hi", "Ho"), trailing]}
    problems = Problems()
    (found,) = read(write(tmp_path / "mix.json", [item]), problems=problems)
    assert found.conversations == (("Hi", "Ho"),)
    assert dict(problems.counts) == {
        "answers before the first question": 1,
        "questions after the last answer": 1,
    }


WRONG = [
    ("text", "damaged conversation", "needed an object with id, image"),
    ({"id": 1}, "damaged conversation", "needed an object with id, image"),
    (record("Hi", "Ho", conversations=[]), "damaged conversation", "list of pairs"),
    (record("Hi"), "damaged conversation", "list of pairs"),
    (record("Hi", " "), "damaged conversation", "turn 1 must be"),
    ({"id": 1, "conversations": turns("Hi", "Ho")[::-1]}, "damaged conversation", "list of pairs"),
    (with_image(conversations=turns("Hi", "Ho")), "damaged conversation", "exactly once, in turn 0"),
    (
        with_image(conversations=turns(ASK, SAY, ASK, SAY)),
        "damaged conversation",
        r"stands in turns \[0, 2\]",
    ),
    (record("Hi", "Ho \ud83d"), "damaged conversation", "turn 1 holds half a character"),
    (record(ASK, SAY), "damaged conversation", "nowhere, as the record has no image"),
    (record(image=["a.jpg", "b.jpg"]), "damaged conversation", "must be a path under the image folder"),
    (record(image="/etc/a.jpg"), "image outside the folder", "must be a path under the image folder"),
    (record(image="coco/../../a.jpg"), "image outside the folder", "must be a path under the image folder"),
    (with_image(height=16, width=16), "record with a label grid", "name such a file under `records`"),
]


@pytest.mark.parametrize(
    ("item", "kind", "message"), WRONG, ids=[str(number) for number in range(len(WRONG))]
)
def test_a_wrong_record_is_named_or_counted(tmp_path, item, kind, message):
    path = write(tmp_path / "mix.json", [with_image(), item, with_image()])
    with pytest.raises(ValueError, match=rf"mix\.json, record 1: .*{message}"):
        read(path)
    problems = Problems("skip")
    assert [each.id.split("|")[1] for each in read(path, problems=problems)] == ["0", "2"]
    assert problems.counts[kind] == 1


def test_missing_images_are_told_only_when_a_folder_is_given(tmp_path):
    path = write(tmp_path / "mix.json", [with_image(), record(image="a.jpg")])
    assert len(read(path)) == 2
    Image.new("RGB", (3, 2)).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"record 0: image .*000000000009\.jpg is missing"):
        read(path, image_folder=tmp_path)
    problems = Problems("skip")
    assert [each.image for each in read(path, problems=problems, image_folder=tmp_path)] == ["a.jpg"]
    assert dict(problems.counts) == {"missing image": 1}


def test_records_come_one_by_one_before_the_file_is_read_to_its_end(tmp_path):
    path = tmp_path / "mix.json"
    path.write_text(f"[{json.dumps(with_image())}, {json.dumps(with_image())}, broken")
    stream = read_conversations(path)
    assert next(stream).id == "mix|0|000000000009"
    assert next(stream).id == "mix|1|000000000009"
    with pytest.raises(ValueError, match=r"record 2: not valid JSON"):
        next(stream)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mix\.json not found - see \"Datasets\" in README"):
        read(tmp_path / "mix.json")
