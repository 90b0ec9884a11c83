"""The CLIP of an original LLaVA checkpoint, which the checkpoint often only names."""

from __future__ import annotations

import re
from typing import Any

from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from llava.model.hub import read_config
from llava.model.original_files import Tensors, read_model_files
from llava.model.original_folder import Original
from llava.model.weights import refuse_misfit

_PATCHES = re.compile(r"vision_tower\..*embeddings\.patch_embedding\.weight$")
_POSITIONS = re.compile(r"vision_tower\..*embeddings\.position_embedding\.weight$")


def _clip_large(side: int) -> CLIPVisionConfig:
    """OpenAI's ViT-L/14 for images of `side` pixels."""
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=side,
        patch_size=14,
        projection_dim=768,
    )


TOWERS: dict[str, Any] = {
    "openai/clip-vit-large-patch14-336": _clip_large(336),
    "openai/clip-vit-large-patch14": _clip_large(224),
}
"""Towers by hub name whose configuration need not be fetched."""


def tower_config(original: Original) -> Any:  # noqa: ANN401
    """`CLIPVisionConfig` of the vision tower.

    It is that of a tower in `TOWERS`, else that of the folder or hub name; and where neither is there, for
    authors name folders of theirs, that of the tower in `TOWERS` whose shapes the checkpoint's own have.

    Raises:
        FileNotFoundError: none of the three.
        ValueError: the tower is no CLIP.
    """
    name = original.vision_tower
    if name in TOWERS:
        return TOWERS[name]
    try:
        fields = read_config(str(name))
    except (OSError, ValueError) as error:
        return TOWERS[_by_shape(original, error)]
    if fields.get("model_type") not in ("clip", "clip_vision_model"):
        raise ValueError(f"vision tower {name} has model_type {fields.get('model_type')!r}, needed is a CLIP")
    return CLIPVisionConfig.from_pretrained(str(name))


def _by_shape(original: Original, reason: Exception) -> str:
    """Name in `TOWERS` of the tower that a whole checkpoint holds itself."""
    root = original
    while root.base_original is not None:
        root = root.base_original
    tensors = read_model_files(root.folder) if root.kind == "whole" else {}
    patches = next((tensor.shape for name, tensor in tensors.items() if _PATCHES.search(name)), None)
    positions = next((tensor.shape for name, tensor in tensors.items() if _POSITIONS.search(name)), None)
    for name, config in TOWERS.items():
        cells = (config.image_size // config.patch_size) ** 2 + 1
        kernel = (config.hidden_size, 3, config.patch_size, config.patch_size)
        if patches == kernel and positions == (cells, config.hidden_size):
            return name
    raise FileNotFoundError(
        f"{original.name}: its vision tower {original.vision_tower} is not here ({_first_line(reason)}); say "
        "where it is: python scripts/convert_checkpoint.py --vision-tower openai/clip-vit-large-patch14-336 …"
    ) from reason


def tower_image_processor(original: Original, config: Any) -> Any:  # noqa: ANN401
    """CLIP's image processor on PIL images; OpenAI's normalisation unless the tower's folder has another.

    Raises:
        FileNotFoundError: a tower outside of `TOWERS` has no preprocessor_config.json.
    """
    side = config.image_size
    if config in TOWERS.values():
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    try:
        return CLIPImageProcessorPil.from_pretrained(str(original.vision_tower))
    except OSError as error:
        raise FileNotFoundError(
            f"vision tower {original.vision_tower}: preprocessor_config.json cannot be read; copy it there"
        ) from error


def tower_tensors(original: Original, config: Any) -> Tensors:  # noqa: ANN401
    """Tensors of the vision tower by `CLIPVisionModel`'s names, where the checkpoint holds none.

    Raises:
        FileNotFoundError: the tower is not there.
        ValueError: a tensor is missing or of another shape.
    """
    try:
        loaded: Any = CLIPVisionModel.from_pretrained(
            str(original.vision_tower),
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype="auto",
        )
    except OSError as error:
        raise FileNotFoundError(
            f"{original.name} holds no vision tower, and the one it names, {original.vision_tower}, cannot "
            f"be read ({_first_line(error)}); copy or download it"
        ) from error
    model, info = loaded
    shapes = [
        f"{name} is {tuple(found)}, needed {tuple(needed)}" for name, found, needed in info["mismatched_keys"]
    ]
    refuse_misfit(f"vision tower {original.vision_tower}", info["missing_keys"], [], shapes)
    return {name.removeprefix("vision_model."): tensor for name, tensor in model.state_dict().items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
