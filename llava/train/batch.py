"""Samples put together into the batches that a model reads, padded or packed without padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llava.constants import IGNORE_INDEX

PACKABLE_TEXT = ("llama", "qwen2", "qwen3", "mistral")
"""Language models (`text_config.model_type`) whose layers see a row only through attention, with one position
for each token: what restarting positions keep apart."""
PACKABLE_ATTENTION = ("sdpa", "eager", "flash_attention_2")
"""Implementations that transformers tells where a sample of a row ends."""
ROW_TOKENS = 4096
"""Most tokens of a packed row where nothing says otherwise: three samples of an image and a few masks."""
_TOKEN_FILL = {"labels": IGNORE_INDEX, "mm_token_type_ids": 0}
"""What is written behind the end of features that have one number for each token."""


@dataclass(frozen=True)
class Collator:
    """Batch of features: texts padded on the right, everything of the images joined.

    Attributes:
        pad_id: token id of the padding, which no position attends to.
    """

    pad_id: int

    def __call__(self, features: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """input_ids, labels and attention_mask int64 (b, n); pixel_values float32 (images, 3, S, S).

        Features that have one number for each token are padded, all others joined along their first
        dimension in the order of the samples.
        """
        fill = {"input_ids": self.pad_id, **_TOKEN_FILL}
        batch = {
            name: _padded([feature[name] for feature in features], value)
            for name, value in fill.items()
            if name in features[0]
        }
        batch["attention_mask"] = _padded([torch.ones_like(each["input_ids"]) for each in features], 0)
        return batch | join_images(features)


@dataclass(frozen=True)
class PackedCollator:
    """Batch whose rows hold several samples each, with positions that start anew at every sample.

    transformers takes attention apart where positions restart, if it gets neither a mask nor a cache: no
    token sees another sample. Which samples share a row follows from their lengths alone, so that every
    process and every resumed run gets the same batches.

    Attributes:
        pad_id: token id behind the end of the shorter rows; each of its tokens sees only itself.
        row_tokens: most tokens of a row, or as many as the longest sample of the batch where that has more.
            None puts all samples into one row: what kernels with variable lengths (flash_attention_2) need,
            and no padding at all.
        hidden_size: width of the language model, which tells how long rows are cheapest.
    """

    pad_id: int
    row_tokens: int | None
    hidden_size: int

    def __call__(self, features: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """input_ids, labels and position_ids int64 (rows, n), images as `Collator` joins them, no cache.

        Images come in the order in which their tokens stand in the rows.
        """
        lengths = [len(feature["input_ids"]) for feature in features]
        numbers = [list(range(len(features)))]
        if self.row_tokens is not None:
            budget = max(self.row_tokens, *lengths)
            numbers = fill_rows(lengths, budget, hidden_size=self.hidden_size)
        rows = [[features[number] for number in row] for row in numbers]
        width = max(sum(len(feature["input_ids"]) for feature in row) for row in rows)
        batch: dict[str, Any] = {
            "input_ids": _joined([[each["input_ids"] for each in row] for row in rows], width, self.pad_id),
            "labels": _joined(
                [[_without_first(each["labels"]) for each in row] for row in rows], width, IGNORE_INDEX
            ),
            "position_ids": torch.stack([_positions(row, width) for row in rows]),
            "use_cache": False,
        }
        return batch | join_images([feature for row in rows for feature in row])


@dataclass(frozen=True)
class CollatorWithImage:
    """Batches of another collator, each of which shows an image.

    Where weights are split (DeepSpeed ZeRO-3, FSDP), all processes exchange those of one layer after another.
    One whose batch has no image would leave the vision tower out, or take gradients in another order, and
    meet the others in another layer.

    Attributes:
        collator: makes a batch of features.
        blank: features of a sample with an image and without labels, added where no other sample has one.
    """

    collator: Collator | PackedCollator
    blank: dict[str, torch.Tensor]

    def __call__(self, features: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """The batch of the features, with the blank one behind them if it is needed."""
        shown = any("pixel_values" in each for each in features)
        return self.collator(features if shown else [*features, self.blank])


def fill_rows(lengths: Sequence[int], budget: int, *, hidden_size: int) -> list[list[int]]:
    """Numbers of the samples of each row, rows of nearly equal length.

    For every number of rows, each sample goes into the shortest row, longest sample first; the number that
    takes the fewest operations is kept. In rows of w places attention, which computes every pair of them,
    takes w / (6 hidden_size) of what the linear layers take (24 hidden_size^2 and 4 w hidden_size operations
    for a place, forward), so that a small model wants shorter rows than a large one.

    Args:
        lengths: tokens of each sample, none above the budget.
        budget: most tokens of a row.
        hidden_size: width of the language model.
    """
    best: list[list[int]] = []
    least = math.inf
    for count in range(len(lengths), 0, -1):
        rows: list[list[int]] = [[] for _ in range(count)]
        tokens = [0] * count
        for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
            row = tokens.index(min(tokens))
            rows[row].append(number)
            tokens[row] += lengths[number]
        width = max(tokens)
        if width > budget:
            break
        cost = count * width * (1 + width / (6 * hidden_size))
        if cost < least:
            best, least = rows, cost
    return best


def join_images(features: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Tensors of the images of all samples, each kind joined along its first dimension."""
    names = dict.fromkeys(name for feature in features for name in feature)
    return {
        name: torch.cat([feature[name] for feature in features if name in feature])
        for name in names
        if name != "input_ids" and name not in _TOKEN_FILL
    }


def check_packing(config: Any, attention: str) -> None:  # noqa: ANN401
    """Refuse a model whose samples would see each other in a row.

    Args:
        config: of the whole model.
        attention: name of the implementation that it will run with.

    Raises:
        ValueError: the language model or the attention is not known to keep samples apart.
    """
    text = config.get_text_config()
    if text.model_type not in PACKABLE_TEXT:
        raise ValueError(
            f"--packing True: the language model {text.model_type} of {config.model_type} is not known to "
            f"keep samples of one row apart (known: {', '.join(PACKABLE_TEXT)}); leave it out, batches "
            "grouped by length have little padding"
        )
    if attention not in PACKABLE_ATTENTION:
        raise ValueError(
            f"--packing True: attention {attention!r}; known are {', '.join(PACKABLE_ATTENTION)}"
        )
    if getattr(text, "sliding_window", None) and attention == "flash_attention_2":
        raise ValueError(
            "--packing True: not known with sliding windows in flash_attention_2; take --attn sdpa"
        )


def make_collator(
    pad_id: int, *, packing: bool, row_tokens: int | None, attention: str, hidden_size: int
) -> Collator | PackedCollator:
    """How batches are put together.

    Args:
        pad_id: token id of the padding.
        packing: several samples in a row.
        row_tokens: most tokens of a packed row; None is `ROW_TOKENS`.
        attention: implementation that the model runs with. The kernel of flash_attention_2 wants a batch in
            one row and pays for its samples alone; the others pay for the square of a row's length.
        hidden_size: width of the language model.
    """
    if not packing:
        return Collator(pad_id)
    one_row = attention == "flash_attention_2"
    return PackedCollator(pad_id, None if one_row else row_tokens or ROW_TOKENS, hidden_size)


def _padded(rows: Sequence[torch.Tensor], value: int) -> torch.Tensor:
    """Rows of different lengths (n,), filled up on the right: (b, longest)."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def _joined(rows: Sequence[Sequence[torch.Tensor]], width: int, value: int) -> torch.Tensor:
    """Samples (n,) of each row end to end, filled up on the right: (rows, width)."""
    joined = torch.full((len(rows), width), value, dtype=torch.int64)
    for place, row in enumerate(rows):
        tokens = torch.cat(list(row))
        joined[place, : len(tokens)] = tokens
    return joined


def _without_first(labels: torch.Tensor) -> torch.Tensor:
    """Labels (n,) of a sample that does not teach the one in front of it how to go on."""
    return torch.cat([labels.new_tensor([IGNORE_INDEX]), labels[1:]])


def _positions(row: Sequence[dict[str, torch.Tensor]], width: int) -> torch.Tensor:
    """Positions that start at 0 with every sample and stay there in the padding, int64 (width,)."""
    lengths = [len(feature["input_ids"]) for feature in row]
    padding = torch.zeros(width - sum(lengths), dtype=torch.int64)
    return torch.cat([*(torch.arange(length) for length in lengths), padding])
