"""The models that ship with the repository do what their cards say, on scenes they were not trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava.data.refshapes.phrases import sample_absent, sample_single
from llava.data.refshapes.scene import SHAPES
from llava.data.refshapes.split import render, scene_rng
from llava.eval.metrics import RegionScores, overlap
from llava.eval.metrics_boxes import written_box_counts
from llava.model.refine import SamRefiner
from llava.model.segmenter import load_segmenter
from llava.settings import SegmentationSettings
from llava.types import Query

CHECKPOINTS = Path(__file__).resolve().parents[1] / "playground" / "checkpoints"
LLAVA, SAM = CHECKPOINTS / "tiny-llava-refshapes", CHECKPOINTS / "tiny-sam-refshapes"
BRICKS = CHECKPOINTS / "tiny-llava-refshapes-bricks"
SCENES = 30
"""Scenes of the val split that are asked about."""


def answers_of(model, decoding):
    """Image, true mask and prediction of one position expression in each of some val scenes."""
    asked = []
    for index in range(SCENES):
        scene, pixels = render(0, "val", index)
        rng = scene_rng(0, "val", index, purpose=5)
        found = [
            one
            for k in range(len(scene.items))
            for one in sample_single(scene, k, rng, count=1, kinds=("position",))
        ]
        if found:
            asked.append((Image.fromarray(pixels), scene.masks[found[0].targets[0]], found[0].text))
    predictions = load_segmenter(model, device="cpu", decoding=decoding).segment(
        [Query([image], [text]) for image, _, text in asked]
    )
    return [
        (image, truth, prediction) for (image, truth, _), prediction in zip(asked, predictions, strict=True)
    ]


@pytest.fixture(scope="module")
def answers():
    """Of the row-wise model, as it answers by itself."""
    return answers_of(LLAVA, "plain")


@pytest.fixture(scope="module")
def brick_answers():
    """Of the box-wise model, decoded as evaluation does."""
    return answers_of(BRICKS, "fast")


def scores_of(pairs):
    scores = RegionScores()
    for found, truth in pairs:
        scores.update(overlap(found, truth))
    return scores.compute()


def test_most_objects_named_by_their_position_are_found(answers):
    coarse = scores_of([(prediction.masks[0, 0], truth) for _, truth, prediction in answers])
    assert coarse["samples"] > 20 and coarse["gIoU"] > 0.65 and coarse["P@0.5"] > 0.8


def test_most_boxes_that_the_model_of_bricks_writes_are_right(brick_answers):
    right = 0
    for _, truth, prediction in brick_answers:
        (box,) = prediction.boxes
        rows, columns = truth.any(axis=1).nonzero()[0], truth.any(axis=0).nonzero()[0]
        edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        common, union = written_box_counts(box, edges)
        right += 2 * common >= union > 0
    coarse = scores_of([(prediction.masks[0, 0], truth) for _, truth, prediction in brick_answers])
    assert len(brick_answers) > 20 and right / len(brick_answers) > 0.85 and coarse["gIoU"] > 0.55


def test_every_answer_is_well_formed(answers, brick_answers):
    assert not any(prediction.faults for _, _, prediction in [*answers, *brick_answers])


def test_refined_masks_are_better_than_coarse_ones(answers):
    refiner = SamRefiner(SAM, device="cpu")
    found = [answer for answer in answers if answer[2].masks.any()]
    refined = [refiner.refine(image, prediction.masks[0]).masks[0] for image, _, prediction in found]
    before = scores_of([(prediction.masks[0, 0], truth) for _, truth, prediction in found])
    after = scores_of([(mask, truth) for mask, (_, truth, _) in zip(refined, found, strict=True)])
    assert len(found) > 20 and after["gIoU"] > before["gIoU"] and after["cIoU"] > before["cIoU"]


def test_most_absent_objects_are_rejected():
    queries = []
    for index in range(SCENES):
        scene, pixels = render(0, "val", index)
        expression = sample_absent(scene, scene_rng(0, "val", index, purpose=5), SHAPES)
        queries.append(Query([Image.fromarray(pixels)], [expression.text]))
    predictions = load_segmenter(LLAVA, device="cpu").segment(queries)
    assert np.mean([prediction.absent[0] for prediction in predictions]) > 0.8


def test_the_checkpoint_says_what_it_is_and_how_it_was_scored():
    settings = SegmentationSettings.load(LLAVA)
    assert (settings.system, settings.codec, settings.grid_hw) == ("text4seg", "rrle", (16, 16))
    bricks = SegmentationSettings.load(BRICKS)
    assert (bricks.system, bricks.codec, bricks.grid_hw) == ("text4seg++", "bricks", (32, 32))
    for model, told in ((LLAVA, settings), (BRICKS, bricks)):
        assert "train_llava.py" in told.training["command"]
        assert f"refer_seg.sh playground/checkpoints/{model.name} " in told.scores["measured_with"]


def test_all_models_together_stay_small_and_are_safetensors():
    files = [path for folder in (LLAVA, SAM, BRICKS) for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert not [path.name for path in files if path.suffix in {".bin", ".pt", ".pth"}]
    assert json.loads((SAM / "config.json").read_text())["model_type"] == "sam"
