"""Time of a pass over several tokens against a pass over one: what a guess costs.

    python scripts/bench/pass_time.py --size 7b --tokenizer checkpoints/vicuna-7b-v1.5        # on a GPU
    python scripts/bench/pass_time.py --size small --tokenizer checkpoints/vicuna-7b-v1.5     # on a CPU

A pass over one token reads all weights and computes little. A pass over some tokens reads them once as well,
so a guess pays as long as its pass costs less than the passes that it saves. Weights are random (see
scripted.py); the cache holds --context tokens, as many as a prompt with an image. Numbers of tokens take
turns, times are medians: of processor time on the CPU, by the clock on a GPU. Prints a markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from command import command
from decoding import clock
from scripted import SIZES, random_llava
from transformers import DynamicCache

from llava.model.original_tokenizer import original_tokenizer
from llava.model.weights import choose_device, choose_dtype


def pass_seconds(
    model: Any,  # noqa: ANN401
    counts: Sequence[int],
    *,
    context: int,
    rounds: int,
) -> dict[int, float]:
    """Median seconds of a pass, by its number of tokens.

    Args:
        model: LLaVA; only its language model works.
        counts: numbers of tokens.
        context: tokens in the cache before the pass.
        rounds: passes timed of each number; one more comes first and is not timed.
    """
    ids = torch.randint(3, 100, (1, max(context, *counts)), generator=torch.Generator().manual_seed(0))
    ids, cache = ids.to(model.device), DynamicCache()
    found: dict[int, list[float]] = {count: [] for count in counts}
    with torch.inference_mode():
        model(input_ids=ids[:, :context], past_key_values=cache, logits_to_keep=1)
        for turn in range(rounds + 1):
            for count, seconds in found.items():
                began = clock(model.device)
                model(input_ids=ids[:, :count], past_key_values=cache)
                if turn:
                    seconds.append(clock(model.device) - began)
                cache.crop(-count)
    return {count: median(seconds) for count, seconds in found.items()}


def table(found: dict[int, float]) -> str:
    """Markdown table; the first number of tokens is what the others are held against."""
    one = next(iter(found.values()))
    lines = ["| tokens in a pass | ms | against the first |", "| ---: | ---: | ---: |"]
    lines += [f"| {count} | {1000 * time:.1f} | {time / one:.2f}x |" for count, time in found.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Callable[..., Any] = parser.add_argument
    add("--size", choices=list(SIZES), required=True, help="of the model")
    add("--tokenizer", type=Path, required=True, help="folder of the tokenizer of Llama")
    add("--tokens", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="numbers of tokens")
    add("--context", type=int, default=640, help="tokens in the cache (default: 640)")
    add("--rounds", type=int, default=10, help="passes of each number (default: 10)")
    add("--device", help="default: the GPU if there is one")
    add("--dtype", help="default: bfloat16 on a GPU that has it, else float32")
    options = parser.parse_args(argv)
    if min(options.rounds, options.context, *options.tokens) < 1:
        parser.error("--tokens, --context and --rounds are at least 1")
    device = choose_device(options.device)
    dtype = choose_dtype(device, options.dtype)
    tokenizer = original_tokenizer(options.tokenizer)
    model, _ = random_llava(SIZES[options.size], tokenizer, device=device, dtype=dtype)
    found = pass_seconds(model, options.tokens, context=options.context, rounds=options.rounds)
    print(table(found))


if __name__ == "__main__":
    command(main)
