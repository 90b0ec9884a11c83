"""Several answers in one cache, although a pass keeps another number of tokens of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from llava.model.backbones import Backbone

SPARE = 64
"""Places of the cache that may lie idle before it is rebuilt without them."""


class Batch:
    """The keys and values of some answers. A place that an answer does not keep is masked out: a hole.

    Positions count kept tokens only, so that holes change nothing. Holes at the end of all answers are cut
    off; the others stay until they are many, or until an answer ends.

    Args:
        model: unchanged model of transformers, on its device.
        backbone: its family.
        processor: of the checkpoint.
        pad: token at places that are masked out.
    """

    def __init__(self, model: Any, backbone: Backbone, processor: Any, *, pad: int) -> None:  # noqa: ANN401
        self._model = model
        self._backbone = backbone
        self._processor = processor
        self._pad = pad
        self._cache = DynamicCache()
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)
        self._shift = torch.zeros(0, 1, dtype=torch.long, device=model.device)

    def read(
        self,
        prompts: Sequence[Sequence[int]],
        images: dict[str, torch.Tensor],
        guesses: Sequence[Sequence[int]],
    ) -> torch.Tensor:
        """Take in the start of each prompt, with its image, and what is guessed to follow.

        Args:
            prompts: token ids.
            images: inputs of the vision tower, those of all prompts joined.
            guesses: token ids behind each prompt, may be none.

        Returns:
            float (prompts, 1 + longest guess, tokens), scores behind each prompt and each token of its guess.
        """
        device, dtype = self._model.device, self._model.dtype
        ids, mask = self._prompted(prompts, guesses)
        more = images | self._backbone.text_inputs(ids.cpu(), self._processor)
        more = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in more.items()
        }
        positions, self._shift = self._backbone.positions(self._model, ids, mask, more)
        self._mask = mask
        return self._pass(ids, positions, logits_to_keep=1 + max(map(len, guesses)), **more)

    def spread(self, owners: Sequence[int]) -> None:
        """Make the answers anew of old ones, by number: dropped, reordered or repeated; without holes."""
        rows = torch.tensor(owners, device=self._mask.device)
        mask = self._mask[rows]
        longest = int(mask.sum(1).max())
        places = mask.argsort(dim=1, stable=True)[:, -longest:]
        layers: Any = self._cache.layers
        for layer in layers:
            _, heads, _, size = layer.keys.shape
            index = places[:, None, :, None].expand(-1, heads, -1, size)
            layer.keys = layer.keys[rows].gather(2, index)
            layer.values = layer.values[rows].gather(2, index)
        self._mask = mask.gather(1, places)
        self._shift = self._shift[rows]

    def put(self, chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        """Put tokens behind each answer; scores behind every one of them.

        Args:
            chunks: token ids, at least one for each answer.

        Returns:
            float (answers, longest chunk, tokens).
        """
        return self._put(*self._padded(chunks, left=False), logits_to_keep=0)

    def put_prompts(self, prompts: Sequence[Sequence[int]], guesses: Sequence[Sequence[int]]) -> torch.Tensor:
        """Put the rests of prompts behind their starts, at least one token each; otherwise as `read`."""
        return self._put(*self._prompted(prompts, guesses), logits_to_keep=1 + max(map(len, guesses)))

    def keep(self, counts: Sequence[int], width: int) -> None:
        """Of the last `width` places keep only the first tokens of each answer, so many as `counts` says."""
        drop = width - max(counts)
        if drop:
            self._cache.crop(-drop)
            self._mask = self._mask[:, :-drop]
        kept = torch.tensor(counts, device=self._mask.device)[:, None]
        self._mask[:, -max(counts) :] *= torch.arange(max(counts), device=kept.device) < kept

    def has_waste(self) -> bool:
        """Whether so many places lie idle that a rebuild pays."""
        used = int(self._mask.sum(1).max())
        return self._mask.shape[1] - used > max(SPARE, used // 4)

    def _put(self, ids: torch.Tensor, real: torch.Tensor, *, logits_to_keep: int) -> torch.Tensor:
        """Put tokens behind each answer; `real` is 0 at padding."""
        known = self._mask.sum(1, keepdim=True) + self._shift
        positions = known + (real.cumsum(1) - 1).clamp(min=0)
        self._mask = torch.cat([self._mask, real], dim=1)
        return self._pass(ids, positions, logits_to_keep=logits_to_keep)

    def _prompted(
        self, prompts: Sequence[Sequence[int]], guesses: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask int64 (prompts, longest prompt + longest guess), each prompt next to its guess."""
        ids, mask = zip(self._padded(prompts, left=True), self._padded(guesses, left=False), strict=True)
        return torch.cat(ids, dim=1), torch.cat(mask, dim=1)

    def _padded(self, chunks: Sequence[Sequence[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask int64 (answers, longest)."""
        width = max(map(len, chunks))
        ids, mask = [], []
        for chunk in chunks:
            empty = width - len(chunk)
            parts = ([self._pad] * empty, list(chunk)) if left else (list(chunk), [self._pad] * empty)
            ones = ([0] * empty, [1] * len(chunk)) if left else ([1] * len(chunk), [0] * empty)
            ids.append(parts[0] + parts[1])
            mask.append(ones[0] + ones[1])
        device = self._model.device
        whole = {"dtype": torch.long, "device": device}
        return torch.tensor(ids, **whole), torch.tensor(mask, **whole)

    def _pass(self, ids: torch.Tensor, positions: torch.Tensor, **more: Any) -> torch.Tensor:  # noqa: ANN401
        """Logits of one pass through the model: float (answers, places, tokens)."""
        logits: torch.Tensor = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            **more,
        ).logits
        return logits
