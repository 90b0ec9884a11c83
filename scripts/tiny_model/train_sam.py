"""Train the tiny SAM from scratch to turn a coarse mask of 16 x 16 cells into the outline of the object.

    python scripts/tiny_model/train_sam.py --vision runs/tiny/vision --out runs/tiny/sam

Prompts are those of `llava.model.refine.SamRefiner`; coarse masks are true cells with errors like a model's.
The encoder starts from the weights of the vision tower, which knows objects already, and goes on telling the
colour of the object under every small square: from random weights it learns to copy the mask prompt and does
not look at the image.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPVisionModel, SamConfig, SamImageProcessorPil, SamModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from llava.codec import grid_to_mask, mask_to_grid
from llava.data.refshapes.scene import COLOURS, Scene
from llava.data.refshapes.split import render
from llava.model.refine import frame_hw, mask_prompt, point_prompt
from llava.types import BoolArray

IMAGE_SIDE, PATCH, PROMPT_SIDE, GRID = 96, 12, 32, 16
WIDTH, LAYERS, HEADS = 128, 5, 4
"""Of the encoder: those of the vision tower."""

MASKS = 4
"""Objects of an image that one sample asks for."""

POINTS = 10
ITERATIONS = 2
"""Points of `SamRefiner`, and passes; the refiner makes one more."""

COLOUR_NAMES = list(COLOURS)

Item = tuple[torch.Tensor, ...]


def sam_config() -> SamConfig:
    """Configuration of the tiny SAM: 96-pixel images, 8 x 8 embedding, 32 x 32 masks."""
    return SamConfig(
        vision_config={
            "hidden_size": WIDTH,
            "output_channels": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "image_size": IMAGE_SIDE,
            "patch_size": PATCH,
            "window_size": 0,
            "global_attn_indexes": list(range(LAYERS)),
            "use_rel_pos": False,
            "num_pos_feats": WIDTH // 2,
            "mlp_ratio": 4.0,
            "initializer_range": 0.02,  # the default, 1e-10, makes an encoder that gives nothing but zeros
        },
        prompt_encoder_config={
            "hidden_size": WIDTH,
            "image_size": IMAGE_SIDE,
            "patch_size": PATCH,
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "mlp_dim": 256,
            "iou_head_hidden_dim": 64,
            "iou_head_depth": 2,
        },
    )


def start_encoder(model: Any, tower: Any, pixels: torch.Tensor) -> None:  # noqa: ANN401
    """Give SAM's encoder the weights of a CLIP tower of the same sizes.

    CLIP normalises its embeddings once before the first layer, SAM does not: the mean size of some images
    takes the place of that of each patch. The class token is left out. The first convolution of the neck
    reads the features with equal variances, since a few large ones would hide the rest, and the second one
    hands them on.

    Args:
        model: `SamModel`, changed.
        tower: `CLIPVisionModel`.
        pixels: float (n, 3, side, side), some images.
    """
    encoder, source = model.vision_encoder, tower.base_model
    names = {"layer_norm1": "layer_norm1", "layer_norm2": "layer_norm2"}
    names |= {"attn.proj": "self_attn.out_proj", "mlp.lin1": "mlp.fc1", "mlp.lin2": "mlp.fc2"}
    side = IMAGE_SIDE // PATCH
    with torch.no_grad():
        embedded = source.embeddings(pixels)[:, 1:]
        scale = source.pre_layrnorm.weight / embedded.std(-1).mean()
        kernel, place = source.embeddings.patch_embedding.weight, source.embeddings.position_embedding.weight
        encoder.patch_embed.projection.weight.copy_((kernel - kernel.mean(0)) * scale[:, None, None, None])
        encoder.patch_embed.projection.bias.copy_(source.pre_layrnorm.bias)
        centred = place[1:] - place[1:].mean(1, keepdim=True)
        encoder.pos_embed.copy_((centred * scale).unflatten(0, (side, side))[None])
        for layer, old in zip(encoder.layers, source.encoder.layers, strict=True):
            for name, old_name in names.items():
                layer.get_submodule(name).load_state_dict(old.get_submodule(old_name).state_dict())
            parts = [old.self_attn.q_proj, old.self_attn.k_proj, old.self_attn.v_proj]
            layer.attn.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
            layer.attn.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
        features = tower(pixels).last_hidden_state[:, 1:].flatten(0, 1)
        values, vectors = torch.linalg.eigh(torch.cov(features.T))
        encoder.neck.conv1.weight.copy_((vectors / values.clamp(min=1e-3).sqrt()).T[:, :, None, None])
        encoder.neck.conv2.weight[:, :, 1, 1] += torch.eye(WIDTH)


def processor() -> SamImageProcessorPil:
    """Image processor in SAM's geometry at the tiny size."""
    square = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    mask = {"height": PROMPT_SIDE, "width": PROMPT_SIDE}
    return SamImageProcessorPil(
        size={"longest_edge": IMAGE_SIDE},
        image_mean=OPENAI_CLIP_MEAN,
        image_std=OPENAI_CLIP_STD,
        pad_size=square,
        mask_size={"longest_edge": PROMPT_SIDE},
        mask_pad_size=mask,
    )


def disturbed_cells(cells: np.ndarray, rng: Generator) -> np.ndarray:
    """Cells with the errors of a model: runs one cell off, rows lost, the whole moved by a cell.

    Args:
        cells: int64 (grid, grid) of 0/1.
        rng: draws the errors.
    """
    cells = cells.copy()
    if rng.random() < 0.1:
        cells = np.roll(cells, int(rng.integers(-1, 2)), axis=int(rng.integers(2)))
    for row in np.flatnonzero(cells.any(axis=1)):
        draw = rng.random()
        if draw < 0.18:
            cells[row] |= np.roll(cells[row], int(rng.choice([-1, 1])))
        elif draw < 0.36:
            cells[row] &= np.roll(cells[row], int(rng.choice([-1, 1])))
        elif draw < 0.38:
            cells[row] = 0
    return cells


class RefineSamples(Dataset[Item]):
    """Sample k, drawn from (seed, k) alone: an image, prompts of some of its objects, their true masks."""

    def __init__(self, scenes: int, length: int, seed: int) -> None:
        self.scenes, self.length, self.seed = scenes, length, seed
        self.processor = processor()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Item:
        rng = np.random.default_rng([self.seed, number, 7])
        scene, pixels = render(self.seed, "train", int(rng.integers(self.scenes)))
        chosen = [int(index) for index in rng.integers(0, len(scene.items), MASKS)]
        prompts, points, labels, truths = [], [], [], []
        scale = IMAGE_SIDE / max(scene.size_hw)
        for index in chosen:
            coarse = self._coarse(scene.masks[index], rng)
            prompts.append(mask_prompt(coarse, PROMPT_SIDE))
            xy, label = point_prompt(coarse, POINTS)
            points.append(xy * scale)
            labels.append(label)
            truths.append(self._truth(scene.masks[index]))
        values = self.processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
        height, width = frame_hw(scene.size_hw, PROMPT_SIDE)
        valid = torch.zeros(PROMPT_SIDE, PROMPT_SIDE)
        valid[:height, :width] = 1
        arrays = (np.stack(prompts), np.stack(points), np.stack(labels), np.stack(truths))
        tensors = [torch.from_numpy(array) for array in arrays]
        colours = torch.from_numpy(self._colours(scene))
        return values, tensors[0].float(), tensors[1].float(), tensors[2], tensors[3].float(), valid, colours

    def _colours(self, scene: Scene) -> np.ndarray:
        """Colour of the object in each pixel of the low-resolution frame, 0 = none, int64 (side, side)."""
        shares = [self._truth(mask) for mask in scene.masks]
        numbers = np.array([0, *(COLOUR_NAMES.index(item.colour) + 1 for item in scene.items)])
        background = 1 - np.sum(shares, axis=0)
        return numbers[np.argmax([background, *shares], axis=0)]

    def _coarse(self, mask: BoolArray, rng: Generator) -> BoolArray:
        cells = mask_to_grid(mask, (GRID, GRID))
        coarse = grid_to_mask(disturbed_cells(cells, rng), mask.shape)
        return coarse if coarse.any() else mask

    def _truth(self, mask: BoolArray) -> np.ndarray:
        """Share of each pixel of the low-resolution frame that the object covers."""
        height, width = frame_hw(mask.shape, PROMPT_SIDE)
        small = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
        truth = np.zeros((PROMPT_SIDE, PROMPT_SIDE), np.float32)
        truth[:height, :width] = np.asarray(small)
        return truth


def mask_loss(logits: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy and Dice loss inside the frame; all (n, side, side)."""
    cross = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    cross = (cross * valid).sum((1, 2)) / valid.sum((1, 2))
    share = logits.sigmoid() * valid
    dice = 1 - (2 * (share * truth).sum((1, 2)) + 1) / ((share + truth).sum((1, 2)) + 1)
    return (4 * cross + dice).mean()


class ColourHead(nn.Module):
    """Training aid, thrown away afterwards: colour of the object under each square of a patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sub = PROMPT_SIDE * PATCH // IMAGE_SIDE
        self.linear = nn.Conv2d(width, (len(COLOURS) + 1) * self.sub**2, 1)

    def forward(self, embeddings: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
        """Loss for embeddings (n, width, side, side) and true colours int64 (n, prompt side, prompt side)."""
        return functional.cross_entropy(functional.pixel_shuffle(self.linear(embeddings), self.sub), colours)


def forward(
    model: Any,  # noqa: ANN401 - transformers types outputs as optional
    batch: Item,
    embeddings: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss over all passes, and the mean IoU of the last one."""
    _, prompts, points, labels, truths, valid, _ = batch
    embeddings = embeddings.repeat_interleave(MASKS, 0)
    truth, inside = truths.flatten(0, 1), valid.repeat_interleave(MASKS, 0)
    logits: Any = prompts.flatten(0, 1)[:, None]
    losses = []
    for _ in range(ITERATIONS):
        logits = model(
            image_embeddings=embeddings,
            input_points=points.flatten(0, 1)[:, None],
            input_labels=labels.flatten(0, 1)[:, None],
            input_masks=logits,
            multimask_output=False,
        ).pred_masks[:, 0]
        losses.append(mask_loss(logits[:, 0], truth, inside))
        logits = logits.detach()
    found, wanted = (logits[:, 0] > 0) & (inside > 0), truth > 0.5
    iou = (found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2)).clamp(min=1)
    return torch.stack(losses).mean(), iou.mean()


def train(args: argparse.Namespace) -> None:
    """Train, print progress, save."""
    torch.manual_seed(args.seed)
    model: Any = SamModel(sam_config())
    if args.vision:
        some = torch.stack([RefineSamples(args.scenes, 64, args.seed)[number][0] for number in range(64)])
        start_encoder(model, CLIPVisionModel.from_pretrained(args.vision), some)
    if args.init:
        model = SamModel.from_pretrained(args.init)
    aid = ColourHead(model.config.vision_config.output_channels)
    parameters = [*model.parameters(), *aid.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.steps, pct_start=0.08)
    samples = RefineSamples(args.scenes, args.steps * args.batch, args.seed)
    loader = DataLoader(samples, batch_size=args.batch, num_workers=args.workers)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    started, sums = time.monotonic(), np.zeros(4)
    for step, batch in enumerate(loader, start=1):
        embeddings = model.get_image_embeddings(batch[0])
        colour_loss = aid(embeddings, batch[-1])
        loss, iou = colour_loss * 0, torch.zeros(())
        if step > args.colour_steps:
            loss, iou = forward(model, batch, embeddings)
        optimizer.zero_grad()
        (loss + args.colour_weight * colour_loss).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        sums += (loss.item(), iou.item(), colour_loss.item(), 1)
        if step % 50 == 0 or step == args.steps:
            left = (time.monotonic() - started) / step * (args.steps - step) / 60
            means = sums / sums[3]
            scores = f"loss {means[0]:.4f} IoU {means[1]:.4f} colour {means[2]:.4f}"
            print(f"step {step}/{args.steps} {scores} {left:.1f} min left", flush=True)
            sums[:] = 0
        if step % 500 == 0 or step == args.steps:
            model.save_pretrained(args.out)
            processor().save_pretrained(args.out)


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=24000, help="scenes of the train split to draw from")
    parser.add_argument("--vision", type=Path, help="folder of pretrain_vision.py; none: random weights")
    parser.add_argument("--init", type=Path, help="folder of an earlier run to start from")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny/sam"), help="output folder")
    parser.add_argument("--steps", type=int, default=2600, help="optimizer steps")
    parser.add_argument(
        "--colour-steps", type=int, default=100, help="first steps, which teach colours alone"
    )
    parser.add_argument("--colour-weight", type=float, default=1.0, help="weight of the colours' loss")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, scenes and errors")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
