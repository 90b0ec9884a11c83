"""Masks that the limit cuts anywhere: completed in whole labels, without a fault and without a word."""

import numpy as np
import pytest
import torch
from conftest import tiny_settings, tiny_tokenizer

from llava.codec import block_of, encode, mask_answer, read_answer, read_boxes, write_block
from llava.model.decoding.brick_language import BrickLanguage
from llava.model.decoding.drafts import Hints
from llava.model.decoding.language import Language
from llava.model.decoding.writing import Scores, Writing
from llava.model.new_tokens import add_brick_tokens
from llava.settings import CODECS

pytest.importorskip("llguidance")

GRID = (2, 12)
NAMES = ["d\u00f6g ball", "\u72ac", "\u72d7 and \u72ac", "x", "old", "man\u200dwoman", "so\u00adft"]


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level, so that a letter outside of ASCII is spread over tokens."""
    return tiny_tokenizer()


def cut_anywhere(language, ids, **more):
    """Answers of a model that wants these tokens, one for each limit."""
    blank = torch.zeros(1, language.size)
    for limit in range(1, len(ids)):
        writing = Writing(language, Hints(GRID), limit=limit, **more)
        while not writing.ended:
            writing.take(Scores([ids[len(writing.tokens)]], [1.0], blank), [])
        assert writing.tokens[:limit] == ids[:limit]
        yield writing


def tokens_of(tokenizer, answer):
    return [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


@pytest.mark.parametrize("codec", CODECS)
def test_a_cut_mask_keeps_to_its_labels(codec, tokenizer, capfd):
    end = tokenizer.eos_token_id
    language = Language(tokenizer, len(tokenizer) + 3, ends=[end], grid_hw=GRID, labels=NAMES, codec=codec)
    grid = np.array([[0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 7, 0], [1] * 12])
    answer = mask_answer("Sure:", encode(grid, ("others", *NAMES), codec=codec))
    closed = 0
    for writing in cut_anywhere(language, tokens_of(tokenizer, answer)):
        if writing.blocks:
            found = read_answer(writing.text.decode(), GRID, codec=codec)
            assert found.faults == () and set(found.blocks[0].labels) <= {"others", *NAMES}, writing.text
            closed += writing.stats["closed_early"]
    assert closed > 20
    assert capfd.readouterr().err == ""


def test_a_tokenizer_with_a_token_for_the_tag_is_refused_for_spelled_masks():
    tokenizer = tiny_tokenizer()
    add_brick_tokens(tokenizer)
    with pytest.raises(ValueError, match=r"codec 'rrle' spells <seg> in letters.*--decoding plain"):
        Language(tokenizer, len(tokenizer), ends=[tokenizer.eos_token_id], grid_hw=GRID)


def test_a_cut_block_keeps_to_its_labels():
    tokenizer = tiny_tokenizer()
    add_brick_tokens(tokenizer)
    end = tokenizer.eos_token_id
    settings = tiny_settings(codec="bricks", grid_hw=GRID)
    language = BrickLanguage(tokenizer, len(tokenizer) + 3, ends=[end], settings=settings, labels=NAMES)
    closed = 0
    for name in NAMES:
        answer = "Sure:\n" + write_block(block_of(name, np.eye(4), GRID))
        for writing in cut_anywhere(language, tokens_of(tokenizer, answer)):
            if writing.blocks:
                found = read_boxes(writing.text.decode(), GRID, strict=True)
                assert found.faults == () and {block.label for block in found.blocks} <= set(NAMES)
                closed += writing.stats["closed_early"]
    assert closed > 20


def test_a_row_whose_free_label_is_cut_inside_a_letter_is_told(tokenizer):
    end, told = tokenizer.eos_token_id, []
    language = Language(tokenizer, len(tokenizer) + 3, ends=[end], grid_hw=GRID)
    answer = mask_answer("Sure:", encode(np.ones(GRID, int), ("others", "\u72ac")))
    for writing in cut_anywhere(
        language, tokens_of(tokenizer, answer), on_row=lambda row, text: told.append(text)
    ):
        assert not writing.blocks or read_answer(writing.text.decode(errors="replace"), GRID).faults == ()
    assert any("\ufffd" in text for text in told) and any(text.startswith("\u72ac *") for text in told)
