"""Image files in and out of an evaluation."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError


def load_image(path: Path, *, turn_upright: bool = False) -> Image.Image:
    """RGB image of a file.

    Args:
        path: image file.
        turn_upright: obey the EXIF orientation, as photographs from a phone need it. Benchmarks leave it off:
            their masks belong to the pixels as stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, or is cut off.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"image {path} not found; check the path")
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image) if turn_upright else image
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not an image that Pillow can read; give a PNG, JPEG or WebP file"
        ) from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is damaged or cut off ({error}); fetch the file again") from error


def short_path(path: Path, root: str) -> str:
    """`path` relative to `root` where it lies below it, else absolute; forward slashes."""
    absolute = Path(path).resolve()
    base = Path(root).resolve()
    return (
        absolute.relative_to(base).as_posix()
        if root and absolute.is_relative_to(base)
        else absolute.as_posix()
    )
