"""Pictures for people: a mask over its image, and sheets of many answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from llava.types import BoolArray

Colour = tuple[int, int, int]

TRUTH: Colour = (22, 163, 74)
COARSE: Colour = (234, 88, 12)
REFINED: Colour = (37, 99, 235)
"""One colour per stage, the same in every picture and in the report."""

PAGE: Colour = (241, 245, 249)
CARD: Colour = (255, 255, 255)
LINE: Colour = (203, 213, 225)
INK: Colour = (15, 23, 42)
SOFT_INK: Colour = (71, 85, 105)

GAP = 12
TITLE_SIZE = 19
CAPTION_SIZE = 16
TITLE_LINES = 2
OUTLINE_PART = 120
"""The outline of a mask is one part in so many of the picture's shorter side."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Panel:
    """One picture of a card.

    Attributes:
        image: RGB image.
        caption: one line below it.
        mask: bool (H, W) of the image's size, drawn over it; None draws nothing.
        colour: of mask and caption mark.
    """

    image: Image.Image
    caption: str
    mask: BoolArray | None = None
    colour: Colour = SOFT_INK


@dataclass(frozen=True)
class Card:
    """One answer: a title above a row of panels."""

    title: str
    panels: tuple[Panel, ...]


def overlay(
    image: Image.Image, mask: BoolArray, *, colour: Colour = REFINED, strength: float = 0.45
) -> Image.Image:
    """Copy of an image with a mask tinted and outlined.

    Args:
        image: RGB image of W x H pixels.
        mask: bool (H, W).
        colour: RGB, 0..255.
        strength: share of the colour inside the mask, 0..1.

    Raises:
        ValueError: mask and image differ in size.
    """
    pixels = np.array(image.convert("RGB"))
    if mask.shape != pixels.shape[:2]:
        raise ValueError(
            f"mask is {mask.shape}, the image {pixels.shape[:2]} (height, width); they must be equal"
        )
    tinted = (1 - strength) * pixels[mask] + strength * np.array(colour, dtype=np.float64)
    pixels[mask] = tinted.round().astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = math.ceil(min(mask.shape) / OUTLINE_PART)
    cv2.drawContours(pixels, outlines, -1, colour, thickness=width)
    return Image.fromarray(pixels)


def fit(panel: Panel, side: int) -> Image.Image:
    """Panel without caption, its longest side scaled to `side` pixels, smooth image and sharp outline."""
    scale = side / max(panel.image.size)
    size_wh = (max(1, round(panel.image.width * scale)), max(1, round(panel.image.height * scale)))
    picture = panel.image.convert("RGB").resize(size_wh, Image.Resampling.BICUBIC)
    if panel.mask is None:
        return picture
    mask = Image.fromarray(panel.mask.astype(np.uint8) * 255).resize(size_wh, Image.Resampling.BILINEAR)
    return overlay(picture, np.array(mask) > 127, colour=panel.colour)


def sheet(cards: Sequence[Card], *, columns: int = 2, side: int = 208) -> Image.Image:
    """All cards in rows of `columns`, as one RGB picture. Each panel has `side` x `side` pixels of room.

    Raises:
        ValueError: there is no card, or a card without a panel.
    """
    if not cards or not all(card.panels for card in cards):
        raise ValueError("a sheet needs at least one card, and a card at least one panel")
    drawn = [_draw_card(card, side) for card in cards]
    columns = min(columns, len(drawn))
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    width = max(card.width for card in drawn)
    heights = [max(card.height for card in row) for row in rows]
    page = Image.new("RGB", (columns * (width + GAP) + GAP, sum(heights) + (len(rows) + 1) * GAP), PAGE)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for place, card in enumerate(row):
            corner = (GAP + place * (width + GAP), top)
            page.paste(CARD, (*corner, corner[0] + width, top + height))
            page.paste(card, corner)
            ImageDraw.Draw(page).rectangle((*corner, corner[0] + width - 1, top + height - 1), outline=LINE)
        top += height + GAP
    return page


def _draw_card(card: Card, side: int) -> Image.Image:
    title_font, caption_font = ImageFont.load_default(TITLE_SIZE), ImageFont.load_default(CAPTION_SIZE)
    line_height, caption_height = TITLE_SIZE * 5 // 4, CAPTION_SIZE * 3 // 2
    width = len(card.panels) * (side + GAP) + GAP
    title = wrap(card.title, title_font, width - 2 * GAP, max_lines=TITLE_LINES)
    pictures = [fit(panel, side) for panel in card.panels]
    top = GAP + len(title) * line_height + GAP // 2
    room = max(picture.height for picture in pictures)
    drawn = Image.new("RGB", (width, top + room + caption_height + GAP), CARD)
    draw = ImageDraw.Draw(drawn)
    for number, line in enumerate(title):
        draw.text((GAP, GAP + number * line_height), line, fill=INK, font=title_font)
    for place, (panel, picture) in enumerate(zip(card.panels, pictures, strict=True)):
        left = GAP + place * (side + GAP)
        draw.rectangle((left, top, left + side - 1, top + room - 1), fill=PAGE)
        drawn.paste(picture, (left + (side - picture.width) // 2, top + (room - picture.height) // 2))
        middle = top + room + caption_height // 2 + 2
        draw.rectangle((left, middle - 5, left + 10, middle + 5), fill=panel.colour)
        for caption in wrap(panel.caption, caption_font, side - 16, max_lines=1):
            draw.text((left + 16, middle), caption, fill=SOFT_INK, font=caption_font, anchor="lm")
    return drawn


def wrap(text: str, font: Font, width: int, *, max_lines: int) -> list[str]:
    """`text` broken at spaces into lines of at most `width` pixels; "…" stands for what does not fit."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < max_lines:
        used = 1
        while used < len(words) and font.getlength(" ".join(words[: used + 1])) <= width:
            used += 1
        lines.append(_shorten(" ".join(words[:used]), font, width))
        words = words[used:]
    if words:
        lines[-1] = _shorten(lines[-1] + " …", font, width)
    return lines


def _shorten(line: str, font: Font, width: int) -> str:
    """`line`, or its longest start that fits `width` pixels together with an ellipsis."""
    if font.getlength(line) <= width:
        return line
    line = line.removesuffix("…").rstrip()
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
