r"""Make one plain Hugging Face folder of a LoRA adapter and its base model.

Command: python scripts/merge_lora_weights.py --model-path checkpoints/run1 \
    --save-path checkpoints/run1-whole
Machine: CPU, memory for the base model (14 GB for LLaVA-1.5-7B). Expected: a folder that
`run_llava.py --model-path` takes without the base.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llava.model.checkpoint import merge


def build_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model-path", type=Path, required=True, help="adapter folder that training saved")
    parser.add_argument("--save-path", type=Path, required=True, help="new folder for the whole model")
    parser.add_argument("--model-base", help="base model, where it moved since training")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Merge as the command line says; a wrong input ends with one line that says what to do."""
    options = build_parser().parse_args(arguments)
    try:
        merge(options.model_path, options.save_path, options.model_base)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"whole model written to {options.save_path}")


if __name__ == "__main__":
    main()
