"""What lmms-eval needs to know about a checkpoint folder; scripts/v1_5/eval/vqa.sh asks here.

    python -m llava.eval.harness CHECKPOINT

prints the harness's name of the model, or says why it cannot load the folder. Imports nothing but the
standard library, as it runs before the harness's environment is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

HARNESS_MODELS = {
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "llava_onevision": "llava_hf",
}
"""Class of lmms-eval 0.7 for each `model_type` of config.json.

Others are left out: its Qwen class sends a system text of its own, which a checkpoint here has fixed.
"""


def harness_model(folder: Path) -> str:
    """Name in lmms-eval of the class that loads a folder.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no model.
        ValueError: it is an adapter, or of a family that the harness does not load.
    """
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} is an adapter, lmms-eval loads whole models; merge it first: "
            f"python scripts/merge_lora_weights.py --model-path {folder} --save-path NEW_FOLDER"
        )
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; give the folder of a whole model in transformers' layout")
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy or merge it again") from error
    if kind not in HARNESS_MODELS:
        raise ValueError(
            f"{folder} holds a model of type {kind!r}, the harness is given {', '.join(HARNESS_MODELS)}; "
            "a checkpoint of the original LLaVA code is converted by scripts/convert_checkpoint.py"
        )
    return HARNESS_MODELS[kind]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the name, or end with one line that says what to do."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="merged checkpoint folder")
    options = parser.parse_args(arguments)
    try:
        name = harness_model(options.folder)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
