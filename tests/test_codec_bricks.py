"""Cells to bricks and back: every order, with and without the background at the end, and broken texts."""

import numpy as np
import pytest

from llava.codec import FAULTS, decode_bricks, encode_bricks
from llava.codec.bricks import hilbert_curve, scan
from llava.constants import BRICK_TOKENS
from llava.settings import BRICK_ORDERS

FORMS = [(order, tail) for order in BRICK_ORDERS for tail in (False, True)]
STEP = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]])
TEXTS = {
    ("raster", True): "<b1><f3><b5>",
    ("raster", False): "<b1><f3>",
    ("rows", True): "<b1><f2><f1><b2><b3>",
    ("rows", False): "<b1><f2><f1>",
    ("rows_separated", True): "<b1><f2>\n<f1><b2>\n<b3>\n",
    ("rows_separated", False): "<b1><f2>\n<f1>\n",
    ("columns", True): "<b1><f1><b1><f1><b2><f1><b2>",
    ("columns", False): "<b1><f1><b1><f1><b2><f1>",
    ("snake", True): "<b1><f2><b2><f1><b3>",
    ("snake", False): "<b1><f2><b2><f1>",
    ("hilbert", True): "<b1><f1><b1><f1><b4><f1>",
    ("hilbert", False): "<b1><f1><b1><f1><b4><f1>",
}


def drawn_cells(rng):
    """Cells of any density; some as blobs, which make long runs."""
    grid_hw = tuple(rng.integers(1, 20, 2).tolist())
    if rng.random() < 0.5:
        return rng.random(grid_hw) < rng.choice([0, 0.03, 0.5, 0.97, 1])
    y, x = rng.integers(0, 20, 2)
    rows, columns = np.ogrid[: grid_hw[0], : grid_hw[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < rng.integers(1, 200)


@pytest.mark.parametrize(("order", "tail"), FORMS)
def test_cells_come_back_from_what_is_written(order, tail):
    rng = np.random.default_rng(0)
    for _ in range(400):
        cells = drawn_cells(rng)
        text = encode_bricks(cells, order=order, tail=tail)
        read, faults = decode_bricks(text, cells.shape, order=order, tail=tail, strict=True)
        assert np.array_equal(read, cells) and faults == ()


@pytest.mark.parametrize(("order", "tail"), FORMS)
def test_the_text_of_each_order_is_as_described(order, tail):
    assert encode_bricks(STEP, order=order, tail=tail) == TEXTS[order, tail]


def test_runs_of_more_than_63_cells_are_full_bricks_and_the_rest():
    cells = np.zeros((64, 64), bool)
    cells[62:] = True
    bricks = "<b63>" * 62 + "<b62>" + "<f63><f63><f2>"
    assert encode_bricks(cells) == bricks
    assert encode_bricks(np.ones((9, 7))) == "<f63>"


def test_only_known_tokens_are_written():
    rng = np.random.default_rng(1)
    for _ in range(20):
        text = encode_bricks(drawn_cells(rng))
        assert set(text.replace("><", "> <").split()) <= set(BRICK_TOKENS)


def test_every_order_visits_every_cell_once():
    for order in BRICK_ORDERS:
        for grid_hw in ((1, 1), (5, 3), (3, 8), (16, 16)):
            assert sorted(scan(grid_hw, order).tolist()) == list(range(grid_hw[0] * grid_hw[1]))


@pytest.mark.parametrize("order", ["snake", "hilbert"])
def test_two_dimensional_orders_go_from_neighbour_to_neighbour(order):
    rows, columns = np.divmod(scan((32, 32), order), 32)
    assert set((abs(np.diff(rows)) + abs(np.diff(columns))).tolist()) == {1}


def test_the_curve_of_level_0_is_one_cell():
    assert [axis.tolist() for axis in hilbert_curve(0)] == [[0], [0]]


MALFORMED = [
    ("", True, "000000", ["few_cells"]),
    ("", False, "000000", []),
    ("<f2>", True, "110000", ["few_cells"]),
    ("<f2><b1>", False, "110000", []),
    ("<b4><f9>", True, "000011", ["many_cells"]),
    ("<f9>", False, "111111", ["many_cells"]),
    ("<b6><f3>", False, "000000", ["many_cells"]),
    ("<f2><f64><b4>", True, "110000", ["unknown_brick"]),
    ("<f0><f6>", True, "111111", ["unknown_brick"]),
    ("<f01><f6>", True, "111111", ["unknown_brick"]),
    (f"<b{'9' * 5000}><f6>", True, "111111", ["unknown_brick"]),
    ("<b2> \n <f4> ", True, "001111", []),
    ("<b2>dog<f4>", True, "001111", ["unreadable_run"]),
    ("dog *4| others *2", True, "000000", ["unreadable_run", "few_cells"]),
    ("<b2><x3><f4", True, "000000", ["unreadable_run", "few_cells"]),
    ("<f1><f5>", True, "111111", []),
]


@pytest.mark.parametrize(("text", "tail", "cells", "kinds"), MALFORMED)
def test_a_malformed_text_is_read_as_far_as_it_goes(text, tail, cells, kinds):
    read, faults = decode_bricks(text, (2, 3), tail=tail)
    assert "".join(str(int(cell)) for cell in read.ravel()) == cells
    assert [fault.kind for fault in faults] == kinds
    assert all(len(str(fault)) < 200 for fault in faults)


SEPARATED = [
    ("<f1>\n<f2>\n", False, "100110", []),
    ("\n<f2>\n", False, "000110", []),
    ("<f9>\n<f2>\n", False, "111110", ["many_cells"]),
    ("<f1>\n<f3>\n", True, "100111", ["few_cells"]),
    ("<f3>\n", True, "111000", ["few_rows"]),
    ("<f3>\n", False, "111000", []),
    ("<f3>\n<f3>\n<f1>\n", False, "111111", ["many_rows"]),
    ("<f3>\n<f3>", False, "111111", []),
    ("", True, "000000", ["few_rows"]),
]


@pytest.mark.parametrize(("text", "tail", "cells", "kinds"), SEPARATED)
def test_an_error_in_a_separated_row_stays_in_its_row(text, tail, cells, kinds):
    read, faults = decode_bricks(text, (2, 3), order="rows_separated", tail=tail)
    assert "".join(str(int(cell)) for cell in read.ravel()) == cells
    assert [fault.kind for fault in faults] == kinds


def test_strict_reading_names_bricks_that_could_be_one():
    _, faults = decode_bricks("<b1><f2><f3>", (2, 3), strict=True)
    assert [str(fault) for fault in faults] == ["split_run: <f2> stands before another f brick"]
    assert decode_bricks("<f63><f2><b5>", (7, 10), strict=True)[1] == ()
    assert decode_bricks("<f3><f3>", (2, 3), order="rows", strict=True)[1] == ()


@pytest.mark.parametrize("order", BRICK_ORDERS)
def test_any_edit_of_a_text_is_read_without_an_exception(order):
    rng = np.random.default_rng(2)
    letters = np.frombuffer(b"<>fb0123456789\n /segx", np.uint8)
    for number in range(150):
        cells = drawn_cells(rng)
        raw = bytearray(encode_bricks(cells, order=order).encode() or b"x")
        for place in rng.integers(0, len(raw), rng.integers(1, 6)):
            raw[place] = rng.choice(letters) if number % 2 else rng.integers(0, 256)
        text = raw.decode(errors="replace")[: rng.integers(0, len(raw) + 1)]
        read, faults = decode_bricks(text, cells.shape, order=order, tail=bool(number % 3), strict=True)
        assert read.shape == cells.shape and read.dtype == np.bool_
        assert {fault.kind for fault in faults} <= FAULTS.keys()


def test_wrong_input_is_refused_in_words():
    with pytest.raises(ValueError, match="unknown brick order 'zigzag'; known: raster, rows, rows_separated"):
        encode_bricks(STEP, order="zigzag")
    with pytest.raises(ValueError, match=r"grid_hw \(0, 4\): two sides are needed"):
        decode_bricks("", (0, 4))
