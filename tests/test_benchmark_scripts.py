"""Every benchmark script: the command it gives, a run with the shipped model, real annotations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from llava.codec import encode, grid_to_mask, mask_answer, mask_to_grid
from llava.data.problems import Problems
from llava.data.readers import read_dataset
from llava.data.readers.reasonseg import read_reasonshapes
from llava.data.refshapes.reasoning import outlines, write_reasoning
from llava.data.refshapes.split import render
from llava.data.refshapes.write import write_refshapes
from llava.data.rle import decode_rle
from llava.eval.anchors import JOINS
from llava.eval.benchmarks import BENCHMARKS
from llava.eval.loop import evaluate
from llava.eval.model_refer_seg import main, parse
from llava.eval.report import write_report
from llava.eval.run import RunSettings
from llava.types import Prediction

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts" / "v1_5" / "eval"
LLAVA, SAM = (
    ROOT / "playground/checkpoints" / name for name in ("tiny-llava-refshapes", "tiny-sam-refshapes")
)
GENERATED = {
    "refer_seg": "refshapes|val",
    "gres": "grefshapes|val",
    "reason_seg": "reasonshapes|val",
    "refer_comprehension": "refshapes|val",
    "semantic_seg": "refshapes|val",
    "muse": "reasonshapes|val",
    "rrsis_d": "refshapes|val",
    "earth_reason": "reasonshapes|val",
}
SCENES = 16


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The generated benchmark, whole questions included."""
    root = tmp_path_factory.mktemp("generated")
    write_refshapes(root, {"val": SCENES})
    assert write_reasoning(root, SCENES) > SCENES // 2
    return root


def command_of(name, *arguments, **environment):
    """Options that a script would call its program with; its Python prints its arguments."""
    python = Path(environment.pop("folder")) / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(python), **environment}
    run = subprocess.run(
        ["bash", SCRIPTS / f"{name}.sh", *arguments], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    words = run.stdout.splitlines()
    assert words[:2] == ["-m", "llava.eval.model_refer_seg"]
    return parse(words[2:])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_script_asks_the_splits_of_its_papers(tmp_path, name):
    options = command_of(name, "checkpoints/run1/", folder=tmp_path)
    assert (options.benchmark, options.splits) == (name, list(BENCHMARKS[name].splits))
    assert str(options.out) == ("results/run1" if name == "refer_seg" else f"results/run1-{name}")
    apart = ("reason_seg", "semantic_seg", "muse", "earth_reason")
    folder = "data" if name in apart else "data/refer_seg"
    assert options.data_root == ROOT / "playground" / folder
    options = command_of(
        name, "run1", "a|b", "c|d", folder=tmp_path, DATA_ROOT="/data", LIMIT="5", OUT="/out"
    )
    assert (options.refiner, options.soft_prompts) == (None, False)
    assert (options.splits, str(options.data_root), options.limit) == (["a|b", "c|d"], "/data", 5)
    assert str(options.out) == "/out"


def test_the_variables_of_the_refiner_reach_the_program(tmp_path):
    options = command_of("gres", "run1", folder=tmp_path, REFINER="samrefiner", SOFT_PROMPTS="1")
    assert (options.refiner, options.soft_prompts) == ("samrefiner", True)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_script_explains_itself_with_its_own_header(name):
    run = subprocess.run(["bash", SCRIPTS / f"{name}.sh"], capture_output=True, text=True)
    assert run.returncode == 2
    assert f"bash scripts/v1_5/eval/{name}.sh CHECKPOINT [DATASET|SPLIT ...]" in run.stdout
    assert "set -euo" not in run.stdout and "#!/" not in run.stdout


def test_generated_questions_read_back_as_the_objects_that_they_name(generated):
    samples = list(read_reasonshapes(generated, "val"))
    assert {sample.group for sample in samples} == {"long query", "short query"}
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        scene, _ = render(0, "val", int(sample.image_path.stem))
        mask = decode_rle(sample.mask)
        assert any(np.array_equal(mask, one) for one in scene.masks)
        assert bool(sample.question) == (sample.expression == "target")


def test_outlines_fill_to_the_mask_again():
    mask = np.zeros((20, 30), dtype=bool)
    mask[3:9, 4:15] = mask[12:18, 20:29] = mask[6:14, 10:13] = True
    canvas = np.zeros(mask.shape, dtype=np.uint8)
    cv2.fillPoly(canvas, [np.array(points, dtype=np.int32) for points in outlines(mask)], 1)
    assert np.array_equal(canvas.astype(bool), mask)


@pytest.mark.parametrize("name", ["reason_seg", "semantic_seg", "muse"])
def test_a_checkpoint_is_scored_on_a_benchmark(tiny_llava_folder, generated, tmp_path, capsys, name):
    fixed = ["--benchmark", name, "--model-path", tiny_llava_folder, "--data-root", generated, "--limit", 2]
    more = ["--splits", GENERATED[name], "--out", tmp_path / "run", "--max-new-tokens", 4, "--device", "cpu"]
    words = [str(word) for word in (*fixed, *more, "--decoding", "plain")]
    main(words)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["benchmark"]["name"] == name and results["counts"]["samples"] == 2
    printed = capsys.readouterr().out
    assert "No published numbers for these splits." in printed
    if name == "reason_seg":
        assert "This run scored a random choice of 2 samples of each split." in printed
    with pytest.raises(SystemExit, match=r"other settings: .*options was"):
        main([*words, "--benchmark", "gres", "--splits", "refshapes|val"])


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_script_runs_on_the_generated_benchmark_with_the_shipped_model(generated, tmp_path, name):
    variables = {"PYTHON": sys.executable, "DATA_ROOT": generated, "SAM_PATH": SAM, "OUT": tmp_path / "run"}
    variables |= {"DEVICE": "cpu", "LIMIT": "12", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
    run = subprocess.run(
        ["bash", SCRIPTS / f"{name}.sh", LLAVA, GENERATED[name]],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["benchmark"]["name"] == name and results["tables"]
    (split,) = results["splits"]
    if name == "semantic_seg":
        told = results["maps"][split]
        assert told["images"] == 12 and set(told["scores"]) == {"coarse", "refined"}
        return
    definition, metric = BENCHMARKS[name].compared[0]
    if BENCHMARKS[name].by_target:
        scores = results["targets"][split]
        assert scores["coarse"]["targets"] == 12
    else:
        scores = results["definitions"][definition]["splits"][split]
        assert {"coarse", "refined"} <= set(scores)
    assert all(scores["coarse"][each] > 0.4 for each in metric.split(JOINS))


class Oracle:
    """Writes the truth as text on a grid; so that what is lost is lost by the grid alone."""

    def __init__(self, samples, grid_hw):
        self.samples = iter(samples)
        self.grid_hw = grid_hw

    def segment(self, queries):
        return [self.answer(next(self.samples)) for _ in queries]

    def answer(self, sample):
        masks = sample.classes or ((sample.expression, sample.mask),)
        grid = np.zeros(self.grid_hw, dtype=np.int64)
        for number, (_, rle) in enumerate(masks, start=1):
            grid[mask_to_grid(decode_rle(rle), self.grid_hw) > 0] = number
        text = mask_answer("Sure:", encode(grid, ("others", *(name for name, _ in masks))))
        mask = grid_to_mask(grid, sample.size_hw)
        return Prediction(mask[None, None], np.array([not mask.any()]), text)


def told_by_oracle(name, specs, root, out, *, grid):
    samples = BENCHMARKS[name].read_all(root, specs, limit=None, seed=0)
    by_image = {}
    for sample in samples:
        by_image.setdefault(sample.image_path, []).append(sample)
    settings = RunSettings(
        "oracle", "none", tuple(specs), (grid, grid), options={"benchmark": BENCHMARKS[name].settings()}
    )
    ordered = [sample for group in by_image.values() for sample in group]
    records = evaluate(Oracle(ordered, (grid, grid)), samples, out, settings=settings)
    return samples, write_report(out, records=records)


def test_the_truth_written_as_text_scores_nearly_everything(generated, tmp_path):
    samples, results = told_by_oracle(
        "semantic_seg", ["refshapes|val"], generated, tmp_path / "maps", grid=64
    )
    scores = results["maps"]["refshapes|unc|val"]["scores"]["coarse"]
    assert len(samples) == SCENES and all(found["mAcc"] > 0.9 for found in scores.values())
    assert scores["standard"]["mIoU"] > 0.95 and scores["background"]["mIoU"] > 0.9
    _, results = told_by_oracle(
        "refer_comprehension", ["refshapes|val"], generated, tmp_path / "rec", grid=64
    )
    for name in ("rec", "text4seg"):
        assert results["definitions"][name]["splits"]["refshapes|unc|val"]["coarse"]["box_acc"] == 1.0


real = pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")


@real
@pytest.mark.real_data
def test_true_masks_of_real_refcoco_have_the_annotated_boxes(tmp_path):
    root = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "refcoco_mini"
    splits = ["refcoco|unc|val", "refcoco|unc|testA", "refcoco|unc|testB"]
    _, results = told_by_oracle("refer_comprehension", splits, root, tmp_path / "rec", grid=64)
    for split in splits:
        for name in ("rec", "text4seg"):
            scores = results["definitions"][name]["splits"][split]["coarse"]
            assert scores["box_acc"] > 0.9, (split, name)
    (table,) = results["tables"]
    assert table["title"] == "refer_comprehension v1: box_acc under text4seg, percent"
    assert len(table["rows"]) > 5


@real
@pytest.mark.real_data
def test_real_panoptic_maps_written_as_text_are_read_back(tmp_path):
    base = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "coco128_mini"
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/train2017").symlink_to(base / "images")
    (tmp_path / "coco/annotations/panoptic_train2017").symlink_to(base / "panoptic")
    (tmp_path / "coco/annotations/panoptic_train2017.json").symlink_to(base / "panoptic.json")
    spec = "coco_panoptic|train"
    samples, results = told_by_oracle("semantic_seg", [spec], tmp_path, tmp_path / "run", grid=64)
    parts = list(read_dataset(tmp_path, spec, Problems()))
    assert len(samples) == 29 and sum(len(sample.classes) for sample in samples) == len(parts)
    told = results["maps"][spec]
    assert told["unmatched"] == 0 and told["scores"]["coarse"]["standard"]["classes"] > 50
    assert told["scores"]["coarse"]["standard"]["aAcc"] > 0.9
    assert 0.6 < told["scores"]["coarse"]["standard"]["mIoU"] < 1
