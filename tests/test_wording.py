from dataclasses import fields

import pytest
import yaml

from llava.data.questions import ANSWER_PARTIAL, EVAL_QUESTION, QUESTION_PARTIAL
from llava.data.wording import OWN_FILE, PLACES, Wording, fill_places, load_wording

PUBLISHED = {
    "question_all": [
        "Segment the entire image and classify each category separately.",
        "Can you segment and label the image?",
    ],
    "answer_all": ["Sure, the segmentation mask is:", "Certainly, here is the segmented output:"],
    "question_condition": [
        "Please segment the image based on the category: [class_name].",
        "Segment the image according to the specified category: [class_name].",
    ],
    "answer_condition": [
        "Sure, here is the segmentation based on the category '[class_name]':",
        "Sure, the segmentation mask is:",
    ],
    "question_object_all": [
        "Could you please segment the [object] in detail?",
        "Segment the [object] and label each part.",
    ],
    "answer_object_all": ["Sure, the segmented map of the [object] is:"],
    "question_object_part": ["Please segment the [part] of the [object] in this image."],
    "answer_object_part": ["Sure, here is the segmentation mask for the [part] of the [object]:"],
}


def own_lists():
    return yaml.safe_load(OWN_FILE.read_text(encoding="utf-8"))


def write(tmp_path, content):
    path = tmp_path / "wording.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "texts"), PUBLISHED.items())
def test_the_published_wording_of_each_list_comes_first_byte_for_byte(name, texts):
    assert list(getattr(load_wording(), name)[: len(texts)]) == texts


def test_the_fixed_question_of_evaluation_is_the_first_that_training_draws():
    assert load_wording().question_partial == QUESTION_PARTIAL
    assert load_wording().answer_partial == ANSWER_PARTIAL
    assert QUESTION_PARTIAL[0] == EVAL_QUESTION


def test_no_entry_stands_twice_in_its_list():
    lists = [getattr(load_wording(), entry.name) for entry in fields(Wording)]
    assert len(lists) == len(PLACES) == 13
    for entries in lists:
        assert len(set(entries)) == len(entries) >= 3


def test_a_users_own_file_takes_the_place_of_ours(tmp_path):
    lists = {name: [" ".join(sorted(places)) or "words"] for name, places in PLACES.items()}
    wording = load_wording(write(tmp_path, lists))
    assert wording.question_partial == ("[class_name]",)
    assert wording.question_object_part == ("[object] [part]",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_all": None}, r"wording.yaml: answer_all must be a list of texts"),
        ({"answer_all": [3]}, r"answer_all must be a list of texts"),
        ({"answer_all": []}, r"wording.yaml: answer_all has no entry"),
        ({"answer_all": [" "]}, r"answer_all, entry 1 is empty"),
        ({"question_partial": ["Mark it."]}, r"question_partial, entry 1 'Mark it.' lacks \[class_name\]"),
        ({"question_object_part": ["[part]?"]}, r"entry 1 '\[part\]\?' lacks \[object\]"),
        ({"question_all": ["All [class_name]"]}, r"has \[class_name\], which is not filled in this list"),
        ({"answer_all": ["Here: <seg>"]}, r"has the tag <seg>, which is added by the code"),
        ({"answer_all": ["In a <box>:"]}, r"has the tag <box>, which is added by the code"),
        ({"anwser_all": ["a"]}, r"wording.yaml has the unknown anwser_all; the lists are question_partial, "),
    ],
)
def test_a_wrong_list_is_named_with_its_entry(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_wording(write(tmp_path, own_lists() | change))


def test_missing_lists_are_named(tmp_path):
    lists = own_lists()
    del lists["answer_all"], lists["question_all"]
    with pytest.raises(ValueError, match="lacks question_all, answer_all; the lists are"):
        load_wording(write(tmp_path, lists))


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [", "is not valid YAML"), ("- a", "holds a list, needed the lists"), ("", "holds a NoneType")],
)
def test_a_file_that_is_no_set_of_lists_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_wording(write(tmp_path, content))


def test_a_missing_file_says_what_to_begin_with(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.yaml not found .*copy wording.yaml to begin with"):
        load_wording(tmp_path / "none.yaml")


def test_several_places_are_filled_at_once_and_values_hold_no_places():
    values = {"[part]": "the leg", "[object]": "[part] eater"}
    assert fill_places("Mark the [part] of the [object].", values) == "Mark the leg of the [part] eater."
