"""Crop, mirror and seeds of drawn records."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from annotated_images import RIGHT, SMALL, answers, image, questions, rectangle, target

from llava.codec import mask_to_grid, read_answer
from llava.data.annotated import anchors, collect
from llava.data.draw import CROP_SIDES, DrawSettings, draw_record, generator
from llava.data.problems import Problems
from llava.data.readers.panoptic import INFOS as PANOPTIC
from llava.data.readers.panoptic import read_panoptic
from llava.data.readers.refer import INFOS as REFER
from llava.data.readers.refer import read_refer
from llava.data.record_files import check_record
from llava.data.records import BuildSummary, records_of
from llava.data.rle import decode_rle, encode_mask


def draw(drawn, *, seed=0, anchor=0, classes=(), why=None, **changes):
    settings = DrawSettings(**{"grid_hw": (4, 4), **changes})
    return draw_record(drawn, anchor, settings, rng=generator(seed, 0, 0), classes=classes, why=why)


def noise(seed, size_hw):
    """Mask of random rectangles."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size_hw, dtype=bool)
    for _ in range(6):
        top, left = (int(rng.integers(side)) for side in size_hw)
        mask[top : top + int(rng.integers(4, 90)), left : left + int(rng.integers(4, 90))] = True
    return mask


def cells(answer, grid_hw=(4, 4)):
    read = read_answer(answer, grid_hw)
    assert not read.faults
    return read.foreground


# mirror


def test_a_mirrored_record_says_so_and_mirrors_mask_and_words():
    record = draw(image(target(1, "man on the left")), flip=1.0)
    assert record["flip"] is True
    check_record(record, "drawn")
    assert all("man on the right" in text for text in questions(record))
    assert cells(answers(record)[0]).tolist() == [[False] * 4, *[[False] * 3 + [True]] * 2, [False] * 4]


def test_the_share_of_mirrored_draws_is_the_one_asked_for():
    found = Counter("flip" in draw(image(target(1, "dog")), seed=seed, flip=0.25) for seed in range(300))
    assert 45 <= found[True] <= 105
    assert not any("flip" in draw(image(target(1, "dog")), seed=seed) for seed in range(20))


def test_an_anchor_whose_words_may_be_wrong_keeps_the_image_as_it_is():
    record = draw(image(target(1, "dog right behind the bus"), target(2, "cat", RIGHT)), flip=1.0)
    assert "flip" not in record
    assert "dog right behind the bus" in questions(record)[0]


def test_a_mirrored_record_uses_only_words_that_can_be_mirrored():
    drawn = image(target(1, ("dog on l", "left dog")), target(2, "jersey 23", RIGHT), target(3, "cat", RIGHT))
    said = set()
    for seed in range(40):
        record = draw(drawn, seed=seed, flip=1.0)
        assert record["flip"] is True
        said |= {read_answer(answer, (4, 4)).blocks[0].labels[1] for answer in answers(record)}
    assert said == {"right dog", "cat"}


def test_class_names_that_know_sides_change_with_the_mirror():
    eyes = [
        target(1, "left eye", part_of="dog"),
        target(2, "right eye", RIGHT, part_of="dog"),
        target(3, "nose", rectangle(24, 16, 32, 32), part_of="dog"),
    ]
    for seed in range(30):
        for answer in answers(draw(image(*eyes, family="parts"), seed=seed, flip=1.0)):
            block = read_answer(answer, (4, 4)).blocks[0]
            for label, column in (("left eye", 0), ("right eye", 3)):
                if label in block.labels:
                    assert set(np.nonzero(block.grid == block.labels.index(label))[1]) == {column}


# crop


@pytest.mark.parametrize("size_hw", [(500, 640), (300, 270), (100, 80)])
def test_crop_and_mirror_show_the_cells_of_the_painted_way(size_hw):
    masks = [noise(seed, size_hw) for seed in (1, 2)]
    drawn = image(
        *(
            target(number, f"class {number}", encode_mask(mask))
            for number, mask in zip("ab", masks, strict=True)
        ),
        family="semantic",
        size_hw=size_hw,
    )
    fitting = [side for side in CROP_SIDES if side <= min(size_hw)] or [min(size_hw)]
    met = set()
    for seed in range(20):
        record = draw(drawn, seed=seed, grid_hw=(8, 8), crop=1.0, flip=0.5, rounds=1)
        if record is None:
            continue
        left, top, right, bottom = record["crop_size"]
        assert 0 <= left < right <= size_hw[1] and 0 <= top < bottom <= size_hw[0]
        assert right - left == bottom - top
        met.add(right - left)
        block = read_answer(answers(record)[0], (8, 8)).blocks[0]
        for number, mask in zip("ab", masks, strict=True):
            if f"class {number}" not in block.labels or len(block.labels) == 3:
                continue
            part = mask[top:bottom, left:right]
            part = part[:, ::-1] if record.get("flip") else part
            shown = block.grid == block.labels.index(f"class {number}")
            assert np.array_equal(shown, mask_to_grid(part, (8, 8)).astype(bool))
        check_record(record, "drawn")
    assert met <= set(fitting)
    assert len(met) == min(len(fitting), 4)


@pytest.mark.parametrize("family", ["referring", "reasoning"])
def test_expressions_and_questions_never_get_a_part_of_the_image(family):
    more = {"question": "Which one barks?"} if family == "reasoning" else {}
    record = draw(image(target(1, "dog", **more), family=family), crop=1.0)
    assert "crop_size" not in record


def test_a_class_outside_the_crop_is_neither_shown_nor_called_absent():
    size_hw = (256, 2000)
    drawn = image(
        target(1, "sky", rectangle(0, 0, 256, 500, size_hw=size_hw)),
        target(2, "sea", rectangle(0, 500, 256, 2000, size_hw=size_hw)),
        family="semantic",
        size_hw=size_hw,
    )
    seen = 0
    for seed in range(60):
        record = draw(drawn, seed=seed, crop=1.0, classes=("sky", "sea", "tree"))
        if record["crop_size"][0] >= 500:
            seen += 1
            assert "sky" not in str(record["conversations"])
    assert seen > 20


# seeds and settings


def test_the_same_random_numbers_give_the_same_record_and_others_another():
    drawn = image(target(1, ("dog", "left dog", "brown dog")), target(2, "wall", RIGHT))
    assert draw(drawn, seed=4, flip=0.5) == draw(drawn, seed=4, flip=0.5)
    assert len({str(draw(drawn, seed=seed, flip=0.5)) for seed in range(20)}) > 15


def test_why_nothing_was_drawn_is_counted():
    why = Counter()
    drawn = image(target(1, "fly", SMALL), target(2, "dog"))
    assert draw(drawn, why=why) is None
    assert draw(drawn, anchor=1, why=why) is not None
    assert draw(image(target(1, "fly", SMALL), family="semantic"), why=why) is None
    assert why == {"vanished": 1, "nothing visible": 1}


def test_wrong_settings_are_reported_together():
    message = (
        "draw settings: cell_policy 'all': known are centre, keep_small; codec 'zip': known are .*; "
        r"vanished 'drop': known are skip, keep; grid_hw \(4, 0\): two sides, both at least 1; "
        r"rounds 0: at least 1; distractors -1: at least 0; crop -0.1: from 0 to 1; flip 2: from 0 to 1"
    )
    with pytest.raises(ValueError, match=message):
        DrawSettings(
            (4, 0),
            codec="zip",
            cell_policy="all",
            rounds=0,
            vanished="drop",
            distractors=-1,
            crop=-0.1,
            flip=2,
        )


@pytest.mark.real_data
@pytest.mark.parametrize("spec", ["refcoco|val", "refcoco+|testB", "refcocog|val"])
def test_mirrored_records_of_real_refcoco_describe_the_mirrored_masks(spec):
    root = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "refcoco_mini"
    (info,) = [info for info in REFER if info.name == spec.partition("|")[0]]
    images = list(collect(read_refer(root, spec), info, root))
    mirrored = 0
    for drawn in images:
        for anchor in anchors(drawn):
            record = draw(drawn, anchor=anchor, flip=1.0, grid_hw=(16, 16), cell_policy="keep_small")
            mirrored += "flip" in record
            mask = decode_rle(drawn.targets[anchor].mask)
            mask = mask[:, ::-1] if "flip" in record else mask
            truth = mask_to_grid(mask, (16, 16), policy="keep_small").astype(bool)
            assert np.array_equal(cells(answers(record)[0], (16, 16)), truth)
    assert mirrored > 5


@pytest.mark.real_data
def test_classes_drawn_from_real_coco_images_describe_the_painted_map(tmp_path):
    base = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "coco128_mini"
    (tmp_path / "coco/annotations").mkdir(parents=True)
    for place, source in (
        ("train2017", "images"),
        ("annotations/panoptic_train2017", "panoptic"),
        ("annotations/panoptic_train2017.json", "panoptic.json"),
    ):
        (tmp_path / "coco" / place).symlink_to(base / source)
    (info,) = PANOPTIC
    images = list(collect(read_panoptic(tmp_path, "train", Problems()), info, tmp_path))
    assert len(images) == 29
    settings = DrawSettings((32, 32), crop=0.5, flip=0.5, synonyms=0.0)
    summary = BuildSummary(settings)
    by_path = {drawn.image: drawn for drawn in images}
    met = Counter()
    for record in records_of(images, settings, copies=4, classes=info.classes, summary=summary):
        check_record(record, "drawn")
        drawn = by_path[record["image"]]
        left, top, right, bottom = record.get("crop_size", (0, 0, *drawn.size_hw[::-1]))
        met.update(key for key in ("crop_size", "flip") if key in record)
        for answer in answers(record):
            read = read_answer(answer, (32, 32))
            assert not read.faults
            for place, label in enumerate(read.blocks[0].labels[1:], start=1):
                (mask,) = [decode_rle(found.mask) for found in drawn.targets if label in found.names]
                part = mask[top:bottom, left:right]
                part = part[:, ::-1] if record.get("flip") else part
                shown = read.blocks[0].grid == place
                assert np.array_equal(shown, mask_to_grid(part, (32, 32)).astype(bool))
                met["labels"] += 1
    assert met["crop_size"] > 20 and met["flip"] > 10 and met["labels"] > 200
    assert summary.records + summary.left_out.total() == 4 * 29
