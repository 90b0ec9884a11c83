import ast
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_settings

from llava.constants import SEGMENTATION_FILE
from llava.train import arguments as arguments_module
from llava.train.arguments import Arguments, parse, training_arguments
from llava.train.checks import parse_grid
from llava.train.engine import (
    choose_engine,
    choose_precision,
    explain_attention,
    pass_samples,
    run_on_cpu,
    zero_stage,
)
from llava.train.resolve import read_base, resolve
from llava.train.train import prepare

ROOT = Path(__file__).parents[1]
PARTS = (arguments_module.ModelArguments, arguments_module.DataArguments, arguments_module.RunArguments)


@pytest.fixture
def needed(tmp_path, tiny_llava_folder):
    """The flags that every run needs, pointing at things that exist."""
    (tmp_path / "train.json").write_text("[]")
    places = {
        "model_name_or_path": tiny_llava_folder,
        "data_path": tmp_path / "train.json",
        "image_folder": tmp_path,
        "output_dir": tmp_path / "out",
    }
    return [word for name, place in places.items() for word in (f"--{name}", str(place))]


def test_the_defaults_are_the_published_ones(needed):
    asked = parse(needed)
    model, data, run = asked.model, asked.data, asked.run
    assert (model.lora_r, model.lora_alpha, model.lora_dropout) == (64, 128, 0.05)
    assert (run.learning_rate, model.mm_projector_lr, run.warmup_ratio) == (2e-4, 2e-5, 0.03)
    assert (run.num_train_epochs, run.per_device_train_batch_size, run.gradient_accumulation_steps) == (
        2,
        4,
        4,
    )
    assert (run.lr_scheduler_type, run.weight_decay, run.save_steps) == ("cosine", 0.0, 1000)
    assert (data.dataloader_num_workers, data.group_by_modality_length) == (4, True)
    assert model.lora_enable and run.gradient_checkpointing


def test_llavas_own_flags_are_understood(needed):
    flags = (
        "--lora_enable True --lora_r 16 --mm_projector_lr 1e-5 --version llava_v1 --report_to none "
        "--group_by_modality_length False --gradient_checkpointing False --num_train_epochs 3 --seed 7 "
        "--model_max_length 100 --tf32 False"
    )
    asked = parse([*needed, *flags.split()])
    assert (asked.model.lora_r, asked.model.mm_projector_lr, asked.model.version) == (16, 1e-5, "llava_v1")
    assert not asked.data.group_by_modality_length and not asked.run.gradient_checkpointing
    assert (asked.run.seed, asked.data.model_max_length, asked.run.tf32) == (7, 100, False)


def test_several_record_files_are_taken(needed, tmp_path):
    (tmp_path / "more.json").write_text("[]")
    place = needed.index("--data_path") + 2
    asked = parse([*needed[:place], str(tmp_path / "more.json"), *needed[place:]])
    assert [Path(path).name for path in asked.data.data_path] == ["train.json", "more.json"]


def test_all_problems_are_told_at_once(needed, monkeypatch):
    wrong = ["--lora_r", "0", "--version", "v9", "--grid", "4x", "--lr_scheduler_type", "cosinus"]
    wrong += ["--warmup_ratio", "1", "--long_samples", "cut", "--tune_clip", "False", "--lora_rr", "3"]
    wrong += ["--vision_tower", "openai/clip", "--bf16", "True", "--fp16", "True", "--deepspeed", "none.json"]
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError) as caught:
        parse([*needed, *wrong])
    for part in (
        "--lora_r 0: must be at least 1",
        "--version 'v9': known are text4seg_v1, llava_v1, plain_v1",
        "--grid '4x': write one side, 16, or rows x columns, 12x16",
        "--lr_scheduler_type 'cosinus': known are",
        "--warmup_ratio 1: must be 0 to 0.99",
        "--long_samples 'cut': known are error, skip",
        "unknown flag --tune_clip; see --help",
        "unknown flag --lora_rr; did you mean --lora_r?",
        "--vision_tower is not needed",
        "--bf16 and --fp16 exclude each other",
        "--deepspeed none.json not found",
        "--deepspeed needs a launcher",
    ):
        assert part in str(caught.value)


@pytest.fixture
def in_processes(monkeypatch):
    """Function that makes this process look like the first of several, as torchrun does."""

    def look(count, **more):
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": count, **more}.items():
            monkeypatch.setenv(name, str(value))

    return look


@pytest.fixture
def with_gpu(monkeypatch):
    """Function that makes torch say that there is a GPU, with bfloat16 or without."""

    def look(bf16=True, count=8):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)

    return look


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 32), (2, 16), (8, 4), (32, 1)])
def test_a_global_batch_is_kept_by_any_number_of_processes(needed, in_processes, processes, accumulation):
    in_processes(processes)
    run = parse([*needed, "--global_batch_size", "128"]).run
    assert run.gradient_accumulation_steps == accumulation
    assert pass_samples(run) * accumulation == 128


def test_a_global_batch_that_does_not_divide_is_refused_with_two_that_do(needed, in_processes):
    in_processes(3)
    with pytest.raises(
        ValueError, match=r"128 does not divide by 3 processes x 4 samples each; take 120 or 132"
    ):
        parse([*needed, "--global_batch_size", "128"])
    with pytest.raises(ValueError, match=r"--global_batch_size 5 does not divide .* take 12, another"):
        parse([*needed, "--global_batch_size", "5"])


def test_two_different_ways_to_say_the_batch_are_refused(needed):
    twice = ["--global_batch_size", "16", "--gradient_accumulation_steps", "2"]
    with pytest.raises(ValueError, match="needs 4 accumulation steps, --gradient_accumulation_steps says 2"):
        parse([*needed, *twice])
    twice[-1] = "4"
    assert parse([*needed, *twice]).run.gradient_accumulation_steps == 4


@pytest.mark.parametrize(("words", "dtype"), [([], "float32"), (["--bf16"], "bfloat16")])
def test_a_cpu_computes_in_float32_unless_told_otherwise(needed, words, dtype):
    asked = parse([*needed, *words, "--use_cpu", "True"])
    engine = choose_engine(asked.model, asked.run)
    assert (engine.precision, training_arguments(asked).bf16) == (dtype, dtype == "bfloat16")
    assert engine.attention == "sdpa" and "needs a GPU" in engine.reasons["attention"]


def test_a_gpu_computes_in_bfloat16_where_it_can(needed, with_gpu):
    run = parse(needed).run
    with_gpu()
    assert choose_precision(run) == (torch.bfloat16, "the GPU has it")
    run.fp16 = True
    assert choose_precision(run) == (torch.float16, "asked for")
    run.fp16 = False
    with_gpu(bf16=False)
    assert choose_precision(run)[0] is torch.float32
    with pytest.raises(ValueError, match="this GPU does not compute in bfloat16; use --fp16 True"):
        parse([*needed, "--bf16", "True"])


def test_the_attention_comes_with_its_reason(monkeypatch):
    gpu, half = torch.device("cuda"), torch.bfloat16
    monkeypatch.setattr("llava.model.weights.is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr("llava.train.engine.is_flash_attn_2_available", lambda: True)
    assert explain_attention("auto", gpu, half)[0] == "flash_attention_2"
    assert explain_attention("auto", gpu, torch.float32) == (
        "sdpa",
        "flash_attention_2 needs 16-bit weights, these are float32",
    )
    assert explain_attention("eager", gpu, half) == ("eager", "asked for")


def test_flash_attention_that_cannot_run_is_refused_before_weights(needed, monkeypatch):
    monkeypatch.setattr("llava.train.checks.is_flash_attn_2_available", lambda: False)
    wrong = ["--attn", "flash_attention_2", "--bf16", "False", "--use_cpu", "True"]
    with pytest.raises(ValueError, match=r"(?s)needs a GPU.*not installed.*needs 16-bit weights"):
        parse([*needed, *wrong])


def test_engines_that_do_not_go_together_are_refused_together(needed, in_processes):
    wrong = ["--fsdp", "True", "--deepspeed", "scripts/zero2.json", "--fp16", "True", "--preview_steps", "9"]
    in_processes(2, ACCELERATE_USE_FSDP="true")
    with pytest.raises(ValueError) as caught:
        parse([*needed, *wrong])
    for part in (
        "accelerate's own FSDP is not used here",
        "--fsdp and --deepspeed exclude each other",
        "--fsdp does not scale float16 losses",
        "--preview_steps does not go with --fsdp",
    ):
        assert part in str(caught.value)


def test_fsdp_needs_a_launcher(needed, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="--fsdp needs a launcher: torchrun"):
        parse([*needed, "--fsdp", "True"])


def test_a_single_process_of_accelerate_on_a_cpu_is_refused(needed, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    with pytest.raises(ValueError, match="accelerate launch starts a single process on a CPU"):
        parse(needed)


def test_more_processes_than_gpus_are_refused(needed, in_processes, with_gpu):
    with_gpu(count=1)
    in_processes(2, LOCAL_WORLD_SIZE=2)
    with pytest.raises(ValueError, match="2 processes on a machine with 1 GPUs"):
        parse(needed)


def test_deepspeed_of_accelerate_is_taken_over_and_a_broken_file_is_named(needed, in_processes, tmp_path):
    in_processes(2, ACCELERATE_USE_DEEPSPEED="true")
    with pytest.raises(ValueError, match="accelerate was told to use DeepSpeed without a file"):
        parse(needed)
    in_processes(2, ACCELERATE_DEEPSPEED_CONFIG_FILE=ROOT / "scripts" / "zero3.json")
    asked = parse(needed)
    assert choose_engine(asked.model, asked.run).kind == "DeepSpeed ZeRO-3"
    (tmp_path / "broken.json").write_text('{"zero_optimization": {"stage"')
    with pytest.raises(ValueError, match=r"broken\.json is no DeepSpeed configuration"):
        parse([*needed, "--deepspeed", str(tmp_path / "broken.json")])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_configuration_comes_along_for_every_stage(stage):
    assert zero_stage(str(ROOT / "scripts" / f"zero{stage}.json")) == stage


def test_the_engine_is_shown_with_its_reasons(needed, in_processes):
    in_processes(2)
    asked = parse([*needed, "--use_cpu", "True"])
    table = choose_engine(asked.model, asked.run).table(32)
    assert "engine            DDP          several processes, each with the whole model (gloo, CPU)" in table
    assert "precision         float32      the CPU computes in float32 unless --bf16 True" in table
    assert "samples per step  32           2 processes" in table


def test_problems_of_base_and_output_folder_are_told_together(needed, tiny_llava_folder, tmp_path):
    bare = shutil.copytree(tiny_llava_folder, tmp_path / "bare")
    (bare / SEGMENTATION_FILE).unlink()
    (tmp_path / "out" / "checkpoint-4").mkdir(parents=True)
    needed[needed.index("--model_name_or_path") + 1] = str(bare)
    told = r"(?s)^the run cannot start:\n- .* no segmentation.json; .*\n- --output_dir .* already holds"
    with pytest.raises(ValueError, match=told):
        prepare(needed)


def test_an_empty_command_names_every_missing_flag():
    with pytest.raises(ValueError) as caught:
        parse([])
    for name in ("model_name_or_path", "data_path", "image_folder", "output_dir"):
        assert f"--{name} is missing" in str(caught.value)


def test_missing_files_are_named(needed, tmp_path):
    needed[needed.index("--data_path") + 1] = "nowhere.json"
    needed[needed.index("--image_folder") + 1] = str(tmp_path / "no_images")
    with pytest.raises(ValueError, match=r"(?s)--data_path nowhere.json not found.*no_images not found"):
        parse(needed)


def test_an_adapter_as_base_is_told_to_be_merged(needed, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    needed[needed.index("--model_name_or_path") + 1] = str(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"is an adapter; .*merge_lora_weights.py --model-path"):
        parse(needed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a GPU")
def test_a_cpu_is_not_asked_for_what_it_cannot_do(needed):
    with pytest.raises(ValueError, match=r"(?s)--fp16 needs a GPU.*--tf32 needs an NVIDIA GPU"):
        parse([*needed, "--fp16", "True", "--tf32", "True"])


@pytest.mark.parametrize(("text", "grid"), [("16", (16, 16)), ("12x16", (12, 16)), ("12X16", (12, 16))])
def test_a_grid_is_one_side_or_rows_by_columns(text, grid):
    assert parse_grid(text) == grid


@pytest.mark.parametrize("text", ["", "0", "4x0", "4x4x4", "-4", "four", "²"])
def test_anything_else_is_no_grid(text):
    with pytest.raises(ValueError, match="write one side"):
        parse_grid(text)


def test_every_flag_is_read_somewhere_in_the_package():
    read = set()
    files = sorted((ROOT / "llava" / "train").glob("*.py"))
    assert len(files) >= 7
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and file.name == "arguments.py":
                read.update(node.value.split() if "output_dir num_train_epochs" in node.value else ())
    names = {item.name for part in PARTS for item in dataclasses.fields(part)}
    assert len(names) > 35 and names - read == set()


def test_the_trainer_gets_every_number(needed):
    asked = parse([*needed, "--warmup_ratio", "0.1", "--max_grad_norm", "0.5", "--save_total_limit", "2"])
    args = training_arguments(asked)
    assert (args.warmup_steps, args.max_grad_norm, args.save_total_limit) == (0.1, 0.5, 2)
    assert (args.learning_rate, args.lr_scheduler_type.value, args.seed) == (2e-4, "cosine", 42)
    assert args.use_cpu == run_on_cpu(asked.run) and args.report_to == []


def test_paths_and_logging_may_change_on_resume_and_nothing_else(needed):
    before = parse(needed).fixed()
    assert parse([*needed, "--save_steps", "5", "--resume"]).fixed() == before
    assert parse([*needed, "--learning_rate", "1e-3"]).fixed() != before


def asked(**flags):
    return Arguments(arguments_module.ModelArguments(**flags), *(part() for part in PARTS[1:])).model


def test_settings_are_inherited_and_flags_win(tiny_llava_folder):
    base = read_base(str(tiny_llava_folder))
    resolved = resolve(asked(grid="6x5"), base)
    assert resolved.settings == tiny_settings(grid_hw=(6, 5))
    assert resolved.origins["grid_hw"] == "given, the base has (4, 4)"
    assert resolved.origins["prompt"] == "inherited from the base"
    assert resolved.max_length == 512
    assert "grid_hw           6x5          given" in resolved.table()


def test_a_base_without_settings_needs_a_grid(tiny_llava_folder, tmp_path):
    folder = shutil.copytree(tiny_llava_folder, tmp_path / "bare")
    (folder / SEGMENTATION_FILE).unlink()
    base = read_base(str(folder))
    with pytest.raises(ValueError, match=r"has no segmentation.json; say which grid .* --grid 16"):
        resolve(asked(), base)
    settings = resolve(asked(grid="16"), base).settings
    assert (settings.grid_hw, settings.image_side, settings.prompt) == ((16, 16), 24, "text4seg_v1")


def test_another_image_side_and_too_long_samples_are_refused_together(tiny_llava_folder):
    base = read_base(str(tiny_llava_folder))
    with pytest.raises(ValueError, match=r"(?s)image side 336 .* needs 24;.*--model_max_length 513: .* 512"):
        resolve(asked(image_side=336), base, 513)


def test_a_model_that_is_no_llava_is_refused(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a 'llama' model; needed is one of llava, llava_next"):
        read_base(str(tmp_path))


def test_an_original_llava_folder_without_weights_is_refused(tmp_path):
    from transformers import LlavaConfig

    LlavaConfig(mm_vision_tower="openai/clip-vit-large-patch14-336").save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds neither a whole model nor"):
        read_base(str(tmp_path))


SHELL = ROOT / "scripts" / "v1_5" / "finetune_lora.sh"


def shell_command(tmp_path, **variables):
    """Words that the script would run, from a stand-in for Python that prints its arguments."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    stand_in.chmod(0o755)
    environment = os.environ | {"PYTHON": str(stand_in)} | variables
    run = subprocess.run(["bash", str(SHELL)], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def test_the_script_runs_one_process_with_flags_that_parse(tmp_path, needed):
    places = dict(zip(needed[::2], needed[1::2], strict=True))
    words = shell_command(
        tmp_path,
        MODEL=places["--model_name_or_path"],
        DATA=places["--data_path"],
        IMAGES=places["--image_folder"],
        OUTPUT=places["--output_dir"],
        NPROC_PER_NODE="1",
        DEEPSPEED="",
        PRECISION="fp32",
        GRID="4",
        MAX_LENGTH="99",
        VERSION="plain_v1",
    )
    assert words[:2] == ["-m", "llava.train.train"]
    run = parse(words[2:])
    assert dataclasses.asdict(run.model) | {"model_name_or_path": ""} == dataclasses.asdict(
        asked(version="plain_v1", grid="4")
    )
    assert (run.data.model_max_length, run.run.max_steps) == (99, -1)


def test_the_script_chooses_its_launcher(tmp_path):
    several = shell_command(tmp_path, NPROC_PER_NODE="2", DEEPSPEED="")
    assert several[:4] == ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    named = shell_command(tmp_path, LAUNCHER="deepspeed", DEEPSPEED="scripts/zero3.json", PRECISION="bf16")
    assert named[:2] == ["-m", "deepspeed.launcher.runner"]
    assert named[named.index("--deepspeed") + 1] == "scripts/zero3.json" and "--bf16" in named


def test_a_wrong_setting_ends_the_program_with_a_sentence(tmp_path):
    command = [sys.executable, "-m", "llava.train.train", "--output_dir", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "error: the run cannot start:" in run.stderr
