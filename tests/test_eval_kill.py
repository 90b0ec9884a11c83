"""kill -9, then the same command again; two processes against one. Real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from refer_folder import SQUARE, annotation, ref, write_dataset

from llava.eval.predictions import PREDICTIONS_FILE, rank_path
from llava.eval.report import RESULTS_FILE

ROOT = Path(__file__).parents[1]
KILLS = 30
WAIT_SECONDS = 600
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
MODULE = ("-m", "llava.eval.model_refer_seg")

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two images with six expressions each, in the layout of RefCOCO."""
    root = tmp_path_factory.mktemp("refer_seg")
    words = [f"the {colour} square" for colour in ("red", "blue", "green", "black", "white", "grey")]
    refs = [ref(number, number, words, image_id=number) for number in (1, 2)]
    return write_dataset(root, refs, [annotation(number, [SQUARE], image_id=number) for number in (1, 2)])


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(data, model, sam, out, *launcher):
    words = ["--model-path", model, "--sam-path", sam, "--data-root", data, "--splits", "refcoco|val"]
    words += ["--batch-size", 2, "--max-new-tokens", 100, "--device", "cpu", "--out", out]
    return subprocess.Popen(
        [sys.executable, *launcher, *MODULE, *map(str, words)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    shown = process.communicate(timeout=WAIT_SECONDS)[0]
    assert process.returncode == 0, shown
    return shown


def kill_after_a_record(process, path):
    deadline = time.monotonic() + WAIT_SECONDS
    while not (path.is_file() and path.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def without_seconds(out):
    """Records and results but for the seconds, and the version of the code, which may move between runs."""
    lines = [json.loads(line) for line in (out / PREDICTIONS_FILE).read_bytes().splitlines()]
    assert all(line.pop("seconds")["generate"] > 0 for line in lines)
    results = json.loads((out / RESULTS_FILE).read_text())
    assert results.pop("seconds")["generate"] > 0
    assert results.pop("costs")["seconds"]
    assert results.pop("code") == results["settings"].pop("code")
    return lines, results


@pytest.fixture(scope="module")
def whole(data, tiny_llava_folder, tiny_sam_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    finish(start(data, tiny_llava_folder, tiny_sam_folder, out))
    return out


def test_a_kill_at_any_line_and_a_resume_leave_the_same_bytes(tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "eval_kill_driver.py"), str(tmp_path), str(KILLS)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    assert len(told) == KILLS
    assert [line[1:] for line in told] == [[str(int(signal.SIGKILL)), "0", "True"]] * KILLS, done.stdout


def test_a_model_killed_with_signal_9_resumes_to_the_same_result(
    data, tiny_llava_folder, tiny_sam_folder, whole, tmp_path
):
    process = start(data, tiny_llava_folder, tiny_sam_folder, tmp_path)
    kill_after_a_record(process, rank_path(tmp_path, 0))
    finish(start(data, tiny_llava_folder, tiny_sam_folder, tmp_path))
    assert without_seconds(tmp_path) == without_seconds(whole)


def test_two_processes_equal_one_to_the_last_digit(data, tiny_llava_folder, tiny_sam_folder, whole, tmp_path):
    shown = finish(start(data, tiny_llava_folder, tiny_sam_folder, tmp_path, *TORCHRUN))
    assert shown.count("refined") >= 1
    assert without_seconds(tmp_path) == without_seconds(whole)
    assert not rank_path(tmp_path, 1).exists()
