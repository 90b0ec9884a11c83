"""Tokens, passes and time of an answer in each way of decoding, in one run on the same images.

    python scripts/bench/decoding.py playground/data/refer_seg --split refshapes/val \
        --model-path playground/checkpoints/tiny-llava-refshapes --limit 40
    python scripts/bench/decoding.py playground/data/refer_seg --split refcoco/val \
        --scripted 7b --tokenizer checkpoints/vicuna-7b-v1.5 --grid 16 --limit 40     # that size, no weights

Several --model-path make one table. With --scripted the model computes with random weights and writes the
true answers (see scripted.py); "full" then writes one label for each cell, which no trained model knows.

Prints a markdown table. Ways take turns at going first, each is warmed up by one answer. Seconds are medians
over answers, vision tower and prompt included: of processor time on the CPU, by the clock on a GPU. "less
time" is the median of the time that plain decoding takes for the same answer, divided by its own. All else is
means. "equal" is the share of answers that have the very text of constrained decoding. How many of the valid
plain answers constrained decoding writes alike is told above the table.

"lookup" counts the passes that prompt lookup of transformers would take for the plain answers; its own code
fails on prompts with images (transformers 5.23). Neither CUDA graphs nor compilation are used: a pass is as
long as its guess, and the cache grows with each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import torch
from command import command
from replay import lookup_passes, read_splits, spread
from scripted import SIZES, Script, scripted
from tqdm import tqdm

from llava.codec import clean_label, encode, mask_answer, rle_to_grid
from llava.constants import BACKGROUND
from llava.data.images import load_image
from llava.data.questions import ANSWER_PARTIAL, EVAL_QUESTION, fill, normalise_expression
from llava.data.rle import decode_rle
from llava.eval.metrics import RegionScores, overlap
from llava.files import write_text_atomic
from llava.model.checkpoint import Checkpoint, load_checkpoint
from llava.model.decoding import PLAIN
from llava.model.hub import find_settings
from llava.model.text_mask import TextMaskSegmenter
from llava.model.weights import choose_device, choose_dtype
from llava.types import Prediction, Query, Sample

FULL, LOOKUP, CONSTRAINED = "full", "lookup", "constrained"
DECODED = (PLAIN, CONSTRAINED, "forced", "fast")


@dataclass
class Measured:
    """Sums over all answers of one way.

    Attributes:
        tokens: written.
        passes: through the model.
        seconds: taken for an answer of each batch; none where nothing was run.
        faulty: whether each answer has a fault.
        texts: the answers.
        scores: of the masks.
    """

    tokens: int = 0
    passes: int = 0
    seconds: list[float] = field(default_factory=list)
    faulty: list[bool] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scores: RegionScores = field(default_factory=RegionScores)

    def add(self, predictions: Sequence[Prediction], samples: Sequence[Sample], seconds: float) -> None:
        """Take in a batch."""
        self.seconds.append(seconds / len(samples))
        for prediction, sample in zip(predictions, samples, strict=True):
            self.tokens += prediction.stats["tokens"]
            self.passes += prediction.stats["passes"]
            self.faulty.append(bool(prediction.faults))
            self.scores.update(overlap(prediction.masks[0, 0], decode_rle(sample.mask)))
            self.texts.append(prediction.text)


@dataclass(frozen=True)
class Line:
    """One line of the table: means per answer, median times, None where nothing was run; shares up to 1."""

    model: str
    masks: str
    way: str
    tokens: float
    passes: float
    fewer_passes: float
    seconds: float | None
    less_time: float | None
    invalid: int
    ciou: float | None
    equal: float | None


Prepare = Callable[[Sample, str], None]
"""Told which sample comes next, and in which codec, before a scripted model is asked."""


def follow(script: Script, checkpoint: Checkpoint) -> Prepare:
    """Sets a script to the true answer."""

    def prepare(sample: Sample, codec: str) -> None:
        name, tokenizer = normalise_expression(sample.expression), checkpoint.processor.tokenizer
        grid = rle_to_grid(sample.mask, checkpoint.settings.grid_hw).astype(int)
        text = encode(grid, (BACKGROUND, clean_label(name)), codec=codec)
        answer = mask_answer(fill(ANSWER_PARTIAL[0], name), text)
        ids = tokenizer(answer, add_special_tokens=False, verbose=False).input_ids
        script.set([*ids, tokenizer.eos_token_id])

    return prepare


def clock(device: torch.device) -> float:
    """Seconds: of processor time on the CPU; by the clock on a GPU, when its work is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(
    ways: dict[str, TextMaskSegmenter],
    samples: Sequence[Sample],
    *,
    batch: int = 1,
    prepare: Prepare | None = None,
) -> dict[str, Measured]:
    """Every way's answers about all samples.

    Args:
        ways: segmenters by name, of one model.
        samples: what to ask.
        batch: questions in one call.
        prepare: for a scripted model.
    """
    found = {name: Measured() for name in ways}
    device = next(iter(ways.values())).checkpoint.model.device
    starts = range(0, len(samples), batch)
    for turn, start in enumerate(tqdm([0, *starts], desc="answers", unit="batch")):
        asked = samples[start : start + batch]
        queries = [Query([load_image(one.image_path)], [one.expression]) for one in asked]
        names = list(ways)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if prepare:
                prepare(asked[0], ways[name].checkpoint.settings.codec)
            began = clock(device)
            predictions = ways[name].segment(queries)
            if turn:
                found[name].add(predictions, asked, clock(device) - began)
    return found


def looked_up(plain: Measured, samples: Sequence[Sample], tokenizer: Any) -> Measured:  # noqa: ANN401
    """What prompt lookup would take for the plain answers; nothing is run, so it has no time."""
    found = replace(plain, passes=0, seconds=[])
    for text, sample in zip(plain.texts, samples, strict=True):
        question = fill(EVAL_QUESTION, normalise_expression(sample.expression))
        prompt, answer = (
            tokenizer(one, add_special_tokens=False, verbose=False).input_ids for one in (question, text)
        )
        found.passes += lookup_passes(prompt, [*answer, tokenizer.eos_token_id])
    return found


def lines(checkpoint: Checkpoint, found: dict[str, Measured]) -> list[Line]:
    """Lines of a model in the table, in the order of `found`, which has "plain" and "constrained"."""
    rows, expected, plain = [], found[CONSTRAINED].texts, found[PLAIN]
    settings = checkpoint.settings
    for name, one in found.items():
        count = len(one.texts)
        same = sum(text == other for text, other in zip(one.texts, expected, strict=True))
        rows.append(
            Line(
                model=checkpoint.path.name,
                masks=f"{settings.codec} {settings.grid_hw[0]}x{settings.grid_hw[1]}",
                way=name,
                tokens=one.tokens / count,
                passes=one.passes / count,
                fewer_passes=plain.passes / one.passes,
                seconds=median(one.seconds) if one.seconds else None,
                less_time=median(map(truediv, plain.seconds, one.seconds)) if one.seconds else None,
                invalid=sum(one.faulty),
                ciou=one.scores.compute()["cIoU"],
                equal=None if name == FULL else same / count,
            )
        )
    return rows


def kept(found: dict[str, Measured]) -> tuple[int, int]:
    """How many of the valid plain answers constrained decoding writes as they are, and how many are valid."""
    plain = found[PLAIN]
    pairs = zip(plain.texts, found[CONSTRAINED].texts, plain.faulty, strict=True)
    same = [text == other for text, other, faulty in pairs if not faulty]
    return sum(same), len(same)


def table(rows: Sequence[Line]) -> str:
    """Markdown table; gains are against plain decoding by the same model."""
    head = ["model", "masks", "way", "tokens", "passes", "fewer passes", "s / answer", "less time"]
    head += ["invalid", "cIoU", "equal"]
    out = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    for row in rows:
        out.append(
            [
                row.model,
                row.masks,
                row.way,
                f"{row.tokens:.1f}",
                f"{row.passes:.1f}",
                f"{row.fewer_passes:.1f}x",
                "-" if row.seconds is None else f"{row.seconds:.3f}",
                "-" if row.less_time is None else f"{row.less_time:.1f}x",
                str(row.invalid),
                "-" if row.ciou is None else f"{100 * row.ciou:.1f}",
                "-" if row.equal is None else f"{100 * row.equal:.0f} %",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in out)


def segmenters(checkpoint: Checkpoint, *, with_full: bool) -> dict[str, TextMaskSegmenter]:
    """Segmenter of each way; "full" is for a scripted model, since a trained one knows one form."""
    ways = {name: TextMaskSegmenter(checkpoint, decoding=name) for name in DECODED}
    if not with_full:
        return ways
    full = replace(checkpoint, settings=replace(checkpoint.settings, codec="full"))
    return {FULL: TextMaskSegmenter(full, decoding=PLAIN), **ways}


def answered(
    checkpoint: Checkpoint, samples: Sequence[Sample], *, batch: int = 1, prepare: Prepare | None = None
) -> tuple[str, list[Line]]:
    """What was measured of one model: a sentence about it, and its lines of the table.

    Args:
        checkpoint: the model.
        samples: what to ask.
        batch: questions in one call.
        prepare: for a scripted model.
    """
    found = measure(
        segmenters(checkpoint, with_full=prepare is not None), samples, batch=batch, prepare=prepare
    )
    same, valid = kept(found)
    told = (
        f"{checkpoint.path}, {str(checkpoint.model.dtype).removeprefix('torch.')}: of {valid} answers that "
        f"are valid when plain, {same} are written alike when constrained."
    )
    found[LOOKUP] = looked_up(found[PLAIN], samples, checkpoint.processor.tokenizer)
    order = [way for way in (FULL, PLAIN, LOOKUP, *DECODED[1:]) if way in found]
    return told, lines(checkpoint, {way: found[way] for way in order})


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Callable[..., Any] = parser.add_argument
    add("data", type=Path, help="root of REFER datasets")
    add("--split", action="append", required=True, help="dataset/split, as refcoco/val; several times")
    add("--model-path", type=Path, action="append", help="checkpoint folder; several times")
    add("--scripted", choices=list(SIZES), help="random weights of this size and true answers instead")
    add("--tokenizer", type=Path, help="folder of the tokenizer of a scripted model")
    add("--grid", type=int, default=16, help="side of the grid of a scripted model")
    add("--limit", type=int, default=0, help="take so many expressions, evenly spread; 0 takes all")
    add("--batch", type=int, default=1, help="questions in one call")
    add("--device", help="default: the GPU if there is one")
    add("--dtype", help="default: bfloat16 on a GPU that has it, else float32")
    add("--json", type=Path, help="file for the numbers")
    options = parser.parse_args(argv)
    if (options.model_path is None) == (options.scripted is None):
        parser.error("give either --model-path or --scripted")
    if options.scripted and (options.tokenizer is None or options.batch != 1):
        parser.error("--scripted needs --tokenizer, and --batch 1")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parse(argv)
    for path in options.model_path or []:
        find_settings(path)
    splits = read_splits(options.data, options.split)
    samples = spread([one for found in splits.values() for one in found], options.limit)
    device = choose_device(options.device)
    dtype = choose_dtype(device, options.dtype)
    if options.scripted:
        checkpoint, script = scripted(
            options.scripted, options.tokenizer, options.grid, device=device, dtype=dtype
        )
        measured = [answered(checkpoint, samples, prepare=follow(script, checkpoint))]
    else:
        measured = [
            answered(load_checkpoint(path, device=device, dtype=dtype), samples, batch=options.batch)
            for path in options.model_path
        ]
    rows = [row for _, of_model in measured for row in of_model]
    if options.json:
        write_text_atomic(options.json, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, processor time"
    print(f"{len(samples)} answers, batches of {options.batch}; {where}.\n")
    print("".join(f"- {told}\n" for told, _ in measured))
    print(table(rows))


if __name__ == "__main__":
    command(main)
