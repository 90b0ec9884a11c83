"""Benchmarks of a system that writes boxes and bricks: maps, stages, the written box."""

import json
from dataclasses import replace

import numpy as np
import pytest
from eval_fakes import SETTINGS, SIZE_HW, SPLIT, FakeSegmenter, box_mask, drawn_samples

from llava.codec.boxes import box_edges
from llava.codec.boxwise import block_of, box_answer, read_boxes, write_block
from llava.data.rle import decode_rle, encode_mask
from llava.eval.benchmarks import BENCHMARKS
from llava.eval.loop import evaluate
from llava.eval.report import REPORT_FILE, RESULTS_FILE, write_report
from llava.eval.semantic import label_masks
from llava.types import Prediction

GRID = (16, 16)
BOXES = {"codec": "bricks", "upsample": "bilinear", "brick_order": "raster", "brick_tail": True}
SKY, SEA = box_mask(0, 0, 32, 10), box_mask(0, 10, 32, 24)


def text_of(*pairs, order="raster", tail=True):
    blocks = [write_block(block_of(label, mask, GRID), order=order, tail=tail) for label, mask in pairs]
    return box_answer("Sure:", blocks)


@pytest.mark.parametrize(("order", "tail"), [("raster", True), ("columns", False)])
def test_masks_of_labels_are_read_from_boxes_in_the_order_of_the_checkpoint(order, tail):
    corner = np.tril(np.ones(SIZE_HW, dtype=bool), -12)
    answer = text_of(("sky", SKY), ("corner", corner), order=order, tail=tail)
    masks = label_masks(answer, SIZE_HW, grid_hw=GRID, codec="bricks", brick_order=order, brick_tail=tail)
    assert list(masks) == ["sky", "corner"] and np.array_equal(masks["sky"], SKY)
    assert (masks["corner"] & corner).sum() / (masks["corner"] | corner).sum() > 0.9


def test_no_two_labels_of_a_map_in_boxes_overlap_and_blocks_of_one_label_are_one():
    left, right = box_mask(0, 0, 8, 8), box_mask(20, 4, 32, 12)
    answer = text_of(
        ("sky", SKY), ("bird", left), ("bird", right), ("cow", np.zeros(SIZE_HW)), ("others", SEA)
    )
    masks = label_masks(answer, SIZE_HW, grid_hw=GRID, codec="bricks")
    assert list(masks) == ["sky", "bird"]
    assert np.array_equal(masks["bird"], left | right & ~SEA)
    assert np.array_equal(masks["sky"], SKY & ~left & ~right)


def map_samples(folder):
    sample = drawn_samples(folder, images=1)[0]
    classes = (("circle", encode_mask(SKY)), ("square", encode_mask(SEA)))
    return [replace(sample, id=f"{SPLIT}|1|0", expression="map", question="Which?", classes=classes)]


class Painter(FakeSegmenter):
    """Writes a map in boxes."""

    def answer(self, query):
        text = text_of(("circle", SKY), ("square", SEA))
        mask = read_boxes(text, GRID).mask(SIZE_HW)
        return Prediction(mask[None, None], np.array([False]), text)


def test_a_map_in_boxes_is_scored_by_its_classes(tmp_path):
    settings = replace(SETTINGS, grid_hw=GRID, options=BOXES)
    (record,) = evaluate(Painter(), map_samples(tmp_path), tmp_path / "run", settings=settings)
    assert {name: decode_rle(rle).sum() for name, rle in record.regions["coarse"].items()} == {
        "circle": SKY.sum(),
        "square": SEA.sum(),
    }


class Boxer(FakeSegmenter):
    """Answers of the fake system, written as box and bricks."""

    def answer(self, query):
        said = super().answer(query)
        block = block_of(query.targets[0], said.masks[0, 0], GRID)
        box = None if block.box is None else box_edges(block.box, SIZE_HW)
        return replace(said, text=text_of((query.targets[0], said.masks[0, 0])), boxes=(box,))


def test_a_system_of_boxes_has_no_cells_of_the_image_and_a_box_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("llava.eval.report.SHEET_CARDS", 1)
    tiny = (7.0, 4.0, 16.0, 12.0)
    samples = [replace(one, boxes_xyxy=() if one.no_target else (tiny,)) for one in drawn_samples(tmp_path)]
    options = {**BOXES, "benchmark": BENCHMARKS["refer_comprehension"].settings()}
    settings = replace(SETTINGS, grid_hw=(1, 1), options=options)
    assert settings.cells_hw is None and replace(settings, options={}).cells_hw == (1, 1)
    records = evaluate(Boxer(), samples, tmp_path / "run", settings=settings)
    write_report(tmp_path / "run", records=records)
    results = json.loads((tmp_path / "run" / RESULTS_FILE).read_text())
    assert {tuple(told["scores"]) for told in results["splits"].values()} == {("coarse",)}
    assert results["counts"]["vanished"] == 0
    assert results["shown"] == ["rec", "rec:box=written", "text4seg"]
    written = results["definitions"]["rec:box=written"]["splits"][SPLIT]["coarse"]
    assert written["boxes"] == 8 and 0 < written["box_acc"] <= 1
    assert "rec:box=written" in (tmp_path / "run" / REPORT_FILE).read_text(encoding="utf-8")
