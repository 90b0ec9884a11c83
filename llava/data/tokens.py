"""Text and images to model input: the same functions in training and inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN
from llava.settings import SegmentationSettings

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def squash(image: Image.Image, settings: SegmentationSettings) -> Image.Image:
    """RGB image of (side, side) pixels, stretched without regard to its aspect ratio.

    The grid then covers the whole image, and a cell means the same part of it at any aspect ratio.
    Source: Text4Seg's training resize; its evaluation uses another interpolation, ours never does.
    """
    side = settings.image_side
    return image.convert("RGB").resize((side, side), RESAMPLING[settings.interpolation])


def image_token_count(processor: Any) -> int:  # noqa: ANN401
    """Number of tokens that one image occupies in the text of this `LlavaProcessor`."""
    height, width = _input_hw(processor)
    patches = (height // processor.patch_size) * (width // processor.patch_size)
    without_class_token = processor.vision_feature_select_strategy == "default"
    return patches + processor.num_additional_image_tokens - int(without_class_token)


def _input_hw(processor: Any) -> tuple[int, int]:  # noqa: ANN401
    """Height and width in pixels of what the image processor hands to the vision tower."""
    images = processor.image_processor
    crop = images.crop_size if getattr(images, "do_center_crop", False) else images.size
    if "height" not in crop:
        return crop["shortest_edge"], crop["shortest_edge"]
    return crop["height"], crop["width"]


def tokenize(
    pieces: Sequence[tuple[str, bool]],
    processor: Any,  # noqa: ANN401
    *,
    image_tokens: int | None = None,
) -> tuple[list[int], list[int]]:
    """Token ids and labels of a rendered conversation.

    The whole text is tokenized once, so that the ids of training are the ids of inference; which tokens are
    supervised follows from their character offsets. `<image>` becomes as many image tokens as the vision
    tower gives features. The bos token is put in front where the tokenizer has one, whatever its default is.

    Args:
        pieces: (text, supervised) as `llava.data.prompt.render` returns them.
        processor: the checkpoint's, with a fast tokenizer.
        image_tokens: tokens of each image; None takes `image_token_count(processor)`.

    Returns:
        input_ids and labels, lists of equal length; labels are the ids of supervised tokens and
        `IGNORE_INDEX` elsewhere.

    Raises:
        ValueError: the tokenizer has no offsets, an answer contains the image token, or one token covers the
            end of a question and the start of its answer (it could then not be asked as it was trained).
    """
    tokenizer = processor.tokenizer
    if not tokenizer.is_fast:
        raise ValueError(
            "the tokenizer gives no character offsets; load the checkpoint with its fast tokenizer"
        )
    for token in (IMAGE_TOKEN, processor.image_token):
        if any(token in text for text, supervised in pieces if supervised):
            raise ValueError(f"an answer contains {token}; only questions may show an image")
    text = "".join(text for text, _ in pieces)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    owners = _supervised_characters(pieces)
    ids: list[int] = []
    labels: list[int] = []
    if tokenizer.bos_token_id is not None:
        ids.append(tokenizer.bos_token_id)
        labels.append(IGNORE_INDEX)
    for token, (start, end) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
        covered = set(owners[start : max(end, start + 1)])
        if len(covered) > 1:
            raise ValueError(
                f"token {text[start:end]!r} covers the border of question and answer; "
                "use a tokenizer that starts a new token where the answer begins"
            )
        repeats = 1
        if token == processor.image_token_id:
            repeats = image_token_count(processor) if image_tokens is None else image_tokens
        ids.extend([token] * repeats)
        labels.extend([token if covered == {True} else IGNORE_INDEX] * repeats)
    return ids, labels


def _supervised_characters(pieces: Sequence[tuple[str, bool]]) -> list[bool]:
    """For every character of the joined pieces whether the model is trained to write it."""
    return [supervised for text, supervised in pieces for _ in text]


def pixel_values(
    images: Sequence[Image.Image],
    processor: Any,  # noqa: ANN401
    settings: SegmentationSettings,
    **options: Any,  # noqa: ANN401
) -> torch.Tensor:
    """Input of the vision tower: float32 (n, 3, side, side).

    Images are squashed first; then only the processor's own rescaling and normalisation apply, and `options`.

    Raises:
        ValueError: the processor is made for another side than the settings say.
    """
    side = settings.image_side
    if _input_hw(processor) != (side, side):
        height, width = _input_hw(processor)
        raise ValueError(
            f"image_side {side} does not fit the checkpoint's image processor ({height}x{width}); "
            f"set image_side to the side of the vision tower"
        )
    squashed = [squash(image, settings) for image in images]
    values = processor.image_processor(
        images=squashed, do_resize=False, do_center_crop=False, return_tensors="pt", **options
    )["pixel_values"]
    if tuple(values.shape) != (len(squashed), 3, side, side):
        raise ValueError(
            f"the image processor made {tuple(values.shape)} of {len(squashed)} images of {side} pixels; "
            "it crops or pads, use the image processor that belongs to the vision tower"
        )
    return values
