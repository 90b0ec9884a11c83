import pytest

from llava.data.mirror import SWAPPED, mirror_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left dog", "right dog"),
        ("the leftmost man", "the rightmost man"),
        ("second from the right, left-hand side", "second from the left, right-hand side"),
        ("The Left dog on the RIGHT", "The Right dog on the LEFT"),
        ("top-right corner", "top-left corner"),
        ("left of the man to the right of the tree", "right of the man to the left of the tree"),
        ("2nd from left", "2nd from right"),
        ("man's left hand", "man's right hand"),
        ("dog on the right behind the bus", "dog on the left behind the bus"),
        ("one that is left of the tree", "one that is right of the tree"),
        ("bright copyright upright light", "bright copyright upright light"),
        ("the brightest one with a frightened wright", "the brightest one with a frightened wright"),
        ("red car", "red car"),
        ("", ""),
    ],
)
def test_sides_change_places_word_by_word(text, expected):
    assert mirror_words(text) == expected
    assert mirror_words(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "dog right behind the bus",
        "person right in front",
        "the cup that is right next to the plate",
        "sign the right way up",
        "the one that looks just right",
        "the last slice left on the plate",
        "what is left of it and what's left",
        "the bag left behind",
        "leftover pizza",
        "man on l",
        "R guy",
        "leftside guy",
        "Topright zebra",
        "farleft",
        "the righthanded one",
        "banana at 3 o'clock",
        "at three oclock",
        "hands turning clockwise",
        "the north-west corner",
        "the driver's side door",
        "jersey 23",
        "bus #4",
        'sign that says "stop"',
        "truck with letters on it",
        "woman reading",
    ],
)
def test_what_may_be_no_side_or_shows_writing_is_not_mirrored(text):
    assert mirror_words(text) is None


def test_the_table_swaps_back():
    assert len(SWAPPED) == 16
    assert all(SWAPPED[other] == word for word, other in SWAPPED.items())
