import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import metric_references
import numpy as np
import pytest
from test_metrics import CASES, rows

from llava.eval.definitions import DEFINITIONS, MAIN, METRICS, Definition, find_definition
from llava.eval.metrics import RegionScores, binarise, judge, overlap

# What the published functions gave for the seven answers of CASES: gIoU or mIoU in parts of the sum, cIoU.
SUM = Fraction(1, 3) + Fraction(4, 5)
SEVEN = {
    "text4seg": ((SUM + 2) / 7, Fraction(6, 24)),
    "lisa": ((SUM + 2) / 7, Fraction(10, 27)),
    "gsva": ((SUM + 2) / 7, Fraction(10, 24)),
    "gsva_refzom": ((SUM + 2) / 7, Fraction(10, 19)),
    "rela": ((SUM + 1) / 7, Fraction(6, 24)),
    "lavt": ((SUM + 1) / 7, Fraction(10, 27)),
    "refzom": (SUM / 4, Fraction(6, 19)),
}
MEASURED = [name for name in DEFINITIONS if name != "rec"]


def scores_under(rules, cases):
    scores = RegionScores()
    for prediction, truth, rejected, *_ in cases:
        scores.update(overlap(prediction, truth, rejected=rejected))
    return scores.compute(rules)


@pytest.mark.parametrize("name", MEASURED)
def test_the_seven_golden_answers_score_as_published_code_scored_them(name):
    scores = scores_under(DEFINITIONS[name], CASES.values())
    mean, cumulative = SEVEN[name]
    # The published 1e-5 under each IoU moves the mean by less than 3e-6.
    assert scores[{"gIoU", "mIoU"}.intersection(scores).pop()] == pytest.approx(float(mean), abs=3e-6)
    assert scores["cIoU"] == float(cumulative)


def test_the_golden_rejections_count_as_published():
    for name in ("gsva", "gsva_refzom", "rela"):
        scores = scores_under(DEFINITIONS[name], CASES.values())
        assert (scores["N_acc"], scores["T_acc"]) == (1 / 3, 3 / 4)
    assert scores_under(DEFINITIONS["refzom"], CASES.values())["N_acc"] == 2 / 3


def test_a_minimum_area_empties_small_masks_and_rejects():
    scores = scores_under(find_definition("rela:min_area=4"), CASES.values())
    assert (scores["N_acc"], scores["T_acc"], scores["cIoU"]) == (2 / 3, 1 / 2, 6 / 24)
    assert scores["gIoU"] == pytest.approx(float((SUM + 2) / 7))
    one = overlap(rows("1110"), rows("1111"), rejected=False)
    for name, added in (("rela", (0, 4)), ("lisa", (0, 4)), ("refzom", (0, 4))):
        verdict = judge(one, replace(DEFINITIONS[name], min_area=4))
        assert (verdict.intersection, verdict.union, verdict.rejected) == (*added, True)
        assert judge(one, replace(DEFINITIONS[name], min_area=3)).intersection == 3


def test_undecided_pixels_are_dropped_or_count_as_the_definition_says():
    truth, ignore = rows("1100", "1100"), rows("0011", "0000")
    one = overlap(rows("1110", "1100"), truth, ignore=ignore)
    ious = {name: RegionScores([one]).compute(DEFINITIONS[name])["cIoU"] for name in ("lisa", "gsva")}
    assert ious == {"lisa": 1.0, "gsva": 5 / 6}
    assert judge(one, find_definition("rela:ignore=background")).union == 5
    assert judge(one, find_definition("gsva:ignore=dropped")).union == 4
    # What the truth says below an undecided pixel has no say.
    assert overlap(rows("1110", "1100"), truth | ignore, ignore=ignore) == one


def test_a_logit_of_zero_falls_to_the_side_of_the_tie_rule():
    logits = np.array([[0.0, -1.0, 2.0]])
    assert binarise(logits, DEFINITIONS["lisa"].tie).tolist() == [[False, False, True]]
    assert binarise(logits, DEFINITIONS["gsva"].tie).tolist() == [[True, False, True]]


def test_squashed_masks_are_counted_in_squashed_pixels():
    wide = np.zeros((2, 8), dtype=bool)
    wide[:, :4] = True
    one = overlap(wide, ~np.zeros_like(wide), side=4, boxes_xyxy=[(0, 0, 8, 2)])
    assert (one.intersection, one.union) == (8, 16)
    assert one.annotated_box == (4 * 2 * 10**4, 8 * 2 * 10**4)
    shrunk = overlap(wide, wide, side=2)
    assert (shrunk.intersection, shrunk.union) == (2, 2)


def random_answers(seed, number):
    """Answers with ignored pixels, rejected targets, rejections with a stray mask, and empty masks."""
    draw = np.random.default_rng(seed)
    for _ in range(number):
        shape = tuple(draw.integers(1, 6, 2))
        truth = draw.random(shape) < draw.choice([0.0, 0.5, 0.9])
        ignore = draw.random(shape) < draw.choice([0.0, 0.0, 0.2])
        truth &= ~ignore
        prediction = truth ^ (draw.random(shape) < draw.choice([0.0, 0.1, 0.6]))
        yield prediction, truth, ignore, bool(draw.random() < 0.25), not truth.any()


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("name", MEASURED)
def test_every_definition_equals_its_plain_loop(name, seed):
    answers = list(random_answers(seed, 15))
    scores = RegionScores(
        [overlap(p, t, ignore=i, rejected=r, no_target=e) for p, t, i, r, e in answers]
    ).compute(DEFINITIONS[name])
    expected = getattr(metric_references, name)(answers)
    assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert set(scores) - set(expected) <= {"samples", "boxes", "box_acc"}


def test_on_targets_without_ignored_pixels_all_definitions_agree():
    masks = [(p, t, False) for p, t, _, _, e in random_answers(1, 80) if not e and p.any()]
    found = [scores_under(DEFINITIONS[name], masks) for name in MEASURED]
    assert len(masks) > 30
    assert {scores["cIoU"] for scores in found} == {found[0]["cIoU"]}
    for scores in found:
        assert scores.get("gIoU", scores.get("mIoU")) == pytest.approx(found[4]["gIoU"], abs=1e-5)


def test_order_changes_no_bit_under_any_definition():
    overlaps = [overlap(p, t, ignore=i, rejected=r) for p, t, i, r, _ in random_answers(5, 200)]
    for rules in DEFINITIONS.values():
        assert RegionScores(overlaps[::-1]).compute(rules) == RegionScores(overlaps).compute(rules)


BOXES = {
    # predicted and true columns and rows, annotated box: right against the mask's box, and against that box
    "half of it": ((0, 5, 0, 10), (0, 10, 0, 10), (0, 0, 10, 10), False, True),
    "a hundredth below half": ((0, 5, 0, 10), (0, 10, 0, 10), (0, 0, 10.01, 10), False, False),
    "the same": ((2, 6, 3, 9), (2, 6, 3, 9), (2, 3, 6, 9), True, True),
    "elsewhere": ((0, 2, 0, 2), (4, 8, 4, 8), (4, 4, 8, 8), False, False),
    "one pixel wide": ((1, 2, 0, 10), (1, 2, 0, 10), (1, 0, 2, 10), False, True),
    "nothing drawn": ((0, 0, 0, 0), (0, 4, 0, 4), (0, 0, 4, 4), False, False),
}


def box_mask(x0, x1, y0, y1):
    mask = np.zeros((10, 10), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize("name", BOXES)
def test_boxes_are_judged_against_masks_or_annotations(name):
    found, wanted, annotated, by_mask, by_annotation = BOXES[name]
    one = overlap(box_mask(*found), box_mask(*wanted), rejected=False, boxes_xyxy=[annotated])
    assert judge(one, DEFINITIONS["text4seg"]).box is by_mask
    assert judge(one, DEFINITIONS["rec"]).box is by_annotation


def test_only_expressions_with_one_box_count_for_box_accuracy():
    mask = box_mask(0, 4, 0, 4)
    right = overlap(mask, mask, boxes_xyxy=[(0, 0, 4, 4)])
    rejected = overlap(mask, mask, rejected=True, boxes_xyxy=[(0, 0, 4, 4)])
    several = overlap(mask, mask, boxes_xyxy=[(0, 0, 4, 4), (5, 5, 6, 6)])
    absent = overlap(mask, mask & False, rejected=False, boxes_xyxy=[(0, 0, 4, 4)])
    scores = RegionScores([right, rejected, several, absent]).compute(DEFINITIONS["rec"])
    assert scores == {"samples": 4, "boxes": 2, "box_acc": 0.5}
    assert RegionScores([several]).compute(DEFINITIONS["rec"])["box_acc"] is None


def test_boxes_and_areas_agree_with_pycocotools():
    from pycocotools import mask as coco_mask

    for prediction, truth, _, _, no_target in random_answers(11, 60):
        if no_target or not prediction.any():
            continue
        rles = [coco_mask.encode(np.asfortranarray(m, dtype=np.uint8)) for m in (prediction, truth)]
        x, y, width, height = map(float, coco_mask.toBbox(rles[1]))
        one = overlap(prediction, truth, boxes_xyxy=[(x, y, x + width, y + height)])
        boxes = [coco_mask.toBbox(rle)[None] for rle in rles]
        inter, union = one.annotated_box
        assert inter / union == pytest.approx(coco_mask.iou(boxes[0], boxes[1], [0])[0, 0])
        assert one.intersection == coco_mask.area(coco_mask.merge(rles, intersect=True))
        assert one.union == coco_mask.area(coco_mask.merge(rles, intersect=False))


def test_names_say_what_was_changed_and_nothing_else():
    assert find_definition("gsva") == DEFINITIONS["gsva"]
    assert find_definition("rela:min_area=50,side=480").name == "rela:side=480,min_area=50"
    assert find_definition("gsva:tie=target,ignore=target") == DEFINITIONS["gsva"]
    assert find_definition("lisa:query=merged,tie=target").protocol == (0, "merged", "target")
    assert find_definition("lisa:tie=target").protocol == MAIN.protocol


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coco", "unknown definition 'coco'; known: text4seg, lisa, gsva"),
        (
            "rela:rejected=drawn",
            "'rejected=drawn' is none of box, side, min_area, ignore, query, tie, each once",
        ),
        ("rela:side=480,side=240", "'side=240' is none of"),
        ("rela:", "'' is none of"),
        ("rela:side", "'' is no number of pixels"),
        ("rela:side=-1", "'-1' is no number of pixels"),
        ("rela:ignore=void", "ignore=void: known are dropped, target, background"),
    ],
)
def test_a_wrong_definition_is_refused_with_what_is_known(text, message):
    with pytest.raises(ValueError, match=message):
        find_definition(text)


def test_a_row_of_the_table_is_checked_as_a_whole():
    with pytest.raises(ValueError, match=r"side=-1.*min_area=-2.*reports 'AP'"):
        Definition(name="x", source="", reports=("AP",), side=-1, min_area=-2)


def test_every_metric_is_reported_by_a_definition_and_every_row_names_its_source():
    assert {metric for rules in DEFINITIONS.values() for metric in rules.reports} == set(METRICS)
    assert all(name == rules.name and rules.source for name, rules in DEFINITIONS.items())
    assert {"text4seg", "lisa", "gsva", "rela", "lavt", "refzom"} <= set(DEFINITIONS)


REAL_DATA = pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
# The published functions called by hand, under our names; `ag` are the answers a and g alone.
GOLDENS = {
    "lisa_RES_ag": "lisa",
    "lavt_RES_ag": "lavt",
    "gsva_grefcoco": "gsva",
    "gsva_refzom": "gsva_refzom",
    "rela": "rela",
    "lisa_raw": "lisa",
    "text4seg_zeroed": "text4seg",
    "rela_area4": "rela:min_area=4",
    "dmmi_zeroed": "refzom",
}
OUR_NAMES = {"oIoU": "cIoU", "Acc": "N_acc", **{f"Pr@0.{t}": f"P@0.{t}" for t in (7, 8, 9)}}


@pytest.mark.real_data
@REAL_DATA
def test_every_golden_number_of_the_published_evaluators():
    path = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "metric_goldens.json"
    goldens = json.loads(path.read_text(encoding="utf-8"))
    assert set(goldens["expected"]) == set(GOLDENS)
    checked = 0
    for key, expected in goldens["expected"].items():
        names = "ag" if key.endswith("_ag") else "abcdefg"
        answers = [goldens["samples"][name] for name in names]
        cases = [(np.array(o["pred"], bool), np.array(o["gt"], bool), o["pred_nt"]) for o in answers]
        scores = scores_under(find_definition(GOLDENS[key]), cases)
        for metric, value in expected.items():
            assert scores[OUR_NAMES.get(metric, metric)] == pytest.approx(value, abs=6e-7), (key, metric)
            checked += 1
    assert checked == 43
