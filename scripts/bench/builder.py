"""How many masks become text in a second, beside the plain way, in one run.

    python scripts/bench/builder.py DATA --workers 8

The plain way paints the full mask with pycocotools, shrinks it with Pillow's NEAREST and counts runs cell by
cell in Python; ours never paints. It starts from the polygons of an annotation file, as builders do, or from
stored run lengths, as drawing a record does. Parts of an object are summed up as arrays, as published loaders
do, or merged before they are painted, which is the fastest plain way that we know.

Both ways must write the same texts, which is checked first. Rounds alternate which of the two goes first.
Speeds are medians over rounds, in masks per second of processor time, which other programs on the machine
disturb least. The second table is our speed over processes, by the clock and by processor time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from command import command
from masks import AnnotatedObject, load_objects
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from llava.codec import clean_label, encode, rle_to_grid
from llava.constants import BACKGROUND
from llava.data.rle import union_rle

Job = tuple[Any, str, tuple[int, int]]
"""Polygons or an RLE, the label, and the size of the image."""

Writer = Callable[[Job, int], str]
"""Mask text of a job on a square grid of so many cells a side."""


def plain_summed(job: Job, side: int) -> str:
    """Polygons, one full mask for each, their sum, small mask, runs."""
    polygons, label, size_hw = job
    layers = coco_mask.decode(coco_mask.frPyObjects(polygons, *size_hw))
    return _shrink_and_write(np.sum(layers, axis=2).astype(np.uint8), label, side)


def plain_merged(job: Job, side: int) -> str:
    """Polygons, one full mask of all, small mask, runs."""
    polygons, label, size_hw = job
    merged = coco_mask.merge(coco_mask.frPyObjects(polygons, *size_hw))
    return _shrink_and_write(coco_mask.decode(merged), label, side)


def plain_stored(job: Job, side: int) -> str:
    """Run lengths, full mask, small mask, runs."""
    rle, label, _ = job
    counts = rle["counts"].encode()
    return _shrink_and_write(coco_mask.decode({"size": rle["size"], "counts": counts}), label, side)


def _shrink_and_write(mask: NDArray[np.uint8], label: str, side: int) -> str:
    """Small mask of a full one, uint8 (H, W), and runs of names counted row by row."""
    small = np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
    label = clean_label(label)
    lines = []
    for row in small:
        runs: list[str] = []
        name, count = "", 0
        for cell in row:
            here = label if cell else BACKGROUND
            if here == name:
                count += 1
                continue
            if count:
                runs.append(f"{name} *{count}")
            name, count = here, 1
        runs.append(f"{name} *{count}")
        lines.append("| ".join(runs))
    return "\n ".join(lines) + "\n"


def ours(job: Job, side: int) -> str:
    """Polygons, run lengths, cells, runs."""
    polygons, label, size_hw = job
    return ours_stored((union_rle(polygons, size_hw)[0], label, size_hw), side)


def ours_stored(job: Job, side: int) -> str:
    """Run lengths, cells, runs."""
    rle, label, _ = job
    return encode(rle_to_grid(rle, (side, side)), (BACKGROUND, label))


def masks_per_second(write: Writer, jobs: Sequence[Job], side: int) -> float:
    """Masks per second of this process's processor time."""
    start = time.process_time()
    for job in jobs:
        write(job, side)
    return len(jobs) / (time.process_time() - start)


def side_by_side(pair: tuple[Writer, Writer], jobs: Sequence[Job], side: int, rounds: int) -> list[float]:
    """Median speed of both ways and median of their ratio, the first one's place changing every round."""
    speeds = np.zeros((rounds, 2))
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            speeds[number, which] = masks_per_second(pair[which], jobs, side)
    return [*np.median(speeds, axis=0).tolist(), float(np.median(speeds[:, 1] / speeds[:, 0]))]


def check_equal(pair: tuple[Writer, Writer], jobs: Sequence[Job], side: int) -> None:
    """Refuse to compare two ways that write different texts."""
    for job in jobs:
        if pair[0](job, side) != pair[1](job, side):
            raise ValueError(f"the two ways differ on a {side}x{side} grid for {job[1]!r}, size {job[2]}")


def _share(task: tuple[Sequence[Job], int, int]) -> tuple[int, float]:
    """One worker's part of a scaling run: masks written and seconds of processor time."""
    jobs, side, repeats = task
    start = time.process_time()
    for _ in range(repeats):
        for job in jobs:
            ours(job, side)
    return repeats * len(jobs), time.process_time() - start


def scaling(
    jobs: Sequence[Job], side: int, *, workers: int, seconds: float
) -> list[tuple[int, float, float]]:
    """Speed of ours with 1, 2, 4, … processes, each with about `seconds` of work of its own.

    Returns:
        Number of processes, masks per second by the clock, masks per second of processor time.
    """
    repeats = max(1, round(seconds * masks_per_second(ours, jobs, side) / len(jobs)))
    counts = sorted({*(2**power for power in range(workers.bit_length())), workers})
    results = []
    for count in tqdm(counts, desc="processes"):
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            list(pool.map(_share, [(jobs[:1], side, 1)] * count))
            start = time.perf_counter()
            parts = list(pool.map(_share, [(jobs, side, repeats)] * count))
            passed = time.perf_counter() - start
        done, busy = sum(part[0] for part in parts), sum(part[1] for part in parts)
        results.append((count, done / passed, done / busy))
    return results


def polygon_jobs(objects: Sequence[AnnotatedObject]) -> list[Job]:
    """Objects given by polygons alone, as builders meet them."""
    return [
        (item.segmentation, clean_label(item.label), item.size_hw)
        for item in objects
        if item.segmentation and not any(isinstance(part, dict) for part in item.segmentation)
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="COCO folder or root of REFER datasets")
    parser.add_argument("--grids", type=int, nargs="+", default=[16, 32, 64], help="sides of the grids")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each pair")
    parser.add_argument("--limit", type=int, default=0, help="draw so many objects; 0 takes all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="most processes")
    parser.add_argument("--seconds", type=float, default=3.0, help="work of each process")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables."""
    arguments = parse(argv)
    jobs = polygon_jobs(load_objects(arguments.data, referred=False, limit=arguments.limit))
    stored: list[Job] = [(union_rle(polygons, size)[0], label, size) for polygons, label, size in jobs]
    print(f"{len(jobs)} masks; masks per second of processor time, medians of {arguments.rounds} rounds\n")
    print("| grid | starts from | plain | ours | ours / plain |\n| --- | --- | ---: | ---: | ---: |")
    for side in arguments.grids:
        for name, given, pair in (
            ("polygons, summed", jobs, (plain_summed, ours)),
            ("polygons, merged", jobs, (plain_merged, ours)),
            ("stored RLE", stored, (plain_stored, ours_stored)),
        ):
            check_equal(pair, given, side)
            speeds = side_by_side(pair, given, side, arguments.rounds)
            print(
                f"| {side}x{side} | {name} | {speeds[0]:.0f} | {speeds[1]:.0f} | {speeds[2]:.1f} |",
                flush=True,
            )
    side = arguments.grids[0]
    load = os.getloadavg()[0]
    print(f"\nOurs from polygons on a {side}x{side} grid; {os.cpu_count()} cores, load {load:.1f} before\n")
    print(
        "| processes | masks / s | of linear | masks / s of processor time |\n| ---: | ---: | ---: | ---: |"
    )
    measured = scaling(jobs, side, workers=arguments.workers, seconds=arguments.seconds)
    for count, clock, busy in measured:
        print(f"| {count} | {clock:.0f} | {100 * clock / (count * measured[0][1]):.0f} % | {busy:.0f} |")


if __name__ == "__main__":
    command(main)
