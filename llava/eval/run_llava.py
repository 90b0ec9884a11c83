"""One image, one question: print the answer, write the mask and a picture of it.

    python llava/eval/run_llava.py --model-path CHECKPOINT --image-file photo.jpg --query "the red car"

Writes <image>_mask.png (white on black, size of the image) and <image>_overlay.png; with --sam-path the mask
is the refined one and <image>_coarse_mask.png is written beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from llava.constants import IMAGE_TOKEN
from llava.data.images import load_image
from llava.data.questions import normalise_expression
from llava.eval.arguments import (
    add_checkpoint_arguments,
    chosen_refiner,
    describe_refiner,
    load_refiner,
)
from llava.eval.run import check_out
from llava.files import atomic_path
from llava.model.decoding import check_decoding
from llava.model.hub import find_settings
from llava.pictures import COARSE, REFINED, Card, Panel, sheet
from llava.types import BoolArray, FloatArray, Prediction, Query, Refiner, Segmenter

QUESTION_ENDS = (".", "?")
"""A query that ends like a sentence is asked word for word."""

PANEL_SIDE = 480


def make_query(image: Image.Image, query: str) -> Query:
    """Query of one image.

    Args:
        image: RGB image.
        query: what to segment ("the red car"), worded into the checkpoint's own question; or a whole
            question, known by its full stop or question mark, asked word for word.

    Raises:
        ValueError: the query is empty, or shows an image of its own.
    """
    text = query.strip()
    if not text:
        raise ValueError('--query is empty; name what to segment, for example --query "the red car"')
    question = text if text.endswith(QUESTION_ENDS) else None
    if question and IMAGE_TOKEN in question:
        raise ValueError(
            f"--query {text!r} holds {IMAGE_TOKEN}; leave it out, the image is shown before the query"
        )
    return Query([image], [normalise_expression(text.rstrip("".join(QUESTION_ENDS)) or text)], question)


def outcome(prediction: Prediction) -> str:
    """Which of the three things happened, in words."""
    mask = prediction.masks[0, 0]
    if mask.any():
        return f"Mask found: {_area(int(mask.sum()), mask.size)}."
    if prediction.absent[0]:
        return "Empty mask: the answer holds a mask without any region, so the model sees no such thing here."
    return "No mask: the model answered without a mask."


def _area(pixels: int, of: int) -> str:
    return f"{pixels} pixels, {100 * pixels / of:.1f} % of the image"


def describe(prediction: Prediction) -> list[str]:
    """Lines for the terminal: answer, outcome, box of the answer, area of each label, faults."""
    size = prediction.masks[0, 0].size
    lines = [f"Answer: {prediction.text}", outcome(prediction)]
    for x0, y0, x1, y1 in filter(None, prediction.boxes or ()):
        lines.append(f"Box in the answer: ({x0:.1f}, {y0:.1f}) to ({x1:.1f}, {y1:.1f}) pixels.")
    lines += [f"  {label}: {_area(pixels, size)}" for label, pixels in prediction.labels.items()]
    return lines + [f"Fault in the answer: {fault}" for fault in prediction.faults]


def refine(
    refiner: Refiner, image: Image.Image, coarse: BoolArray, *, soft: FloatArray | None = None
) -> tuple[BoolArray, str]:
    """Refined mask bool (H, W), and a sentence on what the refiner did.

    Args:
        refiner: which improves the mask.
        image: the image.
        coarse: bool (H, W).
        soft: float32 (1, rows, columns), probability of each cell as the prompt; None takes the mask.
    """
    refined = refiner.refine(image, coarse[None], soft=soft)
    mask, note = refined.masks[0], refined.notes[0]
    if note:
        return mask, f"Refiner: {note}; the coarse mask is kept."
    return mask, f"Refined mask: {_area(int(mask.sum()), mask.size)}."


def write_pictures(
    folder: Path, name: str, image: Image.Image, masks: dict[str, BoolArray], *, title: str = ""
) -> list[Path]:
    """Mask and overlay files of one image; returns their paths.

    Args:
        folder: made if needed.
        name: start of the file names.
        image: RGB image of W x H pixels.
        masks: "coarse" and perhaps "refined", bool (H, W); the last one is *the* mask.
        title: words above the overlay.
    """
    last = list(masks)[-1]
    pictures = {
        f"{name}_mask.png" if stage == last else f"{name}_{stage}_mask.png": Image.fromarray(
            mask.astype(np.uint8) * 255
        )
        for stage, mask in masks.items()
    }
    colours = {"coarse": COARSE, "refined": REFINED}
    panels = [Panel(image, "image")]
    panels += [Panel(image, f"{stage} mask", mask, colours[stage]) for stage, mask in masks.items()]
    pictures[f"{name}_overlay.png"] = sheet([Card(title, tuple(panels))], side=PANEL_SIDE)
    for file_name, picture in pictures.items():
        with atomic_path(folder / file_name) as path:
            picture.save(path)
    return [folder / file_name for file_name in pictures]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_checkpoint_arguments(parser)
    add("--image-file", type=Path, required=True, help="photograph; turned upright by its EXIF orientation")
    add("--query", required=True, help='what to segment, or a whole question ending in "." or "?"')
    add("--out", type=Path, default=Path("results/run_llava"), help="folder for the pictures")
    return parser.parse_args(arguments)


def load_models(options: argparse.Namespace) -> tuple[Segmenter, Refiner | None]:
    """Segmenter and refiner; a folder that is no checkpoint is told before anything heavy is imported."""
    find_settings(options.model_path)
    chosen_refiner(options)
    check_decoding(options.decoding)
    from llava.model.segmenter import load_segmenter

    refiner = load_refiner(options, options.device)
    segmenter = load_segmenter(
        options.model_path, base=options.model_base, device=options.device, decoding=options.decoding
    )
    return segmenter, refiner


def main(arguments: Sequence[str] | None = None) -> None:
    """Check the input, load, ask, print, draw."""
    options = parse(arguments)
    try:
        image = load_image(options.image_file, turn_upright=True)
        query = make_query(image, options.query)
        check_out(options.out)
        segmenter, refiner = load_models(options)
        (prediction,) = segmenter.segment([query])
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    print("\n".join(describe(prediction)))
    masks = {"coarse": prediction.masks[0, 0]}
    if refiner is not None:
        soft = prediction.confidence if options.soft_prompts else None
        masks["refined"], sentence = refine(refiner, image, masks["coarse"], soft=soft)
        print(f"{sentence}\nRefiner: {describe_refiner(options)}")
    for path in write_pictures(options.out, options.image_file.stem, image, masks, title=options.query):
        print(f"Wrote {path}")


if __name__ == "__main__":
    main()
