"""The tiny LLaVA, and how several rounds go on from one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizer import build as build_tokenizer
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionModel,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from llava.data.prompt import chat_template, render
from llava.data.tokens import tokenize

Llava = Any
"""A `LlavaForConditionalGeneration`, whose type hints know less than its configuration."""


def build_model(vision: Path, seed: int) -> tuple[Llava, LlavaProcessor]:
    """New tiny LLaVA around the pre-trained vision tower, and its processor."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    tower = CLIPVisionModel.from_pretrained(vision)
    side, patch = int(tower.config.image_size), int(tower.config.patch_size)  # type: ignore[arg-type]
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.03,
    )
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=tokenizer.image_token_id,
        vision_feature_layer=-1,
        image_seq_length=(side // patch) ** 2,
    )
    model: Llava = LlavaForConditionalGeneration(config)
    model.set_attn_implementation("eager")
    loaded = model.model.vision_tower.load_state_dict(tower.state_dict(), strict=True)
    assert not loaded.missing_keys
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(tokenizer, name))
    size: Any = {"height": side, "width": side}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, crop_size=size),
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("plain_v1"),
    )
    return model, processor


def read_images(model: Llava, prefix: torch.Tensor, states: torch.Tensor) -> DynamicCache:
    """Keys and values of what every round about an image begins with.

    Args:
        model: the LLaVA.
        prefix: int64 (images, length), up to the last image token.
        states: float (images, patches, width), output of the vision tower.
    """
    language = model.model.language_model
    embeds = language.embed_tokens(prefix)
    images = model.model.multi_modal_projector(states).to(embeds.dtype)
    embeds = embeds.masked_scatter((prefix == model.config.image_token_index)[..., None], images)
    shared = DynamicCache()
    language(inputs_embeds=embeds, past_key_values=shared, use_cache=True)
    return shared


def go_on(model: Llava, shared: DynamicCache, images: torch.Tensor, tokens: torch.Tensor) -> Any:  # noqa: ANN401
    """Output of the language model, all hidden states and attentions too, for rounds after a shared prefix.

    Args:
        model: the LLaVA.
        shared: of `read_images`.
        images: int64 (rounds,), row of the prefix that each round goes on from.
        tokens: int64 (rounds, length).
    """
    layers: Any = shared.layers
    first = shared.get_seq_length()
    return model.model.language_model(
        inputs_embeds=model.model.language_model.embed_tokens(tokens),
        position_ids=torch.arange(first, first + tokens.shape[1])[None],
        past_key_values=DynamicCache([(layer.keys[images], layer.values[images]) for layer in layers]),
        use_cache=True,
        output_hidden_states=True,
        output_attentions=True,
    )


def prefix_length(processor: LlavaProcessor) -> int:
    """Number of tokens up to and including the last image token."""
    ids, _ = tokenize(render("plain_v1", [("<image>\nQ", None)]), processor)
    return len(ids) - ids[::-1].index(processor.tokenizer.image_token_id)
