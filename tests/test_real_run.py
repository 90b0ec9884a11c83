"""The whole chain on real RefCOCO annotations and photographs: records, fine-tuning, answers, scores."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest

from llava.eval import model_refer_seg
from llava.train import train

REPOSITORY = Path(__file__).resolve().parents[1]
LLAVA = REPOSITORY / "playground" / "checkpoints" / "tiny-llava-refshapes"
SPLIT = "refcoco|unc|testA"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set"),
]


def build_records(root, output, monkeypatch):
    script = REPOSITORY / "playground" / "data" / "create_json" / "create_refcoco.py"
    arguments = [
        "--root",
        str(root),
        "--spec",
        SPLIT,
        "--rounds",
        "1",
        "--copies",
        "4",
        "--output",
        str(output),
    ]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code


def score(checkpoint, root, out):
    arguments = [
        "--model-path",
        checkpoint,
        "--data-root",
        root,
        "--splits",
        SPLIT,
        "--out",
        out,
        "--device",
        "cpu",
    ]
    model_refer_seg.main([str(argument) for argument in arguments])
    return json.loads((out / "results.json").read_text())["splits"][SPLIT]["scores"]


def test_the_shipped_model_learns_real_expressions(tmp_path, monkeypatch):
    root = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "refcoco_mini"
    records = tmp_path / "records.json"
    build_records(root, records, monkeypatch)
    before = score(LLAVA, root, tmp_path / "before")
    adapter = tmp_path / "adapter"
    train.main(
        f"--model_name_or_path {LLAVA} --data_path {records} --image_folder {root} --output_dir {adapter} "
        "--lora_r 64 --lora_alpha 128 --lora_dropout 0 --learning_rate 3e-3 --mm_projector_lr 2e-3 "
        "--max_steps 200 --per_device_train_batch_size 8 --gradient_accumulation_steps 1 "
        "--gradient_checkpointing False "
        "--dataloader_num_workers 0 --logging_steps 100 --use_cpu True".split()
    )
    after = score(adapter, root, tmp_path / "after")
    assert after["grid"]["samples"] == 18
    assert after["grid"]["gIoU"] > before["grid"]["gIoU"] + 0.2
    assert after["grid"]["gIoU"] > 0.3
