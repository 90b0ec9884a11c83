"""Decoding of box-wise masks: one text whatever the number of passes, and no block with a fault."""

import os
from itertools import product

import numpy as np
import pytest
import real_tokenizers
import torch
from conftest import tiny_settings, tiny_tokenizer
from test_decoding import MODES, WORDS, ask, bias, lively, texts
from tiny_backbones import tiny

from llava.codec.boxwise import Block, block_of, box_answer, read_boxes, write_block
from llava.constants import BRICK_TOKENS
from llava.model.checkpoint import Checkpoint
from llava.model.decoding.brick_confidence import brick_confidence
from llava.model.decoding.brick_drafts import draft_bricks, draft_opening, earliest_neighbours
from llava.model.decoding.brick_language import BrickLanguage
from llava.model.decoding.drafts import Hints
from llava.model.decoding.hints import hints_for
from llava.model.decoding.writing import Scores, Writing
from llava.model.new_tokens import add_brick_tokens, make_room, start_rows
from llava.settings import BRICK_ORDERS
from llava.types import Query

pytest.importorskip("llguidance")

GRID = (6, 5)
TARGETS = (
    "\n<ref>red square</ref><box>(1,0),(52,31)</box><seg><b1><f2><b3><f4><b9></seg></s>",
    "\n<ref>blue circle</ref><box>(204,11),(999,998)</box><seg><f9><f5><b2></seg><ref>x</ref><box></box>",
)


def brick_settings(**changes):
    return tiny_settings(**({"codec": "bricks", "grid_hw": GRID} | changes))


def with_bricks(model, processor):
    added = add_brick_tokens(processor.tokenizer)
    make_room(model, processor.tokenizer)
    start_rows(model, processor.tokenizer, added)


def lively_bricks(seed, *texts, strength=9.0, **changes):
    """`lively` with brick tokens and settings."""
    settings = {"codec": "bricks", "grid_hw": GRID} | changes
    return lively(seed, *texts, strength=strength, prepare=with_bricks, **settings)


@pytest.fixture(scope="module")
def writer():
    """Checkpoint of a model that writes blocks, most of them broken when it is let alone."""
    return lively_bricks(5, *TARGETS)


@pytest.fixture(scope="module")
def queries():
    """Two images with two questions each."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    return [Query([Image.fromarray(pixels[number % 2])], [word]) for number, word in enumerate(WORDS)]


def language_of(tokenizer, **changes):
    end = tokenizer.eos_token_id
    settings = brick_settings(**{name: value for name, value in changes.items() if name != "labels"})
    return BrickLanguage(
        tokenizer, len(tokenizer) + 3, ends=[end], settings=settings, labels=changes.get("labels")
    )


@pytest.fixture(scope="module")
def tokenizer():
    words = tiny_tokenizer()
    add_brick_tokens(words)
    return words


def faults(text, grid_hw=GRID):
    return [fault for fault in read_boxes(text, grid_hw, strict=True).faults if fault.kind != "no_mask"]


def test_every_constrained_mode_writes_the_same_whole_blocks_in_fewer_passes(writer, queries):
    by_mode = {mode: ask(writer, queries, mode) for mode in ("plain", *MODES)}
    assert sum(bool(one.faults) for one in by_mode["plain"]) >= 2
    assert texts(by_mode["constrained"]) == texts(by_mode["forced"]) == texts(by_mode["fast"])
    assert len(set(texts(by_mode["fast"]))) >= 3
    assert sum("<f" in one.text for one in by_mode["fast"]) >= 2
    assert all(faults(one.text) == [] and one.confidence.shape == (1, *GRID) for one in by_mode["fast"])
    passes = [sum(one.stats["passes"] for one in by_mode[mode]) for mode in MODES]
    assert passes == sorted(passes, reverse=True) and passes[0] > passes[1] > passes[2]
    assert texts([ask(writer, [query], "fast")[0] for query in queries]) == texts(by_mode["fast"])


def test_any_budget_leaves_whole_blocks(writer, queries):
    early = []
    for budget in (3, 11, 24, 60):
        slow, fast = (
            ask(writer, queries[:2], mode, max_new_tokens=budget) for mode in ("constrained", "fast")
        )
        assert texts(slow) == texts(fast)
        assert [fault for one in fast for fault in faults(one.text)] == []
        early += [one.stats["closed_early"] for one in fast]
    assert 0 < sum(early) < len(early)


def test_labels_are_the_only_words_of_blocks(writer, queries):
    names = ["blue circle", "re", "red d\u00f6g"]
    for mode in MODES:
        for budget in (8, 40):
            answers = ask(writer, queries[:2], mode, labels=names, max_new_tokens=budget)
            blocks = [block for one in answers for block in read_boxes(one.text, GRID).blocks]
            assert blocks and {block.label for block in blocks} <= set(names)
            assert all(faults(one.text) == [] for one in answers)


def test_a_model_that_writes_no_block_answers_as_plainly(queries):
    stranger = lively_bricks(
        4, "I see no red square, nor a blue circle (1,2), here or there.</s>", strength=40.0
    )
    plain, fast = (ask(stranger, queries, mode, max_new_tokens=25) for mode in ("plain", "fast"))
    assert texts(plain) == texts(fast) and all("<" not in one for one in texts(plain))
    assert all("no_mask" in one.faults[-1] and not one.confidence.any() for one in fast)
    assert all(one.boxes == (None,) for one in fast)


def test_qwen_writes_one_text(picture):
    model, processor, settings = tiny("qwen2_vl")
    with_bricks(model, processor)
    bias(model, processor, *TARGETS, strength=2.0)
    settings = brick_settings(prompt=settings.prompt, image_side=settings.image_side)
    asked = [Query([picture(40, 30)], [word]) for word in WORDS[:2]]
    checkpoint = Checkpoint(model, processor, settings, None)
    slow, fast = (ask(checkpoint, asked, mode, max_new_tokens=40) for mode in ("constrained", "fast"))
    assert texts(slow) == texts(fast)
    assert any("<ref>" in one.text for one in fast) and all(faults(one.text) == [] for one in fast)


def write_along(language, hints, ids, mode):
    """Writing of a model that wants these tokens, and nothing when a guess has led it away from them."""
    writing = Writing(language, hints, limit=4000)
    blank = torch.zeros(1, language.size)
    writing.take(Scores([ids[0]], [1.0], blank), [])
    while not writing.ended:
        guess, place = writing.guess(mode), len(writing.tokens)
        count = len(guess) + 1
        wanted = (ids[place : place + count] + [ids[-1]] * count)[:count]
        writing.take(Scores(wanted, [1.0] * count, blank.expand(count, -1)), guess)
    return writing


def blob(seed, size=40):
    """Mask of a drawn ellipse with a hole."""
    rows, columns = np.mgrid[:size, :size]
    y, x, height, width = np.random.default_rng(seed).uniform((10, 10, 6, 6), (30, 30, 12, 14))
    far = ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2
    return (far < 1) & (far > 0.05)


@pytest.mark.parametrize(("order", "tail"), [*product(BRICK_ORDERS, (False, True))])
def test_whatever_training_writes_is_written_in_fewer_passes(order, tail, tokenizer):
    grid_hw = (16, 16)
    language = language_of(tokenizer, grid_hw=grid_hw, brick_order=order, brick_tail=tail)
    blocks = [
        write_block(block_of("red square", blob(seed), grid_hw), order=order, tail=tail) for seed in (0, 1)
    ]
    gone = write_block(block_of("blue cat", np.zeros((4, 4)), grid_hw), order=order, tail=tail)
    answer = box_answer("Sure, here is the segmentation mask for 'red square':", [*blocks, gone])
    ids = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    passes = []
    for mode in MODES:
        writing = write_along(language, hints_for("red square", grid_hw), ids, mode)
        assert writing.tokens == ids and len(writing.blocks) == 3
        passes.append(writing.stats["passes"])
    assert passes[0] == len(ids) > passes[1] > passes[2]
    assert passes[2] < 0.7 * len(ids)


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
@pytest.mark.parametrize("name", ["llama2", "qwen"])
def test_real_tokenizers_write_whole_blocks_in_half_of_the_passes(name):
    words = getattr(real_tokenizers, name).__wrapped__()
    add_brick_tokens(words)
    grid_hw, label = (64, 64), "the left black d\u00f6g's ball"
    language = language_of(words, grid_hw=grid_hw)
    gone = write_block(block_of("cat", np.zeros((4, 4)), grid_hw))
    answer = box_answer(f"Here is '{label}':", [write_block(block_of(label, blob(3, 90), grid_hw)), gone])
    ids = [*words(answer, add_special_tokens=False).input_ids, words.eos_token_id]
    passes = []
    for mode in MODES:
        writing = write_along(language, hints_for(label, grid_hw), ids, mode)
        assert writing.tokens == ids and len(writing.blocks) == 2
        assert faults(words.decode(ids[:-1]).removeprefix(" "), grid_hw=grid_hw) == []
        passes.append(writing.stats["passes"])
    assert passes[0] == len(ids) > passes[1] > passes[2] and passes[2] < 0.6 * len(ids)


def test_allowed_tokens_are_those_that_the_rules_take(tokenizer):
    texts_so_far = (
        "",
        "<ref>",
        "<ref> red",
        "<ref>a ",
        f"<ref>{'x' * 199}",
        "<ref>a</ref>",
        "<ref>a</ref><box>",
    )
    box = "<ref>a</ref><box>(1"
    more = (
        box,
        f"{box}2,345),(",
        f"{box},2),(3,4)",
        f"{box},2),(3,4)</box>",
        f"{box},2),(3,4)</box><seg><b3>",
    )
    for labels in (None, ["red", "red square", "d\u00f6g"]):
        language = language_of(tokenizer, labels=labels)
        for text in (*texts_so_far, *more):
            matcher = language.matcher()
            matcher.consume_tokens(language.tokens_of(text))
            allowed = language.allowed(matcher)
            taken = {token for token in range(len(tokenizer)) if matcher.validate_tokens([token])}
            assert taken or labels
            if text:
                assert set(np.flatnonzero(allowed)) == taken
            forced = matcher.compute_ff_tokens()
            assert matcher.validate_tokens(forced) == len(forced)


def test_characters_may_be_spread_over_tokens(tokenizer):
    language = language_of(tokenizer)
    matcher = language.matcher()
    first, second = (tokenizer.convert_tokens_to_ids(one) for one in "\u00c3\u00b6")  # bytes of an o umlaut
    matcher.consume_tokens([language.ids["<ref>"], first])
    assert matcher.partial == b"\xc3"
    allowed = language.allowed(matcher)
    assert allowed[second] and not allowed[language.ids["</ref>"]] and not allowed[first]
    matcher.consume_token(second)
    assert (matcher.state.text, matcher.partial) == ("\u00f6", b"")


def step(writing, language, token, *others):
    """Let the model want a token most, then others."""
    scores = torch.zeros(1, language.size)
    for rank, one in enumerate((token, *others)):
        scores[0, one] = 9.0 - rank
    writing.take(Scores([token], [0.5], scores), [])


def test_outside_of_blocks_nothing_of_a_block_comes_but_its_first_tag(tokenizer):
    language = language_of(tokenizer)
    word, less, more = (tokenizer.convert_tokens_to_ids(one) for one in ("S", "<", ">"))
    writing = Writing(language, Hints(GRID), limit=50)
    step(writing, language, language.ids["<f3>"], language.ids["<seg>"], word)
    assert writing.text == b"S"
    for token in (less, *tokenizer("ref", add_special_tokens=False).input_ids):
        step(writing, language, token)
    step(writing, language, more, word)
    assert writing.text == b"S<refS" and not writing.blocks
    step(writing, language, language.ids["<ref>"])
    step(writing, language, language.ids["<seg>"], tokenizer.eos_token_id, word)
    assert writing.text == b"S<refS<ref>S"
    assert read_boxes(writing.text.decode() + "</ref><box></box><seg></seg>", GRID).faults == ()


def test_a_tokenizer_without_the_tokens_is_refused():
    with pytest.raises(ValueError, match=r"lacks 132 of them \(first: <ref>\).*--codec bricks"):
        language_of(tiny_tokenizer())
    with pytest.raises(ValueError, match=r"labels 'dog': needed is a list"):
        words = tiny_tokenizer()
        add_brick_tokens(words)
        language_of(words, labels="dog")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Nothing is known of the first row, and of a new one.
        ("", []),
        ("<b1><f1>", []),
        # The row above comes again; behind the last foreground stands the tag.
        ("<b1><f2><b2><f2>", ["<b2>", "<f2>", "</seg>"]),
        # An edge moved in or out: the run still ends where it ended above.
        ("<b1><f2><b3><f1>", ["<b3>", "<f1>", "</seg>"]),
        ("<b1><f2><b1><f3>", ["<b1>", "<f3>", "</seg>"]),
        # A region that the row above does not know begins with one cell.
        ("<f1><b5>", ["<f1>", "<b3>", "<f1>", "</seg>"]),
    ],
)
def test_the_next_bricks_follow_from_the_row_above(text, expected):
    assert draft_bricks(text, (3, 4), order="raster", tail=False, rows=4) == expected


def test_runs_longer_than_a_brick_are_guessed_whole_and_split_runs_not_at_all():
    rows = draft_bricks("<b1><f63><f16>", (3, 80), order="raster", tail=False, rows=1)
    assert rows == ["<b1>", "<f63>", "<f16>"]
    assert draft_bricks("<b1><f1><f1><b2>", (3, 4), order="raster", tail=False, rows=1) == []


def test_every_cell_follows_the_neighbour_that_was_first():
    assert earliest_neighbours((3, 2), "columns") == [-1, 0, 1, 0, 1, 2]
    assert earliest_neighbours((2, 3), "snake") == [-1, 0, 1, 2, 1, 0]
    for order in BRICK_ORDERS:
        found = earliest_neighbours((7, 9), order)
        assert found[0] == -1 and all(-1 <= one < place for place, one in enumerate(found))


@pytest.mark.parametrize("order", BRICK_ORDERS)
def test_guesses_keep_blocks_whole(order):
    rng = np.random.default_rng(0)
    for seed in range(30):
        tail = bool(seed % 2)
        text = write_block(block_of("x", blob(seed), (9, 9)), order=order, tail=tail)
        head, bricks = text.removesuffix("</seg>").split("<seg>")
        pieces = [f"<{one}" for one in bricks.split("<")[1:]]
        done = "".join(pieces[: rng.integers(1, len(pieces) + 1)])
        guess = draft_bricks(done, (9, 9), order=order, tail=tail, rows=20)
        if guess:
            assert guess[-1] == "</seg>"
            whole = read_boxes(
                f"{head}<seg>{done}{''.join(guess)}", (9, 9), order=order, tail=tail, strict=True
            )
            assert whole.faults == (), (done, guess)


def test_sentences_are_guessed_up_to_the_block():
    hints = Hints(GRID, ("dog", "the dog"), ("Sure:\n", "Mask of 'the dog':\n"))
    assert draft_opening("", hints) == ("Sure:\n", "dog")
    assert draft_opening("Mask", hints) == (" of 'the dog':\n", "the dog")
    assert draft_opening("Look here:", hints) == ("\n", "dog")
    assert draft_opening("No", hints) is None is draft_opening("I see none.", hints)


def test_confidence_lies_where_the_box_lies_and_mixes_the_edges():
    pieces = [("<ref>", 1.0), ("dog", 0.3), ("</ref>", 1.0), ("<box>", 1.0), ("(", 0.9), ("0,0", 0.2)]
    pieces += [("),(", 1.0), ("999,999", 1.0), (")", 1.0), ("</box>", 1.0), ("<seg>", 1.0)]
    pieces += [("<b1>", 0.6), ("<f2>", 0.8), ("<b2>", 1.0), ("<f1>", 1.0), ("</seg>", 1.0)]
    text, spans = b"", []
    for piece, chance in pieces:
        spans.append((len(text), chance))
        text += piece.encode()
    found = brick_confidence(text, spans, [(5, len(text) - 6)], (2, 4))
    # A fifth of the first edge lies one cell to the left and one to the right, a tenth of the second.
    expected = np.array([[0.2, 0.8, 0.9, 0.1], [0, 1, 0, 0]]) * 0.9
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
    corner = text.replace(b"999,999", b"0499,0499").replace(b"0499", b"499")
    small = brick_confidence(corner, spans, [(5, len(corner) - 6)], (2, 4))
    assert small[0, 0] == pytest.approx(0.9 * (0.2 + 0.8 + 0 + 1) / 4, abs=0.01) and small[1].max() == 0
    assert not brick_confidence(b"<ref>a</ref><box></box><seg></seg>", [(0, 1.0)], [(5, 28)], (2, 4)).any()


@pytest.mark.parametrize(("order", "tail"), [*product(BRICK_ORDERS, (False, True))])
def test_a_model_that_is_sure_is_believed_cell_by_cell(order, tail):
    for cells in (blob(0, 9), np.eye(4, 3) > 0, np.eye(5, 2)[::-1] > 0):
        text = write_block(Block("a", (0, 0, 999, 999), cells), order=order, tail=tail).encode()
        spans = [(place, 1.0) for place in range(len(text))]
        found = brick_confidence(text, spans, [(5, len(text) - 6)], cells.shape, order=order)
        np.testing.assert_allclose(found, cells, atol=1e-6)


def test_all_tags_are_found_and_the_longest_is_known(tokenizer):
    language = language_of(tokenizer)
    for name in BRICK_TOKENS:
        text = b"ab" + name.encode()
        assert language.find_opening(text, len(text) - 1) == (2, len(text))
        assert language.find_opening(text, len(text)) is None
