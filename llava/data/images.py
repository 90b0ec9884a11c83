"""Image files, read alike in training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on a file that is no image, is cut or garbled, or has more pixels than Pillow reads."""

LARGEST_BYTE, LARGEST_16_BITS = 255, 65535


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """The image of a file as Pillow opens it; its pixels are read when they are asked for, inside the block.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, is cut off, or has more pixels than Pillow reads.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"image {path} not found; check the path")
    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not an image that Pillow can read; give a PNG, JPEG or WebP file"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large ({error}); scale it down, and its masks alike") from error
    except UNREADABLE as error:
        raise ValueError(f"{path} is damaged or cut off ({error}); fetch the file again") from error


def load_image(path: Path, *, turn_upright: bool = False) -> Image.Image:
    """RGB image of a file.

    Args:
        path: image file.
        turn_upright: obey the EXIF orientation, as photographs from a phone need it. Training and benchmarks
            leave it off: their masks belong to the pixels as stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, is cut off, or holds numbers that are no colours.
    """
    with opened_image(path) as image:
        return to_rgb(ImageOps.exif_transpose(image) if turn_upright else image, path)


def to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """RGB image of any mode; grey of 16 bits is scaled to 8, where Pillow alone would make it white.

    Args:
        image: as opened.
        path: its file, for messages.

    Raises:
        ValueError: the pixels are floating-point numbers, or whole ones beyond 16 bits: nothing says which of
            them is white.
    """
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > LARGEST_16_BITS:
        raise ValueError(
            f"{path} has pixels of mode {image.mode!r}, which name no white; "
            "save it with 8 or 16 bits a channel"
        )
    if image.mode == "I" and values.max() <= LARGEST_BYTE:
        return image.convert("RGB")
    grey = values.astype(np.uint32) * LARGEST_BYTE // LARGEST_16_BITS
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
