"""Weights from disk into unchanged transformers classes: all of them, or an error that names the misfits."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig
from transformers.utils import is_flash_attn_2_available

from llava.model.backbones import backbone_of

ATTENTIONS = ("auto", "sdpa", "eager", "flash_attention_2")
DTYPES = ("float32", "float16", "bfloat16")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PROJECTOR_WEIGHTS = "projector.safetensors"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_NAMED = 8


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the GPU if there is one, or the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    gpu = torch.cuda.is_available()
    try:
        chosen = torch.device(device or ("cuda" if gpu else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        found = f"cpu or cuda:0 to cuda:{torch.cuda.device_count() - 1}" if gpu else "cpu: torch finds no GPU"
        raise ValueError(f"device {device!r} is not here; this machine has {found}") from error
    return chosen


def choose_dtype(device: torch.device, dtype: torch.dtype | str | None = None) -> torch.dtype | str:
    """The dtype asked for, or bfloat16 on a GPU that computes with it, or float32.

    Args:
        device: where the model will run.
        dtype: a torch dtype, one of `DTYPES`, "auto" for that of the files (returned as it is), or None.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(dtype, str) and dtype not in (*DTYPES, "auto"):
        raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}, auto")
    if dtype is not None:
        return getattr(torch, dtype) if dtype in DTYPES else dtype
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def choose_attention(attn: str, device: torch.device, dtype: torch.dtype | str) -> str:
    """Name of the attention implementation for transformers.

    Args:
        attn: one of `ATTENTIONS`; "auto" takes flash_attention_2 where it is installed and can run
            (GPU, 16-bit weights), else sdpa.
        device: where the model will run.
        dtype: what its weights will be.

    Raises:
        ValueError: unknown name, or flash_attention_2 is asked for and not installed.
    """
    if attn not in ATTENTIONS:
        raise ValueError(f"unknown attention {attn!r}; known: {', '.join(ATTENTIONS)}")
    flash = is_flash_attn_2_available()
    if attn == "flash_attention_2" and not flash:
        raise ValueError(
            'flash_attention_2 is not installed; pip install -e ".[flash]" or use attention "auto"'
        )
    if attn != "auto":
        return attn
    fits = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    return "flash_attention_2" if flash and fits else "sdpa"


def check_folder(path: str | Path) -> None:
    """Refuse a path that is neither a folder with a config nor the name of a model on the hub."""
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder / 'config.json'} not found - {folder} is no Hugging Face model folder"
            )
    elif not _HUB_NAME.fullmatch(str(path)):
        raise FileNotFoundError(f"model folder {path} not found - check the path, or give a name on the hub")


def read_config(path: str | Path) -> Any:  # noqa: ANN401
    """Configuration of a model folder or hub name.

    Raises:
        FileNotFoundError: it cannot be read.
    """
    try:
        return AutoConfig.from_pretrained(path)
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"{path}: cannot be read ({first}); check the path and its files") from error


def load_strict(model_class: type, path: str | Path, **options: Any) -> Any:  # noqa: ANN401
    """Model of `model_class` in evaluation mode, every weight of it read from `path`.

    Args:
        model_class: a transformers model class.
        path: model folder, or a name on the hub.
        options: handed to `from_pretrained` (dtype, attn_implementation, …).

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: a weight is missing, left over or of another shape, or a file is cut off.
    """
    check_folder(path)
    try:
        model, info = model_class.from_pretrained(  # type: ignore[attr-defined]
            path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except SafetensorError as error:
        raise ValueError(
            f"{path}: a weight file is damaged or cut off ({error}); download or copy it again"
        ) from error
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"{path}: cannot be read ({first}); check the path and its files") from error
    shapes = [
        f"{name} is {tuple(found)}, needed {tuple(needed)}" for name, found, needed in info["mismatched_keys"]
    ]
    refuse_misfit(
        f"{path} does not fit {model_class.__name__}", info["missing_keys"], info["unexpected_keys"], shapes
    )
    return model.eval()


def refuse_misfit(
    what: str, missing: set[str] | list[str], unexpected: set[str] | list[str], shapes: list[str]
) -> None:
    """Raise a ValueError that names all weights that do not fit, unless there are none."""
    parts = [
        f"{len(names)} {kind}: {_name_some(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if parts:
        raise ValueError(
            f"{what} - weights {'; '.join(parts)}. "
            "Nothing is initialised at random; use weights of this very model"
        )


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file by name, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or cut off.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found - the checkpoint is incomplete; copy or train it again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut off ({error}); copy it again") from error


def attach_adapter(model: Any, folder: Path) -> PeftModel:  # noqa: ANN401
    """The model with the LoRA adapter and the projector of `folder`, in evaluation mode.

    PEFT itself only warns when keys do not fit and then runs without the adapter; here every key must fit.

    Args:
        model: of a known family, changed in place.
        folder: what `llava.model.checkpoint.save_adapter` wrote.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the adapter or the projector belongs to another model; names the keys.
    """
    weights = read_weights(folder / ADAPTER_WEIGHTS)
    config = PeftConfig.from_pretrained(str(folder))
    projector = read_weights(folder / PROJECTOR_WEIGHTS)
    here = model.get_submodule(backbone_of(model.config).projector)
    _compare(f"{folder / PROJECTOR_WEIGHTS} does not fit the base model", projector, here.state_dict())
    here.load_state_dict(projector)
    return attach_lora(model, config, weights=weights, file=folder / ADAPTER_WEIGHTS)


def attach_lora(
    model: Any,  # noqa: ANN401
    config: PeftConfig,
    *,
    weights: dict[str, torch.Tensor],
    file: Path,
) -> PeftModel:
    """The model with a LoRA around it, in evaluation mode, every tensor of the adapter in its place.

    Args:
        model: changed in place.
        config: which modules have adapters.
        weights: tensors by PEFT's names.
        file: where they were read, for errors.

    Raises:
        ValueError: the adapter belongs to another model; names the keys.
    """
    config.inference_mode = True
    config.base_model_name_or_path = None  # where the base lay in training says nothing about where it is now
    try:
        with warnings.catch_warnings():
            # PEFT asks for gradient checkpointing under the name it had before transformers 5.20.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(f"{file.parent / ADAPTER_CONFIG} does not fit the base model: {error}") from error
    needed = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    _compare(f"{file} does not fit the base model", weights, needed)
    set_peft_model_state_dict(adapted, weights)
    return adapted.eval()


def _compare(what: str, found: dict[str, torch.Tensor], needed: dict[str, torch.Tensor]) -> None:
    """Refuse tensors whose names or shapes are not the needed ones."""
    shapes = [
        f"{name} is {tuple(found[name].shape)}, needed {tuple(needed[name].shape)}"
        for name in sorted(found.keys() & needed.keys())
        if found[name].shape != needed[name].shape
    ]
    refuse_misfit(what, needed.keys() - found.keys(), found.keys() - needed.keys(), shapes)


def _name_some(names: set[str] | list[str]) -> str:
    """The first few names in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(ordered[:_NAMED]) + more
