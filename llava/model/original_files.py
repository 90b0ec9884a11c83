"""Weight files of other programs: read without running code from them, and put whole into a model class."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from llava.model.weights import refuse_misfit

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""A whole model in one file; with ".index.json" behind it, the list of its parts. The first found is read."""

Tensors = dict[str, torch.Tensor]


def read_tensors(path: Path) -> Tensors:
    """Tensors by name of a .safetensors, .bin or .pth file, on the CPU, mapped into memory where it can be.

    Pickled files are read with `weights_only=True`: they cannot run code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds something else than named tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found - the checkpoint is incomplete; copy it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors or is damaged, and is not opened ({_first_line(error)}); "
            "use a file that holds the state dict only"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut off ({_first_line(error)}); copy it again") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds a {type(content).__name__}; needed are tensors by name")
    others = sorted(str(name) for name, value in content.items() if not isinstance(value, torch.Tensor))
    if others:
        raise ValueError(
            f"{path}: {', '.join(others[:4])} hold no tensors; use a file with the model's state dict only"
        )
    return content


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a whole model, in one file or in several."""
    return any(
        (folder / name).is_file() or (folder / f"{name}.index.json").is_file() for name in WEIGHT_FILES
    )


def read_model_files(folder: Path) -> Tensors:
    """All tensors of a model folder, in one file or in the parts that its index lists.

    Raises:
        FileNotFoundError: there are none, or a part is missing.
        ValueError: a file is damaged.
    """
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            tensors: Tensors = {}
            for part in parts:
                tensors |= read_tensors(folder / part)
            return tensors
        if (folder / name).is_file():
            return read_tensors(folder / name)
    raise FileNotFoundError(f"{folder} holds no weights; known files: {', '.join(WEIGHT_FILES)}")


def build_strict(
    model_class: type,
    config: Any,  # noqa: ANN401
    *,
    tensors: Tensors,
    what: str,
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Model of `model_class` in evaluation mode, every weight of it from `tensors`.

    Args:
        model_class: a transformers model class.
        config: its configuration.
        tensors: by the names that the class itself uses.
        what: folder, file or hub name that the tensors are of; becomes the model's `name_or_path`.
        options: handed to `from_pretrained` (dtype, attn_implementation).

    Raises:
        ValueError: a weight is missing, left over or of another shape; with the names.
    """
    model, info = model_class.from_pretrained(  # type: ignore[attr-defined]
        None,
        config=config,
        state_dict=tensors,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    shapes = [
        f"{name} is {tuple(found)}, needed {tuple(needed)}" for name, found, needed in info["mismatched_keys"]
    ]
    refuse_misfit(
        f"{what} does not fit {model_class.__name__}", info["missing_keys"], info["unexpected_keys"], shapes
    )
    model.name_or_path = model.config.name_or_path = what
    return model.eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
