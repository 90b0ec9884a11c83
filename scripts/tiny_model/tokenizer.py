"""Byte-level BPE tokenizer of the tiny LLaVA: any text fits, and every run of a mask text is a single token.

python scripts/tiny_model/tokenizer.py --out runs/tiny/tokenizer
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llava.constants import BACKGROUND, IMAGE_TOKEN
from llava.data.prompt import find_prompt
from llava.data.questions import ANSWER_PARTIAL, QUESTION_PARTIAL, fill
from llava.data.refshapes.phrases import sample_absent, sample_several, sample_single
from llava.data.refshapes.scene import NEW_SHAPES, SHAPES, sample_scene
from llava.data.refshapes.split import scene_rng

VOCABULARY = 1200
LONGEST_RUN = 32
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

PIECES = rf"(?:{BACKGROUND})? \*\d+(?:\| |\n ?)| ?[A-Za-z]+| ?\d+| ?[^\sA-Za-z\d]+|\s+"
"""A run with its separator, a word, a number, signs, or space: BPE never merges across these."""


def corpus(scenes: int) -> list[str]:
    """Words of the benchmark in their sentences, and every run often enough to become one token."""
    texts = []
    prompt = find_prompt("plain_v1")
    for index in range(scenes):
        rng = scene_rng(0, "train", index, purpose=1)
        scene = sample_scene(scene_rng(0, "train", index), SHAPES + NEW_SHAPES)
        expressions = [
            expression
            for k in range(len(scene.items))
            for expression in sample_single(scene, k, rng, count=3)
        ]
        several = sample_several(scene, rng)
        expressions += [sample_absent(scene, rng, SHAPES + NEW_SHAPES), *([several] if several else [])]
        for expression in expressions:
            question = fill(str(rng.choice(QUESTION_PARTIAL)), expression.text)
            answer = fill(str(rng.choice(ANSWER_PARTIAL)), expression.text)
            texts.append(
                f"{prompt.user}\n{question} {prompt.assistant} {answer}\n<seg>{expression.text}</seg>"
            )
    runs = [
        f"{label} *{count}{end}"
        for label in (BACKGROUND, "")
        for count in range(1, LONGEST_RUN + 1)
        for end in ("| ", "\n ", "\n")
    ]
    return texts + runs * max(50, scenes // 2)


def build(scenes: int = 400) -> PreTrainedTokenizerFast:
    """Trained tokenizer with `<image>` and LLaVA's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL.values(), IMAGE_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(scenes), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **SPECIAL,
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/tiny/tokenizer"), help="output folder")
    args = parser.parse_args()
    tokenizer = build()
    tokenizer.save_pretrained(args.out)
    example = f"{BACKGROUND} *4| red square *8| {BACKGROUND} *4\n {BACKGROUND} *16\n"
    print(len(tokenizer), "tokens;", tokenizer.tokenize(example))


if __name__ == "__main__":
    main()
