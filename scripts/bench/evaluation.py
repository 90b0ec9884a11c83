r"""Sentences per second of evaluation: the reference's plain way beside our loop, in one run.

    python scripts/bench/evaluation.py                                   # shipped tiny models, drawn scenes
    python scripts/bench/evaluation.py --model checkpoints/text4seg --sam facebook/sam-vit-huge \
        --data-root playground/data/refer_seg --splits "refcoco|val" --samples 500 --batch-size 16

The plain way does what Text4Seg's released scripts do: image by image, one sentence at a time through
transformers' own `generate`; SAM embeds an image when it is drawn, then refines in 3 passes with random
points; the cells, SAM's mask, the truth and the image become four PNGs of full size for every sentence; a
second step reads them back and computes cIoU and gIoU. Ours is `llava.eval.loop.evaluate`, once for each
--decoding, and the same two scores of both stages from its records. Loading the models is not counted, nor
are pictures for people.

Both have the same weights, prompt, image preparation, SAM and longest answer, and decode greedily; the table
says how many answers are the same. Ways take turns at going first; speeds are medians over the rounds, by the
clock and of processor time, which other programs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import command
from PIL import Image
from tqdm import tqdm
from transformers import GenerationConfig

from llava.codec import grid_to_mask, read_answer
from llava.constants import IMAGE_TOKEN
from llava.data.images import load_image
from llava.data.prompt import render
from llava.data.questions import EVAL_QUESTION, fill, normalise_expression
from llava.data.readers.refer import read_refer
from llava.data.refshapes.write import write_refshapes
from llava.data.rle import decode_rle
from llava.data.tokens import tokenize
from llava.eval.loop import evaluate
from llava.eval.predictions import split_of
from llava.eval.run import RunSettings
from llava.eval.scoring import add_up, score_records
from llava.model.backbones import backbone_of_processor
from llava.model.checkpoint import Checkpoint, load_checkpoint
from llava.model.decoding import DECODINGS
from llava.model.refine import PromptedSam, SamRefiner, mask_prompt
from llava.model.refine.load import Embedded
from llava.model.text_mask import TextMaskSegmenter
from llava.types import BoolArray, Sample

MODEL = "playground/checkpoints/tiny-llava-refshapes"
SAM = "playground/checkpoints/tiny-sam-refshapes"
PLAIN = "plain way"
PASSES, POINTS = 3, 10
"""Passes through SAM, and points inside and outside: those of our refiner too."""


@dataclass
class Run:
    """One pass of a way over all samples.

    Attributes:
        clock: seconds by the clock.
        processor: seconds of processor time.
        answers: text by sample id.
        scores: "coarse" and "refined" (cIoU, gIoU), in 0..1.
        steps: seconds by the clock of each step.
        invalid: answers with a fault.
    """

    clock: float = 0.0
    processor: float = 0.0
    answers: dict[str, str] = field(default_factory=dict)
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    invalid: int = 0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of a block to a step."""
        started = time.perf_counter()
        yield
        self.steps[name] = self.steps.get(name, 0.0) + time.perf_counter() - started


Way = Callable[[Sequence[Sample], Path], Run]
"""Answers and scores samples, with a new folder for its files."""


@dataclass(frozen=True)
class PlainWay:
    """Text4Seg's released evaluation, with its steps one after the other.

    Attributes:
        checkpoint: the model.
        refiner: its SAM is used.
        max_new_tokens: longest answer.
    """

    checkpoint: Checkpoint
    refiner: SamRefiner
    max_new_tokens: int

    def __call__(self, samples: Sequence[Sample], folder: Path) -> Run:
        """Answer, refine and save sentence by sentence, then score the saved masks."""
        run = Run()
        by_image: dict[Path, list[Sample]] = {}
        for sample in samples:
            by_image.setdefault(sample.image_path, []).append(sample)
        rng = np.random.default_rng(0)
        for path, sentences in tqdm(by_image.items(), desc=PLAIN):
            image = load_image(path)
            with run.step("refine"):
                embedded = embed(self.refiner.sam, image)
            for number, sample in enumerate(sentences):
                with run.step("generate"):
                    run.answers[sample.id] = self.answer(image, sample.expression)
                with run.step("decode"):
                    coarse, faulty = self.draw(run.answers[sample.id], sample.size_hw)
                run.invalid += faulty
                with run.step("refine"):
                    refined = refine(self.refiner.sam, embedded, coarse, rng)
                with run.step("save"):
                    truth = decode_rle(sample.mask)
                    save_pictures(folder / path.stem, number, image, (coarse, refined, truth))
        with run.step("score"):
            run.scores = score_pictures(folder)
        return run

    @torch.inference_mode()
    def answer(self, image: Image.Image, expression: str) -> str:
        """What the model writes about one expression."""
        checkpoint, backbone = self.checkpoint, backbone_of_processor(self.checkpoint.processor)
        processor, model = checkpoint.processor, checkpoint.model
        question = fill(EVAL_QUESTION, normalise_expression(expression))
        pieces = render(checkpoint.settings.prompt, [(f"{IMAGE_TOKEN}\n{question}", None)])
        count = backbone.image_tokens(image.size, processor, checkpoint.settings)
        ids = torch.tensor([tokenize(pieces, processor, image_tokens=count)[0]])
        inputs = backbone.image_inputs(image, processor, checkpoint.settings)
        inputs = inputs | backbone.text_inputs(ids, processor)
        written = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=torch.ones_like(ids).to(model.device),
            **{
                name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
                for name, tensor in inputs.items()
            },
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                eos_token_id=processor.tokenizer.eos_token_id,
                pad_token_id=processor.tokenizer.eos_token_id,
            ),
        )
        text: str = processor.tokenizer.decode(
            written[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def draw(self, text: str, size_hw: tuple[int, int]) -> tuple[BoolArray, bool]:
        """Cells of an answer at the size of the image, bool (H, W), the nearest cell deciding; any faults?"""
        settings = self.checkpoint.settings
        answer = read_answer(text, settings.grid_hw, codec=settings.codec)
        return grid_to_mask(answer.foreground, size_hw, method="nearest"), bool(answer.faults)


@torch.no_grad()
def embed(sam: PromptedSam, image: Image.Image) -> Embedded:
    """Embedding of an image, computed whether or not the image was there before."""
    inputs = sam.kind.inputs(sam.model.get_image_embeddings(sam.pixels(image).to(sam.device)))
    return Embedded((image.height, image.width), inputs, sam.kind.features(inputs))


def refine(sam: PromptedSam, embedded: Embedded, coarse: BoolArray, rng: np.random.Generator) -> BoolArray:
    """SAM's mask of a coarse one, bool (H, W): `PASSES` passes with random points; empty stays empty."""
    inside, outside = np.argwhere(coarse), np.argwhere(~coarse)
    if not len(inside):
        return coarse
    parts = [(part, label) for part, label in ((inside, 1), (outside, 0)) if len(part)]
    points = np.concatenate([rng.choice(part, POINTS)[:, ::-1] for part, _ in parts]).astype(np.float32)
    labels = np.repeat(np.array([label for _, label in parts], np.int64), POINTS)
    prompts = sam.sparse(embedded.size_hw, points=[(points, labels)])
    prompt = mask_prompt(coarse, sam.prompt_side, keep_aspect=sam.kind.keep_aspect)
    logits = sam.tensor(prompt)[None]
    for _ in range(PASSES):
        logits = sam.decode(embedded, logits=logits, prompts=prompts, count=1)[:, 0]
    mask: BoolArray = sam.full_size(embedded, logits)[0]
    return mask


def save_pictures(
    folder: Path, number: int, image: Image.Image, masks: tuple[BoolArray, BoolArray, BoolArray]
) -> None:
    """Four PNGs of a sentence: coarse, refined and true mask, bool (H, W), and the image."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in zip(("coarse", "refined", "truth"), masks, strict=True):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{number}_{name}.png")
    image.save(folder / f"{number}_image.png")


def score_pictures(folder: Path) -> dict[str, tuple[float, float]]:
    """CIoU and gIoU of the coarse and the refined masks in the folders of images.

    As released: gIoU counts an empty answer to no target as 1; each stage opens its own PNGs.
    """
    scores = {}
    for stage in ("coarse", "refined"):
        counts = []
        for path in sorted(folder.glob(f"*/*_{stage}.png")):
            found = np.asarray(Image.open(path)) // 255
            truth = np.asarray(Image.open(path.with_name(path.name.replace(stage, "truth")))) // 255
            counts.append(((found & truth).sum(), (found | truth).sum()))
        shared, either = np.array(counts, dtype=np.float64).T
        ious = np.where(either == 0, 1.0, shared / np.maximum(either, 1.0))
        scores[stage] = (float(shared.sum() / max(either.sum(), 1.0)), float(ious.mean()))
    return scores


@dataclass(frozen=True)
class OurWay:
    """The evaluation loop.

    Attributes:
        segmenter: answers in batches.
        refiner: embeds each image once.
        settings: of the run's records.
        batch_size: most sentences at once.
    """

    segmenter: TextMaskSegmenter
    refiner: SamRefiner
    settings: RunSettings
    batch_size: int

    def __call__(self, samples: Sequence[Sample], folder: Path) -> Run:
        """Answer, refine, record and score all samples."""
        records = evaluate(
            self.segmenter,
            samples,
            folder,
            settings=self.settings,
            refiner=self.refiner,
            batch_size=self.batch_size,
        )
        records = records or []
        run = Run(answers={record.id: record.answer for record in records})
        run.invalid = sum(bool(record.faults) for record in records)
        with run.step("score"):
            scores = add_up(score_records(records, self.settings))
        run.scores = {name: _pair(scores[name]) for name in ("coarse", "refined")}
        for record in records:
            for step, seconds in record.seconds.items():
                run.steps[step] = run.steps.get(step, 0.0) + seconds
        return run


def _pair(scores: dict[str, Any]) -> tuple[float, float]:
    return scores["cIoU"] or 0.0, scores["gIoU"] or 0.0


def measure(ways: dict[str, Way], samples: Sequence[Sample], rounds: int) -> dict[str, list[Run]]:
    """Every way in every round over all samples, each going first in turn."""
    found: dict[str, list[Run]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            with tempfile.TemporaryDirectory() as folder:
                clock, processor = time.perf_counter(), time.process_time()
                run = ways[name](samples, Path(folder))
                run.clock, run.processor = time.perf_counter() - clock, time.process_time() - processor
            found[name].append(run)
    return found


def speed_table(found: dict[str, list[Run]], count: int) -> str:
    """Markdown: sentences per second, against the plain way, and what came of them."""
    lines = [
        "| way | sentences / s | against plain | … of processor time | against plain | same answers "
        "| invalid | cIoU coarse | refined |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    plain = found[PLAIN]
    for name, runs in found.items():
        speeds = []
        for kind in ("clock", "processor"):
            base, own = (statistics.median(getattr(run, kind) for run in one) for one in (plain, runs))
            speeds.append(f"{count / own:.2f} | {base / own:.1f}")
        same = sum(runs[0].answers[key] == text for key, text in plain[0].answers.items())
        coarse, refined = (100 * runs[0].scores[stage][0] for stage in ("coarse", "refined"))
        lines.append(
            f"| {name} | {' | '.join(speeds)} | {100 * same / count:.1f} % "
            f"| {100 * runs[0].invalid / count:.1f} % | {coarse:.1f} | {refined:.1f} |"
        )
    return "\n".join(lines)


def step_table(found: dict[str, list[Run]], count: int) -> str:
    """Markdown: milliseconds by the clock for a sentence, step by step."""
    steps = list(dict.fromkeys(step for runs in found.values() for run in runs for step in run.steps))
    lines = [f"| ms a sentence | {' | '.join(steps)} | rest |", f"| --- |{' ---: |' * (len(steps) + 1)}"]
    for name, runs in found.items():
        seconds = [statistics.median(run.steps.get(step, 0.0) for run in runs) for step in steps]
        seconds.append(statistics.median(run.clock - sum(run.steps.values()) for run in runs))
        told = " | ".join(f"{1000 * share / count:.1f}" for share in seconds)
        lines.append(f"| {name} | {told} |")
    return "\n".join(lines)


def read_samples(arguments: argparse.Namespace, folder: Path) -> list[Sample]:
    """The first --samples sentences of the splits; of scenes drawn into `folder` where no data are given."""
    root = arguments.data_root
    if root is None:
        write_refshapes(folder, {"val": max(2, arguments.samples // 4)}, workers=1)
        root = folder
    samples = [sample for split in arguments.splits for sample in read_refer(root, split)]
    return samples[: arguments.samples]


def make_ways(arguments: argparse.Namespace, samples: Sequence[Sample]) -> dict[str, Way]:
    """The plain way and ours with each decoding, all around one model and one SAM."""
    checkpoint = load_checkpoint(arguments.model, device=arguments.device, dtype=arguments.dtype)
    refiner = SamRefiner(arguments.sam, device=arguments.device, iterations=PASSES, points=POINTS)
    segmenter = partial(TextMaskSegmenter, checkpoint, max_new_tokens=arguments.max_new_tokens)
    settings = RunSettings(
        checkpoint=str(arguments.model),
        weights="",
        splits=tuple(dict.fromkeys(split_of(sample.id) for sample in samples)),
        grid_hw=checkpoint.settings.grid_hw,
        cell_policy=checkpoint.settings.cell_policy,
        refiner=str(arguments.sam),
    )
    ways: dict[str, Way] = {PLAIN: PlainWay(checkpoint, refiner, segmenter().max_new_tokens)}
    for decoding in arguments.decoding:
        ways[f"ours, batches of {arguments.batch_size}, {decoding}"] = OurWay(
            segmenter(decoding=decoding), refiner, settings, arguments.batch_size
        )
    return ways


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=MODEL, help="checkpoint folder or hub name")
    add("--sam", default=SAM, help="SAM that refines the masks")
    add("--data-root", type=Path, help="folder of datasets (default: scenes are drawn)")
    add("--splits", nargs="+", default=["refshapes|val"], help="what is asked, for example 'refcoco|val'")
    add("--samples", type=int, default=96, help="sentences of a pass, the first ones of the splits")
    add("--batch-size", type=int, default=8, help="sentences answered at once by our loop")
    add("--decoding", nargs="+", choices=list(DECODINGS), default=["plain", "fast"], help="of our loop")
    add("--max-new-tokens", type=int, help="longest answer (default: what the grid needs)")
    add("--rounds", type=int, default=3, help="passes of each way")
    add("--device", help="cuda or cpu (default: cuda where there is one)")
    add("--dtype", help="float32, float16 or bfloat16 (default: what fits the device)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        samples = read_samples(arguments, Path(folder))
        ways = make_ways(arguments, samples)
        for way in ways.values():
            with tempfile.TemporaryDirectory() as first:
                way(samples[: arguments.batch_size], Path(first))
        load = os.getloadavg()[0]
        found = measure(ways, samples, arguments.rounds)
    images = len({sample.image_path for sample in samples})
    cuda = torch.cuda.is_available() and arguments.device != "cpu"
    where = torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPU cores, load {load:.1f} before"
    print(
        f"\n{arguments.model}, {arguments.sam}; {len(samples)} sentences about {images} images; {where}, "
        f"{torch.get_num_threads()} threads; medians of {arguments.rounds} rounds\n"
    )
    print(f"{speed_table(found, len(samples))}\n\n{step_table(found, len(samples))}")


if __name__ == "__main__":
    command(main)
