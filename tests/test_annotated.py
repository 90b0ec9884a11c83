from pathlib import Path

import pytest
from annotated_images import EMPTY, LEFT, RIGHT, SIZE_HW, image, target

from llava.data.annotated import anchors, collect
from llava.data.readers.info import DatasetInfo
from llava.data.rle import rle_area
from llava.types import Sample

FOLDER = Path("data")


def info(family):
    return DatasetInfo("d", family, ("train",), lambda *_: iter(()), (), "page")


def sample(sample_id, expression, mask=LEFT, *, picture=1, **more):
    return Sample(sample_id, FOLDER / "images" / f"{picture}.jpg", picture, SIZE_HW, expression, mask, **more)


def collected(*samples, family="referring"):
    return list(collect(samples, info(family), FOLDER))


def test_sentences_of_one_ref_become_one_target_and_refs_of_one_image_come_together():
    first, second = collected(
        sample("d|train|1|10", "left dog", group="position"),
        sample("d|train|2|20", "cat", picture=2),
        sample("d|train|1|11", "dog"),
        sample("d|train|3|30", "wall", RIGHT),
    )
    assert (first.id, first.image, first.family, first.size_hw) == (
        "d|images/1.jpg",
        "images/1.jpg",
        "referring",
        SIZE_HW,
    )
    assert [(found.id, found.names) for found in first.targets] == [
        ("d|train|1", ("left dog", "dog")),
        ("d|train|3", ("wall",)),
    ]
    assert first.targets[0].group == "position"
    assert [found.id for found in second.targets] == ["d|train|2"]


def test_a_sentence_that_stands_twice_keeps_its_double_chance():
    (only,) = collected(sample("d|train|1|10", "dog"), sample("d|train|1|11", "dog"))
    assert only.targets[0].names == ("dog", "dog")


def test_what_is_not_there_has_no_mask_and_an_empty_annotation_keeps_its_own():
    (only,) = collected(
        sample("d|train|1|10", "cow", EMPTY, no_target=True), sample("d|train|2|20", "fly", EMPTY)
    )
    assert [found.mask for found in only.targets] == [None, EMPTY]


def test_ids_that_agree_are_one_target_only_where_the_masks_agree():
    (only,) = collected(sample("d|train|1|0", "a"), sample("d|train|1|1", "b", RIGHT))
    assert [(found.id, found.names) for found in only.targets] == [
        ("d|train|1", ("a",)),
        ("d|train|1|1", ("b",)),
    ]


@pytest.mark.parametrize("family", ["semantic", "parts"])
def test_each_class_of_an_image_is_a_target_with_its_synonyms(family):
    (only,) = collected(
        sample("d|train|1|7", "sofa", synonyms=("couch", "sofa", "settee"), part_of="room"),
        sample("d|train|1|9", "couch"),
        family=family,
    )
    assert [(found.id, found.names, found.part_of) for found in only.targets] == [
        ("d|train|1|7", ("sofa", "couch", "settee"), "room"),
        ("d|train|1|9", ("couch",), ""),
    ]


def test_each_wording_of_a_question_stays_a_target_and_questions_start_one_record_each():
    (only,) = collected(
        sample("d|train|1.0|0", "cup", question="What holds tea?", answer="The cup and the pot."),
        sample("d|train|1.1|0", "pot", RIGHT, question="What holds tea?", answer="The cup and the pot."),
        sample("d|train|2|0", "cup", question="What is round?"),
        sample("d|train|2|1", "cup", question="Which is a circle?"),
        family="reasoning",
    )
    assert [found.id for found in only.targets] == [
        "d|train|1.0|0",
        "d|train|1.1|0",
        "d|train|2|0",
        "d|train|2|1",
    ]
    assert only.targets[0].answer == "The cup and the pot."
    assert anchors(only) == (0, 2, 3)


def test_ignored_pixels_of_all_samples_are_joined():
    (only,) = collected(
        sample("d|train|1|0", "a", ignore=LEFT),
        sample("d|train|2|0", "b", ignore=RIGHT),
        sample("d|train|3|0", "c"),
    )
    assert rle_area(only.ignore) == rle_area(LEFT) + rle_area(RIGHT)
    assert collected(sample("d|train|1|0", "a"))[0].ignore is None


def test_anchors_are_expressions_objects_or_the_image():
    dog = [
        target(0, "head", part_of="dog"),
        target(1, "tail", part_of="dog"),
        target(2, "cat"),
        target(3, "dog"),
    ]
    assert anchors(image(*dog, family="parts")) == (0, 2)
    assert anchors(image(*dog)) == (0, 1, 2, 3)
    assert anchors(image(*dog, family="semantic")) == (0,)
    assert anchors(image(family="conversation")) == (0,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (sample("d|train|1|0", "b"), r"sample id d\|train\|1\|0 stands twice"),
        (
            Sample("d|train|2|0", Path("elsewhere/1.jpg"), 1, SIZE_HW, "b", LEFT),
            "does not lie under the image folder data; give a folder above it",
        ),
        (
            Sample("d|train|2|0", FOLDER / "images" / "1.jpg", 1, (9, 9), "b", LEFT),
            r"d\|train\|1\|0 states the size \(32, 48\), d\|train\|2\|0 \(9, 9\)",
        ),
    ],
)
def test_samples_that_do_not_fit_together_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        collected(sample("d|train|1|0", "a"), wrong)
