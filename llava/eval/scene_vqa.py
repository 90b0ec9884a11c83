"""Plain questions about generated scenes: does a model that learnt masks still answer in a word?

    python -m llava.eval.scene_vqa --model-path CHECKPOINT --before BASE --out results/vqa

Asks the same questions of both (colour, count and position, `llava.data.refshapes.questions`) and prints the
share of right answers with an interval of the difference. An answer is right when it equals the true one in
lower case, without punctuation and articles, and with digits for number words. "Guess" is what the commonest
answer to each form of question would get. Answers stand in answers.jsonl.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from llava.constants import SEG_OPEN
from llava.data.refshapes.questions import KINDS, PURPOSE, SceneQuestion, scene_questions
from llava.data.refshapes.split import SPLIT_CODES, render, scene_rng
from llava.eval.run import check_out
from llava.files import write_text_atomic
from llava.types import Query, Segmenter

NUMBERS = {word: str(number) for number, word in enumerate("zero one two three four five six".split())}
NUMBERS |= {"no": "0", "none": "0"}
ARTICLES = ("a", "an", "the")

ANSWER_TOKENS = 24
"""Longest answer: a few words, or enough of a mask to see that it is one."""

DRAWS = 2000
TAILS = (0.025, 0.975)
"""Bootstrap draws of scenes, and the ends of the interval that they give."""

ANSWERS_FILE = "answers.jsonl"


@dataclass(frozen=True)
class Asked:
    """A question about a scene.

    Attributes:
        scene: number of the scene in its split.
        image: RGB picture of the scene.
        question: with its answer.
    """

    scene: int
    image: Image.Image
    question: SceneQuestion


def normal_form(answer: str) -> str:
    """Answer without what does not count.

    Example:
        >>> normal_form(" The Red one.")
        'red 1'
    """
    words = re.sub(r"[^\w\s]", " ", answer.lower()).split()
    return " ".join(NUMBERS.get(word, word) for word in words if word not in ARTICLES)


def is_right(answer: str, question: SceneQuestion) -> bool:
    """Whether an answer is the true one; compared in their normal forms."""
    return normal_form(answer) == normal_form(question.answer)


def draw_questions(split: str, scenes: int, *, seed: int = 0, each: int = 1) -> list[Asked]:
    """Questions about the first scenes of a split; the same for the same arguments.

    Raises:
        ValueError: fewer than one scene, or fewer than one question of each kind.
    """
    if scenes < 1 or each < 1:
        raise ValueError(f"{scenes} scenes, {each} questions of each kind: at least 1 of both is needed")
    asked = []
    for index in range(scenes):
        scene, pixels = render(seed, split, index)
        image = Image.fromarray(pixels)
        questions = scene_questions(scene, scene_rng(seed, split, index, PURPOSE), each=each)
        asked += [Asked(index, image, question) for question in questions]
    return asked


def answer_all(segmenter: Segmenter, asked: Sequence[Asked], *, batch_size: int = 16) -> list[str]:
    """What a system writes to each question."""
    answers: list[str] = []
    for start in tqdm(range(0, len(asked), batch_size), desc="answer", unit="batch"):
        queries = [
            Query([one.image], ["scene"], one.question.question) for one in asked[start : start + batch_size]
        ]
        answers += [prediction.text.strip() for prediction in segmenter.segment(queries)]
    return answers


def answers_of(path: Path, asked: Sequence[Asked], options: argparse.Namespace) -> list[str]:
    """What the checkpoint of a path writes to each question; the model is gone afterwards."""
    from llava.model.segmenter import load_segmenter

    base = options.model_base if path == options.model_path else None
    segmenter = load_segmenter(path, base=base, device=options.device, max_new_tokens=ANSWER_TOKENS)
    return answer_all(segmenter, asked, batch_size=options.batch_size)


def guess_share(asked: Sequence[Asked]) -> float:
    """Share of right answers of one who knows the question's form alone and says its commonest answer."""
    by_form: dict[tuple[str, ...], Counter[str]] = {}
    for one in asked:
        by_form.setdefault(one.question.options, Counter())[one.question.answer] += 1
    return sum(max(counts.values()) for counts in by_form.values()) / len(asked)


def difference_interval(
    asked: Sequence[Asked], before: Sequence[bool], after: Sequence[bool], *, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the share after minus the share before; whole scenes are drawn with replacement."""
    scenes, place = np.unique([one.scene for one in asked], return_inverse=True)
    change = np.array(after, dtype=float) - np.array(before, dtype=float)
    sums, sizes = np.bincount(place, change), np.bincount(place)
    weights = np.random.default_rng(seed).multinomial(
        len(scenes), np.full(len(scenes), 1 / len(scenes)), DRAWS
    )
    low, high = np.quantile((weights @ sums) / np.maximum(weights @ sizes, 1), TAILS)
    return float(low), float(high)


def table(asked: Sequence[Asked], answers: dict[str, list[str]]) -> str:
    """Markdown: share of right answers of each kind and of all; with two systems also their difference."""
    names = list(answers)
    head = ["questions", "number", "guess", *names]
    head += ["difference (95 %)"] if len(names) == 2 else []
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for kind in (*KINDS, "all"):
        places = [place for place, one in enumerate(asked) if kind in ("all", one.question.kind)]
        if not places:
            continue
        chosen = [asked[place] for place in places]
        right = {
            name: [is_right(texts[place], asked[place].question) for place in places]
            for name, texts in answers.items()
        }
        cells = [kind, str(len(chosen)), f"{100 * guess_share(chosen):.1f}"]
        cells += [f"{100 * sum(one) / len(one):.1f}" for one in right.values()]
        if len(names) == 2:
            low, high = difference_interval(chosen, *right.values())
            cells.append(f"{100 * low:+.1f} to {100 * high:+.1f}")
        lines.append(_row(cells))
    masks = {name: sum(SEG_OPEN in text for text in texts) for name, texts in answers.items()}
    told = ", ".join(f"{name} {number}" for name, number in masks.items())
    return "\n".join([*lines, f"\nanswers with a mask that nobody asked for: {told}"])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def answer_lines(asked: Sequence[Asked], answers: dict[str, list[str]]) -> Iterator[str]:
    """One JSON object for each question."""
    for place, one in enumerate(asked):
        fields = {"scene": one.scene, "kind": one.question.kind, "question": one.question.question}
        said = {name: texts[place] for name, texts in answers.items()}
        yield json.dumps({**fields, "truth": one.question.answer, "answers": said}) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model-path", type=Path, required=True, help="checkpoint folder with segmentation.json")
    add("--before", type=Path, help="checkpoint to compare with, from before the fine-tuning")
    add("--model-base", help="base of an adapter in --model-path, where it names none or another")
    add("--split", choices=list(SPLIT_CODES), default="val", help="scenes that are asked about")
    add("--scenes", type=int, default=100, help="how many of them")
    add("--each", type=int, default=1, help="questions of each kind about a scene")
    add("--batch-size", type=int, default=16, help="questions answered at once")
    add("--seed", type=int, default=0, help="of scenes and questions")
    add("--device", help="cuda or cpu (default: cuda where there is one)")
    add("--out", type=Path, default=Path("results/scene_vqa"), help="folder for answers.jsonl")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, ask, compare, print."""
    options = parse(arguments)
    from llava.model.hub import find_settings

    models = {"before": options.before} if options.before else {}
    models |= {"after" if options.before else "right": options.model_path}
    answers = {}
    try:
        if options.batch_size < 1:
            raise ValueError(f"--batch-size {options.batch_size}: at least 1")
        check_out(options.out)
        for path in models.values():
            find_settings(path)
        asked = draw_questions(options.split, options.scenes, seed=options.seed, each=options.each)
        for name, path in models.items():
            answers[name] = answers_of(path, asked, options)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    write_text_atomic(options.out / ANSWERS_FILE, "".join(answer_lines(asked, answers)))
    sys.stdout.write(f"{table(asked, answers)}\nanswers: {options.out / ANSWERS_FILE}\n")


if __name__ == "__main__":
    main()
