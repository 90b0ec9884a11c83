"""Writes the answers of a batch: guess, one pass, keep what holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from llava.model.backbones import Backbone
from llava.model.checkpoint import Checkpoint
from llava.model.decoding.batch import Batch
from llava.model.decoding.drafts import Hints
from llava.model.decoding.writing import Scores, Writing
from llava.model.mask_text import mask_text


@dataclass(frozen=True)
class Asked:
    """One prompt.

    Attributes:
        prompt: its token ids.
        image: number of its image among those of the batch.
        hints: what is known of the answer.
        on_row: called with the number and the text of each finished row of an R-RLE mask.
    """

    prompt: Sequence[int]
    image: int
    hints: Hints
    on_row: Callable[[int, str], None] | None = None


class Decoder:
    """Greedy decoding under the mask grammar, with unchanged models of transformers.

    Every mode but "plain" writes the text that one pass for each token writes: at each place the best allowed
    token, given the tokens before it. In float32 that is exact unless two scores agree to the last digits; in
    bfloat16 a pass over several tokens rounds otherwise than passes over one, so that an answer may differ
    where two tokens are nearly as probable.

    Prompts about one image share its pass through the vision tower and the tokens that they begin with.

    Args:
        checkpoint: model, processor and settings.
        backbone: family of the model.
        mode: "constrained", "forced" or "fast", see `llava.model.decoding.DECODINGS`.
        ends: tokens that end an answer; the first one pads where the tokenizer has no padding.
        limit: most tokens that the model decides.
        labels: the only labels that a mask may use, besides "others"; None leaves the model its own words.

    Raises:
        ValueError: labels that the tokenizer cannot write.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        backbone: Backbone,
        *,
        mode: str,
        ends: Sequence[int],
        limit: int,
        labels: Sequence[str] | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._backbone = backbone
        self._mode = mode
        self._limit = limit
        tokenizer = checkpoint.processor.tokenizer
        self._pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        outputs = checkpoint.model.get_output_embeddings()
        self._language = mask_text(checkpoint.settings).language(
            tokenizer, outputs.weight.shape[0], ends=ends, labels=labels
        )

    @torch.inference_mode()
    def write(self, asked: Sequence[Asked], images: dict[str, torch.Tensor]) -> list[Writing]:
        """Answers to some prompts.

        Args:
            asked: the prompts; each image belongs to one at least.
            images: inputs of the vision tower, those of all images joined.
        """
        writings = [Writing(self._language, one.hints, limit=self._limit, on_row=one.on_row) for one in asked]
        batch = Batch(self._checkpoint.model, self._backbone, self._checkpoint.processor, pad=self._pad)
        self._first(batch, writings, asked, images)
        live = list(range(len(writings)))
        while live:
            going = [place for place, number in enumerate(live) if not writings[number].ended]
            if going and (len(going) < len(live) or batch.has_waste()):
                batch.spread(going)
            live = [live[place] for place in going]
            if live:
                self._step(batch, [writings[number] for number in live])
        return writings

    def _step(self, batch: Batch, writings: Sequence[Writing]) -> None:
        """One pass for all unfinished answers."""
        guesses = [writing.guess(self._mode) for writing in writings]
        chunks = [[writing.tokens[-1], *guess] for writing, guess in zip(writings, guesses, strict=True)]
        _take(batch, writings, guesses, batch.put(chunks))

    def _first(
        self,
        batch: Batch,
        writings: Sequence[Writing],
        asked: Sequence[Asked],
        images: dict[str, torch.Tensor],
    ) -> None:
        """The pass of the prompts, with a guess behind each of them; each image is read once.

        What all prompts about an image begin with counts for no answer, so that its stats do not depend on
        what else is asked.
        """
        guesses = [writing.guess(self._mode) for writing in writings]
        owners = [one.image for one in asked]
        if owners == list(range(len(asked))):
            logits = batch.read([one.prompt for one in asked], images, guesses)
        else:
            shared = [
                _common([one.prompt for one in asked if one.image == image]) for image in sorted(set(owners))
            ]
            batch.read(shared, images, [[]] * len(shared))
            batch.spread(owners)
            rests = [one.prompt[len(shared[one.image]) :] for one in asked]
            logits = batch.put_prompts(rests, guesses)
        _take(batch, writings, guesses, logits)


def _take(
    batch: Batch, writings: Sequence[Writing], guesses: Sequence[list[int]], logits: torch.Tensor
) -> None:
    """Let each answer go on with what a pass says behind its newest token and its guess; forget the rest."""
    found = _scores(logits, [1 + len(guess) for guess in guesses])
    kept = [
        1 + writing.take(scores, guess)
        for writing, scores, guess in zip(writings, found, guesses, strict=True)
    ]
    batch.keep(kept, logits.shape[1])


def _common(prompts: Sequence[Sequence[int]]) -> Sequence[int]:
    """Tokens that all prompts begin with, at least one left over in each."""
    length = min(map(len, prompts)) - 1
    same = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return prompts[0][: min(length, sum(1 for _ in same))]


def _scores(logits: torch.Tensor, lengths: Sequence[int]) -> list[Scores]:
    """What a pass says, for each answer; `lengths` are its places that count."""
    best = logits.argmax(-1)
    chosen = logits.gather(-1, best[..., None])[..., 0].float()
    probability = (chosen - logits.float().logsumexp(-1)).exp().tolist()
    return [
        Scores(ids[:length], chances[:length], rows)
        for ids, chances, rows, length in zip(best.tolist(), probability, logits, lengths, strict=True)
    ]
