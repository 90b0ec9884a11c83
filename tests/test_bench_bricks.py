"""Lengths and ceilings of box-wise masks, on drawn annotations with known numbers."""

import sys
from pathlib import Path

import numpy as np
import pytest
from refer_folder import SQUARE, annotation, ref, write_dataset

from llava.codec import block_of, encode_bricks

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "playground" / "checkpoints" / "tiny-llava-refshapes"
PIXEL = [20, 10, 21, 10, 21, 11, 20, 11]

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

import brick_lengths  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def root(tmp_path):
    refs = [ref(1, 1, ["the box"]), ref(2, 2, ["speck"])]
    return write_dataset(tmp_path, refs, [annotation(1, [SQUARE]), annotation(2, [PIXEL])])


@pytest.fixture
def tables(root, capsys):
    words = ("--tokenizer", str(TOKENIZER), "--grids", "8", "80", "--image-grids", "10", "--budget", "120")
    brick_lengths.main([str(root), *words])
    printed = capsys.readouterr().out
    found = []
    for table in printed.split("\n\n")[1:]:
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    assert len(found) == 3
    return found


def test_every_order_has_a_row_with_and_without_the_last_background_and_the_paper_one(tables):
    rows = [(row["order"], row["background at the end"]) for row in tables[0]]
    assert len(set(rows)) == len(rows) == 13 and rows[-1][0] == "paper, order unknown"
    # A square and a pixel fill their boxes: one run of 64 cells, two bricks.
    assert tables[0][0]["8x8 mean / p95"] == "2.0 / 2"


def test_box_wise_masks_of_filled_boxes_lose_nothing_while_a_grid_does(tables):
    image, small, large = tables[1]
    assert (image["mask"], image["vanished"]) == ("image-wise", "50.0")
    for row in (small, large):
        assert (row["mask"], row["cIoU nearest"], row["gIoU bilinear"]) == ("box-wise", "100.0", "100.0")


def test_blocks_are_counted_into_the_budget(tables):
    small, large = tables[2]
    assert (small["grid"], small["images that fit whole"], small["objects that fit"]) == (
        "8x8",
        "1 of 1",
        "100.0 %",
    )
    assert large["images that fit whole"] == "0 of 1"
    assert large["fullest image"] == "0 of 2"


def test_slips_and_losses_change_one_brick():
    text = "<b1><f63><b5>"
    rng = np.random.default_rng(0)
    slips = {brick_lengths.slip(text, rng) for _ in range(50)}
    assert slips == {"<b2><f63><b5>", "<b1><f62><b5>", "<b1><f63><b4>", "<b1><f63><b6>"}
    losses = {brick_lengths.lose(text, rng) for _ in range(50)}
    assert losses == {"<f63><b5>", "<b1><b5>", "<b1><f63>"}


def test_a_damaged_text_is_compared_with_the_cells_that_it_was():
    block = block_of("dog", np.eye(4), (4, 4))
    text = encode_bricks(block.cells)
    assert brick_lengths.read_damaged(text, block, "raster", True) == (1.0, False)
    assert brick_lengths.read_damaged("<b1>" + text, block, "raster", True) == (0.0, True)
