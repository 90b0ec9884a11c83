"""Records in bricks: what each box of an answer shows is what the record shows of the target."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from annotated_images import LEFT, RIGHT, SIZE_HW, SMALL, answers, image, questions, rectangle, target

from llava.codec.boxes import box_edges
from llava.codec.boxwise import block_of, read_boxes
from llava.data.annotated import anchors, collect
from llava.data.draw import DrawSettings, draw_record, generator
from llava.data.problems import Problems
from llava.data.readers import DATASETS, read_dataset
from llava.data.record_files import check_record
from llava.data.records import BuildSummary, records_of
from llava.data.rle import decode_rle, encode_mask, merge_rles
from llava.data.view import View

GRID = (16, 16)
_PLACES = [(row, column) for row in range(2) for column in range(4)]
DOTS = [rectangle(4 * row, 6 * column, 4 * row + 2, 6 * column + 2 + row) for row, column in _PLACES]
"""Eight boxes of 2 x 2 and 2 x 3 pixels, those of the second row larger."""


def settings(**changes):
    return DrawSettings(**{"grid_hw": GRID, "codec": "bricks", "rounds": 1, **changes})


def draw(drawn, *, seed=0, anchor=0, classes=(), why=None, **changes):
    rng = generator(seed, 0, 0)
    return draw_record(drawn, anchor, settings(**changes), rng=rng, classes=classes, why=why)


def read(record, number=0):
    """Blocks of an answer, which has no fault, as (label, mask of the view's size)."""
    order, tail = record["brick_order"], record["brick_tail"]
    found = read_boxes(answers(record)[number], GRID, order=order, tail=tail, strict=True)
    assert not found.faults
    return found.blocks


def seen(rle, record):
    """What a record shows of a mask."""
    left, top, right, bottom = record.get("crop_size", (0, 0, rle["size"][1], rle["size"][0]))
    part = decode_rle(rle)[top:bottom, left:right]
    return part[:, ::-1] if record.get("flip") else part


def noise(seed, size_hw=(300, 420)):
    """Mask of random rectangles."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size_hw, dtype=bool)
    for _ in range(5):
        top, left = (int(rng.integers(side)) for side in size_hw)
        mask[top : top + int(rng.integers(4, 90)), left : left + int(rng.integers(4, 90))] = True
    return encode_mask(mask)


@pytest.mark.parametrize("order", ["raster", "rows", "rows_separated", "columns", "snake", "hilbert"])
def test_an_expression_is_written_as_one_box_that_reads_back_as_its_mask(order):
    record = draw(image(target(1, "Red dog", LEFT)), brick_order=order, brick_tail=order == "snake")
    check_record(record, "drawn")
    assert {name: record[name] for name in ("height", "width", "codec", "brick_order", "brick_tail")} == {
        "height": 16,
        "width": 16,
        "codec": "bricks",
        "brick_order": order,
        "brick_tail": order == "snake",
    }
    (block,) = read(record)
    assert block.label == "red dog"
    assert np.array_equal(block.mask(SIZE_HW), decode_rle(LEFT))


def test_an_answer_is_its_sentence_and_the_blocks_on_a_line_of_their_own():
    sentence, _, text = answers(draw(image(target(1, "dog", rectangle(0, 0, 32, 48)))))[0].partition("\n")
    assert "dog" in sentence
    bricks = "<f63>" * 4 + "<f4>"
    assert text == f"<ref>dog</ref><box>(0,0),(999,999)</box><seg>{bricks}</seg>"


def test_crop_and_mirror_come_before_the_box():
    names = ("sky", "sea", "cow")
    drawn = image(
        *(target(name, name, noise(number)) for number, name in enumerate(names)),
        family="semantic",
        size_hw=(300, 420),
    )
    met = Counter()
    for seed in range(30):
        record = draw(drawn, seed=seed, crop=0.7, flip=0.5)
        met.update(key for key in ("crop_size", "flip") if key in record)
        for block in read(record):
            shown = seen(drawn.targets[names.index(block.label)].mask, record)
            expected = block_of(block.label, shown, GRID)
            assert (block.box, block.cells.tolist()) == (expected.box, expected.cells.tolist())
            met["blocks"] += 1
    assert met["crop_size"] > 10 and met["flip"] > 5 and met["blocks"] > 30


def test_a_pixel_is_enough_for_a_box_and_nothing_vanishes():
    pixel = rectangle(9, 7, 10, 8)
    record = draw(image(target(1, "fly", pixel)), vanished="skip")
    (block,) = read(record)
    assert np.array_equal(block.mask(SIZE_HW), decode_rle(pixel))
    summary = BuildSummary(settings())
    summary.count_image(image(target(1, "fly", SMALL), target(2, "speck", rectangle(0, 0, 0, 0))))
    assert (summary.vanished, summary.without_pixel) == (0, 1)
    assert "vanished       0 cover no cell of the 16x16 cells of their box\n" in str(summary)


def test_what_is_not_there_has_an_empty_block():
    record = draw(image(target(1, "unicorn", None)))
    assert answers(record)[0].endswith("\n<ref>unicorn</ref><box></box><seg></seg>")
    assert draw(image(target(1, "fly", rectangle(0, 0, 0, 0)))) is None


def test_each_object_of_an_expression_has_its_box_from_left_to_right():
    objects = (RIGHT, LEFT, rectangle(2, 20, 12, 30))
    drawn = image(target(1, "dogs", merge_rles(list(objects), SIZE_HW), instances=objects))
    for flip, expected in ((0.0, (LEFT, objects[2], RIGHT)), (1.0, (RIGHT, objects[2], LEFT))):
        record = draw(drawn, flip=flip)
        blocks = read(record)
        assert [block.label for block in blocks] == ["dogs"] * 3
        for block, mask in zip(blocks, expected, strict=True):
            assert np.array_equal(block.mask(SIZE_HW), seen(mask, record))


def test_objects_outside_the_crop_have_no_box():
    size_hw = (256, 2000)
    objects = tuple(rectangle(50, left, 90, left + 60, size_hw=size_hw) for left in (100, 1800))
    whole = merge_rles(list(objects), size_hw)
    drawn = image(target(1, "cow", whole, instances=objects), family="semantic", size_hw=size_hw)
    met = Counter()
    for seed in range(40):
        record = draw(drawn, seed=seed, crop=1.0)
        if record is not None:
            shown = [mask for mask in objects if seen(mask, record).any()]
            assert len(read(record)) == len(shown)
            met[len(shown)] += 1
    assert set(met) == {1}


@pytest.mark.parametrize(("most", "alone"), [(8, 8), (6, 5), (4, 3), (2, 1), (1, 0)])
def test_the_smallest_objects_of_a_crowd_share_the_last_box(most, alone):
    whole = merge_rles(DOTS, SIZE_HW)
    blocks = read(draw(image(target(1, "dots", whole, instances=tuple(DOTS))), max_blocks=most))
    assert len(blocks) == alone + (alone < 8)
    sizes = [int(block.mask(SIZE_HW).sum()) for block in blocks[:alone]]
    assert sorted(sizes, reverse=True) == ([6] * 4 + [4] * 4)[:alone]
    boxes = [box_edges(block.box, SIZE_HW) for block in blocks]
    for y, x in np.argwhere(decode_rle(whole)):
        assert any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes)


def test_a_crowd_leaves_room_for_the_other_targets_of_an_answer():
    more = {"question": "What is round?"}
    crowd = target(1, "dots", merge_rles(DOTS, SIZE_HW), instances=tuple(DOTS), **more)
    blocks = read(draw(image(target(0, "moon", LEFT, **more), crowd, family="reasoning"), max_blocks=5))
    assert [block.label for block in blocks].count("moon") == 1
    assert 2 <= len(blocks) <= 5


def test_a_question_with_more_targets_than_boxes_is_left_out():
    more = {"question": "What is round?"}
    drawn = image(*(target(n, f"dot {n}", mask, **more) for n, mask in enumerate(DOTS)), family="reasoning")
    why = Counter()
    assert draw(drawn, max_blocks=7, why=why) is None
    assert why == {"more targets than blocks": 1}
    assert len(read(draw(drawn, max_blocks=8))) == 8


@pytest.mark.parametrize("family", ["semantic", "parts"])
def test_no_more_classes_or_parts_are_asked_for_than_an_answer_has_boxes(family):
    more = {"part_of": "face"} if family == "parts" else {}
    drawn = image(*(target(n, f"dot {n}", mask, **more) for n, mask in enumerate(DOTS)), family=family)
    counts = Counter()
    for seed in range(120):
        record = draw(drawn, seed=seed, max_blocks=3)
        blocks = read(record)
        assert all(block.label in questions(record)[0] for block in blocks)
        counts[len(blocks)] += 1
    assert set(counts) == {1, 2, 3}


def test_overlapping_targets_keep_their_own_pixels():
    inside = image(target(0, "wall", rectangle(0, 0, 32, 48)), target(1, "window", LEFT), family="semantic")
    both = 0
    for seed in range(40):
        for block in read(draw(inside, seed=seed)):
            mask = {"wall": inside.targets[0].mask, "window": LEFT}[block.label]
            assert np.array_equal(block.mask(SIZE_HW), decode_rle(mask))
            both += block.label == "wall"
    assert both > 10


def test_tags_and_bricks_in_words_do_not_reach_the_label():
    (block,) = read(draw(image(target(1, "dog <f3> <box>", LEFT))))
    assert block.label == "dog"


def test_the_same_random_numbers_give_the_same_record_in_every_codec():
    drawn = image(target(1, ("dog", "left dog", "brown dog")), target(2, "wall", RIGHT))
    assert draw(drawn, seed=4, flip=0.5, rounds=2) == draw(drawn, seed=4, flip=0.5, rounds=2)
    for seed in range(10):
        boxes = draw(drawn, seed=seed, flip=0.5, rounds=2)
        cells = draw(drawn, seed=seed, flip=0.5, rounds=2, codec="rrle")
        assert questions(boxes) == questions(cells)
        assert "codec" not in cells and cells.get("flip") == boxes.get("flip")


def test_wrong_settings_of_bricks_are_reported_together():
    message = (
        r"draw settings: codec 'brick': known are rrle, full, irle, bricks; brick_order 'zigzag': known are "
        r"raster, .*; max_blocks 0: at least 1"
    )
    with pytest.raises(ValueError, match=message):
        DrawSettings(GRID, codec="brick", brick_order="zigzag", max_blocks=0)


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
def test_real_expressions_read_back_within_the_ceiling_of_their_box():
    root = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "refcoco_mini"
    images = list(collect(read_dataset(root, "refcoco|val", Problems()), DATASETS["refcoco"], root))
    overlaps = []
    for drawn in images:
        for anchor in anchors(drawn):
            mask = drawn.targets[anchor].mask
            record = draw_record(
                drawn, anchor, settings(grid_hw=(64, 64), flip=0.5), rng=generator(0, 0, anchor)
            )
            truth = seen(mask, record)
            found = read_boxes(answers(record)[0], (64, 64))
            assert not found.faults
            told = found.mask(drawn.size_hw)
            assert np.array_equal(told, block_of("x", truth, (64, 64)).mask(drawn.size_hw))
            overlaps.append((told & truth).sum() / (told | truth).sum())
    assert len(overlaps) > 10 and np.mean(overlaps) > 0.95


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
def test_real_things_have_a_box_for_each_segment_in_view(tmp_path):
    base = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "coco128_mini"
    (tmp_path / "coco/annotations").mkdir(parents=True)
    for place, source in (
        ("train2017", "images"),
        ("annotations/panoptic_train2017", "panoptic"),
        ("annotations/panoptic_train2017.json", "panoptic.json"),
    ):
        (tmp_path / "coco" / place).symlink_to(base / source)
    info = DATASETS["coco_panoptic"]
    images = {
        drawn.image: drawn
        for drawn in collect(read_dataset(tmp_path, "coco_panoptic|train", Problems()), info, tmp_path)
    }
    shape = settings(synonyms=0.0, crop=0.5, max_blocks=200)
    several = 0
    for record in records_of(list(images.values()), shape, classes=info.classes):
        drawn, counts = images[record["image"]], Counter(block.label for block in read(record))
        for found in drawn.targets:
            label = found.names[0]
            objects = [mask for mask in found.instances or (found.mask,) if seen(mask, record).any()]
            assert counts[label] in (0, len(objects))
            several += counts[label] > 1
    assert several > 5


def test_a_view_keeps_the_order_of_the_targets():
    drawn = image(target(0, "right", RIGHT), target(1, "left", LEFT))
    blocks = View(drawn, settings()).blocks([("right", 0), ("left", 1)])
    assert [block.label for block in blocks] == ["right", "left"]
