"""The measurement of passes over several tokens."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_llava, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "bench"))

pytest.importorskip("llguidance")

import pass_time  # noqa: E402


def test_every_pass_stands_behind_the_same_context():
    model, _ = tiny_llava()
    seen = []
    model.register_forward_hook(
        lambda _model, _args, output: seen.append(
            (output.logits.shape[1], output.past_key_values.get_seq_length())
        )
    )
    found = pass_time.pass_seconds(model, [1, 3], context=5, rounds=2)
    assert seen == [(1, 5), *3 * [(1, 6), (3, 8)]] and list(found) == [1, 3]


def test_times_are_held_against_the_first():
    assert pass_time.table({1: 0.01, 8: 0.0125}).splitlines()[2:] == [
        "| 1 | 10.0 | 1.00x |",
        "| 8 | 12.5 | 1.25x |",
    ]


def test_the_command_prints_a_line_for_each_number_of_tokens(tmp_path, capsys):
    tiny_tokenizer().save_pretrained(tmp_path)
    arguments = ["--size", "tiny", "--tokenizer", str(tmp_path), "--device", "cpu", "--context", "4"]
    pass_time.main([*arguments, "--rounds", "1", "--tokens", "1", "2"])
    assert len(capsys.readouterr().out.splitlines()) == 4
    with pytest.raises(SystemExit):
        pass_time.main([*arguments, "--tokens", "0"])
    assert "at least 1" in capsys.readouterr().err and torch.is_grad_enabled()
