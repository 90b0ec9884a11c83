"""Guesses of any kind, in any pass, change the number of passes and nothing else."""

import numpy as np
import pytest
from test_decoding import SHAPES, ask, bias, texts
from tiny_backbones import FAMILIES, tiny

from llava.model.checkpoint import Checkpoint
from llava.model.decoding.engine import Decoder
from llava.model.decoding.language import Language
from llava.types import Query

pytest.importorskip("llguidance")


class Guesser:
    """Guesses tokens of the first answer to the same question, and often some wrong ones behind them."""

    def __init__(self, monkeypatch):
        """Note answers."""
        self.truth = {}
        self.first = []
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
    for one in fast:
        assert 3 < one.stats["accepted"] < one.stats["drafted"]
