"""Guesses of mask rows: what follows a text, case by case, and how long the next guess is."""

import pytest

from llava.model.decoding.drafts import FIRST_ROWS, MOST_ROWS, Hints, draft, draft_rows, rows_after

WIDE = (4, 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Nothing is known of the first rows, which are mostly empty.
        ("", "others *16\n" + 3 * " others *16\n" + "</seg>"),
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


def test_empty_rows_are_guessed_to_the_end_below_the_regions_and_up_to_a_number_above_them():
    empty, grid = " others *16\n", (30, 16)
    assert draft_rows("dog *16\n" + empty, grid) == 28 * empty + "</seg>"
    assert draft_rows(empty.lstrip(), grid) == MOST_ROWS * empty
    assert draft_rows(empty.lstrip(), grid, rows=MOST_ROWS + 2) == (MOST_ROWS + 2) * empty
    # Where a region has begun, its rows are guessed, so many as were asked for.
    assert draft_rows("dog *16\n dog *16\n", grid) == " dog *16\n"
    assert draft_rows(empty + " d", grid, labels=["dog"]) == "og *1| others *15\n"


@pytest.mark.parametrize(("newest", "vanishes"), [(7, False), (5, True), (4, True), (1, True)])
def test_below_a_row_that_lost_half_of_its_cells_comes_an_empty_one(newest, vanishes):
    begun = f"dog *10| others *6\n dog *{newest}| others *{16 - newest}\n"
    follows = draft_rows(begun, (30, 16))
    assert (follows == 28 * " others *16\n" + "</seg>") == vanishes
    assert vanishes or follows == f" dog *{newest}| others *{16 - newest}\n"
    # What the model has begun otherwise resembles the row above as ever.
    assert draft_rows(f"{begun} dog", (30, 16)) == f" *{newest}| others *{16 - newest}\n"


def test_a_region_of_two_cells_may_lose_one():
    begun = "others *4| dog *2| others *10\n others *4| dog *1| others *11\n"
    assert draft_rows(begun, WIDE) == " others *4| dog *1| others *11\n"


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
