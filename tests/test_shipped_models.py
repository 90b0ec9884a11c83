"""The models that ship with the repository do what their cards say, on scenes they were not trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava.data.refshapes.phrases import sample_absent
from llava.data.refshapes.scene import SHAPES
from llava.data.refshapes.split import render, scene_rng
from llava.eval.metrics import RegionScores, overlap
from llava.model.refine import SamRefiner
from llava.model.segmenter import load_segmenter
from llava.settings import SegmentationSettings
from llava.types import Query

CHECKPOINTS = Path(__file__).resolve().parents[1] / "playground" / "checkpoints"
LLAVA, SAM = CHECKPOINTS / "tiny-llava-refshapes", CHECKPOINTS / "tiny-sam-refshapes"
SCENES = 24


@pytest.fixture(scope="module")
def answers():
    """Scene, its first object's mask, and the prediction of its colour and shape, for some val scenes."""
    scenes = [render(0, "val", index) for index in range(SCENES)]
    names = [f"the {scene.items[0].colour} {scene.items[0].shape}" for scene, _ in scenes]
    queries = [
        Query([Image.fromarray(pixels)], [name]) for (_, pixels), name in zip(scenes, names, strict=True)
    ]
    predictions = load_segmenter(LLAVA, device="cpu").segment(queries)
    return [
        (Image.fromarray(pixels), scene.masks[0], prediction)
        for (scene, pixels), prediction in zip(scenes, predictions, strict=True)
    ]


def scores_of(pairs):
    scores = RegionScores()
    for found, truth in pairs:
        scores.update(overlap(found, truth))
    return scores.compute()


def test_most_objects_named_by_colour_and_shape_are_found(answers):
    coarse = scores_of([(prediction.masks[0, 0], truth) for _, truth, prediction in answers])
    assert coarse["cIoU"] > 0.55 and coarse["P@0.5"] > 0.6


def test_answers_are_well_formed(answers):
    assert sum(bool(prediction.faults) for _, _, prediction in answers) <= 1


def test_refined_masks_are_better_than_coarse_ones(answers):
    refiner = SamRefiner(SAM, device="cpu")
    coarse = scores_of([(prediction.masks[0, 0], truth) for _, truth, prediction in answers])
    refined = scores_of(
        [(refiner.refine(image, prediction.masks[0]).masks[0], truth) for image, truth, prediction in answers]
    )
    assert refined["cIoU"] > coarse["cIoU"] and refined["gIoU"] > coarse["gIoU"]


def test_most_absent_objects_are_rejected():
    queries = []
    for index in range(SCENES):
        scene, pixels = render(0, "val", index)
        expression = sample_absent(scene, scene_rng(0, "val", index, purpose=5), SHAPES)
        queries.append(Query([Image.fromarray(pixels)], [expression.text]))
    predictions = load_segmenter(LLAVA, device="cpu").segment(queries)
    assert np.mean([prediction.absent[0] for prediction in predictions]) > 0.6


def test_the_checkpoint_says_what_it_is_and_how_it_was_scored():
    settings = SegmentationSettings.load(LLAVA)
    assert (settings.system, settings.codec, settings.grid_hw) == ("text4seg", "rrle", (16, 16))
    assert "train_llava.py" in settings.training["command"]
    assert "refer_seg.sh" in settings.scores["measured_with"]


def test_both_models_together_stay_small_and_are_safetensors():
    files = [path for folder in (LLAVA, SAM) for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert not [path.name for path in files if path.suffix in {".bin", ".pt", ".pth"}]
    assert json.loads((SAM / "config.json").read_text())["model_type"] == "sam"
