"""Is this environment able to run the project? Says in words what is wrong and what to type.

python -m llava.doctor
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

PROBES = {
    "torch": "import torch",
    "transformers": "from transformers import LlavaForConditionalGeneration, SamModel, Trainer",
    "peft": "import peft",
    "pycocotools": "import pycocotools.mask",
    "cv2": "import cv2",
    "scipy": "import scipy.ndimage",
}
"""Each part and the import that shows whether it works. Run in a process of its own: an import can crash."""


def run_probe(code: str) -> str:
    """Last line of the error of some Python code, "" when it runs."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def has_package(name: str) -> bool:
    """True when a distribution of that name is installed, whether or not it imports."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def find_problems() -> list[str]:
    """What is wrong, one sentence each with what to do; empty when all is well."""
    if has_package("torchvision") and (error := run_probe("import torchvision")):
        return [
            f"torchvision is installed but does not import ({error}). "
            "While it is there, transformers cannot be imported either. "
            f"This project does not need it: {sys.executable} -m pip uninstall -y torchvision"
        ]
    problems = []
    for name, code in PROBES.items():
        if error := run_probe(code):
            problems.append(f"{name} does not work ({error}). Try: {sys.executable} -m pip install -e .")
    return problems


def describe_device() -> str:
    """Torch's version and what it computes on."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import torch; n = torch.cuda.device_count(); "
            "print('torch', torch.__version__, 'on', torch.cuda.get_device_name(0) if n else 'CPU', "
            "f'({n} GPUs)' if n else f'({torch.get_num_threads()} threads)')",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def main() -> int:
    """Print the findings; exit status 1 when something is wrong."""
    problems = find_problems()
    for problem in problems:
        print(f"problem: {problem}")
    if not problems:
        print(f"environment is fine: {describe_device()}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
