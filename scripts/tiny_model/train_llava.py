"""Train the tiny LLaVA from scratch on RefShapes, with its pre-trained vision tower learning along.

    python scripts/tiny_model/train_llava.py --out runs/tiny/llava

Goes on from the last save when started again with the same arguments. Judged by greedy answers on val.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hints import HINT_LAYER, Hints, hints_for
from judge import ValSplit
from pretrain_vision import DenseBatch, DenseHead, dense_batch, dense_loss, load_attributes
from rounds import Batch, Shown, draw_round, pack
from scenes import GRID as SCENE_GRID
from tiny_llava import Llava, build_model, go_on, read_images
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import (
    LlavaProcessor,
)

from llava.constants import IGNORE_INDEX
from llava.data.refshapes.scene import sample_scene
from llava.data.refshapes.split import scene_rng
from llava.model.new_tokens import add_brick_tokens, make_room, start_rows
from llava.settings import ALL_CODECS, BRICK_ORDERS, BRICKS, SegmentationSettings

BOX_GRID = {BRICKS: 64}
"""Cells along each side of the image in which the training aids tell a box; else those of the mask."""


class Rounds(Dataset[tuple[Batch, DenseBatch]]):
    """Batch k of the run, drawn from (seed, k) alone."""

    def __init__(
        self, args: argparse.Namespace, processor: LlavaProcessor, settings: SegmentationSettings, aid: Hints
    ) -> None:
        self.args, self.processor, self.settings = args, processor, settings
        self.prefix = aid.first_patch + aid.patches**2
        texts = [processor.tokenizer.decode([token]) for token in range(len(processor.tokenizer))]
        self.shown = Shown(texts, aid.patches, aid.grid)
        self.cells = np.load(args.scenes / "cells.npy", mmap_mode="r")
        self.images = np.load(args.scenes / "images.npy", mmap_mode="r")
        self.classes, self.neighbours = load_attributes(args.scenes, workers=2)
        self.sub = self.cells.shape[1] * processor.patch_size // self.images.shape[1]
        self.seed = json.loads((args.scenes / "seed.json").read_text())["seed"]

    def __len__(self) -> int:
        return self.args.steps

    def __getitem__(self, step: int) -> tuple[Batch, DenseBatch]:
        rng = np.random.default_rng([self.args.seed, step])
        scenes = [int(index) for index in rng.integers(0, len(self.cells), self.args.batch)]
        rounds = []
        for index in scenes:
            scene = sample_scene(scene_rng(self.seed, "train", index))
            rounds.append(
                [
                    draw_round(scene, rng, self.processor, settings=self.settings, shown=self.shown)
                    for _ in range(self.args.rounds)
                ]
            )
        images = torch.from_numpy(self.images[scenes])
        dense = dense_batch(
            images, self.cells[scenes], self.classes[scenes], self.neighbours[scenes], self.sub
        )
        return pack(rounds, self.prefix, self.processor.tokenizer.pad_token_id), dense


def loss_of(
    model: Llava, aids: nn.ModuleDict, batch: Batch, dense: DenseBatch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy and accuracy over the supervised tokens, loss of the hints, dense loss of the tower."""
    states = model.model.vision_tower(dense[0]).last_hidden_state[:, 1:]
    shared = read_images(model, batch.prefix, states)
    hidden, labels, hints = [], [], []
    for part in batch.parts:
        output = go_on(model, shared, part.scenes, part.tokens)
        hints.append(aids["hints"](output.hidden_states[HINT_LAYER], output.attentions, part))
        wanted = part.labels[:, 1:] != IGNORE_INDEX
        hidden.append(output.last_hidden_state[:, :-1][wanted])
        labels.append(part.labels[:, 1:][wanted])
    logits, target = model.lm_head(torch.cat(hidden)), torch.cat(labels)
    accuracy = (logits.argmax(-1) == target).float().mean()
    seen = dense_loss(aids["head"](states.flatten(0, 1)), *dense[1:])[0]
    return functional.cross_entropy(logits, target), accuracy, torch.stack(hints).mean(), seen


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Warm-up, plateau, and a straight line to a twentieth over the last part."""
    decay_from = int(args.steps * (1 - args.decay))
    if step < args.warmup:
        return args.lr * (step + 1) / args.warmup
    if step < decay_from:
        return args.lr
    return args.lr * (1 - 0.95 * (step - decay_from) / max(args.steps - decay_from, 1))


def optimizer_for(model: Llava, aids: nn.ModuleDict, args: argparse.Namespace) -> torch.optim.AdamW:
    """Optimizer whose groups carry their share of the learning rate: the tower learns slowly."""
    seeing = [*model.model.vision_tower.parameters(), *aids["head"].parameters()]
    writing = [*model.model.multi_modal_projector.parameters(), *model.model.language_model.parameters()]
    writing += [*model.lm_head.parameters(), *aids["hints"].parameters()]
    groups = [{"params": writing, "share": 1.0}, {"params": seeing, "share": args.vision_share}]
    return torch.optim.AdamW(groups, lr=args.lr, weight_decay=0.03, betas=(0.9, 0.98))


def train(args: argparse.Namespace) -> None:
    """Train, judge and save every `save_every` steps."""
    model, processor = build_model(args.vision, args.seed)
    settings = SegmentationSettings(
        system="text4seg++" if args.codec == BRICKS else "text4seg",
        codec=args.codec,
        grid_hw=(args.grid, args.grid),
        brick_order=args.brick_order,
        image_side=96,
        prompt="plain_v1",
        training={"command": args.command, "seed": args.seed},
    )
    aids = start(args, model, processor, settings)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    optimizer = optimizer_for(model, aids, args)
    done = resume(args, model, aids, optimizer)
    rounds = Rounds(args, processor, settings, aids["hints"])
    loader = DataLoader(
        rounds, batch_size=None, sampler=range(done, args.steps), num_workers=1, prefetch_factor=8
    )
    val = ValSplit(args.val, rounds.seed)
    started, sums = time.monotonic(), np.zeros(5)
    for step, (batch, dense) in enumerate(loader, start=done):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args) * group["share"]
        loss, accuracy, hint_loss, seen_loss = loss_of(model, aids, batch, dense)
        optimizer.zero_grad()
        (loss + args.hint_weight * hint_loss + args.dense_weight * seen_loss).backward()
        nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], 1.0)
        optimizer.step()
        sums += (loss.item(), accuracy.item(), hint_loss.item(), seen_loss.item(), 1)
        if (step + 1) % 100 == 0:
            left = (time.monotonic() - started) / (step + 1 - done) * (args.steps - step - 1) / 60
            means = sums / sums[4]
            scores = f"loss {means[0]:.4f} acc {means[1]:.4f} hints {means[2]:.4f} dense {means[3]:.4f}"
            print(f"step {step + 1}/{args.steps} {scores} {left:.0f} min left", flush=True)
            sums[:] = 0
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            with torch.no_grad():
                print("val greedy:", val.judge(model, processor, settings), flush=True)
            model.save_pretrained(args.out)
            processor.save_pretrained(args.out)
            settings.save(args.out)
            save_resume(args, model, aids, optimizer, step + 1)


def start(
    args: argparse.Namespace, model: Llava, processor: LlavaProcessor, settings: SegmentationSettings
) -> nn.ModuleDict:
    """Load the weights that training starts from, add the tokens of the codec; the training aids.

    From `--grounding` the model knows what expressions mean; from `--start`, a folder of this script, it also
    writes masks in the form of that folder.
    """
    hints = hints_for(model, processor, BOX_GRID.get(args.codec, args.grid), settings.grid_hw)
    head = load_head(args.vision, model)
    if args.grounding:
        grounded = torch.load(args.grounding / "grounding.pt", weights_only=True)
        model.load_state_dict(grounded["model"])
        hints.load_state_dict(grounded["hints"])
    begun = SegmentationSettings.load(args.start) if args.start else None
    if begun and begun.codec == BRICKS:
        learn_bricks(model, processor)
    if args.start:
        weights = torch.load(args.start / "resume.pt", weights_only=True)
        model.load_state_dict(weights["model"])
        prefix = "head."
        aid = {
            name[len(prefix) :]: value for name, value in weights["aids"].items() if name.startswith(prefix)
        }
        head.load_state_dict(aid)
    if args.codec == BRICKS and not (begun and begun.codec == BRICKS):
        learn_bricks(model, processor)
    return nn.ModuleDict({"head": head, "hints": hints})


def learn_bricks(model: Llava, processor: LlavaProcessor) -> None:
    """Add the tokens of box-wise masks."""
    added = add_brick_tokens(processor.tokenizer)
    make_room(model, processor.tokenizer)
    start_rows(model, processor.tokenizer, added)


def load_head(vision: Path, model: Llava) -> DenseHead:
    """Dense head that was trained with the vision tower."""
    tower = model.config.vision_config
    patches = tower.image_size // tower.patch_size
    head = DenseHead(tower.hidden_size, patches, SCENE_GRID // patches)
    head.load_state_dict(torch.load(vision / "head.pt", weights_only=True))
    return head


def save_resume(
    args: argparse.Namespace, model: nn.Module, aids: nn.Module, optimizer: torch.optim.Optimizer, done: int
) -> None:
    """Write what resuming needs, whole or not at all."""
    state = args.out / "resume.pt"
    torch.save(
        {
            "optimizer": optimizer.state_dict(),
            "model": model.state_dict(),
            "aids": aids.state_dict(),
            "done": done,
        },
        f"{state}.part",
    )
    Path(f"{state}.part").replace(state)


def resume(
    args: argparse.Namespace, model: nn.Module, aids: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Load the last save if there is one; number of steps already done."""
    state = args.out / "resume.pt"
    if not state.is_file():
        return 0
    saved = torch.load(state, weights_only=True)
    model.load_state_dict(saved["model"])
    aids.load_state_dict(saved["aids"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["done"])


def command_of(options: dict[str, object]) -> str:
    """Command line that gives these options again; those that are None are left out."""
    given = [(key, value) for key, value in options.items() if value is not None]
    words = [word for key, value in given for word in (f"--{key.replace('_', '-')}", str(value))]
    return shlex.join(["python", "scripts/tiny_model/train_llava.py", *words])


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of a command line, with the `command` that gives them again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=Path, default=Path("runs/tiny/scenes"), help="folder of scenes.py")
    parser.add_argument(
        "--vision", type=Path, default=Path("runs/tiny/vision"), help="folder of pretrain_vision.py"
    )
    parser.add_argument("--grounding", type=Path, help="folder of pretrain_grounding.py")
    parser.add_argument("--start", type=Path, help="folder of an earlier run to start from, of any codec")
    parser.add_argument("--codec", choices=ALL_CODECS, default="rrle", help="text form of a mask")
    parser.add_argument(
        "--grid", type=int, default=16, help="cells along each side of a mask, a multiple of 8"
    )
    parser.add_argument(
        "--brick-order", choices=BRICK_ORDERS, default="raster", help="order of the cells of a box"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/tiny/llava"), help="output folder")
    parser.add_argument("--steps", type=int, default=4200, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=8, help="scenes a step")
    parser.add_argument("--rounds", type=int, default=4, help="questions a scene")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument(
        "--vision-share", type=float, default=0.08, help="learning rate of the tower, as a share"
    )
    parser.add_argument("--dense-weight", type=float, default=1.0, help="weight of the tower's dense loss")
    parser.add_argument("--hint-weight", type=float, default=0.5, help="weight of the hints' loss")
    parser.add_argument("--warmup", type=int, default=100, help="steps until the peak")
    parser.add_argument(
        "--decay", type=float, default=0.4, help="share of the steps that lowers the rate again"
    )
    parser.add_argument("--val", type=int, default=60, help="val questions judged at every save")
    parser.add_argument("--save-every", type=int, default=500, help="steps between saves")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, scenes and wording")
    args = parser.parse_args(argv)
    args.command = command_of(vars(args))
    return args


if __name__ == "__main__":
    train(parse())
