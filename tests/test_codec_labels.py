"""Labels that may stand in a mask text."""

import random

import numpy as np
import pytest

from llava.codec import clean_label, decode, encode

CLEANED = [
    ("a|b", "a b"),
    ("cat | dog", "cat dog"),
    ("| dog |", "dog"),
    ("5 *3 sign", "5 3 sign"),
    ("*dog", "dog"),
    ("a **b", "a b"),
    ("a * *b", "a b"),
    ("a *", "a"),
    ("dog|*4", "dog 4"),
    ("two\nlines", "two lines"),
    ("two\r\n lines", "two lines"),
    ("line\u2028separator\x0bhere\x85now", "line separator here now"),
    ("  wide \t space ", "wide space"),
    ("no\u00a0break", "no break"),
    ("<seg>dog</seg>", "dog"),
    ("<se<seg>g>", "<se g>"),
    ("", "object"),
    (" \n", "object"),
    ("|", "object"),
    ("<seg>", "object"),
    ("*", "object"),
    ("others", "the others"),
    (" others ", "the others"),
    ("others|", "the others"),
]
LEFT_ALONE = [
    "dog",
    "the left black dog",
    "M*A*S*H t-shirt",
    "dog*",
    "dog*4",
    "Others",
    "the others",
    "other",
    "man, in “red” (left)",
    "<b>",
    "seg",
    "собака",
    "狗",
    "-1",
    "4",
]


@pytest.mark.parametrize(("label", "expected"), CLEANED)
def test_a_label_that_would_break_the_format_is_cleaned(label, expected):
    assert clean_label(label) == expected


@pytest.mark.parametrize(("label", "expected"), CLEANED)
def test_strict_refuses_such_a_label_and_offers_a_clean_one(label, expected):
    with pytest.raises(ValueError, match="cannot stand in a mask text") as error:
        clean_label(label, strict=True)
    assert f"write {expected!r}" in str(error.value)


@pytest.mark.parametrize("label", LEFT_ALONE)
def test_a_good_label_is_left_alone(label):
    assert clean_label(label, strict=True) == label


@pytest.mark.parametrize("codec", ["rrle", "full", "irle"])
@pytest.mark.parametrize("label", LEFT_ALONE)
def test_a_good_label_survives_the_round_trip(label, codec):
    grid = np.array([[0, 1, 1], [1, 0, 1]])
    decoded = decode(encode(grid, ("others", label), codec=codec, strict=True), (2, 3), codec=codec)
    assert (decoded.grid.tolist(), decoded.labels, decoded.faults) == (grid.tolist(), ("others", label), ())


def test_a_long_label_is_cut():
    assert clean_label("dog " * 100, max_length=15) == "dog dog dog dog"
    assert clean_label("dog " * 100, max_length=16) == "dog dog dog dog"
    assert len(clean_label("x" * 300)) == 200
    assert clean_label("x" * 200, strict=True) == "x" * 200


def test_a_cut_too_short_for_the_rule_itself_is_refused():
    assert clean_label("others", max_length=10) == "the others"
    with pytest.raises(ValueError, match="max_length 9: at least 10"):
        clean_label("others", max_length=9)


def test_cleaning_random_text_once_is_enough_and_makes_it_decodable():
    rng = random.Random(0)
    pieces = [
        "|",
        "*",
        " ",
        "\n",
        "<",
        "seg",
        ">",
        "/",
        "others",
        "a",
        "4",
        "<seg>",
        "</seg>",
        "\u2028",
        "\r",
    ]
    for _ in range(1000):
        label = clean_label("".join(rng.choices(pieces, k=rng.randint(0, 8))))
        assert clean_label(label, strict=True) == label
        for codec in ("rrle", "full", "irle"):
            decoded = decode(encode(np.array([[1, 0]]), ("others", label), codec=codec), (1, 2), codec=codec)
            assert (decoded.grid.tolist(), decoded.labels, decoded.faults) == (
                [[1, 0]],
                ("others", label),
                (),
            )
