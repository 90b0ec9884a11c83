"""Training with masks in bricks, from flags to answers: settings, resuming, engines, scripts."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from shell_commands import commands_of, programs_of, training_problems
from test_backbones import saved
from test_engines import TORCHRUN, assert_same_run, flags
from test_engines import run as run_processes
from test_train import assert_identical, command, kill_at, with_images

from llava.codec.boxwise import block_of, box_answer, write_block
from llava.constants import BRICK_TOKENS, IGNORE_INDEX
from llava.data.record_form import form_for
from llava.model.checkpoint import load_checkpoint, merge
from llava.model.new_tokens import brick_token_ids
from llava.model.text_mask import TextMaskSegmenter
from llava.settings import BRICKS, SegmentationSettings
from llava.train.dataset import open_image
from llava.train.show_labels import main as show_labels
from llava.train.train import prepare, train
from llava.types import Query

__all__ = ["kill_at"]  # a fixture
ROOT = Path(__file__).parents[1]
SETTINGS = SegmentationSettings(codec=BRICKS, grid_hw=(6, 6))
BRICK_FLAGS = ("--codec", "bricks", "--grid", "6")


def record(number):
    """A record of one round whose mask is a rectangle, none in the last."""
    mask = np.zeros((20, 30), bool)
    mask[2 : 5 + number, number : 12 + 2 * number] = number < 7
    mask[2:4, number] = False
    text = write_block(
        block_of("red square", mask, SETTINGS.grid_hw), order=SETTINGS.brick_order, tail=SETTINGS.brick_tail
    )
    turns = ("human", "<image>\nWhere is it?"), ("gpt", box_answer("Here:", [text]))
    conversation = [{"from": role, "value": value} for role, value in turns]
    image = {"image": f"images/{number}.png"} | form_for(SETTINGS).fields()
    return {"id": f"r{number}", **image, "conversations": conversation}


@pytest.fixture
def data(tmp_path, picture):
    """Folder with eight images and `train.json`, masks in bricks of a 6x6 inside."""
    return with_images(tmp_path, picture, record)


def plan_of(base, data, *more):
    """Plan of a run that reads no weights."""
    return prepare(command(base, data, data / "out", *more))


def test_bricks_have_a_grid_of_their_own_and_name_the_system(data, tiny_llava_folder):
    resolved = plan_of(tiny_llava_folder, data, *BRICK_FLAGS).resolved
    assert (resolved.settings.system, resolved.settings.codec) == ("text4seg++", BRICKS)
    assert resolved.settings.grid_hw == (6, 6) and "of the codec" in resolved.table()
    with pytest.raises(
        ValueError, match=r"records have a 6x6 grid in bricks.* the checkpoint has 64x64 grid"
    ):
        plan_of(tiny_llava_folder, data, "--codec", "bricks")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--brick_order", "zigzag"), "--brick_order 'zigzag': known are raster, rows"),
        (
            ("--brick_order", "snake"),
            r"--brick_order snake needs --codec bricks; the codec is rrle \(inherited",
        ),
        (("--brick_tail", "True"), "--brick_tail True needs --codec bricks"),
        (("--new_tokens", "some"), "--new_tokens 'some': known are rows, full"),
        (("--new_tokens", "full"), "--new_tokens full needs --codec bricks"),
        (
            (*BRICK_FLAGS, "--new_tokens", "full", "--lora_enable", "False"),
            "trains the whole vocabulary anyway",
        ),
        ((*BRICK_FLAGS, "--max_pixels", "99"), "--max_pixels 99: images of llava all become squares"),
        ((*BRICK_FLAGS, "--max_pixels", "0"), "--max_pixels 0: must be at least 1"),
    ],
)
def test_wrong_flags_are_refused_before_weights(data, tiny_llava_folder, more, message):
    with pytest.raises(ValueError, match=message):
        plan_of(tiny_llava_folder, data, *more)


def test_a_split_vocabulary_is_refused(data, tiny_llava_folder, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"ZeRO-3 splits the vocabulary .* scripts/zero1.json"):
        plan_of(tiny_llava_folder, data, *BRICK_FLAGS, "--deepspeed", "scripts/zero3.json")


def test_the_labels_that_are_shown_are_those_of_the_training(data, tiny_llava_folder, capsys):
    sample = plan_of(tiny_llava_folder, data, *BRICK_FLAGS).data.dataset[0]
    supervised = int((sample["labels"] != IGNORE_INDEX).sum())
    places = ("--data_path", data / "train.json", "--image_folder", data, "--count", "8")
    show_labels(["--model_name_or_path", str(tiny_llava_folder), *map(str, places), *BRICK_FLAGS])
    record = capsys.readouterr().out.split("record r0 ")[1]
    assert f"{supervised} of {len(sample['labels'])} tokens supervised" in record


def test_records_of_an_image_wise_codec_are_refused(data, tiny_llava_folder):
    with pytest.raises(ValueError, match="records have a 6x6 grid in bricks"):
        plan_of(tiny_llava_folder, data, "--grid", "6")


def test_the_most_pixels_of_an_image_are_checked_and_saved(data, tmp_path):
    base = saved("qwen2_vl", tmp_path / "base")
    (base / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="--max_pixels 100: one token takes 144 pixels"):
        plan_of(base, data, *BRICK_FLAGS, "--max_pixels", "100")
    with pytest.raises(
        ValueError, match="images are squares of 24 pixels; leave it out, or give --image_side 0"
    ):
        plan_of(base, data, *BRICK_FLAGS, "--max_pixels", "300", "--image_side", "24")
    plan = plan_of(base, data, *BRICK_FLAGS, "--max_pixels", "300")
    assert dict(plan.processor.image_processor.size) == {"shortest_edge": 144, "longest_edge": 300}
    assert plan.added == BRICK_TOKENS
    size = plan.data.dataset[0]["image_grid_thw"].prod() * 36
    assert 144 <= size <= 300 < 30 * 20


@pytest.mark.parametrize(
    "more",
    [
        (),
        pytest.param(("--new_tokens", "full"), marks=pytest.mark.slow),
        pytest.param(("--lora_enable", "False"), marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_with_new_tokens_resumes_to_bit_identical_weights(
    data, tiny_llava_folder, kill_at, more
):
    more = (*BRICK_FLAGS, *more, "--max_steps", "3")
    train(prepare(command(tiny_llava_folder, data, data / "whole", *more)))
    kill_at(3)
    with pytest.raises(KeyboardInterrupt):
        train(prepare(command(tiny_llava_folder, data, data / "killed", *more)))
    train(prepare(command(tiny_llava_folder, data, data / "killed", *more, "--resume")))
    if "--lora_enable" not in more:
        assert_identical(data / "killed", data / "whole")
        return
    ours, theirs = (load_file(data / name / "model.safetensors") for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_only_the_new_rows_are_trained_and_a_second_stage_goes_on_with_them(data, tiny_llava_folder):
    trainer = train(prepare(command(tiny_llava_folder, data, data / "first", *BRICK_FLAGS)))
    groups = json.loads((data / "first" / "trainable.json").read_text())["groups"]
    trained = {group["group"]: group["trained"] for group in groups if group["trained"]}
    assert trained["rows of new tokens"] == 2 * 132 * 32 and "output head" not in trained
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    merge(data / "first", data / "merged")
    plan = prepare(command(data / "merged", data, data / "second", "--max_steps", "1", "--warmup_ratio", "0"))
    assert plan.added == () and plan.resolved.settings.codec == BRICKS
    assert plan.resolved.settings.grid_hw == (6, 6)
    again = train(plan)
    merged = load_checkpoint(data / "merged", device="cpu", dtype=torch.float32).model
    ids = brick_token_ids(plan.processor.tokenizer)
    first, second = (model.get_input_embeddings().weight for model in (merged, again.model))
    others = [row for row in range(len(first)) if row not in ids]
    assert torch.equal(first[others], second[others]) and not torch.equal(first[ids], second[ids])


@pytest.mark.parametrize(
    ("more", "engine"),
    [
        pytest.param((), "DDP", marks=pytest.mark.engines),
        pytest.param(("--deepspeed", "scripts/zero1.json"), "DeepSpeed ZeRO-1", marks=pytest.mark.engines),
        pytest.param(
            ("--new_tokens", "full", "--deepspeed", "scripts/zero1.json"),
            "DeepSpeed ZeRO-1",
            marks=pytest.mark.slow,
        ),
        pytest.param(("--fsdp", "True"), "FSDP2", marks=pytest.mark.slow),
    ],
    ids=["ddp", "zero1", "full", "fsdp"],
)
def test_two_processes_train_new_tokens_like_one(data, tiny_llava_folder, more, engine):
    vocabulary = more[:2] if "--new_tokens" in more else ()
    train(prepare(flags(tiny_llava_folder, data, data / "alone", *BRICK_FLAGS, *vocabulary)))
    printed = run_processes(TORCHRUN, flags(tiny_llava_folder, data, data / "two", *BRICK_FLAGS, *more))
    assert engine in printed and "2 processes" in printed
    assert_same_run(data / "two", data / "alone")


def variables(base, data, **more):
    small = {"MODEL": base, "DATA": data / "train.json", "IMAGES": data, "OUTPUT": data / "out"}
    small |= {"GRID": 6, "MAX_STEPS": 2, "LORA_R": 2, "WORKERS": 0, "NPROC_PER_NODE": 1, "DEEPSPEED": ""}
    small |= {"PRECISION": "fp32", "PYTHON": sys.executable, "OMP_NUM_THREADS": 1, "ACCUMULATION": 1} | more
    return os.environ | {name: str(value) for name, value in small.items()}


def mixture(folder, monkeypatch):
    """Mixture file of the shipped example, drawn in bricks while training, and of the records of `folder`."""
    monkeypatch.syspath_prepend(ROOT / "playground/data/create_json")
    shutil.copytree(ROOT / "playground/data/own_example", folder / "own")
    build = ["--root", str(folder / "own"), "--format", "store", "--output", str(folder / "store")]
    assert importlib.import_module("create").main("own", build) == 0
    entries = [{"store": str(folder / "store"), "images": "own", "weight": 3}]
    entries += [{"records": str(folder / "train.json"), "weight": 1}]
    text = yaml.safe_dump({"records_per_epoch": 40, "datasets": entries})
    (folder / "mixture.yaml").write_text(text)
    return folder / "mixture.yaml"


@pytest.mark.engines
@pytest.mark.parametrize(
    ("script", "family", "more"),
    [
        ("text4seg_pp", "qwen2_vl", {"MAX_PIXELS": 300}),
        ("v1_5", "llava", {"CODEC": "bricks", "NEW_TOKENS": "full"}),
    ],
)
def test_a_script_trains_on_a_mixture_and_its_checkpoint_answers(
    data, tiny_llava_folder, monkeypatch, script, family, more
):
    base = tiny_llava_folder if family == "llava" else saved(family, data / "base")
    more = more | {"DATA": mixture(data, monkeypatch), "LONG_SAMPLES": "skip"}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / script / "finetune_lora.sh")],
        env=variables(base, data, **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((data / "out" / "training.json").read_text())["facts"]
    assert [portion["per epoch"] for portion in facts["mixture"]] == [30, 10]
    checkpoint = load_checkpoint(data / "out", device="cpu")
    assert (checkpoint.settings.system, checkpoint.settings.grid_hw) == ("text4seg++", (6, 6))
    if "MAX_PIXELS" in more:
        assert dict(checkpoint.processor.image_processor.size)["longest_edge"] == 300
    image = open_image(data / "images" / "0.png")
    for decoding in ("plain", "constrained"):
        segmenter = TextMaskSegmenter(checkpoint, max_new_tokens=24, decoding=decoding)
        (prediction,) = segmenter.segment([Query([image], ["it"])])
        assert prediction.masks.shape == (1, 1, 20, 30)


def test_the_script_has_the_values_of_the_paper(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (words,) = commands_of("bash scripts/text4seg_pp/finetune_lora.sh", tmp_path, gpus=8)
    program, given = programs_of(words)
    assert program == ROOT / "llava/train/train.py" and not training_problems(given)
    flags_ = dict(zip(given[::2], given[1::2], strict=True))
    published = {"--model_name_or_path": "Qwen/Qwen2-VL-7B-Instruct", "--max_steps": "50000"}
    published |= {"--global_batch_size": "128", "--learning_rate": "2e-4", "--lora_r": "128"}
    published |= {"--lora_alpha": "256", "--warmup_ratio": "0.03", "--lr_scheduler_type": "linear"}
    published |= {"--deepspeed": "scripts/zero1.json", "--codec": "bricks", "--max_pixels": str(784 * 784)}
    assert flags_.items() >= published.items()
    assert "--grid" not in flags_ and "--new_tokens" not in flags_


def test_bricks_on_llava_take_their_own_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for codec, has_grid in (("bricks", False), ("full", True)):
        (words,) = commands_of(f"CODEC={codec} bash scripts/v1_5/finetune_lora.sh", tmp_path)
        assert words[words.index("--codec") + 1] == codec and ("--grid" in words) == has_grid
