"""Where a checkpoint lies, and with which settings: a folder, or a model on the hub.

Light on purpose: nothing here imports torch, so that a wrong path is told at once.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.constants import SEGMENTATION_FILE
from llava.settings import SegmentationSettings

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
ORIGINAL_LAYOUT = ("mm_projector_type", "mm_vision_tower")
"""Config keys that only checkpoints of the original LLaVA code have."""

NON_LORA_WEIGHTS = "non_lora_trainables.bin"
_FETCHED = ["*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "*.txt"]


@dataclass(frozen=True)
class Known:
    """A published checkpoint in the original layout, which says nothing about its grid itself.

    Attributes:
        settings: what it was trained with.
        vision_tower: hub name of its CLIP; its own config may name a folder of its authors.
    """

    settings: SegmentationSettings
    vision_tower: str


KNOWN: dict[str, Known] = {
    # Text4Seg's public demo weights: LLaVA-1.5-7B, 24x24 grid, images stretched to 336 pixels.
    "lmc22/text4seg-llava-7b-p24": Known(
        SegmentationSettings(
            codec="rrle", grid_hw=(24, 24), image_side=336, interpolation="bicubic", prompt="text4seg_v1"
        ),
        "openai/clip-vit-large-patch14-336",
    ),
}
"""By hub name, letter for letter; a folder on the disk is never looked up here."""


def known(path: str | Path) -> Known | None:
    """Entry of a published checkpoint that is named by its hub name and is no folder here."""
    return None if Path(path).is_dir() else KNOWN.get(str(path))


def local_folder(path: str | Path) -> Path:
    """Folder of a checkpoint; one on the hub is fetched first, or taken from the hub's cache.

    Raises:
        FileNotFoundError: there is no such folder, and no such model on the hub or no way to it.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if not HUB_NAME.fullmatch(str(path)):
        raise FileNotFoundError(f"checkpoint folder {path} not found - check the path")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path), allow_patterns=_FETCHED, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"checkpoint folder {path} not found, nor fetched from the hub ({first}) - check the path; "
            f"without internet, fetch it elsewhere (hf download {path} --local-dir FOLDER), then give FOLDER"
        ) from error


def read_fields(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Content of a JSON file of a folder; empty where there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    path = folder / name
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy or download it again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: needed is a JSON object; copy or download it again")
    return fields


def read_config(path: str | Path) -> dict[str, Any]:
    """config.json of a folder or a hub name, as it stands there.

    Raises:
        OSError: it cannot be read.
    """
    from transformers import PretrainedConfig

    return dict(PretrainedConfig.get_config_dict(str(path))[0])


def is_original_folder(folder: Path) -> bool:
    """Whether a folder was written by the original LLaVA code (or a fork of it)."""
    if (folder / NON_LORA_WEIGHTS).is_file():
        return True
    return any(key in read_fields(folder) for key in ORIGINAL_LAYOUT)


def settings_of_base(path: str | Path) -> SegmentationSettings | None:
    """Settings that a training inherits from its base; None for a base that was never trained to segment.

    Raises:
        ValueError: the folder's `segmentation.json` is wrong.
    """
    if (Path(path) / SEGMENTATION_FILE).is_file():
        return SegmentationSettings.load(Path(path))
    published = known(path)
    return published.settings if published else None


def find_settings(path: str | Path) -> SegmentationSettings:
    """Settings of a checkpoint folder or hub name.

    They stand in its `segmentation.json`; for a few published checkpoints without one, in `KNOWN`.

    Raises:
        FileNotFoundError: no such checkpoint, or nothing says its settings.
        ValueError: `segmentation.json` is wrong.
    """
    folder = local_folder(path)
    settings = settings_of_base(path if known(path) else folder)
    if settings is not None:
        return settings
    if is_original_folder(folder):
        raise FileNotFoundError(
            f"{folder / SEGMENTATION_FILE} not found - {path} is in the layout of the original LLaVA code, "
            "which does not say with which grid it was trained; convert it once and say so: "
            f"python scripts/convert_checkpoint.py --from {path} --grid 16 --to NEW_FOLDER"
        )
    return SegmentationSettings.load(folder)
