"""The measurement of training speed: every way takes all samples, and the table follows from the times."""

import argparse
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_llava, tiny_settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "bench"))

import training  # noqa: E402

from llava.data.tokens import image_token_count  # noqa: E402
from llava.train.lora import add_lora  # noqa: E402


def features(*lengths):
    return [
        {
            "input_ids": torch.full((length,), number + 1),
            "labels": torch.full((length,), number + 1),
            "pixel_values": torch.zeros(1, 3, 24, 24),
        }
        for number, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("way", training.WAYS, ids=lambda way: way.title)
def test_every_way_takes_every_token_of_every_sample_once(way):
    arguments = argparse.Namespace(batch=2, packing_length=None)
    batches = training.passes(way, features(3, 9, 5, 4, 2), arguments, 1, attn="sdpa", hidden_size=32)
    tokens = torch.cat([batch["input_ids"].ravel() for batch in batches])
    assert [int((tokens == number).sum()) for number in range(1, 6)] == [3, 9, 5, 4, 2]


def test_drawn_conversations_are_records_of_one_to_four_rounds(tmp_path):
    records = training.draw_records(6, tmp_path, tiny_settings())
    rounds = {len(record["conversations"]) // 2 for record in records}
    assert rounds <= {1, 2, 3, 4} and len(rounds) > 1
    assert all((tmp_path / record["image"]).is_file() for record in records)
    assert all(record["conversations"][0]["value"].count("<image>") == 1 for record in records)


def test_operations_are_those_of_the_formula():
    model = add_lora(tiny_llava()[0], rank=2, alpha=4, dropout=0.0)
    sizes = {name: p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name}
    seen = [name for name in sizes if "vision_tower" in name or "projector" in name]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    language = sum(sizes[name] * (6 if name in trained else 4) for name in sizes if name not in seen)
    tower = sum(sizes[name] * (4 if name in trained else 2) for name in seen)
    expected = 10 * language + 6 * 10**2 * 32 * 2 + 16 * tower
    assert training.needed_operations(model, features(10)) == expected


def test_the_table_compares_medians_with_plain_batches():
    found = {
        way.title: training.Measured([9.0, seconds, seconds], [1.0], 300)
        for way, seconds in zip(training.WAYS, (2.0, 1.0, 4.0), strict=True)
    }
    lines = training.table(found, 75, 1e12, 2e12).splitlines()[2:]
    assert lines[0] == "| random order, padded | 25.0 % | 38 | 1.00 | 25.0 % |"
    assert [line.split(" | ")[3] for line in lines] == ["1.00", "2.00", "0.50"]
    assert training.table(found, 75, 1e12, None).splitlines()[2].endswith("| - |")


def test_ways_that_train_something_else_are_refused():
    found = {"a": training.Measured(losses=[2.0]), "b": training.Measured(losses=[2.001])}
    assert training.check_losses(found, torch.bfloat16) == pytest.approx(5e-4, rel=1e-2)
    with pytest.raises(ValueError, match="losses differ by"):
        training.check_losses(found, torch.float32)


def test_the_random_model_has_the_size_of_llava_1_5():
    processor = tiny_llava()[1]
    model = training.random_7b(processor, torch.device("meta"), torch.bfloat16, "sdpa")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(7.06e9, rel=0.01)
    assert image_token_count(processor) == 576


def test_the_command_measures_a_checkpoint(tiny_llava_folder, capsys):
    training.main(["--model", str(tiny_llava_folder), "--samples", "4", "--batch", "2", "--rounds", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:]] == [f"| {way.title}" for way in training.WAYS]
