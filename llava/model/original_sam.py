"""Segment Anything's own .pth files in transformers' `SamModel`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import SamConfig, SamImageProcessorPil, SamModel, SamVisionConfig

from llava.model.original_files import Tensors, build_strict, read_tensors


def _published(width: int, layers: int, heads: int, global_layers: list[int]) -> SamConfig:
    """SAM with the vision tower of one of the three published sizes."""
    return SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            global_attn_indexes=global_layers,
            mlp_dim=4 * width,
        )
    )


SIZES: dict[str, Any] = {
    "vit_b": _published(768, 12, 12, [2, 5, 8, 11]),
    "vit_l": _published(1024, 24, 16, [5, 11, 17, 23]),
    "vit_h": _published(1280, 32, 16, [7, 15, 23, 31]),
}
"""The published sizes; told apart by the width and the depth of the vision tower."""

_PATCHES = "image_encoder.patch_embed.proj.weight"
_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.")
_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"
_DROPPED = {"pixel_mean", "pixel_std"}

_STEPS = {
    "neck": {"0": "conv1", "1": "layer_norm1", "2": "conv2", "3": "layer_norm2"},
    "mask_downscaling": {"0": "conv1", "1": "layer_norm1", "3": "conv2", "4": "layer_norm2", "6": "conv3"},
    "output_upscaling": {"0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"},
}
"""Numbered steps of the original's sequences and their names in transformers."""

_RENAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
        (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
        (r"^image_encoder\.", "vision_encoder."),
        (r"^((?:vision_encoder|mask_decoder\.transformer)\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
        (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", _POSITIONS),
        (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
        (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
        (r"(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.layers\.0\.", r"\1.proj_in."),
        (r"(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.layers\.2\.", r"\1.proj_out."),
        (r"(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.layers\.1\.", r"\1.layers.0."),
    )
)
_STEP = re.compile(r"(neck|mask_downscaling|output_upscaling)\.(\d)\.")


def is_original_sam(path: str | Path) -> bool:
    """Whether a path is a weight file, as the original code writes them, and no folder or hub name."""
    return Path(path).is_file()


def load_original_sam(path: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """`SamModel` in evaluation mode and its image processor, of an original .pth file.

    The size follows from the shapes of the tensors, whatever the file is called.

    Args:
        path: file of Segment Anything's code (`sam_vit_b_01ec64.pth` and others).
        dtype: of the model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no SAM of a published size, or a tensor is missing, left over or misshapen.
    """
    tensors = read_tensors(Path(path))
    config = SIZES[sam_size(tensors, path)]
    renamed = rename_sam(tensors)
    model = build_strict(SamModel, config, tensors=renamed, what=str(path), dtype=dtype)
    return model, sam_processor(model.config)


def sam_size(tensors: Tensors, path: str | Path) -> str:
    """Key of `SIZES` that the tensors belong to.

    Raises:
        ValueError: to none; says what was found.
    """
    if _PATCHES not in tensors:
        raise ValueError(
            f"{path} holds no {_PATCHES}: it is no original Segment Anything checkpoint; "
            "give sam_vit_b, sam_vit_l or sam_vit_h, or a folder in transformers' layout"
        )
    width = tensors[_PATCHES].shape[0]
    layers = len({match[1] for match in map(_BLOCK.match, tensors) if match})
    for name, config in SIZES.items():
        vision = config.vision_config
        if (vision.hidden_size, vision.num_hidden_layers) == (width, layers):
            return name
    listed = ", ".join(
        f"{name} ({config.vision_config.hidden_size} wide, {config.vision_config.num_hidden_layers} layers)"
        for name, config in SIZES.items()
    )
    raise ValueError(f"{path}: a vision tower {width} wide with {layers} layers; known: {listed}")


def rename_sam(tensors: Tensors) -> Tensors:
    """The same tensors under transformers' names; a name that is not known stays as it is."""
    renamed = {_rename(name): tensor for name, tensor in tensors.items() if name not in _DROPPED}
    if _POSITIONS in renamed:
        renamed["shared_image_embedding.positional_embedding"] = renamed[_POSITIONS]
    return renamed


def _rename(name: str) -> str:
    for pattern, new in _RENAMES:
        name = pattern.sub(new, name)
    step = _STEP.search(name)
    if step is None or step[2] not in _STEPS[step[1]]:
        return name
    here = {"neck": "neck.", "mask_downscaling": "mask_embed.", "output_upscaling": ""}[step[1]]
    return f"{name[: step.start()]}{here}{_STEPS[step[1]][step[2]]}.{name[step.end() :]}"


def sam_processor(config: Any) -> SamImageProcessorPil:  # noqa: ANN401
    """Image processor for a `SamConfig`: longest side to the input size, mask prompts a quarter of it."""
    side = config.vision_config.image_size
    mask = 4 * config.prompt_encoder_config.image_embedding_size
    return SamImageProcessorPil(
        size={"longest_edge": side},
        pad_size={"height": side, "width": side},
        mask_size={"longest_edge": mask},
        mask_pad_size={"height": mask, "width": mask},
    )
