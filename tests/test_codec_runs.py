"""Label grids as text: goldens, properties, fuzz."""

import doctest
import importlib
import itertools
import random
import tracemalloc

import numpy as np
import pytest

from llava.codec import FAULTS, Decoded, Fault, decode, encode, mask_to_grid

CODECS = ("rrle", "full", "irle")
CENTRE = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
DOG = ("others", "dog")
BUS = np.zeros((480, 640), bool)
BUS[120:360, 160:480] = True

# Texts of the published encoder for these grids.
GOLDENS = {
    "G1 centre": (
        CENTRE,
        DOG,
        "others *4\n others *1| dog *2| others *1\n others *1| dog *2| others *1\n others *4\n",
        81,
    ),
    "G2 empty": ([[0] * 4] * 4, ("others",), "others *4\n others *4\n others *4\n others *4\n", 43),
    "G3 full": (
        [[1] * 4] * 4,
        ("others", "the left black dog"),
        "the left black dog *4\n the left black dog *4\n the left black dog *4\n the left black dog *4\n",
        91,
    ),
    "G4 classes": (
        [[1, 1, 1, 1], [1, 2, 2, 1], [3, 2, 3, 3], [3, 3, 3, 3]],
        ("others", "sky", "tree", "grass"),
        "sky *4\n sky *1| tree *2| sky *1\n grass *1| tree *1| grass *2\n grass *4\n",
        71,
    ),
    "G5 checkerboard": (
        [[1, 0, 1, 0], [0, 1, 0, 1]] * 2,
        ("others", "a"),
        "a *1| others *1| a *1| others *1\n others *1| a *1| others *1| a *1\n "
        "a *1| others *1| a *1| others *1\n others *1| a *1| others *1| a *1\n",
        135,
    ),
    "G6 not square": ([[1, 1, 0], [0, 1, 1]], ("others", "x"), "x *2| others *1\n others *1| x *2\n", 33),
    "G7 from pixels": (
        mask_to_grid(BUS, (16, 16)).tolist(),
        ("others", "red bus"),
        "others *16\n " * 4
        + "others *4| red bus *8| others *4\n " * 8
        + "others *16\n " * 3
        + "others *16\n",
        367,
    ),
}


def first_use(grid, labels):
    """Grid and labels renumbered by first use, cell by cell: what a decoder must give back."""
    ids = {"others": 0}
    renumbered = [
        [ids.setdefault(labels[cell], len(ids)) for cell in row] for row in np.asarray(grid).tolist()
    ]
    return renumbered, tuple(ids)


def random_grid(rng):
    """Grid of up to 9x9 cells, up to 4 labels, in runs or as noise, with and without background."""
    height, width, count = rng.integers(1, 10), rng.integers(1, 10), rng.integers(1, 5)
    lowest = int(rng.integers(0, 2)) if count > 1 else 0
    grid = rng.integers(lowest, count, (height, width))
    return np.sort(grid, axis=int(rng.integers(0, 2))) if rng.random() < 0.5 else grid


@pytest.mark.parametrize(("grid", "labels", "text", "length"), GOLDENS.values(), ids=GOLDENS)
def test_a_golden_is_written_byte_for_byte(grid, labels, text, length):
    assert encode(np.array(grid), labels) == text
    assert len(text) == length


@pytest.mark.parametrize(("grid", "labels", "text", "length"), GOLDENS.values(), ids=GOLDENS)
def test_a_golden_is_read_back_whole(grid, labels, text, length):
    decoded = decode(text, (len(grid), len(grid[0])))
    assert (decoded.grid.tolist(), decoded.labels, decoded.faults) == (grid, labels, ())
    assert decoded.grid.dtype == np.int64


def test_the_forms_for_ablations_have_no_rows():
    grid = np.array([[1, 1, 0], [0, 0, 2]])
    labels = ("others", "dog", "cat")
    assert encode(grid, labels, codec="full") == "dog| dog| others| others| others| cat"
    assert encode(grid, labels, codec="irle") == "dog *2| others *3| cat *1"


@pytest.mark.parametrize("codec", CODECS)
def test_thousands_of_random_grids_survive_the_round_trip(codec):
    rng = np.random.default_rng(7)
    labels = ("others", "dog", "the man in red", "M*A*S*H")
    without_background = square = 0
    for _ in range(2500):
        grid = random_grid(rng)
        text = encode(grid, labels, codec=codec, strict=True)
        decoded = decode(text, grid.shape, codec=codec)
        assert (decoded.grid.tolist(), decoded.labels) == first_use(grid, labels), text
        assert decoded.faults == ()
        assert encode(decoded.grid, decoded.labels, codec=codec) == text
        without_background += bool(grid.all())
        square += grid.shape[0] == grid.shape[1]
    assert without_background > 100
    assert 100 < square < 1500


def runs_by_hand(cells, labels):
    return "| ".join(f"{labels[cell]} *{len(list(same))}" for cell, same in itertools.groupby(cells))


def test_encoding_equals_counting_the_runs_cell_by_cell():
    rng = np.random.default_rng(8)
    labels = ("others", *"abc")
    for _ in range(500):
        grid = random_grid(rng)
        rows = [runs_by_hand(row, labels) for row in grid.tolist()]
        assert encode(grid, labels) == "\n ".join(rows) + "\n"
        assert encode(grid, labels, codec="irle") == runs_by_hand(grid.ravel().tolist(), labels)


@pytest.mark.parametrize("codec", CODECS)
def test_a_grid_of_bytes_in_any_memory_order_is_written_like_one_of_whole_numbers(codec):
    labels = ("others", *(f"class {number}" for number in range(255)))
    grid = np.arange(256).reshape(16, 16) // 3
    assert encode(np.asfortranarray(255 - grid, np.uint8), labels, codec=codec) == encode(
        255 - grid, labels, codec=codec
    )


def test_labels_that_become_equal_by_cleaning_become_one_region():
    text = encode(np.array([[1, 2, 0]]), ("others", "a|b", "a b"))
    assert text == "a b *2| others *1\n"
    assert decode(text, (1, 3)).grid.tolist() == [[1, 1, 0]]


def test_a_label_with_a_bar_keeps_its_four_cells():
    decoded = decode(encode(np.array(CENTRE), ("others", "a|b")), (4, 4))
    assert (decoded.grid.tolist(), decoded.labels, decoded.faults) == (CENTRE, ("others", "a b"), ())


def test_a_label_that_looks_like_a_run_keeps_its_cells():
    decoded = decode(encode(np.array(CENTRE), ("others", "5 *3 sign")), (4, 4))
    assert (decoded.grid.tolist(), decoded.labels, decoded.faults) == (CENTRE, ("others", "5 3 sign"), ())


def test_a_region_called_others_is_not_taken_for_background():
    decoded = decode(encode(np.array(CENTRE), ("others", "others")), (4, 4))
    assert (decoded.grid.tolist(), decoded.labels) == (CENTRE, ("others", "the others"))


def test_one_wrong_count_spoils_at_most_its_own_row():
    rng = np.random.default_rng(11)
    labels = ("others", "dog", "cat")
    for _ in range(300):
        grid = rng.integers(0, 3, (6, 7))
        lines = encode(grid, labels).split("\n ")
        row = int(rng.integers(0, 6))
        label, _, count = lines[row].rstrip("\n").rpartition("*")
        lines[row] = f"{label}*{int(count) + int(rng.choice([-1, 1, 5]))}"
        decoded = decode("\n ".join(lines), grid.shape)
        names, expected = np.array(decoded.labels)[decoded.grid], np.array(labels)[grid]
        assert np.array_equal(np.delete(names, row, 0), np.delete(expected, row, 0))
        assert {fault.row for fault in decoded.faults} == {row}


def test_a_text_cut_anywhere_never_marks_a_cell_that_the_whole_text_does_not():
    text = encode(np.array(CENTRE), ("others", "the dog"))
    for length in range(len(text)):
        decoded = decode(text[:length], (4, 4))
        assert not np.any(decoded.grid > np.array(CENTRE))
        assert bool(decoded.faults) == (length < len(text) - 1)


def test_spaces_inside_a_label_do_not_make_another_label():
    assert decode("the  dog *1| the dog *1\n the\tdog *2\n", (2, 2)).labels == ("others", "the dog")


def test_labels_without_a_cell_in_the_grid_are_not_listed():
    assert decode("dog *2| cat *1\n cow *2\n hen *2\n", (2, 2)).labels == ("others", "dog", "cow")


def test_huge_counts_take_no_memory():
    text = "\n ".join(["dog *99999999999| cat *99999999999"] * 4)
    tracemalloc.start()
    decoded = decode(text, (4, 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000
    assert decoded.grid.tolist() == [[1] * 4] * 4


def check_decoded(decoded: Decoded, grid_hw):
    assert decoded.grid.shape == grid_hw
    assert decoded.grid.dtype == np.int64
    assert decoded.labels[0] == "others"
    assert len(set(decoded.labels)) == len(decoded.labels)
    assert set(np.unique(decoded.grid)) | {0} == set(range(len(decoded.labels)))
    assert all(fault.kind in FAULTS and str(fault).startswith(f"{fault.kind}: ") for fault in decoded.faults)


@pytest.mark.parametrize("codec", CODECS)
def test_decoding_never_raises_whatever_bytes_are_edited(codec):
    rng, edits = np.random.default_rng(5), random.Random(5)
    spice = ["|", "| ", " *", "*", "\n ", "\n", "-", "9" * 20, "others", "\x00", "é²٤"]
    damaged = 0
    for _ in range(1000):
        grid = random_grid(rng)
        data = bytearray(encode(grid, ("others", "dog", "cat", "cow"), codec=codec).encode())
        for _ in range(edits.randint(1, 7)):
            start = edits.randint(0, len(data))
            new = edits.choice([b"", edits.choice(spice).encode(), edits.randbytes(3)])
            data[start : start + edits.randint(0, 5)] = new
        decoded = decode(data.decode(errors="replace"), grid.shape, codec=codec)
        check_decoded(decoded, grid.shape)
        damaged += bool(decoded.faults)
    assert damaged > 500


@pytest.mark.parametrize("codec", CODECS)
def test_decoding_never_raises_on_random_characters(codec):
    rng = random.Random(6)
    alphabet = list("ab *|\n\r\t-+0189.<>/\u2028\u00b2\u0664\ud800\U0001f436")
    for _ in range(1000):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 60)))
        check_decoded(decode(text, (3, 5), codec=codec), (3, 5))


def test_a_fault_is_a_sentence_that_counts_rows_from_one_and_quotes_briefly():
    (fault,) = decode("others *9| dog *6", (1, 16)).faults
    assert str(fault) == "few_cells: row 1 describes 15 cells, needed 16: 'others *9| dog *6'"
    assert str(Fault("few_rows", None, "the text has 3 rows, needed 4")).startswith("few_rows: the text")
    assert len(str(decode("x" * 9999, (1, 1)).faults[0])) < 130


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode(np.zeros((2, 2), int), ("dog",)), "labels .'dog'.: the first must be 'others'"),
        (lambda: encode(np.zeros((2, 2), int), ()), "the first must be 'others'"),
        (lambda: encode(np.full((2, 2), 2), DOG), "from 2 to 2: needed are whole numbers from 0 to 1"),
        (lambda: encode(np.full((2, 2), -1), DOG), "from -1 to -1: needed"),
        (lambda: encode(np.zeros((2, 2)), DOG), "grid of float64"),
        (lambda: encode(np.zeros(4, int), DOG), r"grid shape \(4,\)"),
        (lambda: encode(np.zeros((2, 2), int), DOG, codec="lzw"), "codec 'lzw'; known: rrle, full, irle"),
        (lambda: decode("", (2, 2), codec="lzw"), "codec 'lzw'; known: rrle, full, irle"),
        (lambda: decode("", (0, 2)), r"grid_hw \(0, 2\)"),
        (lambda: encode(np.array(CENTRE), ("others", "a|b"), strict=True), r"label 'a\|b' cannot .* 'a b'"),
    ],
)
def test_wrong_input_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["labels", "grid", "runs", "answer"])
def test_the_examples_in_the_docstrings_are_true(name):
    result = doctest.testmod(importlib.import_module(f"llava.codec.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
