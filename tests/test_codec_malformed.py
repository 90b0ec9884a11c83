"""Tables of malformed texts: what is made of each, and how its faults are named."""

import pytest

from llava.codec import decode

CENTRE = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
DOG = ("others", "dog")
O4 = "others *4"
ROW = "others *1| dog *2| others *1"
PREFIX = [[0, 0, 0, 0], [0, 1, 1, 0]]
EMPTY = [[0] * 4] * 4
# name: (text, expected 4x4 grid, expected (kind, row) of each fault)
MALFORMED = {
    "nothing": ("", EMPTY, [("few_rows", None)]),
    "blank": (" \n \n", EMPTY, [("few_rows", None)]),
    "prose": (
        "I see no dog.",
        EMPTY,
        [("unreadable_run", 0), ("few_cells", 0), ("few_rows", None)],
    ),
    "one cell short": (f"{O4}\n {ROW}\n others *1| dog *2\n {O4}\n", CENTRE, [("few_cells", 2)]),
    "one cell long": (f"{O4}\n {ROW}\n others *1| dog *2| others *2\n {O4}\n", CENTRE, [("many_cells", 2)]),
    "one cell too many in front": (
        f"{O4}\n others *2| dog *2| others *1\n {ROW}\n {O4}\n",
        [[0] * 4, [0, 0, 1, 1], [0, 1, 1, 0], [0] * 4],
        [("many_cells", 1)],
    ),
    "short row before full rows": (
        "dog *3\n dog *4\n dog *4\n dog *4\n",
        [[1, 1, 1, 0], [1] * 4, [1] * 4, [1] * 4],
        [("few_cells", 0)],
    ),
    "cut after a label": (
        f"{O4}\n others *1| dog ",
        EMPTY,
        [("unreadable_run", 1), ("few_cells", 1), ("few_rows", None)],
    ),
    "cut inside the background's name": (
        f"{O4}\n {ROW}\n oth",
        [*PREFIX, [0] * 4, [0] * 4],
        [("unreadable_run", 2), ("few_cells", 2), ("few_rows", None)],
    ),
    "cut after a star": (
        f"{O4}\n {ROW}\n others *",
        [*PREFIX, [0] * 4, [0] * 4],
        [("unreadable_run", 2), ("few_cells", 2), ("few_rows", None)],
    ),
    "cut after a bar": (
        f"{O4}\n {ROW}\n others *1| ",
        [*PREFIX, [0] * 4, [0] * 4],
        [("unreadable_run", 2), ("few_cells", 2), ("few_rows", None)],
    ),
    "cut after a row": (f"{O4}\n {ROW}\n", [*PREFIX, [0] * 4, [0] * 4], [("few_rows", None)]),
    "a row too many": (f"{O4}\n {ROW}\n {ROW}\n {O4}\n dog *4\n", CENTRE, [("many_rows", None)]),
    "no rows at all": (
        "others *5| dog *2| others *2| dog *2| others *5",
        EMPTY,
        [("many_cells", 0), ("few_rows", None)],
    ),
    "huge count": (
        "dog *99999999999\n dog *4\n dog *4\n dog *4",
        [[1] * 4] * 4,
        [("many_cells", 0)],
    ),
    "count of thousands of digits": (
        f"dog *{'9' * 9000}\n others *4\n others *4\n others *4",
        [[1] * 4, *EMPTY[1:]],
        [("many_cells", 0)],
    ),
    "zero count": (
        f"{O4}\n others *1| cat *0| dog *2| others *1\n {ROW}\n {O4}\n",
        CENTRE,
        [("bad_count", 1)],
    ),
    "negative count": (
        f"{O4}\n others *1| cat *-3| dog *2| others *1\n {ROW}\n {O4}\n",
        CENTRE,
        [("bad_count", 1)],
    ),
    "broken count": (
        f"{O4}\n {ROW}\n {ROW}\n others *3| dog *1.0\n",
        CENTRE,
        [("unreadable_run", 3), ("few_cells", 3)],
    ),
    "count in words": (
        f"{O4}\n {ROW}\n {ROW}\n others *3| dog *one\n",
        CENTRE,
        [("unreadable_run", 3), ("few_cells", 3)],
    ),
    "count in other digits": (
        f"{O4}\n {ROW}\n {ROW}\n others *3| dog *\u0664\n",
        CENTRE,
        [("unreadable_run", 3), ("few_cells", 3)],
    ),
    "label forgotten": (f"{O4}\n *1| dog *2| *1\n {ROW}\n {O4}\n", CENTRE, [("empty_label", 1)] * 2),
    "bar forgotten": (
        f"{O4}\n {ROW}\n {ROW}\n others *2 dog *2\n",
        CENTRE,
        [("unreadable_run", 3), ("few_cells", 3)],
    ),
    "bar too many": (
        f"{O4}\n others *1| | dog *2| others *1\n {ROW}\n {O4}\n",
        CENTRE,
        [("unreadable_run", 1)],
    ),
    "separators of another format": (
        "others *4; others *1, dog *2, others *1;",
        EMPTY,
        [("unreadable_run", 0), ("few_cells", 0), ("few_rows", None)],
    ),
    "cells instead of runs": (
        f"{O4}\n others| dog| dog| others\n {ROW}\n {O4}\n",
        [[0] * 4, [0] * 4, [0, 1, 1, 0], [0] * 4],
        [*[("unreadable_run", 1)] * 4, ("few_cells", 1)],
    ),
}


@pytest.mark.parametrize(("text", "grid", "faults"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_text_is_repaired_and_its_faults_named(text, grid, faults):
    decoded = decode(text, (4, 4))
    assert decoded.grid.tolist() == grid
    assert [(fault.kind, fault.row) for fault in decoded.faults] == faults


SPACING = {
    "no space before the star": f"others*4\n others*1| dog*2| others*1\n {ROW}\n others*4\n",
    "space after the star": f"others * 4\n {ROW}\n others * 1| dog * 2| others * 1\n {O4}\n",
    "no space after a line break": f"{O4}\n{ROW}\n{ROW}\n{O4}\n",
    "no last line break": f"{O4}\n {ROW}\n {ROW}\n {O4}",
    "line break in front": f"\n {O4}\n {ROW}\n {ROW}\n {O4}\n\n",
    "Windows line breaks": f"{O4}\r\n {ROW}\r\n {ROW}\r\n {O4}\r\n",
    "empty lines": f"{O4}\n\n {ROW}\n \n {ROW}\n\n\n {O4}\n",
    "space around bars": f"{O4}\n others *1 | dog *2 | others *1\n {ROW}\n {O4}\n",
    "no space after bars": f"{O4}\n others *1|dog *2|others *1\n {ROW}\n {O4}\n",
    "tabs and wide spaces": f"{O4}\n\tothers  *1|\tdog  *2| others *1 \n {ROW}\n {O4}\n",
    "sign and leading zeros": f"{O4}\n others *+1| dog *0002| others *1\n {ROW}\n {O4}\n",
}


@pytest.mark.parametrize("text", SPACING.values(), ids=SPACING)
def test_a_spacing_variant_is_read_without_a_fault(text):
    decoded = decode(text, (4, 4))
    assert (decoded.grid.tolist(), decoded.labels, decoded.faults) == (CENTRE, DOG, ())


# name: (codec, text, expected 2x2 grid, expected kinds)
FLAT = {
    "full, cut": ("full", "dog| others", [[1, 0], [0, 0]], ["few_cells"]),
    "full, long": ("full", "dog| " * 5 + "dog", [[1, 1], [1, 1]], ["many_cells"]),
    "full, nothing": ("full", "", [[0, 0], [0, 0]], ["few_cells"]),
    "full, empty label": ("full", "dog| | dog| dog", [[1, 0], [1, 1]], ["empty_label"]),
    "full, with counts": (
        "full",
        "dog *2| others *2",
        [[0, 0], [0, 0]],
        ["unreadable_run"] * 2 + ["few_cells"],
    ),
    "full, only a count": ("full", "dog| *1| dog| dog", [[1, 1], [1, 0]], ["unreadable_run", "few_cells"]),
    "full, line breaks": ("full", "dog| others\n others| dog\n", [[1, 0], [0, 1]], []),
    "irle, cut": ("irle", "dog *1| others *1| do", [[1, 0], [0, 0]], ["unreadable_run", "few_cells"]),
    "irle, long": ("irle", "others *3| dog *9", [[0, 0], [0, 1]], ["many_cells"]),
    "irle, nothing": ("irle", "\n", [[0, 0], [0, 0]], ["few_cells"]),
    "irle, rows": ("irle", "dog *1| others *1\n dog *2\n", [[1, 0], [1, 1]], []),
}


@pytest.mark.parametrize(("codec", "text", "grid", "kinds"), FLAT.values(), ids=FLAT)
def test_a_malformed_text_without_rows_is_repaired_at_its_end(codec, text, grid, kinds):
    decoded = decode(text, (2, 2), codec=codec)
    assert decoded.grid.tolist() == grid
    assert [fault.kind for fault in decoded.faults] == kinds
    assert all(fault.row is None for fault in decoded.faults)
