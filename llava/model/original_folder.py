"""What a folder of the original LLaVA code holds, told before any weights are read.

Three kinds, told apart by their files:

- whole: a language model with `model.mm_projector.*` among its weights, and perhaps its CLIP;
- lora: `adapter_config.json` and `non_lora_trainables.bin`, over a base model;
- projector: `mm_projector.bin` alone, over a base language model.

A base is another original folder, a LLaVA in transformers' layout, or a plain Llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.model.hub import (
    ORIGINAL_LAYOUT,
    is_original_folder,
    known,
    local_folder,
    read_config,
    read_fields,
)
from llava.model.original_files import has_weights
from llava.model.weights import ADAPTER_CONFIG, check_folder

PROJECTOR_FILE = "mm_projector.bin"


@dataclass(frozen=True)
class Original:
    """A folder in the original layout.

    Attributes:
        name: folder or hub name, as it was given.
        folder: where it lies.
        kind: "whole", "lora" or "projector".
        fields: its config.json; what it does not say comes from the base.
        vision_tower: folder or hub name of its CLIP; None where nothing names one.
        base: name of the base model; None for a whole one.
        base_kind: "original", "llava" (transformers' layout), "llama", or None.
        base_original: the base, where it is in the original layout.
    """

    name: str
    folder: Path
    kind: str
    fields: dict[str, Any]
    vision_tower: str | None
    base: str | None = None
    base_kind: str | None = None
    base_original: Original | None = None


def find_original(
    path: str | Path, *, base: str | Path | None = None, vision_tower: str | None = None
) -> Original | None:
    """What an original folder or hub name holds; None for anything else.

    Args:
        path: folder, or name on the hub, which is fetched if it is in the original layout.
        base: base model of a LoRA or a projector, where it is not the one that its config names.
        vision_tower: folder or hub name of its CLIP, where its config names a place that is not here.

    Raises:
        FileNotFoundError: a folder without weights, or a base that is not there.
        ValueError: a base for a whole model, or none for a part; a relative of LLaVA-1.5 that transformers'
            class is not.
    """
    if not _is_original(path):
        return None
    folder, published = local_folder(path), known(path)
    kind, fields = _kind(folder), read_fields(folder)
    _refuse_relatives(folder, fields)
    if kind == "whole":
        if base is not None:
            raise ValueError(f"{path} is a whole model, not an adapter; leave the base model {base} out")
        parent, parent_kind, parent_original = None, None, None
    else:
        parent = str(base or _named_base(folder, kind))
        parent_kind, parent_fields, parent_original = _look_at_base(parent, path)
        own = {name: value for name, value in fields.items() if name.startswith("mm_")}
        fields = parent_fields | own
    tower: str | None = vision_tower or (published.vision_tower if published else None)
    if tower is None:
        tower = parent_original.vision_tower if parent_original else fields.get("mm_vision_tower")
    return Original(str(path), folder, kind, fields, tower, parent, parent_kind, parent_original)


def find_original_base(path: str | Path) -> Original | None:
    """What `find_original` finds, to start a training from.

    Raises:
        ValueError: it is a LoRA, which has to be made a whole model first.
    """
    original = find_original(path)
    if original is not None and original.kind == "lora":
        raise ValueError(
            f"{path} is an adapter; make a whole model of it first: "
            f"python scripts/convert_checkpoint.py --from {path} --grid 16 --to NEW_FOLDER"
        )
    return original


def _is_original(path: str | Path) -> bool:
    """Whether a folder, or the config of a hub name, has the original layout; no for what is not there."""
    folder = Path(path)
    if folder.is_dir():
        return is_original_folder(folder)
    if known(path):
        return True
    try:
        check_folder(path)
        fields = read_config(path)
    except (OSError, ValueError):
        return False
    return any(key in fields for key in ORIGINAL_LAYOUT)


def _kind(folder: Path) -> str:
    if (folder / ADAPTER_CONFIG).is_file():
        return "lora"
    if has_weights(folder):
        return "whole"
    if (folder / PROJECTOR_FILE).is_file():
        return "projector"
    raise FileNotFoundError(
        f"{folder} is in the layout of the original LLaVA code, but holds neither a whole model nor "
        f"{ADAPTER_CONFIG} nor {PROJECTOR_FILE}; copy the missing files"
    )


def _refuse_relatives(folder: Path, fields: dict[str, Any]) -> None:
    """Raise for relatives of LLaVA-1.5 that need another class or another prompt, all points at once."""
    problems = []
    projector = fields.get("mm_projector_type", "mlp2x_gelu")
    if projector != "mlp2x_gelu":
        problems.append(f"mm_projector_type is {projector!r}, only 'mlp2x_gelu' (LLaVA-1.5) fits")
    if "unpad" in fields.get("mm_patch_merge_type", "flat"):
        problems.append("it is LLaVA-1.6, take the weights of llava-hf (for example llava-v1.6-vicuna-7b-hf)")
    if fields.get("mm_use_im_start_end"):
        problems.append("mm_use_im_start_end puts tokens around the image that no prompt here has")
    model_type = fields.get("model_type", "llava")
    if model_type not in ("llava", "llava_llama", "llama"):
        problems.append(f"model_type is {model_type!r}, only Llama's is known ('llava', 'llava_llama')")
    if problems:
        raise ValueError(f"{folder / 'config.json'}: " + "; ".join(problems))


def _named_base(folder: Path, kind: str) -> str:
    """The base that a LoRA or a projector names itself."""
    file, key = (
        (ADAPTER_CONFIG, "base_model_name_or_path") if kind == "lora" else ("config.json", "_name_or_path")
    )
    named = read_fields(folder, file).get(key)
    if not named:
        raise ValueError(f"{folder / file} names no base model; give it as --model-base or --base")
    return str(named)


def _look_at_base(base: str, of: str | Path) -> tuple[str, dict[str, Any], Original | None]:
    """Kind of a base, its config and, for the original layout, what it holds.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is another kind of model, or an adapter itself.
    """
    try:
        check_folder(base)
        original = find_original(base)
        fields = original.fields if original else read_config(base)
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{base}, the base of {of}, cannot be read ({first}); give its place as --model-base or --base"
        ) from error
    if original is not None:
        if original.kind == "lora":
            raise ValueError(
                f"{base}, the base of {of}, is an adapter itself; make a whole model of it first with "
                "scripts/convert_checkpoint.py"
            )
        return "original", fields, original
    kind = fields.get("model_type")
    if kind not in ("llava", "llama"):
        raise ValueError(
            f"{base}, the base of {of}, has model_type {kind!r}; needed is a LLaVA or the Llama under it"
        )
    return str(kind), fields, None
