import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_GRID, tiny_llava, tiny_settings
from safetensors.torch import load_file, save_file
from torch.utils.data import BatchSampler
from transformers import TrainerCallback

from llava.data.prompt import render
from llava.data.records import write_records
from llava.data.tokens import pixel_values, tokenize
from llava.model.checkpoint import load_checkpoint
from llava.train.checkpoints import last_whole_checkpoint
from llava.train.dataset import (
    ConversationDataset,
    fit_records,
    load_records,
    open_image,
    rounds_of,
    token_lengths,
)
from llava.train.lora import projector_of
from llava.train.train import main, prepare, train
from llava.train.trainer import SampleOrder, sample_order

ROOT = Path(__file__).parents[1]


def record(number, with_image=True):
    """A record of one round whose mask is one row of the grid."""
    rows, columns = TINY_GRID
    mask = "\n ".join(
        f"{'red square' if row == number % rows else 'others'} *{columns}" for row in range(rows)
    )
    question, answer = "<image>\nWhere is it?" if with_image else "Hello?", f"Here:\n<seg>{mask}\n</seg>"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer if with_image else "Hi."}]
    image = {"image": f"images/{number}.png", "height": rows, "width": columns} if with_image else {}
    return {"id": f"r{number}", **image, "conversations": turns}


def with_images(folder, picture, record):
    """The folder, with eight images and the records about them in `train.json`."""
    (folder / "images").mkdir()
    for number in range(8):
        picture(30, 20, seed=number).save(folder / "images" / f"{number}.png")
    write_records(folder / "train.json", [record(number) for number in range(8)])
    return folder


@pytest.fixture
def data(tmp_path, picture):
    """Folder with eight images and `train.json`."""
    return with_images(tmp_path, picture, record)


def command(base, data, output, *more):
    flags = {
        "model_name_or_path": base,
        "data_path": data / "train.json",
        "image_folder": data,
        "output_dir": output,
        "max_steps": 4,
        "save_steps": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "lora_r": 4,
        "lora_alpha": 8,
        "learning_rate": 1e-2,
        "dataloader_num_workers": 0,
        "gradient_checkpointing": False,
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))] + list(more)


def trained_weights(folder):
    return load_file(folder / "adapter_model.safetensors"), load_file(folder / "projector.safetensors")


def assert_identical(folder, other):
    for ours, theirs in zip(trained_weights(folder), trained_weights(other), strict=True):
        assert ours.keys() == theirs.keys() and len(ours) > 1
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_features_are_the_tokens_and_pixels_of_inference(data):
    processor = tiny_llava()[1]
    records = [record(3), record(9, with_image=False)]
    dataset = ConversationDataset(records, data, processor=processor, settings=tiny_settings())
    features = dataset[0]
    ids, labels = tokenize(render("plain_v1", rounds_of(records[0])), processor)
    assert features["input_ids"].tolist() == ids and features["labels"].tolist() == labels
    image = open_image(data / "images" / "3.png")
    assert torch.equal(features["pixel_values"], pixel_values([image], processor, tiny_settings()))
    assert "pixel_values" not in dataset[1]


def test_measured_lengths_are_those_of_the_samples(data):
    processor = tiny_llava()[1]
    records = [record(number, with_image=number % 3 > 0) for number in range(6)]
    dataset = ConversationDataset(records, data, processor=processor, settings=tiny_settings())
    expected = [len(dataset[index]["input_ids"]) for index in range(6)]
    assert token_lengths(records, processor, tiny_settings()) == expected


def test_too_long_samples_stop_the_run_or_are_left_out_but_never_cut():
    records = [{"id": name} for name in "abc"]
    with pytest.raises(
        ValueError, match=r"2 of 3 records are longer than 5 tokens, the longest has 9 \(first: 'b'\)"
    ):
        fit_records(records, [5, 6, 9], 5, policy="error")
    fitted = fit_records(records, [5, 6, 9], 5, policy="skip")
    assert (fitted.records, fitted.lengths, fitted.skipped) == ([{"id": "a"}], [5], 2)
    with pytest.raises(ValueError, match="3 of 3 records"):
        fit_records(records, [6, 6, 9], 5, policy="skip")


def test_records_of_another_grid_are_refused(data):
    with pytest.raises(
        ValueError,
        match=r"8 of 8 records have a 4x4 grid, first 'r0'; the checkpoint has 5x4 grid: .* --grid 5x4",
    ):
        load_records([str(data / "train.json")], image_folder=data, settings=tiny_settings(grid_hw=(5, 4)))


def test_records_of_another_codec_are_refused(data):
    with pytest.raises(ValueError, match="record 'r0' does not read as 'full'"):
        load_records([str(data / "train.json")], image_folder=data, settings=tiny_settings(codec="full"))


def test_a_missing_image_is_named_before_training(data):
    (data / "images" / "5.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 8 images not found, first .*5.png; --image_folder"):
        load_records([str(data / "train.json")], image_folder=data, settings=tiny_settings())


def test_a_truncated_image_is_named(data):
    path = data / "images" / "0.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"0.png is damaged or cut off .*fetch the file again"):
        open_image(path)


@pytest.mark.parametrize("grouped", [True, False])
def test_an_epoch_has_every_sample_once_in_a_seeded_order(grouped):
    lengths = [random.Random(7).randint(1, 99) for _ in range(103)]
    orders = [sample_order(lengths, global_batch=8, seed=seed, grouped=grouped) for seed in (1, 1, 2)]
    assert sorted(orders[0]) == list(range(103))
    assert orders[0] == orders[1] != orders[2]


def test_grouped_batches_have_similar_lengths_and_one_kind():
    rng = random.Random(0)
    lengths = [rng.randint(10, 500) * rng.choice([1, 1, -1]) for _ in range(4000)]
    order = sample_order(lengths, global_batch=16, seed=0, grouped=True)
    batches = [[lengths[index] for index in batch] for batch in BatchSampler(order, 16, False)]
    mixed = [batch for batch in batches if len({length > 0 for length in batch}) > 1]
    assert len(mixed) <= 4000 // (16 * 50) + 1
    spread = sum(max(batch) - min(batch) for batch in batches) / len(batches)
    assert spread < 50


def test_each_epoch_has_another_order():
    order = SampleOrder([1] * 50, global_batch=4, seed=0, grouped=True)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first and len(order) == 50
    order.set_epoch(0)
    assert list(order) == first


def test_training_learns_and_saves_a_checkpoint_that_loads(data, tiny_llava_folder, capsys):
    plan = prepare(
        command(
            tiny_llava_folder, data, data / "out", "--max_steps", "12", "--gradient_checkpointing", "True"
        )
    )
    trainer = train(plan)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.15
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {1e-2, 2e-5}
    checkpoint = load_checkpoint(data / "out", device="cpu", dtype=torch.float32)
    assert checkpoint.settings.grid_hw == TINY_GRID and checkpoint.settings.prompt == "plain_v1"
    assert checkpoint.settings.training["records"] == 8
    batch = trainer.data_collator([trainer.train_dataset[0]])
    with torch.no_grad():
        expected, found = trainer.model.eval()(**batch).logits, checkpoint.model(**batch).logits
    assert torch.equal(found, expected)
    shown = capsys.readouterr().out
    assert "step 1/12  loss " in shown and "samples/s" in shown and "min left" in shown


class KillAt(TrainerCallback):
    """Stand-in for a kill: leaves the training loop in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def kill_at(monkeypatch):
    """Function that makes the next training run stop after a step."""
    from llava.train import train as module

    def arrange(step):
        build = module.build_trainer

        def build_and_kill(plan, args):
            trainer = build(plan, args)
            trainer.add_callback(KillAt(step))
            monkeypatch.setattr(module, "build_trainer", build)
            return trainer

        monkeypatch.setattr(module, "build_trainer", build_and_kill)

    return arrange


def test_a_killed_run_resumes_to_bit_identical_weights(data, tiny_llava_folder, kill_at):
    more = ("--lora_dropout", "0.5", "--max_steps", "6")
    train(prepare(command(tiny_llava_folder, data, data / "whole", *more)))
    kill_at(5)
    with pytest.raises(KeyboardInterrupt):
        train(prepare(command(tiny_llava_folder, data, data / "killed", *more)))
    assert last_whole_checkpoint(data / "killed").name == "checkpoint-4"
    train(prepare(command(tiny_llava_folder, data, data / "killed", *more, "--resume")))
    assert_identical(data / "killed", data / "whole")


def test_a_base_with_a_cut_off_weight_file_ends_with_a_sentence(data, tiny_llava_folder):
    base = data / "base"
    shutil.copytree(tiny_llava_folder, base)
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit, match=r"error: .*base: a weight file is damaged or cut off"):
        main(command(base, data, data / "out"))


def test_a_loss_that_is_no_number_is_shown_as_such(data, tiny_llava_folder, capsys):
    base = data / "base"
    shutil.copytree(tiny_llava_folder, base)
    weights = load_file(base / "model.safetensors")
    weights["language_model.lm_head.weight"].fill_(torch.nan)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    trained = train(prepare(command(base, data, data / "out", "--max_steps", "1")))
    assert math.isnan(next(line["loss"] for line in trained.state.log_history if "loss" in line))
    assert "loss nan" in capsys.readouterr().out


@pytest.mark.parametrize("bf16", ["False", "True"])
def test_a_full_fine_tuning_resumes_to_bit_identical_weights(data, tiny_llava_folder, kill_at, bf16):
    more = ("--lora_enable", "False", "--bf16", bf16)
    train(prepare(command(tiny_llava_folder, data, data / "whole", *more)))
    kill_at(3)
    with pytest.raises(KeyboardInterrupt):
        train(prepare(command(tiny_llava_folder, data, data / "killed", *more)))
    train(prepare(command(tiny_llava_folder, data, data / "killed", *more, "--resume")))
    ours, theirs = (load_file(data / name / "model.safetensors") for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    base = load_file(tiny_llava_folder / "model.safetensors")
    before = {name: tensor.to(ours[name].dtype) for name, tensor in base.items()}
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], ours[name])}
    assert changed == {"language_model", "multi_modal_projector"}


def test_a_checkpoint_cut_off_by_a_kill_is_passed_over(tmp_path):
    for step, state in ((2, '{"global_step": 2}'), (4, '{"global_step'), (10, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "rng_state.pth").touch()
        if state:
            (folder / "trainer_state.json").write_text(state)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-2"
    assert last_whole_checkpoint(tmp_path / "nowhere") is None


def test_a_folder_with_a_run_is_not_written_over(data, tiny_llava_folder):
    folder = data / "out"
    (folder / "checkpoint-4").mkdir(parents=True)
    with pytest.raises(ValueError, match="already holds a training run; add --resume"):
        prepare(command(tiny_llava_folder, data, folder))


def test_a_resume_with_other_settings_is_refused(data, tiny_llava_folder):
    train(prepare(command(tiny_llava_folder, data, data / "out", "--max_steps", "2")))
    with pytest.raises(ValueError, match=r"(?s)started otherwise.*--seed was 42, is 1"):
        prepare(command(tiny_llava_folder, data, data / "out", "--max_steps", "2", "--seed", "1", "--resume"))
    write_records(data / "train.json", [record(number) for number in range(7)])
    with pytest.raises(ValueError, match="number of records was 8, is 7"):
        prepare(command(tiny_llava_folder, data, data / "out", "--max_steps", "2", "--resume"))


def test_text_only_batches_train_without_touching_the_projector(data, tiny_llava_folder):
    write_records(data / "train.json", [record(number, with_image=False) for number in range(4)])
    train(prepare(command(tiny_llava_folder, data, data / "out", "--max_steps", "2")))
    model = tiny_llava()[0]
    before = projector_of(model).state_dict()
    after = load_file(data / "out" / "projector.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)


def run_in_processes(words, *launcher):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_train_and_resume_like_an_unbroken_run(data, tiny_llava_folder):
    launcher = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "llava.train.train",
    )
    mixed = [record(number) for number in range(8)] + [
        record(number, with_image=False) for number in range(5)
    ]
    write_records(data / "train.json", mixed)
    more = ("--max_steps", "8", "--save_total_limit", "9")
    whole = run_in_processes(command(tiny_llava_folder, data, data / "whole", *more), *launcher)
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("step 1/8") == 1
    assert json.loads((data / "whole" / "training.json").read_text())["facts"]["number of processes"] == 2
    load_checkpoint(data / "whole")
    broken = data / "broken"
    assert run_in_processes(command(tiny_llava_folder, data, broken, *more), *launcher).returncode == 0
    # An epoch has four steps: the run goes on in the middle of the second.
    shutil.rmtree(broken / "checkpoint-8")
    (broken / "adapter_model.safetensors").unlink()
    again = run_in_processes(command(tiny_llava_folder, data, broken, *more, "--resume"), *launcher)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("step 7/8") == 1 and "step 6/8" not in again.stdout
    assert_identical(broken, data / "whole")


@pytest.mark.slow
def test_the_script_trains_on_a_laptop_by_variables_alone(data, tiny_llava_folder):
    variables = {
        "MODEL": tiny_llava_folder,
        "DATA": data / "train.json",
        "IMAGES": data,
        "OUTPUT": data / "out",
        "MAX_STEPS": 2,
        "LORA_R": 2,
        "WORKERS": 0,
        "NPROC_PER_NODE": 1,
        "DEEPSPEED": "",
        "PRECISION": "fp32",
        "PYTHON": sys.executable,
    }
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    script = ROOT / "scripts" / "v1_5" / "finetune_lora.sh"
    run = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert load_checkpoint(data / "out").settings.grid_hw == TINY_GRID
