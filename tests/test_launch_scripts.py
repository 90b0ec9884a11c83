"""The shell scripts that start training, with stand-ins for Python, GPUs and SLURM."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LORA = "scripts/v1_5/finetune_lora.sh"
SLURM = "scripts/slurm/finetune_lora.sh"
UNSET = "DEEPSPEED FSDP NPROC_PER_NODE NNODES GLOBAL_BATCH ACCUMULATION PRECISION LAUNCHER".split()


@pytest.fixture
def stand_ins(tmp_path):
    """Folder of stand-ins that comes first in PATH; `write(name, text)` adds one."""

    def write(name, text):
        path = tmp_path / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
        return path

    write("python", 'printf "%s\\n" "$@"')
    write("nvidia-smi", "exit 1")
    return write


def environment(tmp_path, **variables):
    """What the scripts see: stand-ins first, nothing set but `variables`."""
    clean = {name: value for name, value in os.environ.items() if name not in UNSET}
    path = f"{tmp_path}:{os.environ['PATH']}"
    return clean | {"PATH": path, "PYTHON": str(tmp_path / "python")} | variables


def words(tmp_path, **variables):
    """Command line that finetune_lora.sh would start."""
    return start(tmp_path, **variables).stdout.splitlines()


def start(tmp_path, check=True, **variables):
    return subprocess.run(
        ["bash", LORA],
        cwd=ROOT,
        env=environment(tmp_path, **variables),
        capture_output=True,
        text=True,
        check=check,
    )


def value(command, flag):
    return command[command.index(flag) + 1]


def test_eight_gpus_get_zero_2_and_the_published_batch(tmp_path, stand_ins):
    stand_ins("nvidia-smi", "for i in 1 2 3 4 5 6 7 8; do echo GPU; done")
    command = words(tmp_path)
    assert command[:4] == ["-m", "torch.distributed.run", "--nproc_per_node", "8"]
    assert value(command, "--deepspeed") == "scripts/zero2.json"
    assert value(command, "--global_batch_size") == "128"
    assert not {"--gradient_accumulation_steps", "--fp16", "--bf16"} & set(command)


def test_a_laptop_gets_one_process_and_the_usual_accumulation(tmp_path, stand_ins):
    command = words(tmp_path)
    assert command[:2] == ["-m", "llava.train.train"]
    assert not {"--global_batch_size", "--gradient_accumulation_steps", "--deepspeed"} & set(command)


def test_an_accumulation_takes_the_place_of_the_global_batch(tmp_path, stand_ins):
    stand_ins("nvidia-smi", "echo GPU")
    command = words(tmp_path, ACCUMULATION="2", PRECISION="fp32")
    assert value(command, "--gradient_accumulation_steps") == "2" and "--global_batch_size" not in command
    assert value(command, "--bf16") == "False"


def test_fsdp_takes_the_place_of_deepspeed(tmp_path, stand_ins):
    stand_ins("nvidia-smi", "echo GPU; echo GPU")
    command = words(tmp_path, FSDP="True")
    assert "torch.distributed.run" in command and "--deepspeed" not in command
    assert value(command, "--fsdp") == "True"


def test_accelerate_gets_all_processes_of_all_machines(tmp_path, stand_ins):
    command = words(
        tmp_path, LAUNCHER="accelerate", NPROC_PER_NODE="8", NNODES="2", NODE_RANK="1", MASTER_ADDR="node0"
    )
    assert command[:3] == ["-m", "accelerate.commands.launch", "--multi_gpu"]
    assert (value(command, "--num_processes"), value(command, "--machine_rank")) == ("16", "1")
    assert value(command, "--main_process_ip") == "node0"
    command = words(tmp_path, LAUNCHER="accelerate", DEEPSPEED="scripts/zero1.json")
    assert value(command, "--deepspeed_config_file") == "scripts/zero1.json"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LAUNCHER": "deepspeed", "NNODES": "2"}, "LAUNCHER=deepspeed starts one machine"),
        ({"LAUNCHER": "mpirun"}, "known are auto, python, torchrun, deepspeed, accelerate"),
        ({"PRECISION": "int8"}, "known are auto, bf16, fp16, fp32"),
    ],
)
def test_a_wrong_variable_ends_the_script_with_a_sentence(tmp_path, stand_ins, variables, message):
    done = start(tmp_path, check=False, **variables)
    assert done.returncode == 2 and message in done.stderr


def slurm(tmp_path, stand_ins, python):
    """Start the SLURM script as the first of two machines would run it."""
    stand_ins("python", python)
    stand_ins("scontrol", f'echo "$@" >> {tmp_path}/scontrol.log; printf "node0\\nnode1\\n"')
    stand_ins("srun", 'SLURM_NODEID=0 exec "$@"')
    variables = {"SLURM_JOB_ID": "77", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[0-1]"}
    variables |= {"SLURM_GPUS_ON_NODE": "4", "SLURM_SUBMIT_DIR": str(ROOT)}
    return subprocess.Popen(
        ["bash", SLURM, "--save_steps", "7"],
        cwd=ROOT,
        env=environment(tmp_path, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_slurm_starts_every_machine_with_its_place_and_resumes(tmp_path, stand_ins):
    process = slurm(tmp_path, stand_ins, 'printf "%s\\n" "$@"')
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    command = printed.splitlines()
    assert (value(command, "--nnodes"), value(command, "--node_rank")) == ("2", "0")
    assert (value(command, "--master_addr"), value(command, "--nproc_per_node")) == ("node0", "4")
    assert "--resume" in command and command[-2:] == ["--save_steps", "7"]
    assert "requeue" not in (tmp_path / "scontrol.log").read_text()


def test_a_signal_of_slurm_reaches_the_training_processes_and_the_job_queues_again(tmp_path, stand_ins):
    save = f'trap "touch {tmp_path}/saved; exit 75" USR1'
    worker = stand_ins("worker", f"{save}; touch {tmp_path}/ready; while true; do sleep 0.05; done")
    # Like torchrun: starts a process, outlives the signal, and turns the exit code of its process into 1.
    process = slurm(tmp_path, stand_ins, f"env --default-signal=USR1 {worker} & wait $! || exit 1")
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert (tmp_path / "saved").exists(), errors
    assert process.returncode == 1
    assert (tmp_path / "scontrol.log").read_text().splitlines()[-1] == "requeue 77"


def test_a_failure_without_a_signal_does_not_queue_again(tmp_path, stand_ins):
    process = slurm(tmp_path, stand_ins, "exit 3")
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert "requeue" not in (tmp_path / "scontrol.log").read_text()
