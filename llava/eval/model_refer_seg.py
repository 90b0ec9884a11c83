"""Score a checkpoint on a benchmark: answers, coarse and refined masks, scores, published numbers, a report.

One GPU or CPU, then eight GPUs:

    python -m llava.eval.model_refer_seg --model-path CHECKPOINT --data-root playground/data/refer_seg \
        --splits "refcoco|unc|val" --sam-path SAM --out results/run
    torchrun --nproc_per_node 8 -m llava.eval.model_refer_seg ...the same

A killed run resumes when the same command is given again. The scripts in `scripts/v1_5/eval` call this, each
with its --benchmark.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.eval.arguments import (
    add_checkpoint_arguments,
    chosen_refiner,
    describe_refiner,
    load_refiner,
)
from llava.eval.benchmarks import BENCHMARKS
from llava.eval.loop import SOFT_PROMPTS, Shard, check_images, evaluate, make_batches
from llava.eval.predictions import split_of
from llava.eval.report import REPORT_FILE, told_in_text, write_report
from llava.eval.run import RunSettings, code_version, describe_samples, fingerprint, open_run
from llava.model.decoding import check_decoding
from llava.model.hub import find_settings
from llava.refiners import NO_REFINER
from llava.settings import BRICKS
from llava.types import Refiner, Sample, Segmenter


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of an evaluation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_checkpoint_arguments(parser)
    add("--benchmark", choices=list(BENCHMARKS), default="refer_seg", help="what is asked, in which words")
    add("--data-root", type=Path, required=True, help="folder that holds the datasets and images/")
    add(
        "--splits",
        nargs="+",
        metavar="SPEC",
        help="for example 'refcoco|unc|val' or 'refcoco|val' (default: those of the papers)",
    )
    add("--batch-size", type=int, default=8, help="questions answered at once; changes no answer")
    add("--max-new-tokens", type=int, default=None, help="longest answer (default: what the grid needs)")
    add("--limit", type=int, default=None, help="score a seeded random choice of this many samples per split")
    add("--seed", type=int, default=0, help="of that choice, of SAM's points and of the sheets")
    add("--dtype", default=None, help="float32, float16 or bfloat16 (default: what fits the device)")
    add("--out", type=Path, required=True, help="run folder; an unfinished run in it is resumed")
    options = parser.parse_args(arguments)
    options.splits = options.splits or list(BENCHMARKS[options.benchmark].splits)
    return options


def run_settings(options: argparse.Namespace, samples: Sequence[Sample]) -> RunSettings:
    """What the records of this run depend on; batch size, device and number of processes do not count."""
    from llava.model.weights import choose_device, choose_dtype

    check_decoding(options.decoding)
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        raise ValueError(
            f"--max-new-tokens {options.max_new_tokens}: at least 1; leave it out for what is needed"
        )
    checkpoint = find_settings(options.model_path)
    model_options = {
        "benchmark": BENCHMARKS[options.benchmark].settings(),
        "model_base": options.model_base,
        "codec": checkpoint.codec,
        "prompt": checkpoint.prompt,
        "image_side": checkpoint.image_side,
        "upsample": checkpoint.upsample,
        "max_new_tokens": options.max_new_tokens,
        "decoding": options.decoding,
        "dtype": str(choose_dtype(choose_device(options.device), options.dtype)).removeprefix("torch."),
    }
    if checkpoint.codec == BRICKS:
        model_options |= {"brick_order": checkpoint.brick_order, "brick_tail": checkpoint.brick_tail}
    way, way_options = chosen_refiner(options)
    refines = way != NO_REFINER
    refiner = {"way": way, "weights": fingerprint(Path(options.sam_path)), **way_options}
    if options.soft_prompts:
        refiner[SOFT_PROMPTS] = True
    return RunSettings(
        checkpoint=_told(options.model_path),
        weights=fingerprint(options.model_path),
        splits=tuple(dict.fromkeys(split_of(sample.id) for sample in samples)),
        grid_hw=checkpoint.grid_hw,
        cell_policy=checkpoint.cell_policy,
        refiner=options.sam_path if refines else NO_REFINER,
        limit=options.limit,
        seed=options.seed,
        options={**model_options, **({"refiner": refiner} if refines else {})},
        data_root=options.data_root.as_posix(),
        samples=describe_samples(samples),
        code=(code_version(),),
    )


def _told(checkpoint: Path) -> str:
    """Absolute path of a checkpoint folder; a name on the hub as it is."""
    return (checkpoint.resolve() if checkpoint.exists() else checkpoint).as_posix()


def load_models(options: argparse.Namespace, device: str | None) -> tuple[Segmenter, Refiner | None]:
    """Segmenter and refiner on one device."""
    from llava.model.segmenter import load_segmenter

    refiner = load_refiner(options, device, seed=options.seed)
    segmenter = load_segmenter(
        options.model_path,
        base=options.model_base,
        device=device,
        dtype=options.dtype,
        max_new_tokens=options.max_new_tokens,
        decoding=options.decoding,
    )
    return segmenter, refiner


def own_shard() -> Shard:
    """Part of the work that torchrun gave to this process."""
    return Shard(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def own_device(device: str | None) -> str | None:
    """`device`, with the number of this process's GPU under torchrun: "cuda" becomes "cuda:3"."""
    import torch

    local = os.environ.get("LOCAL_RANK")
    wanted = device or ("cuda" if local is not None and torch.cuda.is_available() else None)
    return f"cuda:{local}" if wanted == "cuda" and local is not None else wanted


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, check, answer, score, report."""
    options = parse(arguments)
    try:
        shard = own_shard()
        samples = BENCHMARKS[options.benchmark].read_all(
            options.data_root, options.splits, limit=options.limit, seed=options.seed
        )
        make_batches(samples, options.batch_size)
        check_images(samples)
        settings = run_settings(options, samples)
        open_run(options.out, settings, first=shard.rank == 0)
        segmenter, refiner = load_models(options, own_device(options.device))
        records = evaluate(
            segmenter,
            samples,
            options.out,
            settings=settings,
            refiner=refiner,
            batch_size=options.batch_size,
            shard=shard,
        )
        if records is None:
            return
        results = write_report(options.out, records=records)
    except (ValueError, FileNotFoundError, TimeoutError, MemoryError) as error:
        raise SystemExit(f"error: {error}") from error
    refiner_line = f"refiner: {describe_refiner(options)}"
    report_line = f"report: {options.out / REPORT_FILE}"
    sys.stdout.write("\n".join((told_in_text(results), refiner_line, report_line, "")))


if __name__ == "__main__":
    main()
