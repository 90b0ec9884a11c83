"""No step is lost: a kill spoils no checkpoint, a signal saves, a resumed run is like an unbroken one."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from test_train import assert_identical, command, record
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback

from llava.data.records import write_records
from llava.train import stop
from llava.train import train as train_module
from llava.train.checkpoints import check_agreement, keep_last, last_whole_checkpoint, move_into_place, sweep
from llava.train.stop import STOPPED, StopRequest, start_worker
from llava.train.train import main, prepare, train

ROOT = Path(__file__).parents[1]
STEPS = 8
MORE = ("--max_steps", str(STEPS), "--lora_dropout", "0.5")
"""An epoch of the eight records has four steps; dropout makes the random states count."""
DRIVER = """
import os, signal, sys
from llava.train import train
from llava.train.trainer import MaskTextTrainer

def training_step(self, *args, plain=MaskTextTrainer.training_step):
    loss = plain(self, *args)
    if self.state.global_step == {step} and os.environ.get("RANK", "{rank}") == "{rank}":
        os.kill(os.getpid(), signal.{name})
    return loss

MaskTextTrainer.training_step = training_step
train.main(sys.argv[1:])
"""
"""The training program, which sends itself a signal between the gradients and the optimizer's step."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with eight records and their images."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("resume")
    (folder / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (30, 20), (30 * number, 90, 200)).save(folder / "images" / f"{number}.png")
    write_records(folder / "train.json", [record(number) for number in range(8)])
    return folder


@pytest.fixture(scope="module")
def whole(data, tiny_llava_folder):
    """Folder of the run that nothing breaks."""
    train(prepare(command(tiny_llava_folder, data, data / "whole", *MORE)))
    return data / "whole"


def steps_of(folder):
    """Lines of steps.jsonl without the seconds, which differ from run to run."""
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert all(line.pop("seconds") > 0 for line in lines)
    return lines


def run_driver(words, *, step, name, rank="0", launcher=()):
    words = [*launcher, "-c", DRIVER.format(step=step, name=name, rank=rank), *words]
    if launcher:
        script = Path(words[words.index("--output_dir") + 1]).with_suffix(".py")
        script.write_text(DRIVER.format(step=step, name=name, rank=rank))
        words = [*launcher, str(script), *words[words.index("-c") + 2 :]]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.engines
def test_a_run_killed_in_the_middle_of_a_step_goes_on_like_an_unbroken_one(data, tiny_llava_folder, whole):
    words = command(tiny_llava_folder, data, data / "killed", *MORE)
    killed = run_driver(words, step=5, name="SIGKILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [line["step"] for line in steps_of(data / "killed")] == [1, 2, 3, 4, 5]
    assert last_whole_checkpoint(data / "killed").name == "checkpoint-4"
    train(prepare([*words, "--resume"]))
    expected = steps_of(whole)
    assert len(expected) == STEPS and steps_of(data / "killed") == expected
    assert sorted(number for line in expected for number in line["samples"]) == list(range(16))
    assert_identical(data / "killed", whole)


class Signals(TrainerCallback):
    """Sends its own process a signal after a step."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(self.number)


@pytest.fixture
def signal_in_step(monkeypatch):
    """Function that lets the next run get a signal while it does a step."""
    build = train_module.build_trainer

    def arrange(number, step):
        def build_with_signal(plan, args):
            trainer = build(plan, args)
            trainer.add_callback(Signals(number, step - 1))
            monkeypatch.setattr(train_module, "build_trainer", build)
            return trainer

        monkeypatch.setattr(train_module, "build_trainer", build_with_signal)

    return arrange


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_signal_lets_the_step_end_and_leaves_with_a_checkpoint(
    data, tiny_llava_folder, whole, signal_in_step, name, capfd
):
    folder = data / name
    words = command(tiny_llava_folder, data, folder, *MORE, "--save_steps", "100")
    before = signal.getsignal(getattr(signal, name))
    signal_in_step(getattr(signal, name), 3)
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == STOPPED == 75
    assert signal.getsignal(getattr(signal, name)) is before
    assert "a second signal stops at once" in capfd.readouterr().err
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-3"]
    assert not (folder / "adapter_model.safetensors").exists()
    main([*words, "--resume"])
    assert steps_of(folder) == steps_of(whole)
    assert_identical(folder, whole)


def test_a_run_that_is_done_does_no_further_step(data, tiny_llava_folder, signal_in_step):
    words = command(tiny_llava_folder, data, data / "done", "--max_steps", "2")
    signal_in_step(signal.SIGTERM, 2)
    main(words)
    before = (data / "done" / "adapter_model.safetensors").read_bytes()
    assert train(prepare([*words, "--resume"])).state.global_step == 2
    assert (data / "done" / "adapter_model.safetensors").read_bytes() == before
    assert len(steps_of(data / "done")) == 2


def test_a_checkpoint_that_is_cut_off_is_never_taken_for_one(data, tiny_llava_folder, monkeypatch, tmp_path):
    save = torch.save

    def cut(state, path, **options):
        if "checkpoint-4" in str(path):
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        save(state, path, **options)

    words = command(tiny_llava_folder, data, tmp_path / "cut")
    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        train(prepare(words))
    monkeypatch.undo()
    assert {path.name for path in (tmp_path / "cut").glob("checkpoint-*")} == {
        "checkpoint-2",
        "checkpoint-4.writing",
    }
    assert last_whole_checkpoint(tmp_path / "cut").name == "checkpoint-2"
    train(prepare([*words, "--resume"]))
    assert {path.name for path in (tmp_path / "cut").glob("checkpoint-*")} == {"checkpoint-4"}


def checkpoint(folder, step, whole=True, ending=""):
    path = folder / f"checkpoint-{step}{ending}"
    path.mkdir(parents=True)
    (path / "rng_state.pth").touch()
    if whole:
        (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def test_keeping_the_last_counts_whole_checkpoints_only(tmp_path):
    for step, is_whole in ((2, True), (4, True), (10, True), (12, False)):
        checkpoint(tmp_path, step, is_whole)
    keep_last(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4"]
    keep_last(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_half_a_checkpoint_gives_way_to_a_whole_one(tmp_path):
    checkpoint(tmp_path, 4, whole=False)
    written = checkpoint(tmp_path / "checkpoint-4.writing", 4)
    (written / "global_step4").mkdir()
    move_into_place(written, tmp_path / "checkpoint-4")
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-4"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_what_a_kill_left_is_swept_away(tmp_path):
    checkpoint(tmp_path, 2)
    for ending in (".writing", ".removing"):
        checkpoint(tmp_path, 4, ending=ending)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_processes_that_found_different_checkpoints_are_refused(monkeypatch):
    def gathered(found, own):
        found[:] = [own, "checkpoint-2"]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    check_agreement(Path("run", "checkpoint-2"))
    with pytest.raises(
        ValueError, match=r"\(no checkpoint, checkpoint-2\); put --output_dir on a file system"
    ):
        check_agreement(None)


def test_a_later_signal_ends_the_process_and_a_repeated_one_does_not(monkeypatch):
    sent = []
    monkeypatch.setattr(stop.os, "kill", lambda process, number: sent.append((process, number)))
    with StopRequest() as request:
        for _ in range(2):
            signal.raise_signal(signal.SIGUSR1)
        assert request.signal == signal.SIGUSR1 and sent == []
        monkeypatch.setattr(stop, "ONE_REQUEST_S", 0.0)
        signal.raise_signal(signal.SIGTERM)
    assert sent == [(os.getpid(), signal.SIGTERM)]


class HitWorkers(Dataset):
    """Numbers of processes; the second sample sends its own process the signals of a whole group."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1:
            for number in stop.SIGNALS:
                os.kill(os.getpid(), number)
            time.sleep(0.05)
        return os.getpid()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_worker_outlasts_the_signals_of_its_group_and_leaves_for_its_parent():
    loader = DataLoader(HitWorkers(), num_workers=1, worker_init_fn=partial(start_worker, None))
    samples = iter(loader)
    found = {int(next(samples)) for _ in range(4)}
    (worker,) = found
    assert worker != os.getpid()
    os.kill(worker, signal.SIGTERM)
    for _ in range(100):
        if Path(f"/proc/{worker}/cmdline").read_text() == "":
            break
        time.sleep(0.05)
    assert Path(f"/proc/{worker}/cmdline").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", [None, "scripts/zero2.json", "scripts/zero3.json"])
def test_a_signal_to_one_process_stops_all_of_them(data, tiny_llava_folder, tmp_path, deepspeed):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    more = ("--max_steps", "4", "--save_steps", "100", "--preview_steps", "4", "--preview_samples", "2")
    more += ("--deepspeed", deepspeed) if deepspeed else ()
    words = command(tiny_llava_folder, data, tmp_path / "out", *more)
    stopped = run_driver(words, step=1, name="SIGUSR1", rank="1", launcher=launcher)
    # A process that has saved everything may still abort when its interpreter ends under ZeRO-3 on a CPU.
    ended = "exitcode  : 75" in stopped.stderr or "without an active exception" in stopped.stderr
    assert ended and stopped.returncode == 1, stopped.stderr
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert last_whole_checkpoint(tmp_path / "out").name == "checkpoint-2"
    again = run_driver([*words, "--resume"], step=-1, name="SIGUSR1", launcher=launcher)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file(), again.stderr
    assert [line["step"] for line in steps_of(tmp_path / "out")] == [1, 2, 3, 4]
    assert all(len(line["samples"]) == 4 for line in steps_of(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out" / "previews").iterdir()] == ["step-000004.png"]
