"""Questions about several targets, scored target by target."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from eval_fakes import SETTINGS

from llava.codec.boxwise import block_of, write_block
from llava.data.rle import encode_mask
from llava.eval.benchmarks import BENCHMARKS
from llava.eval.compare import Run
from llava.eval.overview import overview
from llava.eval.predictions import Record
from llava.eval.targets import pair_masks, parts_of, score_targets


def columns(*chosen, width=8):
    mask = np.zeros((2, width), dtype=bool)
    mask[:, list(chosen)] = True
    return mask


def total_iou(pairs):
    return sum(pair.intersection / pair.union for pair in pairs)


@pytest.mark.parametrize("seed", range(30))
def test_no_other_matching_has_a_larger_sum_of_ious(seed):
    rng = np.random.default_rng(seed)
    found, wanted = (rng.random((int(rng.integers(1, 4)), 4, 5)) < 0.5 for _ in range(2))
    found[:, 0, 0] = wanted[:, 0, 0] = True
    short, long = sorted((found, wanted), key=len)
    best = max(
        sum((one & other).sum() / (one | other).sum() for one, other in zip(short, order, strict=True))
        for order in permutations(long, len(short))
    )
    pairs = pair_masks(list(found), list(wanted))
    assert total_iou(pairs) == pytest.approx(best)
    assert len(pairs) == len(long)


def test_a_mask_without_a_partner_is_paired_with_nothing():
    pairs = pair_masks([columns(0, 1)], [columns(5), columns(0), columns()])
    assert sorted((pair.intersection, pair.union) for pair in pairs) == [(0, 2), (2, 4)]
    assert [(pair.intersection, pair.union) for pair in pair_masks([], [columns(3)])] == [(0, 2)]
    assert not pair_masks([columns()], [])


SIZE_HW = (2, 8)
LINE = replace(SETTINGS, grid_hw=SIZE_HW, options={"codec": "rrle", "upsample": "nearest"})
BOXES = replace(LINE, grid_hw=(4, 4), options={"codec": "bricks", "upsample": "nearest"})
TWO_LABELS = "<seg>cup *2| others *2| pot *4\n cup *2| others *2| pot *4\n</seg>"


def record(answer, targets, *, split="muse|val", coarse=None):
    union = encode_mask(np.any(targets, axis=0))
    return Record(
        id=f"{split}|0.0|0",
        image="one.png",
        expression="target",
        group="",
        no_target=False,
        truth=union,
        answer=answer,
        absent=False,
        coarse=union if coarse is None else encode_mask(coarse),
        targets=tuple(map(encode_mask, targets)),
    )


def test_an_image_wise_answer_has_a_mask_for_each_label():
    cup, pot = parts_of(record(TWO_LABELS, [columns(0)]), LINE)
    assert np.array_equal(cup, columns(0, 1)) and np.array_equal(pot, columns(4, 5, 6, 7))


def test_blocks_of_one_label_are_masks_of_their_own():
    answer = "".join(
        write_block(block_of("cup", columns(*places), BOXES.grid_hw)) for places in ((0, 1), (6, 7))
    )
    absent = "<ref>pot</ref><box></box><seg></seg>"
    found = parts_of(record(answer + absent, [columns(0)]), BOXES)
    assert [mask.any(axis=0).nonzero()[0].tolist() for mask in found] == [[0, 1], [6, 7]]


def test_an_answer_that_names_nothing_has_its_one_mask():
    (only,) = parts_of(record("", [columns(0)], coarse=columns(3)), LINE)
    assert np.array_equal(only, columns(3))


def test_every_pair_counts_once_whatever_its_question():
    one = record(TWO_LABELS, [columns(4, 5), columns(0, 1)])
    other = record("<seg>others *8\n others *8\n</seg>", [columns(0, 1, 2)], coarse=columns())
    scores = score_targets([one, other, replace(one, id="muse|test_less|0.0|0")], LINE)
    assert scores["muse|val"]["coarse"] == {
        "questions": 2,
        "targets": 3,
        "found": 2,
        "cIoU": pytest.approx((4 + 4 + 0) / (4 + 8 + 6)),
        "gIoU": pytest.approx((1 + 0.5 + 0) / 3),
    }
    assert scores["muse|test_less"]["coarse"]["gIoU"] == pytest.approx(0.75)


def test_the_union_alone_stands_for_a_question_of_one_target():
    one = replace(record(TWO_LABELS, [columns(0, 1)]), targets=())
    assert score_targets([one], LINE)["muse|val"]["coarse"]["gIoU"] == pytest.approx(0.5)


def test_runs_stand_side_by_side_target_by_target():
    settings = replace(LINE, options=LINE.options | {"benchmark": BENCHMARKS["muse"].settings()})
    both = [columns(0, 1), columns(4, 5, 6, 7)]
    one = TWO_LABELS.replace("pot", "others")
    runs = [Run(Path(name), settings, [record(text, both)]) for name, text in (("a", TWO_LABELS), ("b", one))]
    told = overview(runs)["muse|val"]["target by target, percent"]
    assert told[0] == ["run", "stage", "targets", "found", "cIoU", "gIoU"]
    assert told[1:] == [
        ["a", "coarse", "2", "2", "100.0", "100.0"],
        ["b", "coarse", "2", "1", "33.3", "50.0"],
    ]
