"""General questions: the merged folder in transformers' own hands, and how the harness is called."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from shell_commands import ROOT, commands_of
from transformers import pipeline

from llava.eval.harness import harness_model
from llava.model.checkpoint import load_base, load_checkpoint, merge, save_adapter
from llava.model.text_mask import TextMaskSegmenter
from llava.types import Query

SCRIPT = "scripts/v1_5/eval/vqa.sh"
TASKS = "vqav2_val,gqa,vizwiz_vqa_val,scienceqa_img,textvqa_val,pope,mme,mmbench_en_dev_static"
TARGETS = r".*language_model.*\.(q|v)_proj"
QUESTION = "What colour is the square?"


@pytest.fixture(scope="module")
def merged(tiny_llava_folder, tmp_path_factory):
    """Folder of a merged adapter, trained a little away from its base."""
    folder = tmp_path_factory.mktemp("vqa")
    base = load_base(tiny_llava_folder)
    model = get_peft_model(base.model, LoraConfig(r=2, target_modules=TARGETS))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    save_adapter(model, base.processor, load_checkpoint(tiny_llava_folder).settings, folder / "adapter")
    merge(folder / "adapter", folder / "whole")
    return folder / "whole"


def asked_of(folder, image, tokens=12):
    """Answer of transformers' own pipeline."""
    said = pipeline("image-text-to-text", model=str(folder), device="cpu")(
        text=[
            {
                "role": "user",
                "content": [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}],
            }
        ],
        generate_kwargs={"max_new_tokens": tokens, "do_sample": False},
        return_full_text=False,
    )
    return said[0]["generated_text"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_merged_folder_answers_in_transformers_pipeline_as_here(merged, picture):
    image = picture(40, 25)
    segmenter = TextMaskSegmenter(load_checkpoint(merged, device="cpu"), max_new_tokens=12)
    ours = segmenter.segment([Query([image], ["square"], QUESTION)])[0].text
    assert ours and asked_of(merged, image) == ours


def test_a_merged_folder_shows_the_whole_image_to_programs_that_know_nothing_of_it(merged, picture):
    checkpoint, image = load_checkpoint(merged, device="cpu"), picture(60, 20)
    alone = checkpoint.processor.image_processor(images=image, return_tensors="np")["pixel_values"]
    backbone = TextMaskSegmenter(checkpoint)._backbone
    ours = backbone.image_inputs(image, checkpoint.processor, checkpoint.settings)["pixel_values"].numpy()
    np.testing.assert_allclose(alone, ours, atol=1e-6)


def model_folder(path, **fields):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(fields))
    return path


def harness_call(calls):
    """Arguments of the one call of lmms_eval, and what stands before it."""
    (call,) = [words for words in calls if "lmms_eval" in words]
    place = call.index("lmms_eval")
    flags = iter(call[place + 1 :])
    return call[: place + 1], {flag: "" if flag == "--log_samples" else next(flags) for flag in flags}


def test_the_script_gives_the_harness_all_tasks_and_the_folder(tmp_path):
    before, flags = harness_call(commands_of(f"bash {SCRIPT} checkpoints/some/", tmp_path))
    assert before == ["python", "-m", "lmms_eval"]
    assert flags["--tasks"] == TASKS
    assert flags["--model_args"] == "pretrained=checkpoints/some,device_map=cuda"
    assert flags["--batch_size"] == "1" and flags["--output_path"] == "results/some-vqa"
    assert "--limit" not in flags and "--log_samples" in flags


def test_the_scripts_variables_reach_the_harness(tmp_path):
    calls = commands_of(
        f"bash {SCRIPT} some gqa pope",
        tmp_path,
        NPROC="4",
        LIMIT="8",
        DEVICE="cpu",
        DTYPE="float32",
        OUT="there",
    )
    before, flags = harness_call(calls)
    assert before[2:] == ["accelerate.commands.launch", "--num_processes", "4", "-m", "lmms_eval"]
    assert flags["--tasks"] == "gqa,pope" and flags["--limit"] == "8" and flags["--output_path"] == "there"
    assert flags["--model_args"] == "pretrained=some,dtype=float32,device=cpu"


def test_one_process_names_the_place_of_the_model(tmp_path):
    _, flags = harness_call(commands_of(f"bash {SCRIPT} some gqa", tmp_path, DEVICE="cpu"))
    assert flags["--model_args"] == "pretrained=some,device=cpu,device_map=cpu"


STAND_IN = """#!/bin/sh
echo "$@" >> "$RECORD"
case "$2" in
  llava.eval.harness) echo llava_hf ;;
  venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
"""


def test_the_harness_gets_an_environment_of_its_own_made_once(tmp_path):
    base = tmp_path / "base-python"
    base.write_text(STAND_IN)
    base.chmod(0o755)
    variables = {
        "BASE_PYTHON": str(base),
        "ENVIRONMENT": str(tmp_path / "own"),
        "RECORD": str(tmp_path / "log"),
    }
    clean = {name: value for name, value in os.environ.items() if name != "USE_ACTIVE_ENV"}
    for _ in range(2):
        subprocess.run(
            ["bash", SCRIPT, "some", "pope"], cwd=ROOT, env=clean | variables, check=True, capture_output=True
        )
    lines = (tmp_path / "log").read_text().splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert installs == [
        "-m pip install --quiet torch torchvision",
        "-m pip install --quiet lmms-eval[video-legacy]==0.7.3 transformers>=5.18,<6",
    ]
    runs = [line for line in lines if line.startswith("-m lmms_eval")]
    assert len(runs) == 2 and runs[0].startswith(
        "-m lmms_eval --model llava_hf --model_args pretrained=some,device_map=cuda "
    )


def test_the_script_stops_at_an_adapter_before_anything_is_installed(tmp_path):
    adapter = model_folder(tmp_path / "adapter", model_type="llava")
    (adapter / "adapter_config.json").write_text("{}")
    done = subprocess.run(
        ["bash", SCRIPT, str(adapter)],
        cwd=ROOT,
        env={**os.environ, "ENVIRONMENT": str(tmp_path / "own"), "USE_ACTIVE_ENV": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "merge it first" in done.stderr
    assert not (tmp_path / "own").exists()


def test_the_harness_model_is_read_from_the_folder(tmp_path, merged):
    assert harness_model(merged) == "llava_hf"
    assert harness_model(model_folder(tmp_path / "b", model_type="llava_onevision")) == "llava_hf"
    with pytest.raises(ValueError, match="type 'bert'"):
        harness_model(model_folder(tmp_path / "c", model_type="bert"))
    with pytest.raises(FileNotFoundError, match=r"config\.json not found"):
        harness_model(tmp_path / "none")
    (tmp_path / "c" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="damaged"):
        harness_model(tmp_path / "c")
