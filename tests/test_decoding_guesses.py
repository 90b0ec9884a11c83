"""Guesses of any kind, in any pass, change the number of passes and nothing else."""

import numpy as np
import pytest
from conftest import tiny_tokenizer
from test_decoding import SHAPES, ask, bias, texts
from tiny_backbones import FAMILIES, tiny

from llava.data.prompt import find_prompt
from llava.model.checkpoint import Checkpoint
from llava.model.decoding.engine import Decoder
from llava.model.decoding.hints import hints_for
from llava.model.decoding.language import Language
from llava.model.mask_text import mask_text
from llava.model.new_tokens import add_brick_tokens
from llava.settings import SegmentationSettings
from llava.types import Query

pytest.importorskip("llguidance")


class Guesser:
    """Guesses tokens of the first answer to the same question, and often some wrong ones behind them."""

    def __init__(self, monkeypatch):
        """Note answers."""
        self.truth = {}
        self.first = []
        self.leads = set()
        write = Decoder.write

        def noted(decoder, asked, images):
            written = write(decoder, asked, images)
            self.truth.update({one.hints.labels: two.tokens for one, two in zip(asked, written, strict=True)})
            return written

        monkeypatch.setattr(Decoder, "write", noted)

    def start(self, monkeypatch, words):
        """Guess from now on; `words` are tokens that may be wrong."""
        rng = np.random.default_rng(0)

        def draft(language, written, text, hints, *, rows):
            count = int(rng.integers(0, 12)) if written else 3 * len(self.first)
            guess = self.truth[hints.labels][len(written) :][:count]
            if not written:
                self.first.append(len(guess))
                self.leads.add(hints.lead)
            return [*guess, *rng.choice(words, 3).tolist()] if rng.random() < 0.7 else guess

        monkeypatch.setattr(Language, "draft", draft)


@pytest.mark.parametrize("shared", [True, False], ids=["shared image", "own image"])
@pytest.mark.parametrize("name", FAMILIES)
def test_right_and_wrong_guesses_behind_prompts_and_answers_leave_the_text_alone(
    name, shared, picture, monkeypatch
):
    model, processor, settings = tiny(name)
    bias(model, processor, SHAPES, strength=1.0)
    bias(model, processor, "\n<seg>", strength=2.0)
    checkpoint = Checkpoint(model, processor, settings, None)
    images = [picture(40, 30), picture(24, 36, seed=1), picture(30, 30, seed=2)]
    asked = [
        Query([images[number % 2 if shared else number]], [word])
        for number, word in enumerate(("x", "the second blue circle", "red square"))
    ]
    guesser = Guesser(monkeypatch)
    slow = ask(checkpoint, asked, "constrained", max_new_tokens=20)
    guesser.start(monkeypatch, processor.tokenizer("dog others *4\n | <seg>").input_ids)
    fast = ask(checkpoint, asked, "fast", max_new_tokens=20)
    assert texts(fast) == texts(slow)
    assert [one.stats["tokens"] for one in fast] == [one.stats["tokens"] for one in slow]
    # Also the pass of the prompts has guesses, of different lengths.
    assert guesser.first == [0, 3, 6]
    assert guesser.leads == {find_prompt(settings.prompt).before_answer}
    for one in fast:
        assert 3 < one.stats["accepted"] < one.stats["drafted"]


@pytest.mark.parametrize(
    ("codec", "mask"), [("rrle", "<seg>others *4\n"), ("bricks", "<ref>red square</ref>")]
)
@pytest.mark.parametrize("prompt", ["llava_v1", "onevision"])
def test_the_first_guess_has_the_tokens_of_an_answer_behind_its_prompt(prompt, codec, mask):
    tokenizer, template = tiny_tokenizer(), find_prompt(prompt)
    if codec == "bricks":
        add_brick_tokens(tokenizer)
    settings = SegmentationSettings(codec=codec, grid_hw=(4, 4), prompt=prompt)
    language = mask_text(settings).language(tokenizer, len(tokenizer), ends=[tokenizer.eos_token_id])
    answer = f"Sure, here is the segmentation mask for 'red square':\n{mask}"
    asked, whole = (
        tokenizer(text, add_special_tokens=False).input_ids
        for text in (template.assistant, f"{template.assistant}{template.before_answer}{answer}")
    )
    hints = hints_for("red square", (4, 4), lead=template.before_answer)
    expected = whole[len(asked) :]
    assert language.draft([], b"", hints, rows=1)[: len(expected)] == expected
