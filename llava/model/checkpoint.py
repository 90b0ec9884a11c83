"""Checkpoint folders: what is in them, read strictly and written whole.

Two kinds. A plain folder holds a model of a known family (`llava.model.backbones`), its processor and
`segmentation.json`. An adapter folder holds a LoRA adapter, the trained projector, the processor and
`segmentation.json`, and names its base model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoConfig

from llava.constants import SEGMENTATION_FILE
from llava.data.prompt import chat_template
from llava.data.tokens import RESAMPLING
from llava.model.backbones import Backbone, backbone_of, find_backbone
from llava.model.hub import find_settings, local_folder, settings_of_base
from llava.model.new_tokens import make_room
from llava.model.original_folder import Original, find_original, find_original_base
from llava.model.original_llava import load_original, original_processor
from llava.model.weights import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PROJECTOR_WEIGHTS,
    attach_adapter,
    check_folder,
    choose_attention,
    choose_device,
    choose_dtype,
    load_strict,
    read_config,
)
from llava.settings import SegmentationSettings


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be asked.

    Attributes:
        model: of a known family, or a `PeftModel` around one; in evaluation mode.
        processor: the family's, with an image processor that works on PIL images.
        settings: what the model was trained with.
        path: the folder.
    """

    model: Any
    processor: Any
    settings: SegmentationSettings
    path: Path


@dataclass(frozen=True)
class Base:
    """A model to start training from; `settings` is None where the folder has no `segmentation.json`."""

    model: Any
    processor: Any
    settings: SegmentationSettings | None
    path: str


def load_checkpoint(
    path: str | Path,
    *,
    base: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    attn: str = "auto",
) -> Checkpoint:
    """The checkpoint of a plain or an adapter folder, on its device, in evaluation mode.

    Args:
        path: checkpoint folder, or its name on the hub; also in the layout of the original LLaVA code.
        base: base model of an adapter, where it is not the one that the adapter names.
        device: None takes the GPU if there is one.
        dtype: None takes bfloat16 on a GPU that has it, else float32; "auto" keeps that of the files.
        attn: attention implementation, one of `llava.model.weights.ATTENTIONS`.

    Raises:
        FileNotFoundError: the folder, a file of it, or the base model is missing.
        ValueError: weights are missing, left over or misshapen, or model, processor and settings disagree.
    """
    folder, settings = local_folder(path), find_settings(path)
    original = find_original(path, base=base)
    is_adapter = original is None and (folder / ADAPTER_CONFIG).is_file()
    if base is not None and original is None and not is_adapter:
        raise ValueError(f"{folder} is a whole model, not an adapter; leave the base model {base} out")
    source = original or (_find_base(folder, base) if is_adapter else folder)
    device = choose_device(device)
    model = _load_model(source, device, dtype, attn)
    family = backbone_of(model.config)
    processor = original_processor(original) if original else load_processor(folder, family)
    if is_adapter:
        make_room(model, processor.tokenizer)
        model = attach_adapter(model, folder)
    check_agreement(model, processor, settings, folder)
    return Checkpoint(model.to(device), processor, settings, folder)


def load_base(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    attn: str = "auto",
    quantization: Any = None,  # noqa: ANN401
) -> Base:
    """The model to start training from, left on the CPU for the trainer to place.

    Args:
        path: plain folder or a name on the hub; also in the layout of the original LLaVA code.
        dtype: None takes bfloat16 where the GPU has it, else float32; "auto" keeps that of the files.
        attn: attention implementation, one of `llava.model.weights.ATTENTIONS`.
        quantization: `BitsAndBytesConfig` of frozen weights, which then lie on the GPU; None: none.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: an adapter folder, weights that do not fit, or parts that disagree.
    """
    folder, original = Path(path), find_original_base(path)
    if (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"{folder} is an adapter; merge it first: "
            f"python scripts/merge_lora_weights.py --model-path {folder} --save-path NEW_FOLDER"
        )
    settings = settings_of_base(path)
    model = _load_model(original or path, choose_device(), dtype, attn, quantization)
    processor = load_processor(path, backbone_of(model.config))
    check_agreement(model, processor, settings, path)
    return Base(model, processor, settings, str(path))


def load_processor(path: str | Path, backbone: Backbone | None = None) -> Any:  # noqa: ANN401
    """Processor of a folder or hub name, with the image processor that needs no torchvision.

    Args:
        path: folder or hub name.
        backbone: its family; None reads the model's configuration there.

    Raises:
        FileNotFoundError: a file is missing or damaged.
    """
    original = find_original(path)
    if original is not None:
        return original_processor(original)
    try:
        family = backbone or backbone_of(AutoConfig.from_pretrained(path))
        return family.load_processor(path)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{path}: the processor (processor_config.json, tokenizer.json, …) cannot be read ({first}); "
            "copy it from where the model comes from"
        ) from error


def check_agreement(
    model: Any,  # noqa: ANN401
    processor: Any,  # noqa: ANN401
    settings: SegmentationSettings | None,
    path: str | Path,
) -> None:
    """Raise a ValueError with every point on which model, processor and settings differ."""
    problems = backbone_of(model.config).problems(model, processor, settings)
    if problems:
        raise ValueError(f"{path}: " + "; ".join(problems))


def save_checkpoint(
    model: Any,  # noqa: ANN401
    processor: Any,  # noqa: ANN401
    settings: SegmentationSettings | None,
    folder: Path,
) -> None:
    """Write a plain checkpoint folder: model, processor with the prompt's chat template, settings.

    A processor that crops images squashes them from now on, so that programs which know `transformers` alone
    show the model what it was trained on. Settings of None are those of a base that was never trained to
    segment: no `segmentation.json`, and the processor as it is.
    """
    if settings is not None:
        _squash_alone(processor.image_processor, settings)
    with staged(Path(folder)) as staging:
        model.save_pretrained(staging)
        _save_processor(processor, settings, staging)


def save_adapter(
    model: PeftModel,
    processor: Any,  # noqa: ANN401
    settings: SegmentationSettings,
    folder: Path,
    *,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write an adapter folder that `load_checkpoint` turns back into the same model.

    Args:
        model: LoRA-adapted; its projector is saved in full, trained or not.
        processor: the processor of training.
        settings: written as `segmentation.json`.
        folder: made if missing; other files in it stay. An old adapter in it stays whole until the new one
            is on the disk.
        state_dict: all gathered tensors of `model` by name, where they are spread over processes (ZeRO-3).
    """
    tensors = model.state_dict() if state_dict is None else state_dict
    inner: Any = model.get_base_model()
    place = backbone_of(inner.config).projector
    mark = f".{place}."
    projector = {name.split(mark)[1]: tensor for name, tensor in tensors.items() if mark in name}
    names = set(inner.get_submodule(place).state_dict())
    if set(projector) != names or any(name.startswith("modules_to_save") for name in names):
        raise ValueError(
            f"the projector is {sorted(projector)}; train its weights in place, "
            "without LoRA layers or PEFT's modules_to_save"
        )
    adapter = get_peft_model_state_dict(model, state_dict=state_dict, save_embedding_layers=False)
    with staged(Path(folder)) as staging:
        save_file(_plain(adapter), staging / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        save_file(_plain(projector), staging / PROJECTOR_WEIGHTS, metadata={"format": "pt"})
        fields = model.peft_config["default"].to_dict() | {
            "inference_mode": True,
            "base_model_name_or_path": _base_name(model),
        }
        text = json.dumps(fields, indent=2, sort_keys=True, default=_as_json)
        (staging / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")
        _save_processor(processor, settings, staging)


def merge(adapter_folder: str | Path, output: str | Path, base: str | Path | None = None) -> None:
    """Write the plain checkpoint folder of an adapter and its base, in the dtype of the base.

    Args:
        adapter_folder: what training saved.
        output: new folder; refused when it holds anything.
        base: base model, where it is not the one that the adapter names.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: no adapter folder, the output is in use, or weights that do not fit.
    """
    adapter_folder, output = Path(adapter_folder), Path(output)
    if adapter_folder.is_dir() and not (adapter_folder / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{adapter_folder} has no {ADAPTER_CONFIG}: it is no adapter, nothing to merge")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is not empty; give a new folder")
    checkpoint = load_checkpoint(adapter_folder, base=base, device="cpu", dtype="auto", attn="sdpa")
    merged = checkpoint.model.merge_and_unload(progressbar=True, safe_merge=True)
    save_checkpoint(merged, checkpoint.processor, checkpoint.settings, output)


def _load_model(
    source: str | Path | Original,
    device: torch.device,
    dtype: torch.dtype | str | None,
    attn: str,
    quantization: Any = None,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """The whole model of a folder or hub name, on the CPU."""
    dtype = choose_dtype(device, dtype)
    attention = choose_attention(attn, device, dtype)
    if isinstance(source, Original):
        if quantization is not None:
            raise ValueError(
                f"{source.name} is in the layout of the original LLaVA code, which is not read quantized; "
                "convert it first with scripts/convert_checkpoint.py"
            )
        return load_original(source, dtype=dtype, attention=attention)
    original = find_original(source)
    if original is not None:
        return _load_model(original, device, dtype, attn, quantization)
    check_folder(source)
    config = Path(source) / "config.json"
    if config.is_file():
        fields = json.loads(config.read_text(encoding="utf-8"))
        kind = fields.get("model_type")
    else:
        kind = read_config(source).model_type
    return load_strict(
        find_backbone(kind, source).model_class,
        source,
        dtype=dtype,
        attn_implementation=attention,
        quantization_config=quantization,
    )


def _find_base(folder: Path, base: str | Path | None) -> str | Path:
    """Base model of an adapter: the one given, else the one it names, also relative to the adapter."""
    named = base or PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    if not named:
        raise ValueError(f"{folder / ADAPTER_CONFIG} names no base model; give it as --model-base")
    beside = folder / named
    found = beside if not Path(named).is_dir() and beside.is_dir() else named
    try:
        check_folder(found)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. It is the base of {folder}; give its place as --model-base"
        ) from error
    return found


def _base_name(model: PeftModel) -> str:
    """What the adapter will name as its base: a hub name, or the absolute path of a folder."""
    name = str(model.get_base_model().name_or_path)
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _save_processor(processor: Any, settings: SegmentationSettings | None, folder: Path) -> None:  # noqa: ANN401
    if settings is not None:
        processor.chat_template = chat_template(settings.prompt)
        settings.save(folder)
    processor.save_pretrained(folder)


def _squash_alone(images: Any, settings: SegmentationSettings) -> None:  # noqa: ANN401
    """Let an image processor that crops do by itself what `llava.data.tokens.squash` does before it."""
    if getattr(images, "do_center_crop", False) and "height" not in images.size:
        images.size = {"height": settings.image_side, "width": settings.image_side}
        images.resample = RESAMPLING[settings.interpolation]


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the CPU that share no memory, as safetensors needs them."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _as_json(value: object) -> object:
    """Sets as sorted lists and names for the rest: what JSON cannot hold in a PEFT config."""
    return sorted(value) if isinstance(value, set) else str(value)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Empty folder on the same disk whose files move into `folder` when the block ends without an error.

    `segmentation.json` is taken away first and put back last, so that a kill in the middle leaves a folder
    that is refused, never a mixture that loads. What such a kill left of an earlier one goes first.
    """
    staging = folder / ".writing"
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    try:
        yield staging
        files = sorted(staging.iterdir(), key=lambda file: file.name == SEGMENTATION_FILE)
        for file in files:
            with file.open("rb") as written:
                os.fsync(written.fileno())
        (folder / SEGMENTATION_FILE).unlink(missing_ok=True)
        for file in files:
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(staging)
