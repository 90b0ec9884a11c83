"""Short runs of the tiny LLaVA: each choice of what trains is saved whole, and packing changes no loss."""

import json

import pytest
import torch
from safetensors.torch import load_file
from test_train import command, record

from llava.data.records import write_records
from llava.model.checkpoint import load_checkpoint
from llava.train.train import prepare, train


@pytest.fixture
def folder(tmp_path, picture):
    """Folder with eight images and `train.json`: records of one or two rounds, some without an image."""
    (tmp_path / "images").mkdir()
    records = []
    for number in range(8):
        picture(30, 20, seed=number).save(tmp_path / "images" / f"{number}.png")
        one = record(number, with_image=number % 3 > 0)
        again = record(number, with_image=False)["conversations"] * (number % 2)
        records.append(one | {"conversations": one["conversations"] + again})
    write_records(tmp_path / "train.json", records)
    return tmp_path


def run(base, folder, *flags, out="out"):
    return train(prepare(command(base, folder, folder / out, "--lora_dropout", "0", *flags)))


def rates(folder):
    groups = json.loads((folder / "out" / "trainable.json").read_text())["groups"]
    return {group["group"]: group["learning_rate"] for group in groups}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            "--lora_type dora --lora_vision True",
            {"adapters on the language model": 1e-2, "adapters on the vision tower": 1e-2, "projector": 2e-5},
        ),
        ("--lora_type rslora --freeze_mm_mlp_adapter True", {"adapters on the language model": 1e-2}),
        (
            "--lora_enable False --tune_vision True --mm_vision_tower_lr 1e-3",
            {"language model": 1e-2, "output head": 1e-2, "projector": 2e-5, "vision tower": 1e-3},
        ),
    ],
)
def test_whatever_is_trained_is_told_saved_and_loaded(folder, tiny_llava_folder, flags, expected):
    trainer = run(tiny_llava_folder, folder, "--max_steps", "2", *flags.split())
    assert {group: rate for group, rate in rates(folder).items() if rate is not None} == expected
    loaded = load_checkpoint(folder / "out", device="cpu", dtype=torch.float32).model
    batch = trainer.data_collator([trainer.train_dataset[1]])
    with torch.no_grad():
        assert torch.allclose(loaded(**batch).logits, trainer.model.eval()(**batch).logits, atol=1e-6)


def test_only_the_asked_parts_change(folder, tiny_llava_folder):
    run(tiny_llava_folder, folder, "--max_steps", "2", "--lora_enable", "False", "--tune_vision", "True")
    before, after = (load_file(path / "model.safetensors") for path in (tiny_llava_folder, folder / "out"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"language_model", "multi_modal_projector", "vision_tower"}
    assert torch.equal(
        before["vision_tower.post_layernorm.weight"], after["vision_tower.post_layernorm.weight"]
    )


@pytest.mark.parametrize("packing_length", ["1", "300"])
def test_packed_and_padded_runs_have_equal_losses_at_every_step(folder, tiny_llava_folder, packing_length):
    batches = ("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2", "--max_steps", "3")
    batches += ("--global_batch_size", "8")
    padded = run(tiny_llava_folder, folder, *batches, out="padded")
    packed = run(
        tiny_llava_folder,
        folder,
        *batches,
        "--packing",
        "True",
        "--packing_length",
        packing_length,
        out="packed",
    )
    losses = [
        [entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (padded, packed)
    ]
    assert len(losses[0]) == 3 and losses[0][2] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)


def test_packing_is_refused_before_weights_where_samples_would_mix(folder, tiny_llava_folder, monkeypatch):
    monkeypatch.setattr("llava.train.batch.PACKABLE_TEXT", ("qwen2",))
    with pytest.raises(
        ValueError, match=r"language model llama of llava is not known to keep .* \(known: qwen2\)"
    ):
        prepare(command(tiny_llava_folder, folder, folder / "out", "--packing", "True"))
