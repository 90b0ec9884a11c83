"""A drawn data set and fake systems for the tests of the evaluation: no model, everything known."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from llava.data.rle import encode_mask
from llava.eval.run import RunSettings
from llava.types import Prediction, Sample

SIZE_HW = (24, 32)
SPLIT = "drawn|unc|val"
SETTINGS = RunSettings(checkpoint="/models/fake", weights="abc", splits=(SPLIT,), grid_hw=(6, 8), seed=3)


def box_mask(x0, y0, x1, y1, size_hw=SIZE_HW):
    mask = np.zeros(size_hw, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def make_sample(number, image_path, words, *, group="", split=SPLIT):
    """The expression says where its target is: "square 4 4 12 12"; "nothing" has no target."""
    no_target = words.startswith("nothing")
    mask = np.zeros(SIZE_HW, dtype=bool) if no_target else box_mask(*map(int, words.split()[-4:]))
    return Sample(
        id=f"{split}|{number}|0",
        image_path=image_path,
        image_id=1,
        size_hw=SIZE_HW,
        expression=words,
        mask=encode_mask(mask),
        no_target=no_target,
        group=group,
    )


def drawn_samples(folder, images=4):
    """Three expressions for each image, interleaved over the images; one of them has no target."""
    samples = []
    for place in range(images):
        path = folder / "images" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", SIZE_HW[::-1], (200, 210, 220))
        ImageDraw.Draw(picture).rectangle((4 + place, 4, 11 + place, 11), fill=(200, 30, 30))
        picture.save(path)
    for kind in ("Square", "nothing like a square", "broken square"):
        for place in range(images):
            words = kind if kind.startswith("nothing") else f"{kind} {4 + place} 4 {12 + place} 12"
            path = folder / "images" / f"{place}.png"
            samples.append(make_sample(len(samples), path, words, group=kind.split()[0].lower()))
    return samples


class FakeSegmenter:
    """Answers from the words alone: "nothing" is absent, "broken" has a fault, else a box one cell too wide.

    With `stop_after`, the call after so many queries fails like a key press, as a killed run would.
    """

    def __init__(self, stop_after=None):
        self.asked = []
        self.batches = []
        self.stop_after = stop_after

    def segment(self, queries):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append([query.frames[0].tobytes() for query in queries])
        return [self.answer(query) for query in queries]

    def answer(self, query):
        (words,) = query.targets
        self.asked.append(words)
        width, height = query.frames[0].size
        absent = words.startswith("nothing")
        mask = np.zeros((height, width), dtype=bool)
        if not absent:
            x0, y0, x1, y1 = map(int, words.split()[-4:])
            mask = box_mask(x0, y0, x1 + 4, y1, (height, width))
        faults = ("row 1 of 6 describes 7 cells, needed 8",) if words.startswith("broken") else ()
        return Prediction(mask[None, None], np.array([absent]), f"<seg>{words}</seg>", faults)


@dataclass(frozen=True)
class Refined:
    masks: np.ndarray
    notes: tuple


class FakeRefiner:
    """Cuts the four columns that the fake segmenter adds; leaves an empty mask with a note."""

    def __init__(self):
        self.calls = []
        self.softs = []

    def refine(self, image, masks, *, soft=None):
        self.calls.append((image.tobytes(), len(masks)))
        self.softs.append(soft)
        refined = masks & np.roll(masks, -4, axis=2)
        notes = tuple("" if mask.any() else "coarse is empty" for mask in masks)
        return Refined(refined, notes)


def still_clock():
    """A clock that never moves, so that two runs can be compared byte by byte."""
    return 0.0
