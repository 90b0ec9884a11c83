"""Train the tiny CLIP vision tower with a dense head: every patch names its object's look, rank and extent.

python scripts/tiny_model/pretrain_vision.py --scenes runs/tiny/scenes --out runs/tiny/vision
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from attributes import (
    OBJECT_HEADS,
    SIDES,
    WORDS,
    object_attributes,
    patch_attributes,
    patch_heads,
    patch_owners,
)
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from llava.data.refshapes.scene import sample_scene
from llava.data.refshapes.split import scene_rng

HELD_OUT = 400
"""Scenes at the end of the array that only measure accuracy."""


def tower_config(image_side: int, patch: int) -> CLIPVisionConfig:
    """Configuration of the tiny vision tower."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        projection_dim=128,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=image_side,
        patch_size=patch,
        hidden_act="gelu",
    )


def normalise(images: torch.Tensor) -> torch.Tensor:
    """CLIP input: uint8 (n, side, side, 3) to float32 (n, 3, side, side)."""
    mean, std = torch.tensor(OPENAI_CLIP_MEAN), torch.tensor(OPENAI_CLIP_STD)
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def scene_attributes(job: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """`object_attributes` of one scene of the train split."""
    seed, index = job
    return object_attributes(sample_scene(scene_rng(seed, "train", index)))


def load_attributes(folder: Path, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """`object_attributes` of every scene of a folder, computed once and kept there."""
    path = folder / "attributes.npz"
    if not path.is_file():
        kept = json.loads((folder / "seed.json").read_text())
        jobs = [(kept["seed"], index) for index in range(kept["scenes"])]
        with ProcessPoolExecutor(workers) as pool:
            found = pool.map(scene_attributes, jobs, chunksize=200)
            parts = list(tqdm(found, total=len(jobs), desc="targets"))
        classes, neighbours = (np.stack(part) for part in zip(*parts, strict=True))
        np.savez(path, classes=classes, neighbours=neighbours)
    with np.load(path) as arrays:
        return arrays["classes"], arrays["neighbours"]


class DenseHead(nn.Module):
    """Linear read-out of all targets from one patch's features."""

    def __init__(self, width: int, patches: int, sub: int) -> None:
        super().__init__()
        self.heads = (*OBJECT_HEADS, *patch_heads(patches, sub))
        sizes = [2, *(head.classes for head in self.heads), len(SIDES) * len(WORDS)]
        self.sizes = sizes
        self.linear = nn.Linear(width, sum(sizes))

    def forward(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Logits of foreground, each head, and neighbours; `features` is (..., width)."""
        return list(self.linear(features).split(self.sizes, dim=-1))


def dense_loss(
    outputs: list[torch.Tensor], foreground: torch.Tensor, classes: torch.Tensor, neighbours: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss over all targets and the accuracy of each one.

    Args:
        outputs: of `DenseHead`, each (patches, classes).
        foreground: bool (patches,).
        classes: int64 (patches, heads).
        neighbours: float (patches, sides * words).
    """
    losses = [functional.cross_entropy(outputs[0], foreground.long())]
    hits = [(outputs[0].argmax(-1) == foreground).float().mean()]
    for index, logits in enumerate(outputs[1:-1]):
        everywhere = index in (len(OBJECT_HEADS), len(OBJECT_HEADS) + 1)
        chosen = slice(None) if everywhere else foreground
        losses.append(functional.cross_entropy(logits[chosen], classes[chosen, index]))
        hits.append((logits[chosen].argmax(-1) == classes[chosen, index]).float().mean())
    losses.append(
        4 * functional.binary_cross_entropy_with_logits(outputs[-1][foreground], neighbours[foreground])
    )
    hits.append(((outputs[-1][foreground] > 0) == (neighbours[foreground] > 0.5)).float().mean())
    return torch.stack(losses).mean(), torch.stack(hits)


class Scenes:
    """Arrays of a scene folder with the targets of every patch."""

    def __init__(self, folder: Path, workers: int, patch: int) -> None:
        self.images = torch.from_numpy(np.load(folder / "images.npy"))
        self.cells = np.load(folder / "cells.npy")
        self.sub = self.cells.shape[1] * patch // self.images.shape[1]
        self.classes, self.neighbours = load_attributes(folder, workers)

    def batch(self, chosen: np.ndarray) -> DenseBatch:
        """`dense_batch` of some scenes."""
        return dense_batch(
            self.images[chosen], self.cells[chosen], self.classes[chosen], self.neighbours[chosen], self.sub
        )


DenseBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def dense_batch(
    images: torch.Tensor, cells: np.ndarray, classes: np.ndarray, neighbours: np.ndarray, sub: int
) -> DenseBatch:
    """CLIP input and the targets of every patch: foreground, classes, neighbours, patches flattened.

    Args:
        images: uint8 (n, side, side, 3).
        cells: uint8 (n, grid, grid), object of each cell.
        classes: uint8 (n, objects, heads), of `object_attributes`.
        neighbours: uint8 (n, objects, words), of `object_attributes`.
        sub: grid cells along each patch side.
    """
    owners = patch_owners(cells, sub)
    index = np.maximum(owners.astype(int) - 1, 0)
    scene = np.arange(len(cells))[:, None, None]
    targets = np.concatenate([classes[scene, index], patch_attributes(cells, sub)], axis=-1)
    return (
        normalise(images),
        torch.from_numpy(owners > 0).flatten(),
        torch.from_numpy(targets).long().flatten(0, 2),
        torch.from_numpy(neighbours[scene, index]).float().flatten(0, 2),
    )


def train(args: argparse.Namespace) -> None:
    """Train tower and head, report accuracies, save both."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    scenes = Scenes(args.scenes, args.workers, args.patch)
    side = scenes.images.shape[1]
    tower = CLIPVisionModel(tower_config(side, args.patch))
    head = DenseHead(tower.config.hidden_size, side // args.patch, scenes.sub)
    if args.init:
        tower = CLIPVisionModel.from_pretrained(args.init)
        head.load_state_dict(torch.load(args.init / "head.pt", weights_only=True))
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.02, betas=(0.9, 0.98))
    usable = len(scenes.images) - HELD_OUT
    warm = 200
    started = time.monotonic()
    for step in range(args.steps):
        scale = min(1, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * scale
        images, *targets = scenes.batch(rng.integers(0, usable, args.batch))
        features = tower(images).last_hidden_state[:, 1:].flatten(0, 1)
        loss, _ = dense_loss(head(features), *targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            spent = time.monotonic() - started
            left = spent / (step + 1) * (args.steps - step - 1) / 60
            print(f"step {step + 1}/{args.steps} loss {loss.item():.4f} {left:.1f} min left", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            report(tower, head, scenes)
            save(tower, head, args)


def report(tower: CLIPVisionModel, head: DenseHead, scenes: Scenes) -> None:
    """Print the accuracy of every target on the held-out scenes."""
    count = len(scenes.images)
    rows = []
    with torch.no_grad():
        for start in range(count - HELD_OUT, count, 100):
            images, *targets = scenes.batch(np.arange(start, start + 100))
            features = tower(images).last_hidden_state[:, 1:].flatten(0, 1)
            rows.append(dense_loss(head(features), *targets)[1])
    names = ["foreground", *(head_.name for head_ in head.heads), "neighbours"]
    values = torch.stack(rows).mean(0).tolist()
    print("held-out: " + ", ".join(f"{n} {v:.3f}" for n, v in zip(names, values, strict=True)), flush=True)


def save(tower: CLIPVisionModel, head: DenseHead, args: argparse.Namespace) -> None:
    """Write the tower as a Hugging Face folder, with the head beside it."""
    tower.save_pretrained(args.out)
    torch.save(head.state_dict(), args.out / "head.pt")


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=Path, default=Path("runs/tiny/scenes"), help="folder of scenes.py")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny/vision"), help="output folder")
    parser.add_argument("--patch", type=int, default=12, help="patch side in pixels")
    parser.add_argument("--steps", type=int, default=9500, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=24, help="images a step")
    parser.add_argument("--lr", type=float, default=1.2e-3, help="peak learning rate")
    parser.add_argument("--init", type=Path, help="folder of an earlier run to start from")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order")
    parser.add_argument("--workers", type=int, default=2, help="processes that compute targets")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
