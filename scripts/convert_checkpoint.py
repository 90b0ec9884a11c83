r"""Make a plain Hugging Face folder of a checkpoint in the layout of LLaVA's or Segment Anything's own code.

Command: python scripts/convert_checkpoint.py --from checkpoints/llava-v1.5-7b-p16 --grid 16 \
    --to checkpoints/text4seg-p16
         python scripts/convert_checkpoint.py --from sam_vit_h_4b8939.pth --to checkpoints/sam-vit-huge
Machine: CPU, memory for the model (14 GB for LLaVA-1.5-7B, twice that for a LoRA). Expected: a folder with
config.json, safetensors, processor and segmentation.json, which run_llava.py and training take; a LoRA is
merged. Nothing is written when a tensor is missing, left over or of another shape.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava.model.checkpoint import check_agreement, save_checkpoint, staged
from llava.model.hub import settings_of_base
from llava.model.original_folder import Original, find_original
from llava.model.original_llava import load_original, original_processor
from llava.model.original_sam import is_original_sam, load_original_sam
from llava.settings import CELL_POLICIES, CODECS, INTERPOLATIONS, UPSAMPLING, SegmentationSettings

TRAINED_WITH = ("codec", "grid_hw", "image_side", "interpolation", "prompt", "cell_policy", "upsample")
"""Settings that the command line can say of a checkpoint."""


def build_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--from", dest="source", required=True, help="folder or hub name, or a .pth file of SAM")
    add("--to", dest="output", type=Path, required=True, help="new folder")
    add("--base", help="base model of a LoRA or a projector, where its config names none or another")
    add("--vision-tower", help="folder or hub name of its CLIP, where its config names a place elsewhere")
    add("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"))
    trained = parser.add_argument_group("what it was trained with (published weights: known by hub name)")
    trained.add_argument(
        "--grid", type=_grid, dest="grid_hw", help="for example 24, or 16x24 (rows x columns)"
    )
    trained.add_argument("--codec", choices=CODECS)
    trained.add_argument("--prompt", help="conversation template, a name in llava.data.prompt.PROMPTS")
    trained.add_argument("--image-side", type=int, help="default: side of the vision tower")
    trained.add_argument("--interpolation", choices=INTERPOLATIONS)
    trained.add_argument("--cell-policy", choices=CELL_POLICIES)
    trained.add_argument("--upsample", choices=UPSAMPLING)
    add(
        "--base-only",
        action="store_true",
        help="weights that were never trained to segment: write no segmentation.json, a base for training",
    )
    return parser


def _grid(text: str) -> tuple[int, int]:
    """Rows and columns of "24" or "16x24"."""
    try:
        sides = [int(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: needed is a number such as 24, or rows x columns, 16x24")
    return sides[0], sides[-1]


def choose_settings(options: argparse.Namespace, image_side: int) -> SegmentationSettings | None:
    """Settings of the new folder: what was given, then what is known of the checkpoint, then the defaults.

    Args:
        options: command line.
        image_side: side in pixels of the vision tower.

    Raises:
        ValueError: nothing says the grid, or settings are given for a model that has none.
    """
    given = {name: getattr(options, name) for name in TRAINED_WITH if getattr(options, name) is not None}
    if options.base_only:
        if given:
            raise ValueError(f"--base-only writes no segmentation.json; leave {', '.join(sorted(given))} out")
        return None
    inherited = settings_of_base(options.source)
    if inherited is None and "grid_hw" not in given:
        raise ValueError(
            f"nothing says with which grid {options.source} was trained; give --grid 16 (Text4Seg's p16) or "
            "--grid 24 (p24), or --base-only where it was never trained to segment"
        )
    start = inherited or SegmentationSettings(image_side=image_side)
    training = start.training | {"converted_from": options.source}
    return replace(start, **given, training=training)


def convert_llava(options: argparse.Namespace, original: Original) -> None:
    """Write the plain folder of an original LLaVA folder."""
    processor = original_processor(original)
    side = processor.image_processor.crop_size["height"]
    settings = choose_settings(options, side)
    dtype = options.dtype
    model: Any = load_original(original, dtype=dtype, attention="sdpa")
    check_agreement(model, processor, settings, original.name)
    if original.kind == "lora":
        model = model.merge_and_unload(progressbar=True, safe_merge=True)
    save_checkpoint(model, processor, settings, options.output)


def convert_sam(options: argparse.Namespace) -> None:
    """Write the folder of an original SAM file."""
    strange = [name for name in (*TRAINED_WITH, "base", "vision_tower") if getattr(options, name) is not None]
    if strange or options.base_only:
        raise ValueError(
            f"{options.source} is a file, read as SAM, which has no {', '.join(strange) or 'base'}"
        )
    model, processor = load_original_sam(options.source)
    with staged(options.output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def convert(options: argparse.Namespace) -> None:
    """Convert as the command line says.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: the output is in use, nothing to convert, or weights that do not fit.
    """
    output = options.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is not empty; give a new folder")
    if is_original_sam(options.source):
        return convert_sam(options)
    original = find_original(options.source, base=options.base, vision_tower=options.vision_tower)
    if original is None:
        raise ValueError(
            f"{options.source} is no folder or hub name in the layout of the original LLaVA code; nothing to "
            "convert (folders in transformers' layout are taken as they are)"
        )
    return convert_llava(options, original)


def main(arguments: list[str] | None = None) -> None:
    """Convert; a wrong input ends with one line that says what to do."""
    options = build_parser().parse_args(arguments)
    try:
        convert(options)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
