"""What shell scripts would run, and whether the programs that they call take those arguments."""

import argparse
import functools
import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORD_END, COMMAND_END = "\x1f", "\x1e"

RECORDED = ("python", "pip", "torchrun", "accelerate", "deepspeed")
PASSED_ON = ("srun", "sbatch")
OTHERS_PROGRAMS = ("pip", "ruff", "mypy", "pytest", "lmms_eval")
"""Programs of other projects; their arguments are theirs to check."""

OF_THE_MACHINE = (
    r" not found",
    r"needs a GPU",
    r"needs an NVIDIA GPU",
    r"needs a launcher",
    r": not installed",
    r"this machine",
)
"""Problems of a training command that come from where the test runs: files, GPUs, packages."""

SLURM = {"JOB_NODELIST": "first,second", "JOB_ID": "17", "NNODES": "2", "NODEID": "1", "GPUS_ON_NODE": "8"}
SLURM = {f"SLURM_{name}": value for name, value in SLURM.items()}
"""What a cluster tells a job; nothing but the scripts for clusters reads it."""

WITHOUT_ARGUMENTS = ("llava/doctor.py",)


class ParsedError(Exception):
    """Raised in place of the work that follows parsing."""


def stand_ins(folder):
    """Folder of programs that write down how they were called and do nothing."""
    recorder = '#!/bin/sh\n{ printf "%s\\037" "${0##*/}" "$@"; printf "\\036"; } >> "$RECORD"\n'
    passing = '#!/bin/sh\nuntil [ -f "$1" ] || command -v "$1" > /dev/null; do shift; done\n'
    programs = dict.fromkeys(RECORDED, recorder)
    programs |= {"srun": passing + 'exec "$@"\n', "sbatch": passing + 'exec bash "$@"\n'}
    programs["nvidia-smi"] = '#!/bin/sh\n[ "$GPUS" -gt 0 ] || exit 9\nseq "$GPUS"\n'
    programs["scontrol"] = "#!/bin/sh\necho first-node\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def commands_of(text, folder, *, gpus=0, **variables):
    """Every call of a recorded program that a piece of bash makes, as lists of words.

    Args:
        text: bash, run from the repository's root.
        folder: for the stand-ins and their notes.
        gpus: how many GPUs the machine seems to have.
        variables: of the environment, which holds nothing else that scripts read.
    """
    programs = stand_ins(folder / "programs")
    notes = folder / "record"
    notes.write_text("")
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "PYTHON": str(programs / "python"),
        "USE_ACTIVE_ENV": "1",
        "TEXT4SEG_REAL_DATA": str(folder),
        "RECORD": str(notes),
        "GPUS": str(gpus),
        **SLURM,
        **variables,
    }
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, f"{text}\n{run.stdout}{run.stderr}"
    calls = notes.read_text().split(COMMAND_END)[:-1]
    return [call.split(WORD_END)[:-1] for call in calls]


def blocks_of(text):
    """Indented commands of a leading comment: runs of lines "#   command" between empty comment lines."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    blocks, open_block = [], None
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("#   ") and (open_block is not None or before == "#"):
            open_block = [*(open_block or []), line[4:]]
        else:
            blocks += [open_block] if open_block else []
            open_block = None
    return ["\n".join(block) for block in [*blocks, *([open_block] if open_block else [])]]


def programs_of(words):
    """(program, arguments) that a recorded call starts, launchers taken off; None for others' programs.

    Raises:
        SystemExit: a launcher does not take its arguments.
    """
    name, *rest = words
    if name in OTHERS_PROGRAMS or (name == "python" and rest[0] == "-c"):
        return None
    launchers = {"torchrun": "torch.distributed.run", "deepspeed": "deepspeed.launcher.runner"}
    if name in launchers:
        rest = ["-m", launchers[name], *rest]
    elif name == "accelerate":
        assert rest[0] == "launch", words
        rest = ["-m", "accelerate.commands.launch", *rest[1:]]
    if rest[0] != "-m":
        return ROOT / rest[0], rest[1:]
    module, *arguments = rest[1:]
    if module in OTHERS_PROGRAMS:
        return None
    if module in LAUNCHERS:
        return programs_of(["python", *LAUNCHERS[module](arguments)])
    return ROOT / f"{module.replace('.', '/')}.py", arguments


def _torch_launcher(arguments):
    from torch.distributed.run import get_args_parser

    given = get_args_parser().parse_args(arguments)
    return ["-m"] * given.module + [given.training_script, *given.training_script_args]


def _deepspeed_launcher(arguments):
    given = importlib.import_module("deepspeed.launcher.runner").parse_args(arguments)
    return ["-m"] * given.module + [given.user_script, *given.user_args]


def _accelerate_launcher(arguments):
    from accelerate.commands.launch import launch_command_parser

    given = launch_command_parser().parse_args(arguments)
    return ["-m"] * given.module + [given.training_script, *given.training_script_args]


LAUNCHERS = {
    "torch.distributed.run": _torch_launcher,
    "deepspeed.launcher.runner": _deepspeed_launcher,
    "accelerate.commands.launch": _accelerate_launcher,
}


@functools.cache
def check(program, arguments):
    """Let a program parse its arguments with the parser that it uses, and stop there.

    Args:
        program: path of a Python file of the repository.
        arguments: tuple of words.

    Raises:
        AssertionError: the program is not there, or does not take them; the message is the program's own.
    """
    name = program.relative_to(ROOT).as_posix()
    assert program.is_file(), f"{name} is not there"
    if name in WITHOUT_ARGUMENTS:
        assert not arguments, f"{name} takes no arguments, got {arguments}"
    elif name == "llava/train/train.py":
        left = training_problems(arguments)
        assert not left, "\n".join(left)
    else:
        _run_until_parsed(program, arguments)


def training_problems(arguments):
    """What the training entry says against its arguments, problems of this machine left out."""
    from llava.train.arguments import parse

    try:
        parse(list(arguments))
    except ValueError as error:
        problems = [line for line in str(error).splitlines() if line.startswith("- ")]
        assert problems, error
        return [line for line in problems if not any(re.search(kind, line) for kind in OF_THE_MACHINE)]
    return []


def _run_until_parsed(program, arguments):
    real = argparse.ArgumentParser.parse_args
    state = (sys.argv, list(sys.path))

    def parse_and_stop(self, *args, **kwargs):
        real(self, *args, **kwargs)
        raise ParsedError

    argparse.ArgumentParser.parse_args = parse_and_stop
    sys.argv = [str(program), *arguments]
    sys.path.insert(0, str(program.parent))
    try:
        runpy.run_path(str(program), run_name="__main__")
    except ParsedError:
        return
    except SystemExit as error:
        raise AssertionError(f"{program.name} {' '.join(arguments)}: refused ({error})") from error
    finally:
        argparse.ArgumentParser.parse_args = real
        sys.argv, sys.path[:] = state
    raise AssertionError(f"{program.name} read no arguments")
