"""The tiny LLaVA before training: a projector that speaks in words, and attention that looks for its like.

Stands in for what real models bring along: a projector aligned on captions (LLaVA's first stage), words that
stand out from what the layers add to them, and heads that copy and match. From random weights the language
model learns last of all to match a word with what is small in the features, and colour is.
"""

from __future__ import annotations

import torch
from attributes import COLOUR_NAMES, OBJECT_HEADS
from hints import HINT_LAYER, LOOKING_HEADS
from pretrain_vision import DenseHead
from tiny_llava import Llava
from torch import nn
from transformers import LlavaProcessor

from llava.data.refshapes.scene import SHAPES, TEXTURES

Tensor = torch.Tensor

FOREGROUND_WEIGHT = 2.0
"""How far background patches fall behind in every number that describes an object, in standard deviations."""

FIRST_WORDS = {"left": "leftmost", "right": "rightmost", "top": "topmost", "bottom": "bottommost"}


def words_of_units() -> dict[int, str]:
    """Word that each output of the dense head stands for, where there is one; heads in their order."""
    words: dict[int, str] = {}
    offset = 2
    for head in OBJECT_HEADS:
        names = {"colour": COLOUR_NAMES, "shape": list(SHAPES), "texture": list(TEXTURES)}.get(head.name, [])
        words |= {offset + number: name for number, name in enumerate(names)}
        if head.name.startswith("first_"):
            words[offset + 1] = FIRST_WORDS[head.name.removeprefix("first_")]
        offset += head.classes
    return words


def head_rows(head: DenseHead, flat: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and biases that read foreground, object heads, row and column; standard size, objects only.

    Args:
        head: dense head of the tower.
        flat: float (n, width), features of patches.
    """
    named = 1 + len(OBJECT_HEADS) + 2
    count = sum(head.sizes[:named])
    read = head.linear.weight[:count]
    is_object = (head.linear.weight[1] - head.linear.weight[0])[None]
    inside = (flat @ is_object.T + head.linear.bias[1] - head.linear.bias[0])[:, 0] > 0
    rows = read / (flat[inside] @ read.T).std(0)[:, None]
    gate = FOREGROUND_WEIGHT * is_object / (flat @ is_object.T).std()
    object_heads = slice(2, sum(head.sizes[: 1 + len(OBJECT_HEADS)]))
    rows[object_heads] += gate
    return rows, -(flat[inside] @ rows.T).mean(0)


def start_projector(model: Llava, head: DenseHead, features: Tensor, processor: LlavaProcessor) -> None:
    """Set the projector's weights.

    Args:
        model: its projector is changed.
        head: dense head of its tower.
        features: float (n, patches, width), features of some images.
        processor: its tokenizer knows the words.
    """
    flat = features.flatten(0, 1)
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        rows, biases = head_rows(head, flat)
        values, vectors = torch.linalg.eigh(torch.cov(flat.T))
        white = (vectors / values.clamp(min=1e-3).sqrt()).T
        more = torch.randn(len(projector.linear_1.weight) - len(rows), len(white)) @ white
        more = more / (flat @ more.T).std(0)[:, None]
        projector.linear_1.weight.copy_(torch.cat([rows, more]))
        projector.linear_1.bias.copy_(torch.cat([biases, -(flat @ more.T).mean(0)]))
        nn.init.orthogonal_(projector.linear_2.weight, gain=0.3 * WORD_SIZE / 0.06)
        embeddings = model.get_input_embeddings().weight
        for unit, word in words_of_units().items():
            (token,) = processor.tokenizer(f" {word}").input_ids
            projector.linear_2.weight[:, unit] = embeddings[token]


MATCHING = 1.5
"""Size of the weights that make a token look at what resembles it."""

WORD_SIZE = 0.5
"""Standard deviation of the word vectors."""

COPYING = 0.3
"""Share of what a token sees that is added to it."""


def start_words(model: Llava, seed: int) -> None:
    """Draw the words large enough that the first layers do not drown them."""
    with torch.no_grad():
        chance = torch.Generator().manual_seed(seed)
        model.get_input_embeddings().weight.normal_(std=WORD_SIZE, generator=chance)


def start_attention(model: Llava) -> None:
    """Let two heads look for what resembles their own token, and the first layers copy what they see.

    Only the slowly turning half of the rotary dimensions is used, so that distance hardly matters.
    """
    layers = model.model.language_model.layers
    width, size = model.config.text_config.hidden_size, model.config.text_config.head_dim
    slow = [*range(size // 4, size // 2), *range(size * 3 // 4, size)]
    with torch.no_grad():
        for layer in layers[1:HINT_LAYER]:
            for head in range(LOOKING_HEADS):
                same = nn.init.orthogonal_(torch.empty(len(slow), width), gain=MATCHING)
                rows = [head * size + dimension for dimension in slow]
                for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                    projection.weight[head * size : (head + 1) * size] = 0
                    projection.weight[rows] = same
        for layer in layers[: HINT_LAYER - 1]:
            layer.self_attn.v_proj.weight += torch.eye(width)
            layer.self_attn.o_proj.weight += COPYING * torch.eye(width)
