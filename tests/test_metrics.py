import random

import numpy as np
import pytest

from llava.eval.metrics import RegionScores, overlap, ratio


def rows(*lines):
    return np.array([[cell == "1" for cell in line] for line in lines])


SQUARE = rows("1100", "1100", "0000", "0000")
NOTHING = rows("0000", "0000", "0000", "0000")
# prediction, truth, rejected, intersection, union, IoU
CASES = {
    "plain": (rows("0110", "0110", "0000", "0000"), SQUARE, False, 2, 6, 1 / 3),
    "wrongly rejected, mask perfect": (SQUARE, SQUARE, True, 4, 4, 0.0),
    "correctly rejected, stray mask": (rows("1110", "0000", "0000", "0000"), NOTHING, True, 0, 3, 1.0),
    "missed rejection": (rows("1111", "1000", "0000", "0000"), NOTHING, False, 0, 5, 0.0),
    "empty mask, not rejected, nothing to find": (NOTHING, NOTHING, False, 0, 0, 0.0),
    "empty mask on a target": (NOTHING, SQUARE, False, 0, 4, 0.0),
    "one cell too many": (rows("1100", "1100", "1000", "0000"), SQUARE, False, 4, 5, 0.8),
}


def scores_of(cases):
    scores = RegionScores()
    for prediction, truth, rejected, *_ in cases:
        scores.update(overlap(prediction, truth, rejected=rejected))
    return scores.compute()


@pytest.mark.parametrize("name", CASES)
def test_counts_and_iou_of_one_answer(name):
    prediction, truth, rejected, intersection, union, iou = CASES[name]
    one = overlap(prediction, truth, rejected=rejected)
    assert (one.intersection, one.union) == (intersection, union)
    assert one.iou == iou


def test_all_cases_give_the_numbers_of_the_official_evaluator():
    scores = scores_of(CASES.values())
    assert scores["gIoU"] == pytest.approx((1 / 3 + 1 + 0.8) / 7)
    assert scores["cIoU"] == 6 / 24
    assert scores["N_acc"] == 1 / 3
    assert scores["T_acc"] == 3 / 4
    assert scores["samples"] == 7


def test_a_target_that_both_masks_lack_scores_zero():
    one = overlap(NOTHING, NOTHING, rejected=False, no_target=False)
    assert one.iou == 0.0
    scores = RegionScores([one]).compute()
    assert (scores["gIoU"], scores["cIoU"], scores["P@0.5"]) == (0.0, None, 0.0)


def test_an_empty_prediction_counts_as_rejected_unless_told():
    assert overlap(NOTHING, NOTHING).rejected
    assert not overlap(SQUARE, SQUARE).rejected
    assert not overlap(NOTHING, SQUARE, rejected=False).rejected


@pytest.mark.parametrize("tenths", [5, 6, 7, 8, 9])
def test_precision_counts_an_iou_that_equals_the_threshold(tenths):
    truth = np.ones((1, 10), dtype=bool)
    at, below = np.arange(10) < tenths, np.arange(10) < tenths - 1
    assert RegionScores([overlap(at[None], truth)]).compute()[f"P@0.{tenths}"] == 1.0
    assert RegionScores([overlap(below[None], truth)]).compute()[f"P@0.{tenths}"] == 0.0


def test_nothing_measured_is_none_and_not_zero():
    scores = RegionScores().compute()
    assert scores.pop("samples") == 0
    assert set(scores.values()) == {None}
    assert ratio(1, 0) is None


def test_a_correctly_rejected_expression_adds_nothing_to_the_union():
    rejected = overlap(SQUARE, NOTHING, rejected=True)
    found = overlap(SQUARE, SQUARE, rejected=False)
    assert RegionScores([rejected, found]).compute()["cIoU"] == 1.0


def test_masks_of_different_size_are_refused():
    with pytest.raises(ValueError, match=r"prediction is \(4, 4\), truth is \(2, 4\)"):
        overlap(SQUARE, SQUARE[:2])


def test_a_no_target_sample_with_a_true_mask_is_refused():
    with pytest.raises(ValueError, match="the truth has 4 pixels"):
        overlap(SQUARE, SQUARE, no_target=True)


def slow_scores(cases):
    """The definitions spelt out as loops over pixels."""
    ious, all_i, all_u, targets, absent, refused, kept = [], 0, 0, 0, 0, 0, 0
    hits = dict.fromkeys((0.5, 0.6, 0.7, 0.8, 0.9), 0)
    for prediction, truth, rejected in cases:
        inter = union = area = true_area = 0
        for y in range(truth.shape[0]):
            for x in range(truth.shape[1]):
                inter += bool(prediction[y, x] and truth[y, x])
                union += bool(prediction[y, x] or truth[y, x])
                area += bool(prediction[y, x])
                true_area += bool(truth[y, x])
        if true_area == 0:
            absent += 1
            refused += rejected
            ious.append(1.0 if rejected else 0.0)
            all_u += 0 if rejected else area
        else:
            targets += 1
            kept += not rejected
            iou = 0.0 if rejected else inter / union
            ious.append(iou)
            all_i += 0 if rejected else inter
            all_u += union
            for threshold in hits:
                hits[threshold] += iou >= threshold
    return {
        "samples": len(ious),
        "gIoU": sum(ious) / len(ious),
        "cIoU": all_i / all_u if all_u else None,
        **{f"P@{t}": n / targets if targets else None for t, n in hits.items()},
        "N_acc": refused / absent if absent else None,
        "T_acc": kept / targets if targets else None,
    }


def random_cases(seed, number):
    draw = np.random.default_rng(seed)
    for _ in range(number):
        shape = tuple(draw.integers(1, 6, 2))
        truth = draw.random(shape) < draw.choice([0.0, 0.5, 0.9])
        prediction = truth ^ (draw.random(shape) < draw.choice([0.0, 0.1, 0.6]))
        yield prediction, truth, bool(draw.random() < 0.2)


@pytest.mark.parametrize("seed", range(40))
def test_scores_equal_slow_loops_over_pixels(seed):
    cases = list(random_cases(seed, 12))
    assert scores_of(cases) == pytest.approx(slow_scores(cases))


def test_order_and_splitting_change_no_bit():
    overlaps = [overlap(p, t, rejected=r) for p, t, r in random_cases(7, 300)]
    whole = RegionScores(list(overlaps)).compute()
    random.Random(0).shuffle(overlaps)
    parts = [RegionScores(overlaps[start::3]) for start in range(3)]
    merged = RegionScores()
    merged.merge(parts)
    assert merged.compute() == whole


def test_pixel_sums_stay_exact_beyond_single_precision():
    big = overlap(np.ones((1000, 1001), dtype=bool), np.ones((1000, 1001), dtype=bool))
    small = overlap(np.array([[True, True]]), np.array([[True, False]]))
    scores = RegionScores([big] * 6000 + [small]).compute()
    total = 6000 * 1001000
    assert scores["cIoU"] == (total + 1) / (total + 2)


def test_intersection_and_union_agree_with_pycocotools():
    from pycocotools import mask as coco_mask

    for prediction, truth, _ in random_cases(3, 60):
        one = overlap(prediction, truth, rejected=False)
        rles = [coco_mask.encode(np.asfortranarray(m, dtype=np.uint8)) for m in (prediction, truth)]
        reference = coco_mask.iou(rles[:1], rles[1:], [0])[0, 0]
        assert one.intersection == (reference * one.union if one.union else 0)
