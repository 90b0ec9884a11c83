"""Passes through the model that an answer takes in each way of decoding, without a model.

    python scripts/bench/replay.py playground/data/refer_seg --split refcoco/val --split refcocog/val \
        --tokenizer checkpoints/vicuna-7b-v1.5 --grids 16 24 32
    python scripts/bench/replay.py playground/data/refer_seg --split refcoco/val --codec bricks \
        --tokenizer checkpoints/vicuna-7b-v1.5 --grids 32 64

True answers are written again token by token, by the very code that decodes (`llava.model.decoding.writing`):
the "model" is one that always wants the next true token. So the counts are those of a model that writes these
answers, at any size, with this tokenizer. An answer is a sentence of the training templates, the mask of one
expression, and the end of the text; the mask alone, tags included, is counted as well.

Prints a markdown table of means. Ways: "full" is one label for each cell of the image and one pass for each
token; all others write run lengths, or with --codec bricks a box and the bricks of its inside: one pass for
each token, prompt lookup as in transformers (simulated), forced tokens where labels are free, and fast
decoding with drafts of rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import command
from tqdm import tqdm

from llava.codec import clean_label, encode, mask_answer, rle_to_grid
from llava.codec.boxwise import block_of, box_answer, write_block
from llava.constants import BACKGROUND
from llava.data.prompt import find_prompt
from llava.data.questions import ANSWER_PARTIAL, EVAL_QUESTION, fill, normalise_expression
from llava.data.readers.refer import parse_spec, read_refer
from llava.data.rle import decode_rle
from llava.files import write_text_atomic
from llava.model.decoding.drafts import Hints
from llava.model.decoding.hints import hints_for
from llava.model.decoding.vocabulary import MaskLanguage
from llava.model.decoding.writing import Scores, Writing
from llava.model.mask_text import mask_text
from llava.model.new_tokens import add_brick_tokens
from llava.model.original_tokenizer import original_tokenizer
from llava.settings import BRICKS, SegmentationSettings
from llava.types import Sample

WAYS = ("full", "plain", "lookup", "forced", "fast")
NGRAM, LOOKED_UP = 2, 10
"""Longest n-gram and number of tokens of prompt lookup: the defaults of transformers' generation config."""
NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class Row:
    """Means over the answers about one set of masks, with one tokenizer and grid.

    Attributes:
        data: name of the set.
        tokenizer: name of the tokenizer's folder.
        grid: side of the grid.
        answers: how many.
        passes: passes of each of `WAYS` for a whole answer; for "full" and "plain" that is its tokens.
        mask_passes: the same for the mask alone.
        drafted: tokens that fast decoding guessed for a whole answer.
    """

    data: str
    tokenizer: str
    grid: int
    answers: int
    passes: dict[str, float]
    mask_passes: dict[str, float]
    drafted: float


def replay(language: MaskLanguage, hints: Hints, truth: Sequence[int], mode: str) -> dict[str, int]:
    """Statistics of an answer that a model writes which wants the true tokens.

    Args:
        language: grammar and tokens.
        hints: what is known of the answer.
        truth: its token ids, the end included.
        mode: "constrained", "forced" or "fast".

    Raises:
        ValueError: the grammar does not allow the answer.
    """
    writing = Writing(language, hints, limit=NO_LIMIT)
    no_scores = torch.zeros(1, language.size)
    drafted = writing.guess(mode)
    while not writing.ended:
        start, count = len(writing.tokens), len(drafted) + 1
        wanted = [*truth[start : start + count]]
        wanted += [truth[-1]] * (count - len(wanted))
        writing.take(Scores(wanted, [1.0] * count, no_scores.expand(count, -1)), drafted)
        if writing.tokens != list(truth[: len(writing.tokens)]):
            raise ValueError(
                f"the grammar does not allow the answer {writing.text.decode(errors='replace')!r}"
            )
        drafted = [] if writing.ended else writing.guess(mode)
    return writing.stats


def lookup_passes(prompt: Sequence[int], truth: Sequence[int]) -> int:
    """Passes of transformers' prompt lookup for an answer.

    The tokens behind the first earlier place that ends in the newest two tokens, or in the newest one, are
    guessed.
    """
    written, passes = list(prompt), 0
    end = len(prompt) + len(truth)
    whole = [*prompt, *truth]
    while len(written) < end:
        guess = _looked_up(written)
        held = 0
        while held < len(guess) and len(written) + held < end and guess[held] == whole[len(written) + held]:
            held += 1
        written = whole[: len(written) + held + 1]
        passes += 1
    return passes


def _looked_up(written: Sequence[int]) -> Sequence[int]:
    """Guess of prompt lookup behind some tokens."""
    for size in range(min(NGRAM, len(written) - 1), 0, -1):
        newest = written[-size:]
        for place in range(len(written) - size):
            if written[place : place + size] == newest:
                return written[place + size : place + size + LOOKED_UP]
    return []


class Answers:
    """Answers about samples, in the tokens of one tokenizer, on one grid.

    Args:
        tokenizer: fast tokenizer with an end-of-text token; bricks are added to it if they are asked for.
        side: side of the grid, of the image or of each box.
        codec: "rrle" or "bricks".
    """

    def __init__(self, tokenizer: Any, side: int, codec: str = "rrle") -> None:  # noqa: ANN401
        self.tokenizer = tokenizer
        self.grid_hw = (side, side)
        self.end = int(tokenizer.eos_token_id)
        self.settings = SegmentationSettings(codec=codec, grid_hw=self.grid_hw)
        self.prompt = find_prompt(self.settings.prompt)
        if codec == BRICKS:
            add_brick_tokens(tokenizer)
        self.language = mask_text(self.settings).language(tokenizer, len(tokenizer), ends=[self.end])

    def ids(self, text: str) -> list[int]:
        """Tokens of an answer as it stands behind a prompt, with its end."""
        asked = self.prompt.assistant
        before, whole = (
            self.tokenizer(one, add_special_tokens=False, verbose=False).input_ids
            for one in (asked, f"{asked}{self.prompt.before_answer}{text}")
        )
        return [*whole[len(before) :], self.end]

    def passes(self, sample: Sample, template: str, *, whole: bool) -> tuple[dict[str, int], int]:
        """Passes of each way for one answer, and the number of drafted tokens.

        Args:
            sample: expression and mask.
            template: sentence in front of the mask.
            whole: count sentence, mask and end; otherwise the mask with its tags and the end.
        """
        name = normalise_expression(sample.expression)
        names, grid = (BACKGROUND, clean_label(name)), rle_to_grid(sample.mask, self.grid_hw).astype(np.int64)
        sentence, lead = fill(template, name), self.prompt.before_answer
        hints = hints_for(name, self.grid_hw, lead=lead)
        full = mask_answer(sentence, encode(grid, names, codec="full"))
        if self.settings.codec == BRICKS:
            block = block_of(name, decode_rle(sample.mask), self.grid_hw)
            order, tail = self.settings.brick_order, self.settings.brick_tail
            answer = box_answer(sentence, [write_block(block, order=order, tail=tail)])
        else:
            answer = mask_answer(sentence, encode(grid, names))
        if not whole:
            full, answer = (text.removeprefix(f"{sentence}\n") for text in (full, answer))
            hints = Hints(self.grid_hw, names[1:], ("",), lead)
        truth = self.ids(answer)
        prompt = self.ids(fill(EVAL_QUESTION, name))[:-1]
        fast = replay(self.language, hints, truth, "fast")
        found = {
            "full": len(self.ids(full)),
            "plain": len(truth),
            "lookup": lookup_passes(prompt, truth),
            "forced": replay(self.language, hints, truth, "forced")["passes"],
            "fast": fast["passes"],
        }
        return found, fast["drafted"]


def measure(name: str, samples: Sequence[Sample], answers: Answers, tokenizer: str, *, seed: int = 0) -> Row:
    """One row of the table."""
    rng = np.random.default_rng(seed)
    wholes, masks, drafted = [], [], []
    for sample in tqdm(samples, desc=f"{name} {tokenizer} {answers.grid_hw[0]}", unit="answer"):
        template = ANSWER_PARTIAL[int(rng.integers(len(ANSWER_PARTIAL)))]
        passes, guessed = answers.passes(sample, template, whole=True)
        wholes.append(passes)
        drafted.append(guessed)
        masks.append(answers.passes(sample, template, whole=False)[0])
    return Row(
        data=name,
        tokenizer=tokenizer,
        grid=answers.grid_hw[0],
        answers=len(samples),
        passes={way: float(np.mean([one[way] for one in wholes])) for way in WAYS},
        mask_passes={way: float(np.mean([one[way] for one in masks])) for way in WAYS},
        drafted=float(np.mean(drafted)),
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown table: passes for a whole answer, then for the mask alone."""
    head = ["masks", "tokenizer", "grid", "full", "plain", "lookup", "forced", "fast", "plain / fast"]
    head += ["mask: plain", "forced", "fast", "plain / fast"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for row in rows:
        mask = row.mask_passes
        cells = [f"{row.data} ({row.answers})", row.tokenizer, str(row.grid)]
        cells += [f"{row.passes[way]:.1f}" for way in WAYS] + [
            f"{row.passes['plain'] / row.passes['fast']:.1f}x"
        ]
        cells += [f"{mask[way]:.1f}" for way in ("plain", "forced", "fast")]
        lines.append([*cells, f"{mask['plain'] / mask['fast']:.1f}x"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_splits(root: Path, specs: Sequence[str]) -> dict[str, list[Sample]]:
    """Samples by dataset; masks that mark no pixel are left out, for their answer is always the same."""
    found: dict[str, list[Sample]] = {}
    for spec in specs:
        parsed = parse_spec(spec.replace("/", "|"))
        samples = read_refer(root, str(parsed), check_images=False)
        found.setdefault(parsed.dataset, []).extend(one for one in samples if not one.no_target)
    return found


def spread(samples: Sequence[Sample], limit: int) -> list[Sample]:
    """So many samples, evenly spread; all of them for 0."""
    if not 0 < limit < len(samples):
        return list(samples)
    return [samples[place * len(samples) // limit] for place in range(limit)]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Callable[..., Any] = parser.add_argument
    add("data", type=Path, help="root of REFER datasets")
    add("--split", action="append", required=True, help="dataset/split, as refcoco/val; several times")
    add("--tokenizer", type=Path, action="append", required=True, help="its folder; several times")
    add("--grids", type=int, nargs="+", default=[16, 24, 32], help="sides of the grids")
    add("--codec", choices=("rrle", BRICKS), default="rrle", help="form of the masks (default: rrle)")
    add("--limit", type=int, default=0, help="take so many expressions of each set, evenly spread; 0: all")
    add("--joined", default="", help="take all datasets as one, under this name")
    add("--json", type=Path, help="file for the numbers, which scripts/passes_figure.py draws")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parse(argv)
    sets = read_splits(options.data, options.split)
    if options.joined:
        sets = {options.joined: [sample for samples in sets.values() for sample in samples]}
    sets = {name: spread(samples, options.limit) for name, samples in sets.items()}
    rows = []
    for folder in options.tokenizer:
        tokenizer = original_tokenizer(folder)
        for side in options.grids:
            answers = Answers(tokenizer, side, options.codec)
            rows += [measure(name, samples, answers, folder.name) for name, samples in sets.items()]
    if options.json:
        write_text_atomic(options.json, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    command(main)
