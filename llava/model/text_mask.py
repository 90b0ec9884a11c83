"""Text4Seg at inference: a question in, a mask written as text out, decoded to pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from llava.codec import decode
from llava.constants import IMAGE_TOKEN
from llava.data.prompt import find_prompt, render
from llava.data.questions import EVAL_QUESTION, PLACEHOLDER, fill, normalise_expression
from llava.data.tokens import tokenize
from llava.model.backbones import backbone_of_processor
from llava.model.checkpoint import Checkpoint
from llava.model.decoding import PLAIN, check_decoding
from llava.model.decoding.engine import Asked, Decoder
from llava.model.decoding.hints import hints_for
from llava.model.mask_text import mask_text
from llava.types import BoolArray, FloatArray, Prediction, Query

SENTENCE_TOKENS = 64
"""Room for the sentence before the mask text."""


def answer_budget(checkpoint: Checkpoint) -> int:
    """Number of tokens that a long answer of this checkpoint takes.

    `MaskText.longest` is counted with the checkpoint's tokenizer; `SENTENCE_TOKENS` are added. Depends on the
    checkpoint alone, never on the question, so that an answer is cut at the same place in every batch.
    """
    text = mask_text(checkpoint.settings).longest()
    ids = checkpoint.processor.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return len(ids) + SENTENCE_TOKENS


OnRow = Callable[[int, int, BoolArray], None]
"""Called with the number of a target (counted over all queries), the number of a row, and its cells."""


@dataclass(frozen=True)
class _Written:
    """An answer to one prompt, with what is known of its writing."""

    text: str
    truncated: bool
    stats: dict[str, int] = field(default_factory=dict)
    confidence: FloatArray | None = None


class TextMaskSegmenter:
    """Asks a model that writes masks as text.

    Greedy decoding in batches, one prompt for each target, all prompts of a call in one batch. An answer ends
    at the end-of-text token; one that has none within `max_new_tokens` keeps what is there and gets the fault
    "truncated". In every decoding but "plain" a mask is then completed by background instead, whatever that
    takes, and counted as "closed_early" in the stats.

    Args:
        checkpoint: model, processor and settings.
        max_new_tokens: longest answer; None takes `answer_budget(checkpoint)`.
        upsample: how cells become pixels, one of `UPSAMPLING`; None takes that of the settings.
        decoding: one of `llava.model.decoding.DECODINGS`.
        labels: the only labels to write, besides "others"; None leaves the model its own words, so that an
            answer is the plain one wherever that is free of faults and spelled as in training: image-wise
            masks with labels free of angle brackets, blocks without spaces between their parts. Not for
            "plain".
        on_row: sees each row of an R-RLE mask as soon as it is written: a row of bool (columns,), true where
            a cell is inside. Not for "plain".

    Attributes:
        checkpoint: as given.
        max_new_tokens: longest answer in tokens.
        decode_seconds: time spent so far on turning answers into masks.

    Raises:
        ValueError: a wrong option.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        max_new_tokens: int | None = None,
        upsample: str | None = None,
        decoding: str = PLAIN,
        labels: Sequence[str] | None = None,
        on_row: OnRow | None = None,
    ) -> None:
        check_decoding(decoding)
        if decoding == PLAIN and (labels is not None or on_row is not None):
            raise ValueError("decoding 'plain' has neither labels nor on_row; choose another decoding")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {max_new_tokens}: at least 1, or None for the default")
        self._form = mask_text(checkpoint.settings, upsample=upsample)
        self.checkpoint = checkpoint
        self.max_new_tokens = max_new_tokens or answer_budget(checkpoint)
        self.decode_seconds = 0.0
        self._ends = _end_tokens(checkpoint)
        self._backbone = backbone_of_processor(checkpoint.processor)
        self._on_row = on_row
        self._decoder = None
        if decoding != PLAIN:
            self._decoder = Decoder(
                checkpoint,
                self._backbone,
                mode=decoding,
                ends=self._ends,
                limit=self.max_new_tokens,
                labels=labels,
            )

    def segment(self, queries: Sequence[Query]) -> list[Prediction]:
        """One prediction for each query, in order; the same whatever else is in the batch.

        A question of the query is asked as it is, with its `[class_name]`, if any, filled by the target.
        Without one, `EVAL_QUESTION` is asked.

        Raises:
            ValueError: a query has several frames, or its question is empty or shows an image of its own, by
                itself or by its target.
        """
        if not queries:
            return []
        for query in queries:
            if len(query.frames) > 1:
                raise ValueError(
                    f"text4seg answers about one image, the query has {len(query.frames)} frames; "
                    "ask about each frame by itself"
                )
        prompts = [self._tokens(query, target) for query in queries for target in query.targets]
        processor, settings = self.checkpoint.processor, self.checkpoint.settings
        frames = {id(query.frames[0]): query.frames[0] for query in queries}
        inputs = {
            name: self._backbone.image_inputs(frame, processor, settings) for name, frame in frames.items()
        }
        shown = [id(query.frames[0]) for query in queries for _ in query.targets]
        if self._decoder is None:
            answers = iter(self._generate(prompts, _joined([inputs[name] for name in shown])))
        else:
            targets = [target for query in queries for target in query.targets]
            asked = [
                Asked(
                    prompt,
                    list(inputs).index(name),
                    hints_for(target, settings.grid_hw, lead=find_prompt(settings.prompt).before_answer),
                    partial(self._tell_row, self._on_row, number) if self._on_row else None,
                )
                for number, (prompt, name, target) in enumerate(zip(prompts, shown, targets, strict=True))
            ]
            answers = iter(self._write(self._decoder, asked, _joined(list(inputs.values()))))
        started = time.perf_counter()
        predictions = [self._predict(query, [next(answers) for _ in query.targets]) for query in queries]
        self.decode_seconds += time.perf_counter() - started
        return predictions

    def _tokens(self, query: Query, target: str) -> list[int]:
        """Token ids of the prompt for one target."""
        processor, settings = self.checkpoint.processor, self.checkpoint.settings
        question = EVAL_QUESTION if query.question is None else query.question.strip()
        if PLACEHOLDER in question:
            question = fill(question, normalise_expression(target))
        for token in (IMAGE_TOKEN, processor.image_token):
            if not question or token in question:
                raise ValueError(f"question {question!r}: needed is a text without {token}")
        count = self._backbone.image_tokens(query.frames[0].size, processor, settings)
        rounds = [(f"{IMAGE_TOKEN}\n{question}", None)]
        return tokenize(render(settings.prompt, rounds), processor, image_tokens=count)[0]

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[list[int]], images: dict[str, torch.Tensor]) -> list[_Written]:
        """Answer of each prompt, by the model's own plain way."""
        model, tokenizer = self.checkpoint.model, self.checkpoint.processor.tokenizer
        length = max(map(len, prompts))
        pad = self._ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (length - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        more = images | self._backbone.text_inputs(ids, self.checkpoint.processor)
        written = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            **{
                name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
                for name, tensor in more.items()
            },
            generation_config=_greedy(self.max_new_tokens, self._ends, pad),
        )[:, length:]
        return [self._read(row) for row in written.tolist()]

    def _write(
        self, decoder: Decoder, asked: Sequence[Asked], images: dict[str, torch.Tensor]
    ) -> list[_Written]:
        """Answer of each prompt, under the mask grammar."""
        return [
            _Written(
                self._text(writing.tokens),
                writing.truncated,
                writing.stats,
                self._form.confidence(writing.text, writing.spans, writing.blocks),
            )
            for writing in decoder.write(asked, images)
        ]

    def _tell_row(self, on_row: OnRow, target: int, row: int, text: str) -> None:
        """Hand a finished row on as cells."""
        columns = self.checkpoint.settings.grid_hw[1]
        on_row(target, row, decode(text, (1, columns)).grid[0] != 0)

    def _read(self, ids: list[int]) -> _Written:
        """Answer of generated tokens, each of which took a pass."""
        end = next((place for place, token in enumerate(ids) if token in self._ends), None)
        count = len(ids) if end is None else end + 1
        return _Written(self._text(ids), end is None, {"tokens": count, "passes": count})

    def _text(self, ids: Sequence[int]) -> str:
        """Text up to the first end-of-text token."""
        end = next((place for place, token in enumerate(ids) if token in self._ends), None)
        text: str = self.checkpoint.processor.tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _predict(self, query: Query, answers: Sequence[_Written]) -> Prediction:
        """Masks of the answers to one query, one answer for each target."""
        size_hw = query.frames[0].size[::-1]
        texts = [written.text for written in answers]
        read = [self._form.read(text) for text in texts]
        faults = []
        for target, answer, written in zip(query.targets, read, answers, strict=True):
            found = [str(fault) for fault in answer.faults]
            if written.truncated:
                found.insert(0, f"truncated: the answer has no end within {self.max_new_tokens} tokens")
            faults += found if len(query.targets) == 1 else [f"{target!r}: {fault}" for fault in found]
        return Prediction(
            masks=np.stack([self._form.mask(answer, size_hw) for answer in read])[:, None],
            absent=np.array([answer.outcome == "empty" for answer in read]),
            text="\n".join(texts),
            faults=tuple(faults),
            labels=self._form.areas(read, size_hw),
            confidence=_stacked([written.confidence for written in answers]),
            stats={name: sum(written.stats[name] for written in answers) for name in answers[0].stats},
            boxes=self._form.boxes(read, size_hw),
        )


def _joined(images: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Inputs of several images as one batch."""
    return {name: torch.cat([image[name] for image in images]) for name in images[0]}


def _stacked(grids: Sequence[FloatArray | None]) -> FloatArray | None:
    """Float32 (targets, rows, columns), or None where the decoding gives none."""
    found = [grid for grid in grids if grid is not None]
    return np.stack(found) if found else None


def _end_tokens(checkpoint: Checkpoint) -> list[int]:
    """Ids that end an answer: the tokenizer's first, then those of generation config and prompt."""
    tokenizer = checkpoint.processor.tokenizer
    more: Any = checkpoint.model.generation_config.eos_token_id
    listed = more if isinstance(more, list) else [] if more is None else [more]
    stop = tokenizer.convert_tokens_to_ids(find_prompt(checkpoint.settings.prompt).stop)
    return list(dict.fromkeys([tokenizer.eos_token_id, *listed, stop]))


def _greedy(max_new_tokens: int, ends: list[int], pad: int) -> GenerationConfig:
    """Plain greedy decoding; names every setting that a model's own generation config could bring in."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=pad,
    )
