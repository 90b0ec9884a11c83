"""Write a small folder in the form of one's own data: generated pictures, masks, and sentences.csv.

    python playground/data/create_own_example.py --root playground/data/own_example

wrote the folder that ships. Scenes are those of RefShapes with hearts and moons alone, at half their size.
Every other scene keeps its objects as numbers of one indexed mask, the rest as a mask of 0 and 255 for each
object.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from llava.data.readers.own_table import NOT_THERE
from llava.data.refshapes.phrases import Expression, sample_absent, sample_several, sample_single
from llava.data.refshapes.scene import COLOURS, NEW_SHAPES, Scene
from llava.data.refshapes.split import render, scene_rng
from llava.data.refshapes.write import WORDING
from llava.files import atomic_path, write_text_atomic
from llava.types import BoolArray

HEADER = ("image", "sentence", "mask", "value", "split")
JPEG_QUALITY = 85
WORDINGS = 2
"""Sentences about each object."""

PALETTE = [0, 0, 0, *(channel for colour in COLOURS.values() for channel in colour)]
"""Colours of the numbers of an indexed mask, for looking at only."""


def expressions_of(scene: Scene, rng: np.random.Generator) -> list[Expression]:
    """Sentences about every object, about several at once where the draw finds some, one about nothing."""
    found = [each for k in range(len(scene.items)) for each in sample_single(scene, k, rng, count=WORDINGS)]
    several = sample_several(scene, rng)
    found += [several] if several else []
    found.append(sample_absent(scene, rng, NEW_SHAPES))
    return list({expression.text.lower(): expression for expression in found}.values())


def save(path: Path, pixels: np.ndarray, palette: list[int] | None = None) -> None:
    """Write an image, uint8 (H, W, 3) or (H, W), the latter indexed where there is a palette."""
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    with atomic_path(path) as temporary:
        image.save(temporary, **({"quality": JPEG_QUALITY} if path.suffix == ".jpg" else {"optimize": True}))


def save_masks(folder: Path, stem: str, masks: BoolArray, *, indexed: bool) -> list[tuple[str, str]]:
    """Write the masks of a scene, bool (objects, H, W); (file, value) of each object."""
    if indexed:
        numbers = np.arange(1, len(masks) + 1, dtype=np.uint8)[:, None, None]
        save(folder / f"{stem}.png", (masks * numbers).max(axis=0), PALETTE)
        return [(f"{stem}.png", str(k + 1)) for k in range(len(masks))]
    for k, mask in enumerate(masks):
        save(folder / f"{stem}_{k + 1}.png", mask.astype(np.uint8) * 255)
    return [(f"{stem}_{k + 1}.png", "") for k in range(len(masks))]


def write_scene(root: Path, split: str, index: int, seed: int) -> Iterator[tuple[str, ...]]:
    """Draw and save one scene; its rows of the table."""
    scene, pixels = render(seed, split, index, NEW_SHAPES)
    stem = f"{split}_{index:03d}"
    height, width = scene.size_hw
    save(
        root / "images" / f"{stem}.jpg", np.asarray(Image.fromarray(pixels).resize((width // 2, height // 2)))
    )
    masks = scene.masks[:, : height // 2 * 2 : 2, : width // 2 * 2 : 2]
    places = save_masks(root / "masks", stem, masks, indexed=index % 2 == 0)
    for expression in expressions_of(scene, scene_rng(seed, split, index, WORDING)):
        if index % 2 == 0 and expression.targets:
            values = " ".join(places[target][1] for target in expression.targets)
            yield f"{stem}.jpg", expression.text, places[0][0], values, split
        else:
            for name, value in [places[target] for target in expression.targets] or [(NOT_THERE, "")]:
                yield f"{stem}.jpg", expression.text, name, value, split


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, draw, and say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="folder to write to")
    parser.add_argument("--train", type=int, default=6, help="scenes of train")
    parser.add_argument("--val", type=int, default=2, help="scenes of val")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    given = parser.parse_args(argv)
    counts = {"train": given.train, "val": given.val}
    scenes = [(split, index) for split, count in counts.items() for index in range(count)]
    rows = [row for split, index in scenes for row in write_scene(given.root, split, index, given.seed)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
    write_text_atomic(given.root / "sentences.csv", text.getvalue())
    print(f"{given.root}: {len(scenes)} images, {len(rows)} rows")


if __name__ == "__main__":
    main()
