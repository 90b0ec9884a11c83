"""Records drawn from annotated images: grid, codec, crop, mirror and wording come with the draw.

A record is a pure function of image, anchor, settings and random numbers, so one stored file serves every
grid and every epoch. Everything that draws many records seeds each by `generator(seed, epoch, index)`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from llava.codec.from_rle import Crop
from llava.constants import IMAGE_TOKEN
from llava.data.annotated import CONVERSATION, AnnotatedImage, unit_name
from llava.data.record_files import SPEAKERS, Record
from llava.data.record_form import form_for
from llava.data.tasks import draw_rounds
from llava.data.view import VANISHED_POLICIES, DrawSettings, View, can_flip, pick

__all__ = ["CROP_SIDES", "VANISHED_POLICIES", "DrawSettings", "draw_record", "generator"]

CROP_SIDES = (256, 336, 392, 448)
"""Sides in pixels of the square that a crop shows, one of those that fit; where none fits, the shorter side
of the image (Text4Seg, arXiv 2410.09855)."""

_CROPPED = ("semantic", "parts")
"""Families whose names stay true of a part of the image."""


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Random numbers of one record, the same in every process and in every order of drawing."""
    return np.random.default_rng([seed, epoch, index])


def draw_record(
    image: AnnotatedImage,
    anchor: int,
    settings: DrawSettings,
    *,
    rng: np.random.Generator,
    classes: tuple[str, ...] = (),
    why: Counter[str] | None = None,
) -> Record | None:
    """One conversation about an image.

    Args:
        image: the image with its targets; of family "conversation" it is taken as it is.
        anchor: index of the target that the first round is about, one of `anchors(image)`; semantic sets draw
            their classes instead.
        settings: of the draw.
        rng: of all draws, see `generator`.
        classes: names that may be asked for although they are absent.
        why: counts why there was nothing to teach ("vanished", "without pixel", …).

    Returns:
        Record of the LLaVA ecosystem with the grid's sides as `height` and `width`, and with bricks the other
        fields of `llava.data.record_form`; a drawn part of the image as `crop_size` [left, top, right,
        bottom] in pixels of the image, and `flip` true where the part is mirrored left to right after that.
        None where there is nothing to teach.

    Source: the recipe of Text4Seg (arXiv 2410.09855); see `llava.data.tasks` for the differences.
    """
    if image.family == CONVERSATION:
        view = View(image, settings)
    else:
        crop = _drawn_crop(image, settings, rng)
        flip = rng.random() < settings.flip and can_flip(image, _spoken_of(image, anchor))
        view = View(image, settings, crop, flip)
    rounds, reason = draw_rounds(view, anchor, rng=rng, classes=classes)
    if rounds:
        return _record(view, anchor, rounds)
    if why is not None:
        why[reason] += 1
    return None


def _drawn_crop(image: AnnotatedImage, settings: DrawSettings, rng: np.random.Generator) -> Crop | None:
    """Visible square, or None for the whole image."""
    if image.family not in _CROPPED or rng.random() >= settings.crop:
        return None
    shorter = min(image.size_hw)
    side = pick(rng, [side for side in CROP_SIDES if side <= shorter] or [shorter])
    top, left = (int(rng.integers(length - side + 1)) for length in image.size_hw)
    return left, top, left + side, top + side


def _spoken_of(image: AnnotatedImage, anchor: int) -> list[int]:
    """Targets whose words a record needs: those asked for with the anchor, or all classes and parts."""
    every = range(len(image.targets))
    if image.family in _CROPPED:
        return list(every)
    own = unit_name(image.targets[anchor], image.family)
    return [index for index in every if unit_name(image.targets[index], image.family) == own]


def _record(view: View, anchor: int, rounds: list[tuple[str, str]]) -> Record:
    """The record of some rounds."""
    image = view.image
    own_id = image.family not in ("semantic", CONVERSATION)
    record: Record = {"id": image.targets[anchor].id if own_id else image.id}
    if image.image:
        record["image"] = image.image
    opening = ""
    if image.family != CONVERSATION:
        record |= form_for(view.settings).fields()
        opening = f"{IMAGE_TOKEN}\n"
    if view.crop is not None:
        record["crop_size"] = list(view.crop)
    if view.flip:
        record["flip"] = True
    texts = [text for turn in rounds for text in turn]
    texts[0] = opening + texts[0]
    record["conversations"] = [
        {"from": SPEAKERS[number % 2], "value": text} for number, text in enumerate(texts)
    ]
    return record
