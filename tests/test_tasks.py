"""Questions and answers of each family of datasets."""

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from annotated_images import EMPTY, LEFT, RIGHT, SMALL, answers, image, questions, rectangle, target

from llava.codec import read_answer
from llava.data.draw import DrawSettings, draw_record, generator
from llava.data.wording import fill_places, load_wording

WORDING = load_wording()
DRAWS = 200
MIDDLE = rectangle(0, 12, 32, 36)
ROOM = image(
    target(0, ("sofa", "couch", "settee"), LEFT),
    target(1, "wall", MIDDLE),
    target(2, "floor", RIGHT),
    target(3, "fly", SMALL),
    family="semantic",
)
CLASSES = ("sofa", "wall", "floor", "fly", "settee", "others", "boat", "tree", "Sky")
DOG = image(
    target(0, "head", LEFT, part_of="dog"),
    target(1, ("tail", "rear end"), MIDDLE, part_of="dog"),
    target(2, "ear", SMALL, part_of="dog"),
    target(3, "dog", rectangle(0, 0, 32, 36)),
    target(4, "wheel", RIGHT, part_of="car"),
    family="parts",
)
PARTS = (
    "head of the dog",
    "tail of the dog",
    "ear of the dog",
    "paw of the dog",
    "leg of the dog",
    "door of the car",
)


def draws(drawn, *, anchor=0, classes=(), count=DRAWS, rounds=1, **changes):
    """Records of many seeds, none missing."""
    settings = DrawSettings((4, 4), rounds=rounds, **changes)
    records = [
        draw_record(drawn, anchor, settings, rng=generator(seed, 0, 0), classes=classes)
        for seed in range(count)
    ]
    assert None not in records
    return records


@cache
def patterns(templates):
    """One pattern for each template, with a group for each of its places."""
    return [
        re.compile(re.sub(r"\\\[(class_name|object|part|question)\\\]", r"(?P<\1>.+)", re.escape(template)))
        for template in templates
    ]


def match(text, templates):
    """What fills the first template that fits a text, None where none fits."""
    found = (pattern.fullmatch(text) for pattern in patterns(templates))
    return next((fits.groupdict() for fits in found if fits), None)


def blocks(record):
    """(question, labels, grid) of each round."""
    for question, answer in zip(questions(record), answers(record), strict=True):
        read = read_answer(answer, (4, 4))
        assert not read.faults
        (block,) = read.blocks
        yield question, block.labels, block.grid


def form(question):
    """Which list a question comes from."""
    names = [name for name in WORDING.__dataclass_fields__ if name.startswith("question")]
    (found,) = [name for name in names if match(question, getattr(WORDING, name)) is not None]
    return found


def named(question):
    """Names in a question of some classes or of a list."""
    return match(question, WORDING.question_partial + WORDING.question_condition)["class_name"].split("|")


# semantic


def test_semantic_questions_come_in_the_shares_of_the_reference():
    forms = Counter(form(questions(record)[0]) for record in draws(ROOM, classes=CLASSES, count=600))
    assert set(forms) == {"question_all", "question_partial", "question_condition"}
    assert 35 <= forms["question_all"] <= 90
    assert 140 <= forms["question_partial"] <= 220


def test_after_everything_comes_a_part_or_a_list_with_equal_chance():
    forms = Counter()
    for record in draws(ROOM, classes=CLASSES, count=600, rounds=2):
        first, second = map(form, questions(record))
        if first == "question_all":
            forms[second] += 1
    assert set(forms) == {"question_partial", "question_condition"}
    assert 0.3 < forms["question_partial"] / forms.total() < 0.7


def test_everything_names_each_visible_class_once_and_leaves_no_cell_out():
    met = Counter()
    for record in draws(ROOM, count=500):
        ((question, labels, grid),) = blocks(record)
        if form(question) == "question_all":
            assert sorted({"settee": "sofa", "couch": "sofa"}.get(label, label) for label in labels) == [
                "floor",
                "others",
                "sofa",
                "wall",
            ]
            assert np.count_nonzero(grid) == 14
            met.update(set(labels) & {"sofa", "couch", "settee"})
    assert met["sofa"] / met.total() < 0.4
    assert met["couch"] and met["settee"]


def test_the_share_of_synonyms_is_a_setting():
    for record in draws(ROOM, synonyms=0.0):
        assert not re.search("couch|settee", str(record))


def test_some_classes_are_marked_and_the_rest_is_background():
    places = {"sofa": 0, "couch": 0, "settee": 0, "wall": 1, "floor": 3}
    sizes = Counter()
    for record in draws(ROOM):
        for question, labels, grid in blocks(record):
            if form(question) == "question_partial":
                names = named(question)
                assert set(labels) == {"others", *names}
                assert all(labels[grid[1, places[name]]] == name for name in names)
                sizes[len(names)] += 1
    assert set(sizes) == {1, 2, 3}


def test_a_class_list_adds_absent_classes_and_sometimes_the_background():
    absent, others, lists = Counter(), 0, 0
    for record in draws(ROOM, classes=CLASSES, count=600):
        for question, labels, _ in blocks(record):
            if form(question) != "question_condition":
                continue
            lists += 1
            names = named(question)
            assert len(set(names)) == len(names)
            others += "others" in names
            extra = set(names) - set(labels) - {"others"}
            assert extra <= {"boat", "tree", "sky"}
            absent[len(extra)] += 1
            assert set(labels) - {"others"} <= set(names)
    assert 0.4 < others / lists < 0.6
    assert 0.03 < absent[0] / lists < 0.2
    assert absent[1] and absent[2] and absent[3]


def test_what_covers_no_cell_or_has_the_name_of_something_there_is_never_called_absent():
    for record in draws(ROOM, classes=CLASSES):
        text = str(record["conversations"])
        assert "fly" not in text
        for question in questions(record):
            if form(question) == "question_condition":
                assert len({"sofa", "couch", "settee"} & set(named(question))) <= 1


def test_the_number_of_absent_names_has_a_limit():
    for record in draws(ROOM, classes=tuple(f"class {number}" for number in range(50)), distractors=2):
        assert len(re.findall(r"class \d+", questions(record)[0])) <= 2


def test_two_classes_of_one_name_are_marked_together():
    bags = image(
        target(0, "bag", LEFT), target(1, "bag", RIGHT), target(2, "wall", MIDDLE), family="semantic"
    )
    for record in draws(bags):
        for _, labels, grid in blocks(record):
            if "bag" in labels:
                bag = labels.index("bag")
                assert grid[1, 0] == grid[1, 3] == bag


def test_an_overlap_goes_to_the_smaller_region():
    inside = image(
        target(0, "wall", rectangle(0, 0, 32, 48)), target(1, "window", LEFT), family="semantic", path="b.jpg"
    )
    for record in draws(inside):
        for _, labels, grid in blocks(record):
            if {"wall", "window"} <= set(labels):
                assert labels[grid[1, 0]] == "window"


def test_ids_of_semantic_records_name_the_image():
    assert draws(ROOM, count=1)[0]["id"] == "d|images/1.jpg"


# parts


def test_part_questions_come_in_the_shares_of_the_reference():
    forms = Counter(form(questions(record)[0]) for record in draws(DOG, classes=PARTS, count=600))
    assert set(forms) == {"question_object_all", "question_partial", "question_object_part"}
    assert 255 <= forms["question_object_all"] <= 345
    assert 35 <= forms["question_partial"] <= 90


def test_all_parts_of_an_object_are_marked_by_their_plain_names():
    for record in draws(DOG):
        for question, labels, grid in blocks(record):
            if form(question) == "question_object_all":
                assert "dog" in question
                assert set(labels) in ({"others", "head", "tail"}, {"others", "head", "rear end"})
                assert labels[grid[1, 0]] == "head"
                assert grid[1, 3] == 0


def test_parts_of_an_object_may_come_with_absent_ones():
    asked = Counter()
    for record in draws(DOG, classes=PARTS, count=600):
        for question, labels, _ in blocks(record):
            if form(question) != "question_object_part":
                continue
            fits = match(question, WORDING.question_object_part)
            assert fits["object"] == "dog"
            parts = set(fits["part"].split("| "))
            extra = parts - set(labels)
            assert extra <= {"paw", "leg"}
            assert set(labels) - {"others"} <= parts
            asked[len(extra)] += 1
    assert 0.1 < (asked[1] + asked[2]) / asked.total() < 0.3
    assert asked[1] and asked[2]


def test_plain_names_are_the_object_or_its_parts_in_two_word_orders():
    found = set()
    for record in draws(DOG, count=500):
        for question, labels, _ in blocks(record):
            if form(question) == "question_partial":
                found |= set(labels) - {"others"}
    assert found == {
        "dog",
        "head of the dog",
        "dog head",
        "tail of the dog",
        "dog tail",
        "rear end of the dog",
        "dog rear end",
    }


def test_the_first_round_is_about_the_anchors_object_and_later_ones_about_any():
    second = Counter()
    for record in draws(DOG, anchor=4, rounds=2, count=100):
        first, later = blocks(record)
        assert set(first[1]) <= {"others", "wheel", "wheel of the car", "car wheel"}
        second["wheel" in str(later[1])] += 1
    assert second[True] and second[False]
    assert record["id"] == "d|train|4"


def test_an_object_without_parts_is_asked_for_by_name():
    for record in draws(image(target(0, "cat"), family="parts"), count=10):
        (question, labels, _), *_ = blocks(record)
        assert (form(question), labels) == ("question_partial", ("others", "cat"))


# reasoning


def test_a_question_is_asked_in_its_own_words_and_shows_all_its_targets_in_one_mask():
    more = {"question": "What holds Tea?", "answer": "The cup and the Pot."}
    drawn = image(target(0, "cup", LEFT, **more), target(1, "pot", RIGHT, **more), family="reasoning")
    for record in draws(drawn, count=20):
        (question, labels, grid), *_ = blocks(record)
        assert question in [
            fill_places(entry, {"[question]": "What holds Tea?"}) for entry in WORDING.question_reasoning
        ]
        assert answers(record)[0].startswith("The cup and the Pot.\n<seg>")
        assert labels == ("others", "pot", "cup") or labels == ("others", "cup", "pot")
        assert (labels[grid[1, 0]], labels[grid[1, 3]]) == ("cup", "pot")


def test_without_an_answer_in_words_a_sentence_is_drawn_and_an_absent_target_has_its_own():
    drawn = image(
        target(0, "target", LEFT, question="What barks?"),
        target(1, "target", None, question="What swims?"),
        family="reasoning",
    )
    for anchor, sentences, outcome in (
        (0, WORDING.answer_reasoning, "mask"),
        (1, WORDING.answer_reasoning_absent, "empty"),
    ):
        met = set()
        for record in draws(drawn, anchor=anchor, count=40):
            answer = answers(record)[0]
            met.add(answer.partition("\n<seg>")[0])
            assert read_answer(answer, (4, 4)).outcome == outcome
        assert met == set(sentences)


def test_a_phrase_of_a_reasoning_set_is_asked_like_an_expression():
    for record in draws(image(target(0, "the Barking one"), family="reasoning"), count=10):
        (question, labels, _), *_ = blocks(record)
        assert form(question) == "question_partial"
        assert labels == ("others", "the barking one")


@pytest.mark.parametrize(("mask", "reason"), [(SMALL, "vanished"), (EMPTY, "without pixel")])
def test_a_question_is_left_out_when_one_of_its_targets_cannot_be_shown(mask, reason):
    more = {"question": "What holds tea?"}
    drawn = image(target(0, "cup", LEFT, **more), target(1, "pot", mask, **more), family="reasoning")
    why = Counter()
    assert draw_record(drawn, 0, DrawSettings((4, 4)), rng=generator(0, 0, 0), why=why) is None
    assert why == {reason: 1}


def test_tags_inside_a_question_are_taken_out():
    drawn = image(target(0, "dog", question="What <image> is <SEG>it?"), family="reasoning")
    (record,) = draws(drawn, count=1)
    assert questions(record)[0].startswith("What is it?")
