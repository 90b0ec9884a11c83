"""Guesses of mask rows: what follows a text, case by case, and how long the next guess is."""

import pytest

from llava.model.decoding.drafts import FIRST_ROWS, MOST_ROWS, Hints, draft, draft_rows, rows_after

WIDE = (4, 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Nothing is known of the first row, which is mostly empty.
        ("", "others *16\n"),
        # The row above comes again, a written count included.
        ("others *2| dog *3| others *11\n", " others *2| dog *3| others *11\n"),
        ("others *2| dog *3| others *11\n others", " *2| dog *3| others *11\n"),
        # An edge moved in: the region still ends where it ended above.
        ("others *2| dog *3| others *11\n others *4", "| dog *1| others *11\n"),
        # The region ended early: background up to the edge.
        ("others *2| dog *14\n others *2| dog *9", "| others *5\n"),
        # A new region begins with one cell, the hint is its name.
        ("others *16\n others *5", "| dog *1| others *10\n"),
        ("others *16\n d", "og *1| others *15\n"),
        # 1 is no count near 5, but 16 is the whole row; 10 is near 9.
        ("others *5| dog *2| others *9\n others *1", "6\n" + 2 * " others *16\n" + "</seg>"),
        ("others *9| dog *2| others *5\n others *1", "0| dog *1| others *5\n"),
    ],
)
def test_the_rest_of_a_row_follows_from_the_row_above(text, expected):
    assert draft_rows(text, WIDE, labels=["dog"]) == expected


def test_several_rows_are_copies_and_the_last_is_followed_by_the_tag():
    first = "others *2| dog *3| others *11\n"
    assert draft_rows(first, WIDE, rows=2) == 2 * f" {first}"
    assert draft_rows(first, WIDE, rows=9) == 3 * f" {first}" + "</seg>"
    assert draft_rows(first + 3 * f" {first}" + "</", WIDE) == "seg>"


def test_an_empty_row_below_the_regions_is_followed_by_empty_rows_to_the_end():
    begun = "others *2| dog *3| others *11\n others *16\n"
    assert draft_rows(begun, (9, 16)) == 7 * " others *16\n" + "</seg>"
    # Above the regions the next row may be theirs.
    assert draft_rows("others *16\n others *16\n", (9, 16)) == " others *16\n"
    assert draft_rows("dog *16\n dog *16\n", (9, 16)) == " dog *16\n"


def test_a_label_that_was_never_written_is_not_guessed():
    assert draft_rows("others *3| ca", WIDE, labels=["dog"]) == ""


@pytest.mark.parametrize("text", ["others *17\n", "others*16\n", "others *3\n", "dog, dog\n", "*4"])
def test_behind_another_spelling_there_is_no_guess(text):
    assert draft_rows(text, WIDE) == ""


def test_the_sentence_is_guessed_with_the_first_rows():
    hints = Hints((1, 4), ("dog",), ("Sure:\n", "Here:\n"))
    assert draft("", hints) == "Sure:\n<seg>others *4\n</seg>"
    assert draft("He", hints) == "re:\n<seg>others *4\n</seg>"
    assert draft("Look:\n<s", hints) == "eg>others *4\n</seg>"
    assert draft("No", hints) == "" == draft("Sure:\n<seg>others *4\n</seg>", hints)


def test_the_name_in_quotes_is_the_label():
    hints = Hints((2, 4), ("dog", "the dog"), ("Mask of 'the dog':\n",))
    assert draft("Mask of 'the dog':\n<seg>others *4\n others *2", hints) == "| the dog *1| others *1\n</seg>"
    assert draft("Mask of it:\n<seg>others *4\n others *2", hints) == "| dog *1| others *1\n</seg>"
    assert draft("Mask of it:\n<seg>others *4\n the", hints) == " dog *1| others *3\n</seg>"


def test_guesses_grow_while_they_hold_and_shrink_when_they_fail():
    assert rows_after(FIRST_ROWS, drafted=9, accepted=9) == min(2 * FIRST_ROWS, MOST_ROWS)
    assert rows_after(MOST_ROWS, drafted=9, accepted=9) == MOST_ROWS
    assert rows_after(MOST_ROWS, drafted=9, accepted=5) == MOST_ROWS
    assert rows_after(MOST_ROWS, drafted=9, accepted=4) == max(MOST_ROWS // 2, FIRST_ROWS)
    assert rows_after(FIRST_ROWS, drafted=9, accepted=0) == FIRST_ROWS == rows_after(4, drafted=0, accepted=0)
