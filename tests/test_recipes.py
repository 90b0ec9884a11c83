"""Every command that scripts, their headers, mixture files and README show is one that its program takes."""

import importlib
import re
import subprocess

import pytest
from shell_commands import ROOT, blocks_of, check, commands_of, programs_of, training_problems

from llava.eval.benchmarks import BENCHMARKS

RECIPES = ("grefer", "ovs", "refer", "task", "text4seg")
SOURCED = "environment.sh"
NEEDS_WORDS = {
    f"scripts/v1_5/eval/{name}.sh": 'checkpoints/some "refcoco|val"' for name in ("benchmark", *BENCHMARKS)
}
NEEDS_WORDS["scripts/v1_5/eval/vqa.sh"] = "checkpoints/some gqa pope"
"""Scripts that do nothing without arguments, and some."""


def tracked(*patterns):
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, capture_output=True, text=True
    )
    return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


SCRIPTS = [name for name in tracked("*.sh") if not name.endswith(SOURCED)]
HEADERS = [*SCRIPTS, *tracked("scripts/v1_5/mixtures/*.yaml", "scripts/text4seg_pp/*.yaml")]


def readme_blocks():
    return re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)


def shown_in(name):
    """Pieces of bash in a file's header; lines with a placeholder such as [SPLIT ...] are no commands."""
    blocks = blocks_of((ROOT / name).read_text(encoding="utf-8"))
    return ["\n".join(line for line in block.splitlines() if " [" not in line) for block in blocks]


def checked(text, folder, **settings):
    """Programs that a piece of bash starts, each of which has taken its arguments."""
    started = []
    for words in commands_of(text, folder, **settings):
        program = programs_of(words)
        if program is not None:
            check(program[0], tuple(program[1]))
            started.append(program[0].relative_to(ROOT).as_posix())
    return started


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder to record in, with the repository's root as working directory."""
    monkeypatch.chdir(ROOT)
    return tmp_path


def test_all_scripts_and_recipes_are_looked_at():
    assert len(SCRIPTS) >= 10
    assert {f"scripts/v1_5/finetune_{name}_lora.sh" for name in RECIPES} <= set(SCRIPTS)
    shown = [block for name in HEADERS for block in shown_in(name)]
    assert len(shown) >= 14 and len(readme_blocks()) >= 8


@pytest.mark.parametrize("gpus", [0, 8])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_calls_programs_as_they_want_to_be_called(elsewhere, name, gpus):
    text = f"bash {name} {NEEDS_WORDS.get(name, '')}"
    assert checked(text, elsewhere, gpus=gpus) or name == "scripts/test.sh"


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_shows_commands_that_work(elsewhere, name):
    for block in shown_in(name):
        checked(block, elsewhere)


@pytest.mark.parametrize("number", range(len(readme_blocks())))
def test_readme_shows_commands_that_work(elsewhere, number):
    checked(readme_blocks()[number], elsewhere)


def recipe(elsewhere, name, **settings):
    """Flags of the training that a recipe starts, by name."""
    calls = commands_of(f"bash scripts/v1_5/finetune_{name}_lora.sh", elsewhere, **settings)
    program, words = programs_of(calls[-1])
    assert program == ROOT / "llava/train/train.py"
    assert not training_problems(words)
    return dict(zip(words[::2], words[1::2], strict=True))


PUBLISHED = {
    "text4seg": {"--grid": "16", "--num_train_epochs": "2", "--model_max_length": "3072"},
    "refer": {"--grid": "16", "--num_train_epochs": "5", "--model_max_length": "2048"},
    "grefer": {"--num_train_epochs": "2", "--model_max_length": "2048"},
    "ovs": {"--grid": "32", "--num_train_epochs": "2", "--model_max_length": "3072"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_values(elsewhere, name):
    flags = recipe(elsewhere, name, gpus=8)
    assert flags.items() >= PUBLISHED[name].items()
    assert ("--grid" in flags) == ("--grid" in PUBLISHED[name])
    assert flags["--global_batch_size"] == "128"
    rates = (flags["--learning_rate"], flags["--mm_projector_lr"], flags["--warmup_ratio"])
    adapters = (flags["--lora_r"], flags["--lora_alpha"], flags["--lora_dropout"])
    assert rates == ("2e-4", "2e-5", "0.03") and adapters == ("64", "128", "0.05")


def test_the_second_stage_starts_from_the_merged_first(elsewhere):
    assert recipe(elsewhere, "grefer")["--model_name_or_path"] == "checkpoints/text4seg-refer"
    merges = [
        words
        for block in shown_in("scripts/v1_5/finetune_grefer_lora.sh")
        for words in commands_of(block, elsewhere)
        if "scripts/merge_lora_weights.py" in words
    ]
    assert merges[0][-1] == "checkpoints/text4seg-refer"
    assert merges[0][-3] == recipe(elsewhere, "refer")["--output_dir"]


def test_own_data_is_stored_and_trained_on(elsewhere):
    build, train = commands_of("OWN=mine OUTPUT=out bash scripts/v1_5/finetune_task_lora.sh", elsewhere)
    assert (
        build[1:]
        == (
            "playground/data/create_json/create_own.py --root mine --split train --format store "
            "--output out-data"
        ).split()
    )
    flags = dict(zip(train[3::2], train[4::2], strict=True))
    assert (flags["--data_path"], flags["--image_folder"]) == ("out-data", "mine")
    given = commands_of("OWN=mine DATA=ready bash scripts/v1_5/finetune_task_lora.sh", elsewhere)
    assert len(given) == 1 and "ready" in given[0]


def test_the_shipped_example_is_built_and_trained_on(tmp_path, tiny_llava_folder, monkeypatch, capsys):
    from llava.model.checkpoint import load_checkpoint
    from llava.train.train import prepare, train

    monkeypatch.syspath_prepend(ROOT / "playground/data/create_json")
    create = importlib.import_module("create")
    own, store = ROOT / "playground/data/own_example", tmp_path / "store"
    assert create.main("own", ["--root", str(own), "--format", "store", "--output", str(store)]) == 0
    flags = {"model_name_or_path": tiny_llava_folder, "data_path": store, "image_folder": own}
    flags |= {"output_dir": tmp_path / "out", "max_steps": 2, "per_device_train_batch_size": 4, "lora_r": 2}
    flags |= {"dataloader_num_workers": 0, "long_samples": "skip", "gradient_accumulation_steps": 1}
    trainer = train(prepare([word for name, value in flags.items() for word in (f"--{name}", str(value))]))
    assert len([entry for entry in trainer.state.log_history if "loss" in entry]) == 2
    assert load_checkpoint(tmp_path / "out").settings.training["records"] >= 20
    assert "30 records to draw, 6 images" in capsys.readouterr().out


@pytest.mark.parametrize("name", RECIPES)
def test_every_variable_of_a_recipe_can_be_set_from_outside(elsewhere, name):
    text = (ROOT / f"scripts/v1_5/finetune_{name}_lora.sh").read_text(encoding="utf-8")
    variables = re.findall(r"^export (\w+)=\$\{\1:?-", text, re.M)
    assert len(variables) >= 8 and text.count("export ") == len(variables)
    values = {variable: f"set-{variable.lower()}" for variable in variables}
    words = commands_of(f"bash scripts/v1_5/finetune_{name}_lora.sh", elsewhere, **values)[-1]
    assert set(values.values()) <= set(words)


@pytest.mark.parametrize("name", RECIPES)
def test_a_header_names_hardware_time_and_what_to_expect(name):
    text = (ROOT / f"scripts/v1_5/finetune_{name}_lora.sh").read_text(encoding="utf-8")
    words = re.findall(r"^# (Hardware|Time|Expected)  ", text, re.M)
    assert words == ["Hardware", "Time", "Expected"]
    assert name == "task" or ("published" in text and "arXiv 2410.09855" in text)


def test_a_flag_that_does_not_exist_is_caught(elsewhere, capsys):
    with pytest.raises(AssertionError, match="refused"):
        checked("python scripts/check_data.py --datset refcoco", elsewhere)
    assert "--datset" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="unknown flag --tune_clip"):
        checked("bash scripts/v1_5/finetune_lora.sh --tune_clip False", elsewhere)
    with pytest.raises(AssertionError, match="is not there"):
        checked("python -m llava.eval.rprt results", elsewhere)
    with pytest.raises(AssertionError, match="takes no arguments"):
        checked("python -m llava.doctor --fast", elsewhere)
    with pytest.raises(AssertionError, match="command not found"):
        checked("bsh scripts/quickstart.sh", elsewhere)


def test_a_launcher_passes_the_program_on(elsewhere):
    for launcher in ("torchrun --nproc_per_node 2", "accelerate launch --num_processes 2"):
        with pytest.raises(AssertionError, match="unknown flag --nothing"):
            checked(f"{launcher} -m llava.train.train --output_dir out --nothing 1", elsewhere)
