"""SAM is prompted where the object is, once per image, and never makes a mask worse silently."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SamImageProcessorPil

from llava.model.refine import (
    PromptedSam,
    SamRefiner,
    box_prompt,
    frame_hw,
    mask_prompt,
    point_prompt,
    spread_points,
)


def rectangle(size_hw, top, bottom, left, right):
    mask = np.zeros(size_hw, bool)
    mask[top:bottom, left:right] = True
    return mask


def iou(one, two):
    return (one & two).sum() / (one | two).sum()


@pytest.fixture
def refiner(tiny_sam_folder):
    return SamRefiner(tiny_sam_folder, device="cpu")


@pytest.fixture
def answers(refiner, monkeypatch):
    """Function that lets SAM answer with given masks; returns the list of the calls to it."""

    def fix(masks):
        calls = []

        def forward(**inputs):
            calls.append(inputs)
            side = refiner.sam.prompt_side
            logits = torch.stack([torch.from_numpy(mask_prompt(mask, side)) for mask in masks])
            return type("Output", (), {"pred_masks": logits[:, None, None]})()

        monkeypatch.setattr(refiner.sam, "model", Recorder(refiner.sam.model, forward))
        return calls

    return fix


class Recorder:
    """A model whose forward pass is replaced; counts the images that are embedded."""

    def __init__(self, model, forward):
        self.model, self.forward, self.embedded = model, forward, 0
        self.config = model.config

    def __call__(self, **inputs):
        return self.forward(**inputs)

    def get_image_embeddings(self, pixels):
        self.embedded += 1
        return self.model.get_image_embeddings(pixels)


@pytest.mark.parametrize("size_hw", [(480, 640), (640, 480), (640, 427), (125, 1000), (512, 512), (50, 120)])
def test_the_prompt_of_a_non_square_image_lies_in_the_frame_of_the_image(size_hw):
    side = 256
    height, width = size_hw
    mask = rectangle(size_hw, height // 4, height // 2, width // 2, width - width // 5)
    new_height, new_width = (round(length * side / max(size_hw)) for length in size_hw)
    rows = (np.arange(new_height) + 0.5) * height / new_height
    columns = (np.arange(new_width) + 0.5) * width / new_width
    right = np.zeros((side, side), bool)
    right[:new_height, :new_width] = mask[np.ix_(rows.astype(int), columns.astype(int))]
    found = mask_prompt(mask, side) > 0
    stretched = cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST) > 0
    assert iou(found, right) == 1
    assert (iou(stretched, right) < 0.5) == (height != width)


def test_the_prompt_has_two_logits_and_zero_padding():
    prompt = mask_prompt(rectangle((30, 60), 0, 30, 0, 20), 16)
    assert prompt.dtype == np.float32
    assert np.array_equal(np.unique(prompt[:8]), np.float32([-6.9068, 6.9068]))
    assert not prompt[8:].any()


def test_a_tiny_object_does_not_vanish_from_the_prompt():
    prompt = mask_prompt(rectangle((480, 640), 101, 103, 200, 202), 64)
    assert (prompt > 0).sum() >= 1
    assert prompt[10, 20] > 0


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 700), (333, 777), (1024, 768), (19, 7)])
def test_the_frame_is_the_one_of_the_image_processor(tiny_sam_folder, size_hw, picture):
    processor = SamImageProcessorPil.from_pretrained(tiny_sam_folder)
    assert frame_hw(size_hw, 64) == (
        max(1, processor._get_preprocess_shape(size_hw, 64)[0]),
        max(1, processor._get_preprocess_shape(size_hw, 64)[1]),
    )


def test_points_lie_inside_first_deepest_and_apart():
    mask = rectangle((100, 200), 20, 81, 30, 171)
    points = spread_points(mask, 10)
    assert points.shape == (10, 2)
    columns, rows = points.astype(int).T
    assert mask[rows, columns].all()
    assert abs(rows[0] - 50) <= 1
    distances = np.hypot(*(points[:, None] - points).transpose(2, 0, 1)) + 1000 * np.eye(10)
    assert distances.min() > 10
    assert min(rows.min() - 20, 80 - rows.max(), columns.min() - 30, 170 - columns.max()) > 5


def test_points_are_the_same_in_every_call_and_follow_the_seed():
    mask = rectangle((400, 400), 10, 390, 20, 333)
    assert np.array_equal(spread_points(mask, 8), spread_points(mask, 8))
    assert not np.array_equal(spread_points(mask, 8, seed=1), spread_points(mask, 8, seed=2))


def test_a_mask_without_enough_pixels_repeats_its_points():
    points, labels = point_prompt(rectangle((9, 9), 4, 5, 3, 5), 5)
    assert labels.tolist() == [1] * 5 + [0] * 5
    assert {tuple(point) for point in points[:5].tolist()} == {(3.0, 4.0), (4.0, 4.0)}
    points, labels = point_prompt(np.ones((9, 9), bool), 2)
    assert labels.tolist() == [1, 1, 1, 1]
    assert spread_points(np.zeros((4, 4), bool), 3).shape == (0, 2)


def test_the_box_touches_the_mask_on_four_sides():
    assert box_prompt(rectangle((50, 90), 10, 20, 30, 75)).tolist() == [30, 10, 75, 20]


def test_points_and_box_are_in_pixels_of_the_input(tiny_sam_folder):
    mask = rectangle((48, 128), 0, 25, 64, 127)
    sam = PromptedSam(tiny_sam_folder, device="cpu")
    prompts = sam.sparse((48, 128), points=[point_prompt(mask, 1)], boxes=[box_prompt(mask)])
    assert prompts["input_boxes"].tolist() == [[[32, 0, 63.5, 12.5]]]
    assert prompts["input_labels"].tolist() == [[[1, 0]]]
    x, y = prompts["input_points"][0, 0, 0].tolist()
    assert 37 <= x <= 58
    assert y == 6


@pytest.mark.parametrize("options", [{}, {"use_box": True}, {"points": 0}, {"points": 0, "use_box": True}])
def test_several_masks_at_once_are_refined_as_one_by_one(tiny_sam_folder, picture, options):
    refiner = SamRefiner(tiny_sam_folder, device="cpu", **options)
    image = picture(64, 40)
    masks = np.stack([rectangle((40, 64), 4, 30, 5 * i, 20 + 5 * i) for i in range(5)])
    together = refiner._segment(image, masks, None)
    alone = np.concatenate([refiner._segment(image, mask[None], None) for mask in masks])
    assert together.shape == masks.shape
    assert np.array_equal(together, alone)
    assert len(np.unique(together.reshape(5, -1), axis=0)) > 1


def test_more_masks_than_a_batch_keep_their_order(refiner, picture, monkeypatch):
    monkeypatch.setattr(refiner, "_segment", lambda image, masks, soft: masks)
    masks = np.stack([rectangle((20, 30), 2, 9, 0, 1 + i % 29) for i in range(40)])
    masks[7] = False
    refined = refiner.refine(picture(30, 20), masks)
    assert np.array_equal(refined.masks, masks)
    assert [i for i, note in enumerate(refined.notes) if note] == [7]
    assert refined.notes[7] == "coarse is empty"


def test_logits_are_fed_back_and_the_prompts_stay(refiner, answers, picture):
    coarse, better = rectangle((40, 64), 8, 24, 8, 24), rectangle((40, 64), 8, 24, 8, 32)
    calls = answers([better])
    refined = refiner.refine(picture(64, 40), coarse[None])
    assert refined.notes == ("",)
    assert iou(refined.masks[0], better) > 0.8
    assert len(calls) == 3
    assert np.array_equal(calls[0]["input_masks"][0, 0].numpy(), mask_prompt(coarse, 16))
    assert np.array_equal(calls[2]["input_masks"][0, 0].numpy(), mask_prompt(better, 16))
    assert torch.equal(calls[0]["input_points"], calls[2]["input_points"])
    assert calls[0]["multimask_output"] is False


def test_the_coarse_mask_is_kept_where_sam_fails(refiner, answers, picture):
    coarse = np.stack([rectangle((64, 64), 0, 16, 0, 16)] * 2)
    answers([np.zeros((64, 64), bool), rectangle((64, 64), 40, 64, 40, 64)])
    refined = refiner.refine(picture(64, 64), coarse)
    assert refined.notes == ("SAM returned nothing", "SAM returned an unrelated mask")
    assert np.array_equal(refined.masks, coarse)


def test_empty_masks_cost_no_call_to_sam(refiner, answers, picture):
    calls = answers([])
    refined = refiner.refine(picture(10, 10), np.zeros((2, 10, 10), bool))
    assert refined.notes == ("coarse is empty",) * 2
    assert not refined.masks.any()
    assert calls == []
    assert refiner.sam.model.embedded == 0
    assert refiner.refine(picture(10, 10), np.zeros((0, 10, 10), bool)).notes == ()


def test_an_image_is_embedded_once_and_a_changed_one_again(refiner, answers, picture):
    mask = rectangle((40, 64), 8, 24, 8, 24)
    answers([mask])
    image = picture(64, 40)
    for again in (image, image.copy(), picture(64, 40)):
        refiner.refine(again, mask[None])
    assert refiner.sam.model.embedded == 1
    image.putpixel((3, 3), (1, 2, 3))
    refiner.refine(image, mask[None])
    assert refiner.sam.model.embedded == 2
    for seed in range(10):
        refiner.refine(picture(64, 40, seed=seed + 5), mask[None])
    assert len(refiner.sam._embeddings) == 4


def test_two_refiners_give_the_same_mask(tiny_sam_folder, picture):
    image, mask = picture(90, 60), rectangle((60, 90), 10, 50, 20, 70)
    one, two = (SamRefiner(tiny_sam_folder, device="cpu").refine(image, mask[None]) for _ in range(2))
    assert np.array_equal(one.masks, two.masks)
    assert one.notes == two.notes


def test_wrong_input_is_refused(refiner, tiny_sam_folder, picture):
    with pytest.raises(ValueError, match=r"needed are bool \(n, 20, 30\), the size of the image"):
        refiner.refine(picture(30, 20), np.zeros((1, 30, 20), bool))
    with pytest.raises(ValueError, match="needed are bool"):
        refiner.refine(picture(30, 20), np.zeros((1, 20, 30), np.uint8))
    with pytest.raises(ValueError, match="iterations 0 of the refiner: at least 1"):
        SamRefiner(tiny_sam_folder, iterations=0)


def test_a_sam_folder_with_a_fault_is_refused(tiny_sam_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="not found"):
        SamRefiner(tmp_path / "none")
    folder = tmp_path / "sam"
    shutil.copytree(tiny_sam_folder, folder)
    config = folder / "preprocessor_config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"size": {"longest_edge": 128}}))
    with pytest.raises(ValueError, match=r"scales and pads to \(128, 64, 64\), the model needs 64"):
        SamRefiner(folder)
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json cannot be read"):
        SamRefiner(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing: mask_decoder\.iou_token\.weight"):
        SamRefiner(folder)
