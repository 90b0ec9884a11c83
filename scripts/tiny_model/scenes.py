"""Scenes of the RefShapes train split as arrays, so that training never draws the same picture twice.

    python scripts/tiny_model/scenes.py --scenes 24000 --out runs/tiny/scenes

Writes `images.npy` uint8 (n, 96, 96, 3) RGB, squashed as LLaVA sees them; `cells.npy` uint8 (n, 16, 16), the
object of each cell (0 = background, k + 1 = object k); and `seed.json`. Scene i is that of the train split.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from llava.codec import sample_centres
from llava.data.refshapes.split import render

IMAGE_SIDE = 96
GRID = 16
CHUNK = 250


def squashed_chunk(job: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images and cells of scenes start..stop-1 of the train split of a seed."""
    seed, start, stop = job
    images = np.empty((stop - start, IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
    cells = np.zeros((stop - start, GRID, GRID), dtype=np.uint8)
    for row, index in enumerate(range(start, stop)):
        scene, pixels = render(seed, "train", index)
        small = Image.fromarray(pixels).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)
        images[row] = np.asarray(small)
        for number, mask in enumerate(scene.masks):
            cells[row][sample_centres(mask, (GRID, GRID))] = number + 1
    return images, cells


def main() -> None:
    """Draw the scenes in parallel and save them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=24000, help="number of scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the benchmark")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny/scenes"), help="output folder")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    starts = range(0, args.scenes, CHUNK)
    jobs = [(args.seed, start, min(start + CHUNK, args.scenes)) for start in starts]
    with ProcessPoolExecutor(args.workers) as pool:
        parts = list(tqdm(pool.map(squashed_chunk, jobs), total=len(jobs), desc=f"scenes x{CHUNK}"))
    np.save(args.out / "images.npy", np.concatenate([images for images, _ in parts]))
    np.save(args.out / "cells.npy", np.concatenate([cells for _, cells in parts]))
    (args.out / "seed.json").write_text(json.dumps({"seed": args.seed, "scenes": args.scenes}) + "\n")


if __name__ == "__main__":
    main()
