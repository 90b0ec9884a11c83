"""Samples put together into the batches that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llava.constants import IGNORE_INDEX


@dataclass(frozen=True)
class Collator:
    """Batch of features: texts padded on the right, the images of those that have one stacked.

    Attributes:
        pad_id: token id of the padding, which no position attends to.
    """

    pad_id: int

    def __call__(self, features: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """input_ids, labels and attention_mask int64 (b, n); pixel_values float32 (images, 3, S, S)."""
        pad = torch.nn.utils.rnn.pad_sequence
        ids = [feature["input_ids"] for feature in features]
        batch = {
            "input_ids": pad(ids, batch_first=True, padding_value=self.pad_id),
            "labels": pad([f["labels"] for f in features], batch_first=True, padding_value=IGNORE_INDEX),
            "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        }
        images = [feature["pixel_values"] for feature in features if "pixel_values" in feature]
        if images:
            batch["pixel_values"] = torch.cat(images)
        return batch
