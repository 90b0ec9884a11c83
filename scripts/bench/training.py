r"""Tokens per second of training and the share of padding, for three ways to make batches in one run.

    python scripts/bench/training.py                                                  # the shipped tiny model
    python scripts/bench/training.py --model llava-hf/llava-1.5-7b-hf --batch 16 --samples 512
    python scripts/bench/training.py --random-7b --batch 16 --samples 512             # that size, no weights

The ways: samples in random order, padded; grouped by length, padded (LLaVA's); in random order, packed. Every
pass takes the same samples, conversations of one to four rounds about drawn scenes, forward and backward
through the model with LoRA; the weights stay as they are, so that all ways must give one loss, which is
checked. Ways take turns at going first; speeds are medians over the rounds, in tokens of samples (padding is
not counted) per second: of processor time on the CPU, by the clock on a GPU.

MFU is the share of the GPU's peak that the needed operations take: for a sample of n tokens and p patches,

    n (4 F + 6 T) + 6 n^2 h L + p (2 V + 4 P)

with F frozen and T trained weights of the language model and its head (without embeddings), h and L its width
and depth (causal attention: half of the square), V and P the frozen weights of the tower and the trained ones
of the projector. Recomputed activations do not count, nor do the tower's attention and its backward pass.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import command
from PIL import Image
from tqdm import tqdm
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava.codec import encode, mask_answer, mask_to_grid
from llava.constants import IGNORE_INDEX
from llava.data.refshapes.phrases import name
from llava.data.refshapes.split import render
from llava.model.backbones import backbone_of
from llava.model.checkpoint import Base, load_base
from llava.model.weights import choose_attention, choose_device, choose_dtype
from llava.settings import SegmentationSettings
from llava.train.batch import check_packing, make_collator
from llava.train.dataset import ConversationDataset
from llava.train.lora import add_lora, part_of
from llava.train.train import recompute_activations
from llava.train.trainer import sample_order

TINY = "playground/checkpoints/tiny-llava-refshapes"
MOST_ROUNDS = 4
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.2}
"""Dense bfloat16 TFLOP/s of the makers' data sheets, by a part of the device's name."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""How far the losses of two ways may lie apart, relative."""


@dataclass(frozen=True)
class Way:
    """One way to make batches."""

    title: str
    grouped: bool
    packed: bool


WAYS = (
    Way("random order, padded", grouped=False, packed=False),
    Way("grouped by length, padded", grouped=True, packed=False),
    Way("random order, packed", grouped=False, packed=True),
)


@dataclass
class Measured:
    """What the passes of one way gave: seconds and losses of each round, and places that were computed."""

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    places: int = 0


def draw_records(count: int, folder: Path, settings: SegmentationSettings) -> list[dict[str, Any]]:
    """Conversations of one to four rounds about scenes of RefShapes, whose images are written to `folder`."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        scene, pixels = render(0, "train", number)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        turns: list[dict[str, str]] = []
        chosen = rng.permutation(len(scene.items))[: rng.integers(1, MOST_ROUNDS + 1)]
        for index in map(int, chosen):
            label = name(scene.items[index])
            cells = mask_to_grid(scene.masks[index], settings.grid_hw)
            text = encode(cells, ["others", label], codec=settings.codec)
            question = f"Please segment only the {label} in the image."
            turns.append({"from": "human", "value": question if turns else f"<image>\n{question}"})
            turns.append({"from": "gpt", "value": mask_answer(f"Here is the mask of '{label}'", text)})
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    return records


def draw_features(count: int, base: Base) -> list[dict[str, torch.Tensor]]:
    """Features of drawn conversations, ready in memory, so that reading files is not measured."""
    settings = base.settings or SegmentationSettings()
    with tempfile.TemporaryDirectory() as folder:
        records = draw_records(count, Path(folder), settings)
        dataset = ConversationDataset(records, Path(folder), processor=base.processor, settings=settings)
        return [dataset[number] for number in tqdm(range(count), desc="samples")]


def random_7b(processor: Any, device: torch.device, dtype: torch.dtype, attn: str) -> Any:  # noqa: ANN401
    """LLaVA-1.5 of 7B with random weights: speed does not ask what they are.

    Args:
        processor: of a small LLaVA; from now on it makes 336-pixel images of 24 x 24 patches.
        device: where the weights are drawn.
        dtype: of the weights.
        attn: attention implementation.
    """
    processor.image_processor.size = {"shortest_edge": 336}
    processor.image_processor.crop_size = {"height": 336, "width": 336}
    processor.patch_size = 14
    config = LlavaConfig(image_token_index=processor.image_token_id)
    with device:
        return LlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation=attn)


def load(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype, attn: str) -> Base:
    """The model to measure, on its device, with its processor and settings."""
    if not arguments.random_7b:
        base = load_base(arguments.model, dtype=dtype, attn=attn)
        return Base(base.model.to(device), base.processor, base.settings, base.path)
    small = load_base(TINY, dtype=torch.float32, attn="sdpa")
    model = random_7b(small.processor, device, dtype, attn)
    return Base(
        model, small.processor, SegmentationSettings(prompt="plain_v1"), "LLaVA-1.5-7B, random weights"
    )


def passes(
    way: Way,
    features: Sequence[dict[str, torch.Tensor]],
    arguments: argparse.Namespace,
    seed: int,
    *,
    attn: str,
    hidden_size: int,
) -> list[dict[str, Any]]:
    """All samples once, in batches made one way."""
    lengths = [len(feature["input_ids"]) for feature in features]
    order = sample_order(lengths, global_batch=arguments.batch, seed=seed, grouped=way.grouped)
    collator = make_collator(
        0, packing=way.packed, row_tokens=arguments.packing_length, attention=attn, hidden_size=hidden_size
    )
    starts = range(0, len(order), arguments.batch)
    return [collator([features[number] for number in order[at : at + arguments.batch]]) for at in starts]


def clock(device: torch.device) -> float:
    """Seconds: of processor time on the CPU; by the clock on a GPU, when its work is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def run_once(model: Any, batches: Sequence[dict[str, Any]], device: torch.device) -> tuple[float, float]:  # noqa: ANN401
    """(seconds, loss per trained token) of a forward and backward pass over all batches."""
    start, total, count = clock(device), torch.zeros((), device=device), 0
    for batch in batches:
        # Memory of the gradients is kept from batch to batch, as accumulation keeps it.
        moved = {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
        loss = model(**{**moved, "use_cache": False}).loss
        loss.backward()
        trained = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
        total, count = total + loss.detach() * trained, count + trained
    return clock(device) - start, float(total) / count


def measure(
    model: Any,  # noqa: ANN401
    features: Sequence[dict[str, torch.Tensor]],
    arguments: argparse.Namespace,
    *,
    attn: str,
) -> dict[str, Measured]:
    """Every way in every round, each going first in turn; the first pass of each is not counted."""
    device = next(model.parameters()).device
    how: dict[str, Any] = {"attn": attn, "hidden_size": model.config.get_text_config().hidden_size}
    found = {way.title: Measured() for way in WAYS}
    for way in WAYS:
        run_once(model, passes(way, features[: 2 * arguments.batch], arguments, 0, **how), device)
    for number in tqdm(range(arguments.rounds), desc="rounds"):
        turn = number % len(WAYS)
        for way in WAYS[turn:] + WAYS[:turn]:
            batches = passes(way, features, arguments, number, **how)
            seconds, loss = run_once(model, batches, device)
            model.zero_grad(set_to_none=True)
            measured = found[way.title]
            measured.seconds.append(seconds)
            measured.losses.append(loss)
            measured.places += sum(batch["input_ids"].numel() for batch in batches)
    return found


def check_losses(found: dict[str, Measured], dtype: torch.dtype) -> float:
    """Largest relative difference of two losses.

    Raises:
        ValueError: they differ more than rounding explains; a way then trains something else.
    """
    losses = [loss for measured in found.values() for loss in measured.losses]
    apart = (max(losses) - min(losses)) / max(losses)
    if apart > TOLERANCE[dtype]:
        raise ValueError(f"losses differ by {apart:.1e}, more than {TOLERANCE[dtype]:.0e}: {losses}")
    return apart


def needed_operations(model: Any, features: Sequence[dict[str, torch.Tensor]]) -> float:  # noqa: ANN401
    """Floating-point operations of a forward and backward pass over all samples, as the docstring counts."""
    backbone, config = backbone_of(model.config), model.config
    text = config.get_text_config()
    language, seen = 0, 0
    for path, parameter in model.named_parameters():
        part, trained = part_of(path, backbone), parameter.requires_grad
        if "embed_tokens" in path:
            continue
        if part in ("language model", "output head"):
            language += parameter.numel() * (6 if trained else 4)
        else:
            seen += parameter.numel() * (4 if trained else 2)
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    total = 0.0
    for feature in features:
        tokens = len(feature["input_ids"])
        total += tokens * language + 6 * tokens**2 * text.hidden_size * text.num_hidden_layers
        total += patches * len(feature["pixel_values"]) * seen
    return total


def peak_of(device: torch.device, given: float | None) -> float | None:
    """Peak of the device in operations per second; None where it is not known."""
    if given is not None:
        return given * 1e12
    known = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak * 1e12 for part, peak in PEAKS.items() if part in known), None)


def table(found: dict[str, Measured], tokens: int, operations: float, peak: float | None) -> str:
    """Markdown table of the ways."""
    plain = statistics.median(found[WAYS[0].title].seconds)
    lines = [
        "| batches | padding | tokens / s | against plain | MFU |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for title, measured in found.items():
        seconds = statistics.median(measured.seconds)
        padding = 1 - tokens * len(measured.seconds) / measured.places
        used = "-" if peak is None else f"{100 * operations / seconds / peak:.1f} %"
        lines.append(
            f"| {title} | {100 * padding:.1f} % | {tokens / seconds:.0f} | {plain / seconds:.2f} | {used} |"
        )
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=TINY, help="a LLaVA: folder or model id")
    parser.add_argument("--random-7b", action="store_true", help="LLaVA-1.5-7B with random weights instead")
    parser.add_argument("--samples", type=int, default=96, help="conversations of a pass")
    parser.add_argument("--batch", type=int, default=8, help="conversations of a forward pass")
    parser.add_argument("--rounds", type=int, default=6, help="passes of each way")
    parser.add_argument(
        "--packing-length", type=int, help="most tokens of a packed row; default as in training"
    )
    parser.add_argument("--lora-r", type=int, default=64, help="rank of the adapters")
    parser.add_argument("--attn", default="auto", help="attention: auto, sdpa, eager, flash_attention_2")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--peak-tflops", type=float, help="the device's peak, where it is not known")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    arguments = parse(argv)
    device = choose_device()
    dtype: Any = choose_dtype(device)
    attn = choose_attention(arguments.attn, device, dtype)
    base = load(arguments, device, dtype, attn)
    check_packing(base.model.config, attn)
    if arguments.checkpointing:
        base.model.enable_input_require_grads()
        recompute_activations(base.model)
    model = add_lora(base.model, rank=arguments.lora_r, alpha=2 * arguments.lora_r, dropout=0.0).train()
    features = draw_features(arguments.samples, base)
    lengths = [len(feature["input_ids"]) for feature in features]
    found = measure(model, features, arguments, attn=attn)
    apart = check_losses(found, dtype)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, processor time"
    print(
        f"\n{base.path}; {where}, {str(dtype).removeprefix('torch.')}, {attn}; {len(features)} samples of "
        f"{min(lengths)} to {max(lengths)} tokens, {arguments.batch} a batch; medians of {arguments.rounds} "
        f"rounds; losses agree to {apart:.0e}\n"
    )
    operations = needed_operations(model, features)
    print(table(found, sum(lengths), operations, peak_of(device, arguments.peak_tflops)))


if __name__ == "__main__":
    command(main)
