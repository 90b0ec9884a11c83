"""SAMRefiner's way: forgiving prompts, regions apart, the candidate that agrees; soft masks; the guard."""

import numpy as np
import pytest
import torch

from llava.eval.arguments import chosen_refiner, describe_refiner, load_refiner
from llava.eval.model_refer_seg import parse
from llava.model.refine import MultiPromptRefiner, SamRefiner, make_refiner
from llava.model.refine.prompts import (
    MASK_LOGIT,
    distance_points,
    elastic_box,
    gaussian_prompt,
    mask_prompt,
    similar_places,
    soft_prompt,
)
from llava.model.refine.regions import split_regions
from llava.refiners import refiner_options


def rectangle(size_hw, top, bottom, left, right):
    mask = np.zeros(size_hw, bool)
    mask[top:bottom, left:right] = True
    return mask


def with_answers(refiner, monkeypatch, single, candidates):
    """Let SAM answer each prompt with `single`, or with three `candidates`; returns the calls to it."""
    calls = []

    def decode(embedded, **inputs):
        calls.append(inputs)
        masks = candidates if inputs["several"] else [single]
        logits = np.stack([mask_prompt(mask, refiner.sam.prompt_side) for mask in masks])
        return refiner.sam.tensor(logits)[None].expand(inputs["count"], -1, -1, -1)

    monkeypatch.setattr(refiner.sam, "decode", decode)
    return calls


@pytest.fixture
def refiner(tiny_sam_folder):
    return MultiPromptRefiner(tiny_sam_folder, device="cpu", iterations=1)


def test_one_point_is_deepest_and_the_other_far_off_inside_the_box():
    mask = rectangle((60, 80), 10, 50, 10, 20) | rectangle((60, 80), 40, 50, 10, 70)
    points, labels = distance_points(mask)
    assert labels.tolist() == [1, 0]
    (x, y), (far_x, far_y) = points.astype(int)
    assert mask[y, x] and not mask[far_y, far_x]
    assert 10 <= far_x < 70 and 10 <= far_y < 50
    assert far_y == 10 and far_x >= 49


def test_a_mask_that_fills_its_box_has_one_point_twice():
    points, labels = distance_points(rectangle((30, 30), 5, 16, 5, 16))
    assert labels.tolist() == [1, 1]
    assert points.tolist() == [[10, 10], [10, 10]]


def test_the_gaussian_prompt_falls_from_the_middle_to_the_border():
    prompt = gaussian_prompt(rectangle((64, 128), 16, 48, 32, 96), 64)
    assert prompt[16, 32] == pytest.approx(30, abs=1)
    row = prompt[16, 16:33]
    assert (np.diff(row) >= -1e-5).all() and 0 < row[0] < 25
    inside = np.exp(-np.square(np.arange(1, 9) - 8.0) / (16 * 32 / 4)) * 30
    assert np.allclose(row[:8], inside, atol=1e-4)
    assert (prompt[0, :64] == -30).all() and not prompt[32:].any()


def test_the_box_grows_only_where_the_image_looks_like_the_object():
    mask = rectangle((100, 100), 40, 60, 40, 60)
    similar = rectangle((100, 100), 40, 60, 40, 90)
    assert elastic_box(mask, similar).tolist() == [40, 40, 62, 60]
    assert elastic_box(mask, mask).tolist() == [40, 40, 60, 60]
    assert elastic_box(mask, np.ones_like(mask)).tolist() == [38, 38, 62, 62]
    whole = np.ones((9, 9), bool)
    assert elastic_box(whole, whole).tolist() == [0, 0, 9, 9]


def test_similar_places_share_the_feature_of_the_mask():
    features = np.zeros((2, 8, 8), np.float32)
    features[0, :, :4] = 1
    features[1, :, 4:] = 1
    features[:, 4:] = 7
    similar = similar_places(rectangle((40, 80), 5, 35, 2, 20), features)
    assert similar[:, :35].all() and not similar[:, 45:].any()


def test_parts_far_apart_are_regions_and_close_ones_are_not():
    far = rectangle((60, 100), 5, 25, 5, 25) | rectangle((60, 100), 30, 55, 70, 98)
    assert [int(region.sum()) for region in split_regions(far)] == [700, 400]
    post = rectangle((60, 100), 5, 25, 5, 40) | rectangle((60, 100), 5, 25, 42, 80)
    assert [np.array_equal(region, post) for region in split_regions(post)] == [True]
    assert split_regions(np.zeros((5, 5), bool)) == []
    specks = np.zeros((90, 90), bool)
    specks[::9, ::9] = True
    assert len(split_regions(specks)) == 8


def test_the_candidate_that_agrees_with_the_coarse_mask_is_taken(refiner, monkeypatch, picture):
    coarse = rectangle((64, 64), 16, 40, 16, 40)
    near, far = rectangle((64, 64), 16, 44, 16, 44), rectangle((64, 64), 0, 64, 0, 64)
    calls = with_answers(refiner, monkeypatch, far, [far, near, rectangle((64, 64), 16, 24, 16, 24)])
    found = refiner.refine(picture(64, 64), coarse[None])
    assert found.notes == ("",)
    assert (found.masks[0] == near).mean() > 0.98
    assert [one["several"] for one in calls] == [False, True]
    assert sorted(calls[0]["prompts"]) == ["input_boxes", "input_labels", "input_points"]
    assert torch.equal(calls[0]["logits"][0], torch.from_numpy(gaussian_prompt(coarse, 16)))


def test_the_next_pass_is_prompted_by_the_answer(tiny_sam_folder, monkeypatch, picture):
    refiner = MultiPromptRefiner(tiny_sam_folder, device="cpu", iterations=2)
    coarse, better = rectangle((64, 64), 16, 40, 16, 40), rectangle((64, 64), 16, 48, 16, 48)
    calls = with_answers(refiner, monkeypatch, better, [better] * 3)
    refiner.refine(picture(64, 64), coarse[None])
    assert len(calls) == 4
    first, second = calls[0]["prompts"]["input_boxes"], calls[2]["prompts"]["input_boxes"]
    assert (second[0, 0, 2:] > first[0, 0, 2:]).all()


def test_a_small_region_gets_no_mask_prompt(refiner, monkeypatch, picture):
    masks = np.stack([rectangle((64, 64), 8, 14, 8, 14), rectangle((64, 64), 8, 56, 8, 56)])
    calls = with_answers(refiner, monkeypatch, masks[1], [masks[0]] * 3)
    found = refiner.refine(picture(64, 64), masks)
    assert [one["logits"] is None for one in calls] == [False, False, True, True]
    assert [int(mask.sum() > 100) for mask in found.masks] == [0, 1]


def test_regions_are_refined_alone_and_a_failed_one_stays_coarse(refiner, monkeypatch, picture):
    left, right = rectangle((64, 64), 4, 24, 4, 24), rectangle((64, 64), 40, 60, 40, 60)
    better = rectangle((64, 64), 4, 28, 4, 24)
    calls = with_answers(refiner, monkeypatch, better, [better] * 3)
    found = refiner.refine(picture(64, 64), (left | right)[None])
    assert calls[0]["count"] == 2
    assert found.notes == ("",)
    assert np.array_equal(found.masks[0, 32:], right[32:])
    assert (found.masks[0, :32] == better[:32]).mean() > 0.98
    nowhere = np.zeros((64, 64), bool)
    with_answers(refiner, monkeypatch, nowhere, [nowhere] * 3)
    kept = refiner.refine(picture(64, 64), (left | right)[None])
    assert kept.notes == ("SAM returned nothing",)
    assert np.array_equal(kept.masks[0], left | right)


def test_empty_masks_cost_no_call(refiner, monkeypatch, picture):
    calls = with_answers(refiner, monkeypatch, None, [])
    found = refiner.refine(picture(10, 10), np.zeros((2, 10, 10), bool))
    assert (found.notes, calls) == (("coarse is empty",) * 2, [])


@pytest.mark.parametrize("size_hw", [(32, 64), (64, 64), (90, 60)])
def test_a_soft_mask_of_a_grid_lies_where_the_hard_mask_does(size_hw):
    grid = np.zeros((16, 16), np.float32)
    grid[4:8, 8:16] = 1
    height, width = size_hw
    hard = rectangle(size_hw, height // 4, height // 2, width // 2, width)
    soft = soft_prompt(grid, size_hw, 32)
    known = mask_prompt(hard, 32) != 0
    assert soft.dtype == np.float32 and not soft[~known].any()
    assert ((soft > 0) == (mask_prompt(hard, 32) > 0))[known].mean() > 0.93
    assert soft.max() == pytest.approx(MASK_LOGIT, abs=1e-3)
    assert soft.min() == pytest.approx(-MASK_LOGIT, abs=1e-3)
    half = soft_prompt(np.full((16, 16), 0.75, np.float32), size_hw, 32)
    assert np.allclose(half[known], np.log(3), atol=1e-5)


@pytest.mark.parametrize("way", ["sam", "samrefiner"])
@pytest.mark.parametrize("rows_columns", [(8, 8), (40, 64), (80, 90)])
def test_a_soft_mask_is_the_first_mask_prompt(tiny_sam_folder, picture, monkeypatch, way, rows_columns):
    refiner = make_refiner(way, tiny_sam_folder, device="cpu", iterations=2)
    coarse = rectangle((40, 64), 8, 32, 8, 50)
    calls = []
    decode = refiner.sam.decode
    monkeypatch.setattr(
        refiner.sam, "decode", lambda *one, **more: calls.append(more) or decode(*one, **more)
    )
    soft = np.full((1, *rows_columns), 0.75, np.float32)
    found = refiner.refine(picture(64, 40), coarse[None], soft=soft)
    assert found.masks.shape == (1, 40, 64)
    frame = calls[0]["logits"][0, :10]
    assert torch.allclose(frame, torch.full_like(frame, float(np.log(3))), atol=1e-5)
    assert not torch.allclose(calls[-1]["logits"][0, :10], frame)


def test_the_soft_mask_of_one_region_leaves_the_others_out(tiny_sam_folder, picture, monkeypatch):
    refiner = make_refiner("samrefiner", tiny_sam_folder, device="cpu", iterations=1)
    left, right = rectangle((64, 64), 4, 28, 4, 28), rectangle((64, 64), 36, 62, 36, 62)
    calls = with_answers(refiner, monkeypatch, left, [left] * 3)
    refiner.refine(picture(64, 64), (left | right)[None], soft=(left | right).astype(np.float32)[None])
    larger, smaller = calls[0]["logits"]
    assert larger[12, 12] > 0 > larger[3, 3]
    assert smaller[3, 3] > 0 > smaller[12, 12]


def test_probabilities_that_do_not_fit_are_refused(tiny_sam_folder, picture):
    refiner = SamRefiner(tiny_sam_folder, device="cpu")
    masks = np.ones((1, 20, 30), bool)
    for soft in (
        np.zeros((2, 4, 4), np.float32),
        np.zeros((1, 4, 4)),
        np.full((1, 4, 4), 1.5, np.float32),
        np.full((1, 4, 4), np.nan, np.float32),
    ):
        with pytest.raises(ValueError, match=r"needed are float32 \(1, rows, columns\) in 0 to 1"):
            refiner.refine(picture(30, 20), masks, soft=soft)


@pytest.mark.parametrize("way", ["sam", "samrefiner"])
def test_the_guard_is_a_setting(tiny_sam_folder, monkeypatch, picture, way):
    coarse, found = rectangle((64, 64), 0, 32, 0, 32), rectangle((64, 64), 0, 16, 0, 32)
    for limit, note in ((0.4, ""), (0.6, "SAM returned an unrelated mask")):
        refiner = make_refiner(way, tiny_sam_folder, device="cpu", iterations=1, min_agreement=limit)
        with_fixed = refiner.sam.tensor(mask_prompt(found, 16)[None, None])
        monkeypatch.setattr(refiner.sam, "decode", lambda *one, answer=with_fixed, **more: answer)
        assert refiner.refine(picture(64, 64), coarse[None]).notes == (note,)


def options(*words):
    fixed = ["--model-path", "m", "--data-root", "d", "--splits", "s", "--out", "o"]
    return parse([*fixed, *map(str, words)])


def test_the_flags_name_the_way_and_its_options():
    assert chosen_refiner(options()) == ("none", {})
    assert describe_refiner(options()) == "none"
    name, chosen = chosen_refiner(options("--sam-path", "sam", "--sam-points", 4, "--sam-box"))
    assert name == "sam"
    assert chosen == {"iterations": 3, "points": 4, "use_box": True, "min_agreement": 0.1}
    several = options("--sam-path", "sam", "--refiner", "samrefiner", "--sam-guard", 0.3)
    assert describe_refiner(several) == "samrefiner (sam: iterations 5, min_agreement 0.3)"
    soft = options("--sam-path", "sam", "--soft-prompts")
    assert describe_refiner(soft).endswith("min_agreement 0.1, soft prompts)")
    assert chosen_refiner(soft) == chosen_refiner(options("--sam-path", "sam"))
    assert chosen_refiner(options("--sam-path", "sam", "--refiner", "none")) == ("none", {})


def test_the_flags_load_the_refiner(tiny_sam_folder):
    assert load_refiner(options(), "cpu") is None
    flags = ("--sam-path", tiny_sam_folder, "--refiner", "samrefiner", "--sam-iterations", 2)
    refiner = load_refiner(options(*flags), "cpu", seed=4)
    assert type(refiner) is MultiPromptRefiner
    assert (refiner.iterations, refiner.min_agreement, refiner.seed) == (2, 0.1, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--refiner", "samrefiner"), "--refiner samrefiner needs --sam-path"),
        (("--sam-points", 3), "refiner 'none' has no points"),
        (("--soft-prompts",), "--soft-prompts without a refiner changes nothing; give --sam-path"),
        (
            ("--sam-path", "s", "--refiner", "samrefiner", "--sam-box"),
            "'samrefiner' has no use_box; its options",
        ),
        (("--sam-path", "s", "--sam-iterations", 0), "iterations 0 of the refiner: at least 1"),
        (("--sam-path", "s", "--sam-guard", 1.5), "min_agreement 1.5 of the refiner: an IoU, at most 1"),
        (("--sam-path", "s", "--sam-guard", "nan"), "min_agreement nan of the refiner: at least 0"),
    ],
)
def test_flags_that_do_not_fit_are_told(words, message):
    with pytest.raises(ValueError, match=message):
        chosen_refiner(options(*words))


def test_an_unknown_way_and_a_missing_path_are_told():
    with pytest.raises(ValueError, match="unknown refiner 'crf'; known: none, sam, samrefiner"):
        refiner_options("crf")
    with pytest.raises(ValueError, match="refiner 'sam' needs the folder of a SAM"):
        make_refiner("sam")
    assert make_refiner("none") is None
