"""Tokens of box-wise masks: in tokenizers that do not know them, in embeddings, and among trained weights.

The paper adds 126 tokens to the vocabulary (Text4Seg++, arXiv 2509.06321) and does not say how they start or
what of the vocabulary is trained. Ours: every new row starts as a mean of rows that the model has learnt, of
the words that say what the token means, and by default only the rows of these tokens are trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer

from llava.constants import BRICK_TAGS, BRICK_TOKENS

NEW_TOKENS = ("rows", "full")
"""What is trained of the vocabulary next to adapters: rows of the new tokens, or all of both matrices."""

ROUNDED_TO = 64
"""Vocabularies grow to multiples of this: a size that matrix products of GPUs like."""

_TAG_WORDS = dict(
    zip(BRICK_TAGS, (" label", " end label", " box", " end box", " mask", " end mask"), strict=True)
)
_KIND_WORDS = {"f": " foreground", "b": " background"}


def add_brick_tokens(tokenizer: Any) -> list[str]:  # noqa: ANN401
    """Make every one of `BRICK_TOKENS` one ordinary token of a tokenizer, which is changed in place.

    Ordinary tokens outlast `decode(..., skip_special_tokens=True)`. Where a tokenizer has some of them as
    special tokens (InternVL's `<ref>` and `<box>`), these keep their ids and become ordinary.

    Args:
        tokenizer: a fast tokenizer.

    Returns:
        Those that it did not know, in the order of `BRICK_TOKENS`.

    Raises:
        ValueError: it is no fast tokenizer.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is no fast tokenizer: tokens of masks cannot be added; load the "
            "checkpoint with its tokenizer.json"
        )
    known = set(tokenizer.get_vocab())
    added = [token for token in BRICK_TOKENS if token not in known]
    _make_ordinary(tokenizer, known.intersection(BRICK_TOKENS))
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in BRICK_TOKENS])
    return added


def _make_ordinary(tokenizer: Any, tokens: set[str]) -> None:  # noqa: ANN401
    """Take the mark "special" from tokens; after `add_tokens` alone decoding would still leave them out."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    marked = [entry for entry in state["added_tokens"] if entry["content"] in tokens and entry["special"]]
    if not marked:
        return
    for entry in marked:
        entry["special"] = False
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.extra_special_tokens = [
        token for token in tokenizer.extra_special_tokens if str(token) not in tokens
    ]


def missing_brick_tokens(tokenizer: Any) -> list[str]:  # noqa: ANN401
    """Those of `BRICK_TOKENS` that a tokenizer does not know, or would leave out when it decodes."""
    known, special = set(tokenizer.get_vocab()), set(tokenizer.all_special_tokens)
    return [token for token in BRICK_TOKENS if token not in known or token in special]


def brick_token_ids(tokenizer: Any) -> list[int]:  # noqa: ANN401
    """Ids of `BRICK_TOKENS` in their order; the tokenizer knows them all."""
    return list(tokenizer.convert_tokens_to_ids(list(BRICK_TOKENS)))


def is_tied(model: Any) -> bool:  # noqa: ANN401
    """Whether input embeddings and output head are one matrix."""
    return bool(model.get_input_embeddings().weight is model.get_output_embeddings().weight)


def vocabulary_rows(model: Any) -> int:  # noqa: ANN401
    """Rows of a model's input embeddings, also where ZeRO-3 has split them and left nothing there."""
    weight = model.get_input_embeddings().weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])


def make_room(model: Any, tokenizer: Any) -> None:  # noqa: ANN401
    """Give both vocabulary matrices of a model a row for each token; spare rows at their ends are used first.

    Rows that come along are the mean of the old ones, none is random, so that a model that is loaded again
    has the same. The configuration follows.

    Args:
        model: of a known family, without adapters; changed in place.
        tokenizer: with all of its tokens.
    """
    rows = vocabulary_rows(model)
    if len(tokenizer) <= rows:
        return
    means = [_mean_row(weight, rows) for weight in _matrices(model)]
    wanted = -(-len(tokenizer) // ROUNDED_TO) * ROUNDED_TO
    model.resize_token_embeddings(wanted, mean_resizing=False)
    with torch.no_grad():
        for weight, mean in zip(_matrices(model), means, strict=True):
            weight[rows:] = mean.to(weight)


def start_rows(model: Any, tokenizer: Any, added: Sequence[str]) -> None:  # noqa: ANN401
    """Give new tokens their first rows, in the input embeddings and in the output head alike.

    A tag starts as the mean of the rows of its words. A brick starts half as the mean of the rows of
    "foreground" or "background", half as its number of two digits: two thirds the row of the tens, one third
    that of the ones. No two bricks start alike, and near numbers start near each other.

    Args:
        model: with room for the tokens, without adapters; changed in place.
        tokenizer: that knows them.
        added: the new ones of `BRICK_TOKENS`.
    """
    if not added:
        return
    ids = tokenizer.convert_tokens_to_ids(list(added))
    with torch.no_grad():
        for weight in _matrices(model):
            rows = [_first_row(token, tokenizer, weight) for token in added]
            weight[torch.tensor(ids, device=weight.device)] = torch.stack(rows).to(weight)


def trained_vocabulary(model: Any, token_ids: Sequence[int], what: str) -> dict[str, Any]:  # noqa: ANN401
    """Fields of a `LoraConfig` that train tokens next to the adapters; none where there are no tokens.

    Args:
        model: of a known family, without adapters.
        token_ids: rows to train.
        what: one of `NEW_TOKENS`.
    """
    if not token_ids:
        return {}
    tied = is_tied(model)
    modules = [model.get_input_embeddings()] + [model.get_output_embeddings()] * (not tied)
    names = [next(name for name, found in model.named_modules() if found is module) for module in modules]
    if what == "rows":
        return {"trainable_token_indices": {name: list(token_ids) for name in names}}
    return {"modules_to_save": names, "ensure_weight_tying": tied}


def _matrices(model: Any) -> list[torch.Tensor]:  # noqa: ANN401
    """Weights of the input embeddings and of the head, one where they are tied; (tokens, width) each."""
    tables = [model.get_input_embeddings().weight]
    return tables if is_tied(model) else [*tables, model.get_output_embeddings().weight]


def _mean_row(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """Mean of the first rows in float32, (width,)."""
    return weight.detach()[:rows].float().mean(dim=0)


def _first_row(token: str, tokenizer: Any, weight: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """What a new token starts as, float32 (width,)."""

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    if token in _TAG_WORDS:
        return weight[ids_of(_TAG_WORDS[token])].float().mean(dim=0)
    kind = weight[ids_of(_KIND_WORDS[token[1]])].float().mean(dim=0)
    # Some tokenizers put a mark of a new word in front of a digit; the last token is the digit itself.
    tens, ones = (weight[ids_of(digit)[-1]].float() for digit in f"{int(token[2:-1]):02d}")
    return kind / 2 + (2 * tens + ones) / 6
