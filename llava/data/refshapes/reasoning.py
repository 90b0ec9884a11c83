"""RefShapes in the layout of ReasonSeg: whole questions and short phrases, each about one object.

    ROOT/reasonshapes/val/<name>.jpg and <name>.json

Half of the images have a question ("is_sentence"), half a phrase. The answer asks for no knowledge beyond the
picture: these files exercise the whole chain of the benchmark, and stand beside no published number.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from llava.data.refshapes.phrases import sample_single
from llava.data.refshapes.scene import SHAPES
from llava.data.refshapes.split import render, scene_rng
from llava.data.refshapes.write import JPEG_QUALITY
from llava.files import atomic_path, write_text_atomic
from llava.types import BoolArray

FOLDER = "reasonshapes/val"
QUESTIONS = (
    "Where in this picture is the {}?",
    "Somebody is looking for the {}; where should they point?",
    "Which region would you colour to mark the {}?",
)
REASONING = 4
"""Purpose of the random stream that draws the questions."""


def write_reasoning(root: Path, count: int, *, seed: int = 0, shapes: tuple[str, ...] = SHAPES) -> int:
    """Write images and annotations of the first `count` scenes of val.

    Args:
        root: folder that receives `reasonshapes`.
        count: scenes; one in which no object can be told from the others is left out.
        seed: that of the scenes.
        shapes: that the scenes show.

    Returns:
        Number of images written.

    Raises:
        ValueError: a negative count.
    """
    if count < 0:
        raise ValueError(f"{count} scenes of questions: 0 or more")
    folder = Path(root) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for index in range(count):
        scene, pixels = render(seed, "val", index, shapes)
        rng = scene_rng(seed, "val", index, REASONING)
        order = (int(place) for place in rng.permutation(len(scene.items)))
        found = next((one for place in order for one in sample_single(scene, place, rng, count=1)), None)
        if found is None:
            continue
        asks = written % 2 == 0
        words = found.text.removeprefix("the ")
        record = {
            "text": [QUESTIONS[int(rng.integers(len(QUESTIONS)))].format(words) if asks else found.text],
            "is_sentence": asks,
            "shapes": [
                {"label": "target", "points": points, "shape_type": "polygon"}
                for points in outlines(scene.masks[found.targets[0]])
            ],
        }
        with atomic_path(folder / f"{index:06d}.jpg") as temporary:
            Image.fromarray(pixels).save(temporary, quality=JPEG_QUALITY, subsampling=0)
        write_text_atomic(folder / f"{index:06d}.json", json.dumps(record))
        written += 1
    return written


def outlines(mask: BoolArray) -> list[list[list[int]]]:
    """Corners [x, y] of each connected part of a bool mask (H, W), holes closed.

    Example:
        >>> outlines(np.array([[True, True], [True, True]]))
        [[[0, 0], [0, 1], [1, 1], [1, 0]]]
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0].tolist() for contour in found]
