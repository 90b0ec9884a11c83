"""Checkpoints of the original LLaVA code, and of Text4Seg's, in `LlavaForConditionalGeneration`.

Names are translated; every tensor must find its place, and every place its tensor.

Source of the names: haotian-liu/LLaVA (llava/model, llava/train), and transformers' LLaVA.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from llava.constants import IMAGE_TOKEN
from llava.model.backbones import BACKBONES
from llava.model.hub import NON_LORA_WEIGHTS, local_folder
from llava.model.original_files import Tensors, build_strict, read_model_files, read_tensors
from llava.model.original_folder import PROJECTOR_FILE, Original
from llava.model.original_tokenizer import has_tokenizer, original_tokenizer
from llava.model.original_tower import tower_config, tower_image_processor, tower_tensors
from llava.model.weights import ADAPTER_WEIGHTS, attach_lora, load_strict

ROW_MULTIPLE = 64
"""Embedding rows are padded to a multiple of this, as in llava-hf's weights (32064 for Vicuna)."""

_TOWER = "model.vision_tower."
_PROJECTOR = "model.multi_modal_projector."
_EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")
_PEFT = "base_model.model."
_RENAMES = (
    (re.compile(r"^model\.vision_tower\.vision_tower\.(?:vision_model\.)?"), _TOWER),
    (re.compile(r"^model\.mm_projector\.0\."), f"{_PROJECTOR}linear_1."),
    (re.compile(r"^model\.mm_projector\.2\."), f"{_PROJECTOR}linear_2."),
    (re.compile(r"^model\.(embed_tokens|layers|norm)\."), r"model.language_model.\1."),
)
_COMPUTED = re.compile(r"(?:rotary_emb\.inv_freq|embeddings\.position_ids)$")
"""Buffers that old versions saved and that follow from the configuration."""

_NOT_OF_TEXT = {
    "model_type",
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "_name_or_path",
}
"""Fields of an original config.json that say nothing about the language model's shape."""


def original_config(original: Original) -> Any:  # noqa: ANN401
    """`LlavaConfig` that `load_original` builds the model with.

    Raises:
        FileNotFoundError: the tokenizer or the vision tower is not there.
        ValueError: the tokenizer cannot be read, or the vision tower is no CLIP.
    """
    if original.base_kind == "llava":
        return LlavaConfig.from_pretrained(str(original.base))
    fields, vision = original.fields, tower_config(original)
    tokenizer = _tokenizer(original)
    rows = max(int(fields["vocab_size"]), len(tokenizer))
    known = (LlamaConfig().to_dict().keys() | {"rope_theta", "rope_scaling"}) - _NOT_OF_TEXT
    text = {name: value for name, value in fields.items() if name in known}
    return LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=LlamaConfig(**text | {"vocab_size": -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE}),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        projector_hidden_act="gelu",
        vision_feature_layer=int(fields.get("mm_vision_select_layer", -2)),
        vision_feature_select_strategy=_strategy(original),
        tie_word_embeddings=False,
    )


def original_processor(original: Original) -> Any:  # noqa: ANN401
    """`LlavaProcessor` with the image processor of its CLIP, on PIL images.

    Raises:
        FileNotFoundError: the tokenizer or the vision tower is not there.
        ValueError: the tokenizer cannot be read, or the vision tower is no CLIP.
    """
    if original.base_kind == "llava":
        return BACKBONES["llava"].load_processor(str(original.base))
    vision = tower_config(original)
    return LlavaProcessor(
        image_processor=tower_image_processor(original, vision),
        tokenizer=_tokenizer(original),
        patch_size=vision.patch_size,
        vision_feature_select_strategy=_strategy(original),
        num_additional_image_tokens=1,
    )


def load_original(original: Original, *, dtype: torch.dtype | str, attention: str) -> Any:  # noqa: ANN401
    """The model on the CPU in evaluation mode; a LoRA stays one, around its base.

    Rows that only pad the vocabulary hold the mean of the others: their logit is the mean of the logits,
    which is never the largest.

    Args:
        original: what `find_original` found.
        dtype: of the model, or "auto" for that of the files.
        attention: name of the attention implementation for transformers.

    Raises:
        FileNotFoundError: a file, the base or the vision tower is missing.
        ValueError: a tensor is missing, left over or of another shape; all are named.
    """
    config = original_config(original)
    tensors = _tensors(original)
    if not any(name.startswith(_TOWER) for name in tensors):
        tower = tower_tensors(original, config.vision_config)
        tensors |= {_TOWER + name: tensor for name, tensor in tower.items()}
    for name in _EMBEDDINGS:
        if name in tensors:
            tensors[name] = _padded(tensors[name], config.text_config.vocab_size)
    model = build_strict(
        LlavaForConditionalGeneration,
        config,
        tensors=tensors,
        what=original.name,
        dtype=dtype,
        attn_implementation=attention,
    )
    return _with_lora(model, original.folder) if original.kind == "lora" else model


def _tokenizer(original: Original) -> Any:  # noqa: ANN401
    """Tokenizer of the folder, or of its base where the folder has none."""
    if has_tokenizer(original.folder) or original.base is None:
        return original_tokenizer(original.folder)
    if original.base_original is not None:
        return _tokenizer(original.base_original)
    return original_tokenizer(local_folder(original.base))


def _strategy(original: Original) -> Literal["default", "full"]:
    """Whether the class token of the tower is left out, in transformers' word."""
    return "full" if original.fields.get("mm_vision_select_feature") == "cls_patch" else "default"


def _padded(table: torch.Tensor, rows: int) -> torch.Tensor:
    """Table (v, d) with rows of its mean below it, (rows, d); one with more rows stays as it is."""
    missing = rows - table.shape[0]
    if missing <= 0:
        return table
    mean = table.float().mean(dim=0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(missing, -1)])


def _tensors(original: Original) -> Tensors:
    """All tensors by the model's names: those of the base, replaced by the folder's own."""
    if original.base is None:
        return rename_llava(read_model_files(original.folder))
    file = original.folder / (NON_LORA_WEIGHTS if original.kind == "lora" else PROJECTOR_FILE)
    own = rename_llava(read_tensors(file))
    if not any(name.startswith(_PROJECTOR) for name in own):
        raise ValueError(f"{file} holds no mm_projector but {', '.join(sorted(own)[:4])}; copy it again")
    if original.base_original is not None:
        return _tensors(original.base_original) | own
    if original.base_kind == "llava":
        whole: Any = load_strict(LlavaForConditionalGeneration, original.base, dtype="auto")
        return whole.state_dict() | own
    return rename_llava(read_model_files(local_folder(original.base))) | own


def rename_llava(tensors: Tensors) -> Tensors:
    """The same tensors under the names of `LlavaForConditionalGeneration`; unknown names stay."""
    return {_rename(name): tensor for name, tensor in tensors.items() if not _COMPUTED.search(name)}


def _rename(name: str) -> str:
    """The model's name of one tensor, without the prefix that a training with PEFT leaves."""
    name = name.removeprefix(_PEFT)
    for pattern, new in _RENAMES:
        name = pattern.sub(new, name)
    return name


def _with_lora(model: Any, folder: Path) -> Any:  # noqa: ANN401
    """The model with the LoRA of an original folder, every tensor of it in its place."""
    files = [folder / name for name in (ADAPTER_WEIGHTS, "adapter_model.bin")]
    found = next((file for file in files if file.is_file()), files[0])
    weights = {_PEFT + _rename(name): tensor for name, tensor in read_tensors(found).items()}
    modules = {name.removeprefix(_PEFT).split(".lora_")[0] for name in weights if ".lora_" in name}
    if not modules:
        raise ValueError(f"{found} holds no LoRA tensors but {', '.join(sorted(weights)[:4])}")
    config: Any = PeftConfig.from_pretrained(str(folder))
    # The short names that the original lists, such as q_proj, are those of modules in the vision tower too.
    config.target_modules = "|".join(re.escape(name) for name in sorted(modules))
    config.task_type = None
    return attach_lora(model, config, weights=weights, file=found)
