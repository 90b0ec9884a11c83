"""One run, several engines: the same data and seed give the same losses and the same weights.

Dropout is off: its random numbers depend on how samples lie together in a batch.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train import record

from llava.data.records import write_records
from llava.model.checkpoint import load_checkpoint
from llava.train.train import prepare, train

ROOT = Path(__file__).parents[1]
STEPS = 6
TOLERANCE = 1e-5
"""Of losses near 5.8 and of weights after six steps: float32 sums in another order, nothing else."""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "llava.train.train")
DEEPSPEED = ("-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--module", "llava.train.train")
ABORT = "terminate called without an active exception"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with eight images and twelve records, four of them without an image."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("engines")
    (folder / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (30, 20), (30 * number, 90, 200)).save(folder / "images" / f"{number}.png")
    records = [record(number) for number in range(8)]
    records += [record(number, with_image=False) for number in range(8, 12)]
    write_records(folder / "train.json", records)
    return folder


def flags(base, data, output, *more):
    """A run of six steps with four samples each, two at a time."""
    settings = {
        "model_name_or_path": base,
        "data_path": data / "train.json",
        "image_folder": data,
        "output_dir": output,
        "max_steps": STEPS,
        "save_steps": 3,
        "save_total_limit": 2,
        "per_device_train_batch_size": 2,
        "global_batch_size": 4,
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0,
        "learning_rate": 3e-3,
        "mm_projector_lr": 1e-3,
        "warmup_ratio": 0,
        "dataloader_num_workers": 0,
        "gradient_checkpointing": False,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))] + list(more)


@pytest.fixture(scope="module")
def alone(data, tiny_llava_folder):
    """Output folder of the run in a single process."""
    train(prepare(flags(tiny_llava_folder, data, data / "alone")))
    return data / "alone"


def run(launcher, words, *, may_abort=False):
    """Run a training in processes of its own and return what it printed.

    With `may_abort` an abort at the interpreter's exit, after everything was saved, is let pass: DeepSpeed
    ZeRO-3 on CPUs leaves a thread of gloo behind now and then.
    """
    done = subprocess.run(
        [sys.executable, *launcher, *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0 or (may_abort and ABORT in printed and "saved" in printed), printed[-4000:]
    return printed


def course(folder, step=STEPS):
    """Loss and gradient norm of every step, as tensors (steps,)."""
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    logged = [entry for entry in state["log_history"] if "loss" in entry]
    return tuple(torch.tensor([entry[name] for entry in logged]) for name in ("loss", "grad_norm"))


def weights(folder):
    """Trained tensors of a finished run, by name."""
    files = (load_file(folder / name) for name in ("adapter_model.safetensors", "projector.safetensors"))
    return {name: tensor for file in files for name, tensor in file.items()}


def assert_same_run(folder, other):
    """Losses, gradient norms and final weights of two runs agree."""
    for ours, theirs in zip(course(folder), course(other), strict=True):
        assert len(ours) == STEPS
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=TOLERANCE, atol=TOLERANCE)


def test_a_run_moves_every_weight_by_far_more_than_the_tolerance(alone, tiny_llava_folder):
    projector = load_checkpoint(tiny_llava_folder).model.model.multi_modal_projector.state_dict()
    for name, trained in weights(alone).items():
        if "lora_A" not in name:  # these start at random, the others at zero or at the base's values
            assert (trained - projector.get(name, 0)).abs().max() > 100 * TOLERANCE, name


def test_one_process_with_other_batches_gives_the_same_run(alone, data, tiny_llava_folder):
    one_by_one = ("--per_device_train_batch_size", "1")
    train(prepare(flags(tiny_llava_folder, data, data / "ones", *one_by_one)))
    assert_same_run(data / "ones", alone)


@pytest.mark.engines
@pytest.mark.parametrize(
    ("name", "more", "engine"),
    [("ddp", (), "DDP"), ("zero2", ("--deepspeed", "scripts/zero2.json"), "DeepSpeed ZeRO-2")],
)
def test_two_processes_train_like_one(alone, data, tiny_llava_folder, name, more, engine):
    printed = run(TORCHRUN, flags(tiny_llava_folder, data, data / name, *more))
    assert engine in printed and "2 processes" in printed
    assert_same_run(data / name, alone)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_other_stages_of_zero_train_like_one_process(alone, data, tiny_llava_folder, stage):
    output = data / f"zero{stage}"
    more = ("--deepspeed", f"scripts/zero{stage}.json")
    run(TORCHRUN, flags(tiny_llava_folder, data, output, *more), may_abort=stage == 3)
    assert_same_run(output, alone)


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--deepspeed", "scripts/zero3.json"), ("--fsdp", "True")], ids=str)
def test_processes_need_not_agree_on_whether_a_batch_has_an_image(data, tiny_llava_folder, more):
    write_records(data / "both.json", [record(0), record(1, with_image=False)])
    small = ("--data_path", str(data / "both.json"), "--global_batch_size", "2")
    one, two = data / f"one{more[0]}", data / f"two{more[0]}"
    train(prepare(flags(tiny_llava_folder, data, one, *small)))
    words = flags(tiny_llava_folder, data, two, *small, "--per_device_train_batch_size", "1", *more)
    run(TORCHRUN, words, may_abort=True)
    assert_same_run(two, one)


@pytest.mark.slow
def test_the_deepspeed_launcher_trains_like_one_process(alone, data, tiny_llava_folder):
    output = data / "deepspeed_launcher"
    run(DEEPSPEED, flags(tiny_llava_folder, data, output, "--deepspeed", "scripts/zero2.json"))
    assert_same_run(output, alone)


@pytest.mark.slow
def test_accelerate_trains_like_one_process(alone, data, tiny_llava_folder):
    launcher = ("-m", "accelerate.commands.launch", "--config_file", "scripts/accelerate/zero2.yaml")
    launcher += ("--num_processes", "2", "--main_process_port", "29617", "-m", "llava.train.train")
    output = data / "accelerate"
    printed = run(launcher, flags(tiny_llava_folder, data, output))
    assert "DeepSpeed ZeRO-2" in printed and "2 processes" in printed
    assert_same_run(output, alone)


@pytest.mark.slow
def test_fsdp_trains_like_one_process_and_resumes(alone, data, tiny_llava_folder):
    output = data / "fsdp"
    more = ("--fsdp", "True")
    printed = run(TORCHRUN, flags(tiny_llava_folder, data, output, *more))
    assert "FSDP2" in printed
    assert_same_run(output, alone)
    state = torch.load(output / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"]
    whole = sum(entry["exp_avg"].numel() for entry in state.values())
    assert whole == sum(tensor.numel() for tensor in weights(output).values())
    (output / "checkpoint-6" / "trainer_state.json").unlink()
    (output / "adapter_model.safetensors").unlink()
    run(TORCHRUN, flags(tiny_llava_folder, data, output, *more, "--resume"))
    assert_same_run(output, alone)


@pytest.mark.slow
def test_accelerate_on_a_cpu_without_deepspeed_is_refused(data, tiny_llava_folder):
    launcher = (
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "-m",
        "llava.train.train",
    )
    done = subprocess.run(
        [sys.executable, *launcher, *flags(tiny_llava_folder, data, data / "refused")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "accelerate launch starts a single process on a CPU" in done.stderr
    assert not (data / "refused").exists()
