"""Class lists: numbers and names of the label maps."""

import pytest

from llava.data.readers.classes import ClassName, class_names, parse_classes

SIZES = {
    "coco_stuff": 171,
    "coco_panoptic": 133,
    "ade20k150": 150,
    "ade20k847": 847,
    "voc20": 20,
    "pascal_context59": 59,
    "mapillary_v2": 123,
}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_every_list_has_the_classes_of_its_dataset(name, size):
    classes = class_names(name)
    assert len(classes) == size
    assert list(classes) == sorted(classes)


@pytest.mark.parametrize("name", SIZES)
def test_no_name_of_a_list_means_two_classes(name):
    words = [word for each in class_names(name).values() for word in (each.name, *each.synonyms)]
    assert len(words) == len({word.lower() for word in words}) >= SIZES[name]


@pytest.mark.parametrize(
    ("list_name", "number", "name"),
    [
        ("coco_stuff", 0, "person"),
        ("coco_stuff", 12, "stop sign"),
        ("coco_stuff", 89, "toothbrush"),
        ("coco_stuff", 91, "banner"),
        ("coco_stuff", 181, "wood"),
        ("coco_panoptic", 90, "toothbrush"),
        ("coco_panoptic", 184, "tree"),
        ("coco_panoptic", 199, "wall"),
        ("ade20k150", 1, "wall"),
        ("ade20k150", 13, "person"),
        ("ade20k150", 150, "flag"),
        ("ade20k847", 0, "wall"),
        ("ade20k847", 11, "person"),
        ("ade20k847", 846, "adding machine"),
        ("voc20", 15, "person"),
        ("voc20", 20, "tv monitor"),
        ("pascal_context59", 19, "computer"),
        ("pascal_context59", 59, "wood"),
        ("mapillary_v2", 0, "bird"),
        ("mapillary_v2", 61, "sky"),
        ("mapillary_v2", 122, "static"),
    ],
)
def test_numbers_stand_for_the_classes_of_the_published_lists(list_name, number, name):
    assert class_names(list_name)[number].name == name


def test_coco_stuff_leaves_out_the_eleven_numbers_that_coco_never_used():
    unused = set(range(182)) - set(class_names("coco_stuff"))
    assert unused == {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}


def test_panoptic_things_go_by_the_names_of_coco_stuff_one_number_higher():
    stuff, panoptic = class_names("coco_stuff"), class_names("coco_panoptic")
    same = [number for number in panoptic if number <= 181]
    assert len(same) == 80 + 36
    assert all(panoptic[number] == stuff[number - 1] for number in same)


def test_comments_and_empty_lines_hold_no_class():
    text = "# from somewhere\n\n7\ttv, television\n2\tcar\n"
    assert parse_classes(text, "own.txt") == {7: ClassName("tv", ("television",)), 2: ClassName("car")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\tcar\n1\tbus", "line 2: class 1 stands twice"),
        ("1\tcar, auto\n2\tAuto", "'Auto' already names class 1"),
        ("1\tcar, car", "'car' already names class 1"),
        ("1 car", "needed a number, a tab, and names"),
        ("one\tcar", "needed a number, a tab, and names"),
        ("1\tcar, ", "needed a number, a tab, and names"),
        ("1\tcar|bus", "own.txt, line 1"),
        ("1\tothers", "own.txt, line 1"),
    ],
)
def test_a_wrong_list_is_refused_by_line(text, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        parse_classes(text, "own.txt")


def test_an_unknown_list_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown class list 'ade'; known: ade20k150, ade20k847"):
        class_names("ade")


def test_a_list_cannot_be_changed_by_its_user():
    with pytest.raises(TypeError):
        class_names("voc20")[1] = ClassName("cat")
