"""Teach the language model which object an expression means, before it writes any mask.

    python scripts/tiny_model/pretrain_grounding.py --out runs/tiny/grounding

A question has a quarter of the tokens of a whole round, and the vision tower stands still meanwhile, so the
model reads several times as many expressions as it could while it also learns to write.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from hints import HINT_LAYER, Hints, boxes_of, hints_for
from pretrain_vision import HELD_OUT, DenseHead, normalise
from rounds import draw_expression, draw_question, target_cells
from start import start_attention, start_projector, start_words
from tiny_llava import Llava, build_model, go_on, prefix_length, read_images
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import LlavaProcessor

from llava.constants import IMAGE_TOKEN
from llava.data.prompt import render
from llava.data.refshapes.scene import Scene, sample_scene
from llava.data.refshapes.split import scene_rng
from llava.data.tokens import tokenize

Tensor = torch.Tensor


@dataclass(frozen=True)
class Questions:
    """Questions about some scenes, without their common prefix.

    Attributes:
        scenes: int64 (scenes,), index of each scene.
        owners: int64 (questions,), row of `scenes` that each question is about.
        tokens: int64 (questions, length), filled up on the right.
        spoken: bool (questions, length), tokens from the end of the expression to the end of the question.
        cells: bool (questions, grid, grid), the target.
        kinds: kind of each expression.
    """

    scenes: Tensor
    owners: Tensor
    tokens: Tensor
    spoken: Tensor
    cells: Tensor
    kinds: tuple[str, ...]


class QuestionSet(Dataset[Questions]):
    """Batch k of the run, drawn from (seed, k) alone; `scenes` is the range that it draws from."""

    def __init__(self, args: argparse.Namespace, processor: LlavaProcessor, scenes: range) -> None:
        self.args, self.processor, self.scenes = args, processor, scenes
        self.cells = np.load(args.scenes / "cells.npy", mmap_mode="r")
        self.seed = json.loads((args.scenes / "seed.json").read_text())["seed"]
        self.prefix = prefix_length(processor)
        self.scene = cache(self._scene)

    def _scene(self, index: int) -> Scene:
        """A scene without the masks that it keeps, which are large."""
        scene = sample_scene(scene_rng(self.seed, "train", index))
        return Scene(scene.size_hw, scene.items)

    def __len__(self) -> int:
        return self.args.steps

    def __getitem__(self, step: int) -> Questions:
        rng = np.random.default_rng([self.args.seed, step, len(self.scenes)])
        scenes = rng.choice(len(self.scenes), self.args.batch, replace=False) + self.scenes.start
        ids, ends, owners, targets, kinds = [], [], [], [], []
        for row, index in enumerate(scenes):
            for _ in range(self.args.rounds):
                expression = draw_expression(self.scene(int(index)), rng)
                question = draw_question(expression, rng)
                pieces = render("plain_v1", [(f"{IMAGE_TOKEN}\n{question}", None)])
                ids.append(tokenize(pieces, self.processor)[0][self.prefix :])
                last_word = expression.text.split()[-1]
                rest = pieces[-1][0].rpartition(last_word)[2]
                ends.append(len(ids[-1]) - 1 - len(self.processor.tokenizer(rest).input_ids))
                owners.append(row)
                targets.append(target_cells(expression, self.cells[index]))
                kinds.append(expression.kind)
        longest = max(map(len, ids))
        places = torch.arange(longest)
        spoken = [(places >= end) & (places < len(one)) for one, end in zip(ids, ends, strict=True)]
        pad = self.processor.tokenizer.pad_token_id
        return Questions(
            torch.from_numpy(scenes),
            torch.tensor(owners),
            torch.tensor([one + [pad] * (longest - len(one)) for one in ids]),
            torch.stack(spoken),
            torch.from_numpy(np.stack(targets)),
            tuple(kinds),
        )


def tower_features(model: Llava, images: np.ndarray, batch: int = 200) -> Tensor:
    """What the tower says about every image, float16 (n, patches, width)."""
    parts = []
    with torch.no_grad():
        for start in tqdm(range(0, len(images), batch), desc="tower features", unit="batch"):
            pixels = normalise(torch.tensor(images[start : start + batch]))
            parts.append(model.model.vision_tower(pixels).last_hidden_state[:, 1:].half())
    return torch.cat(parts)


def ask(model: Llava, prefix: Tensor, features: Tensor, asked: Questions) -> tuple[Tensor, Tensor]:
    """Hidden states and attention that the hints need, for all questions."""
    shared = read_images(model, prefix.expand(len(asked.scenes), -1), features[asked.scenes])
    output = go_on(model, shared, asked.owners, asked.tokens)
    return output.hidden_states[HINT_LAYER], output.attentions[HINT_LAYER - 1]


def box_overlap(found: Tensor, true: Tensor, grid: int) -> Tensor:
    """IoU of boxes int64 (n, 4) in cells; two absent targets agree, one alone does not."""
    absent = (found == grid).sum(1) >= 2
    truly = true[:, 0] == grid
    first, last = found[:, 0::2], found[:, 1::2]
    begin, end = torch.maximum(first, true[:, 0::2]), torch.minimum(last, true[:, 1::2])
    inter = (end - begin + 1).clamp(min=0).prod(1)
    areas = [(box[:, 1::2] - box[:, 0::2] + 1).clamp(min=0).prod(1) for box in (found, true)]
    iou = inter / (areas[0] + areas[1] - inter).clamp(min=1)
    return torch.where(truly | absent, (truly & absent).float(), iou)


def report(model: Llava, hints: Hints, prefix: Tensor, features: Tensor, batches: Sequence[Questions]) -> str:
    """Share of held-out questions of each kind whose box overlaps the true one by more than half."""
    hits = defaultdict(list)
    with torch.no_grad():
        for asked in batches:
            states, _ = ask(model, prefix, features, asked)
            last = asked.spoken.shape[1] - 1 - asked.spoken.flip(1).int().argmax(1)
            found = hints.sides(states[torch.arange(len(last)), last]).argmax(-1)
            right = box_overlap(found, boxes_of(asked.cells), hints.grid) > 0.5
            for kind, hit in zip(asked.kinds, right.tolist(), strict=True):
                hits[kind].append(hit)
                hits["all kinds"].append(hit)
    return ", ".join(f"{kind} {np.mean(values):.3f}" for kind, values in sorted(hits.items()))


def train(args: argparse.Namespace) -> None:
    """Train projector, language model and hints; save them for `train_llava.py --grounding`."""
    model, processor = build_model(args.vision, args.seed)
    grid = int(np.load(args.scenes / "cells.npy", mmap_mode="r").shape[1])
    hints = hints_for(model, processor, grid)
    features = tower_features(model, np.load(args.scenes / "images.npy", mmap_mode="r")).float()
    head = DenseHead(features.shape[2], hints.patches, grid // hints.patches)
    head.load_state_dict(torch.load(args.vision / "head.pt", weights_only=True))
    start_words(model, args.seed)
    start_projector(model, head, features[:1000], processor)
    start_attention(model)
    count = len(features)
    prefix_ids = tokenize(render("plain_v1", [(f"{IMAGE_TOKEN}\nQ", None)]), processor)[0]
    prefix = torch.tensor([prefix_ids[: hints.first_patch + hints.patches**2]])
    held_out = QuestionSet(args, processor, range(count - HELD_OUT, count))
    judged = [held_out[number] for number in range(4)]
    questions = QuestionSet(args, processor, range(count - HELD_OUT))
    loader = DataLoader(questions, batch_size=None, num_workers=1, prefetch_factor=8)
    inner = model.model
    parameters = [*inner.multi_modal_projector.parameters(), *inner.language_model.parameters()]
    parameters += hints.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.03, betas=(0.9, 0.98))
    started, losses = time.monotonic(), []
    for step, asked in enumerate(loader):
        scale = min(1, (step + 1) / 200) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * scale
        states, attention = ask(model, prefix, features, asked)
        loss = hints.find(states, attention, asked.spoken, asked.cells)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            left = (time.monotonic() - started) / (step + 1) * (args.steps - step - 1) / 60
            print(
                f"step {step + 1}/{args.steps} loss {np.mean(losses[-100:]):.4f} {left:.0f} min left",
                flush=True,
            )
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            print("held-out:", report(model, hints, prefix, features, judged), flush=True)
            args.out.mkdir(parents=True, exist_ok=True)
            torch.save({"model": model.state_dict(), "hints": hints.state_dict()}, args.out / "grounding.pt")


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=Path, default=Path("runs/tiny/scenes"), help="folder of scenes.py")
    parser.add_argument(
        "--vision", type=Path, default=Path("runs/tiny/vision"), help="folder of pretrain_vision.py"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/tiny/grounding"), help="output folder")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=16, help="scenes a step")
    parser.add_argument("--rounds", type=int, default=8, help="questions a scene")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, scenes and wording")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
