"""Rules of a block: they allow all that is written, and whatever they allow is read without a fault."""

import random

import numpy as np
import pytest
from test_codec_boxwise import LABELS

from llava.codec import block_of, read_boxes, write_block
from llava.codec.brick_rules import LONGEST_LABEL, BlockRules, BlockState, box_characters
from llava.settings import BRICK_ORDERS

FORMS = [(order, tail) for order in BRICK_ORDERS for tail in (False, True)]
START = BlockState()
HEAD = "<ref>a</ref><box>(0,0),(9,9)</box><seg>"


def is_whole(rules, text):
    state = rules.advance(START, text)
    return state is not None and state.part == "end"


def options(rules, state):
    """Tags, bricks and characters that may come next, words shortened to three letters."""
    characters = box_characters(state.text) if state.part == "box" else ""
    characters += "ab " if state.part == "ref" else ""
    return [*rules.tokens(state), *(each for each in characters if rules.advance(state, each))]


def walk(rules, draw):
    """Text of a random way through the rules, cut short by `finish` where it takes long."""
    state, text = START, ""
    for _ in range(120):
        if state.part == "end":
            break
        allowed = options(rules, state)
        forced = rules.forced(state)
        assert allowed and (forced == "" or allowed == [forced])
        piece = draw.choice(allowed[:8] if draw.random() < 0.5 else allowed)
        text += piece
        state = rules.advance(state, piece)
        assert state, text
    return text + rules.finish(state)


@pytest.mark.parametrize(("order", "tail"), FORMS)
def test_what_the_rules_allow_is_what_is_written(order, tail):
    draw = random.Random(0)
    for number in range(12):
        rules = BlockRules((1 + number % 4, 1 + number * 7 % 23), order, tail)
        text = walk(rules, draw)
        answer = read_boxes(text, rules.grid_hw, order=order, tail=tail, strict=True)
        assert answer.faults == () and is_whole(rules, text)
        assert (
            write_block(answer.blocks[0], order=order, tail=tail).split("</ref>")[1]
            == text.split("</ref>")[1]
        )


@pytest.mark.parametrize(("order", "tail"), FORMS)
def test_what_is_written_is_allowed_and_every_beginning_can_be_finished(order, tail):
    rng = np.random.default_rng(0)
    for density in (0, 0.1, 0.5, 0.95, 1):
        grid_hw = tuple(rng.integers(1, 12, 2).tolist())
        rules = BlockRules(grid_hw, order, tail)
        mask = rng.random(tuple(rng.integers(1, 40, 2).tolist())) < density
        text = write_block(block_of("dog", mask, grid_hw), order=order, tail=tail)
        assert is_whole(rules, text)
        for cut in range(0, len(text), 3):
            state = rules.advance(START, text[:cut])
            if state is not None:
                whole = text[:cut] + rules.finish(state)
                assert is_whole(rules, whole), whole
                assert not read_boxes(whole, grid_hw, order=order, tail=tail, strict=True).faults, whole


@pytest.mark.parametrize(
    "text",
    [
        "dog",
        "<ref></ref>",
        "<ref> </ref>",
        "<ref>a<box>",
        "<ref>a  b",
        "<ref>a\nb",
        "<ref>a<f3>",
        f"<ref>{'a' * (LONGEST_LABEL + 1)}",
        "<ref>a</ref> <box>",
        "<ref>a</ref><box>  (",
        "<ref>a</ref><box>(01",
        "<ref>a</ref><box>(999",
        "<ref>a</ref><box>(1000",
        "<ref>a</ref><box>(5,6),(5,",
        "<ref>a</ref><box>(500,6),(499",
        "<ref>a</ref><box>(5,6),(7,6)",
        "<ref>a</ref><box>(5,6),(7,8)</box></seg>",
        "<ref>a</ref><box>(5,6),(7,8)(",
        "<ref>a</ref><box>(5,6)</box>",
        "<ref>a</ref><box></box><seg><f1>",
        f"{HEAD}</seg>",
        f"{HEAD}<f1><f1>",
        f"{HEAD}<f7>",
        f"{HEAD}<b6>",
        f"{HEAD}<f2></seg>",
        f"{HEAD}<f6><b1>",
        f"{HEAD}<f6></seg>.",
        f"{HEAD}<f6>\n",
    ],
)
def test_a_text_that_is_no_block_is_refused_where_it_goes_wrong(text):
    rules = BlockRules((2, 3))
    assert rules.advance(START, text) is None
    assert rules.advance(START, text[: max(text.rfind("<"), 0)].rstrip()) is not None


@pytest.mark.parametrize("label", LABELS)
def test_words_of_any_kind_are_written_as_the_rules_allow(label):
    text = write_block(block_of(label, np.eye(3), (2, 2)))
    assert is_whole(BlockRules((2, 2)), text)
    text.encode()


def test_the_space_in_front_of_the_longest_words_does_not_count():
    rules, rest = BlockRules((1, 2)), "</ref><box></box><seg></seg>"
    for lead in ("", " "):
        assert is_whole(rules, f"<ref>{lead}{'a' * LONGEST_LABEL}{rest}")
        assert not is_whole(rules, f"<ref>{lead}{'a' * (LONGEST_LABEL + 1)}{rest}")


def test_one_space_behind_a_tag_is_let_through():
    assert is_whole(BlockRules((1, 2)), "<ref> the dog</ref><box> (1,2),(3,4)</box><seg><f2></seg>")
    assert is_whole(BlockRules((1, 2)), "<ref>dog</ref><box> </box><seg></seg>")


def test_bricks_are_limited_by_the_cells_left_and_alternate():
    rules = BlockRules((8, 10))
    assert rules.longest_bricks(rules.advance(START, HEAD)) == (63, 63)
    assert rules.longest_bricks(rules.advance(START, f"{HEAD}<b20>")) == (60, 0)
    assert rules.longest_bricks(rules.advance(START, f"{HEAD}<b63>")) == (17, 16)
    assert rules.longest_bricks(rules.advance(START, f"{HEAD}<f63>")) == (17, 17)
    assert rules.longest_bricks(rules.advance(START, f"{HEAD}<f20><b60>")) == (0, 0)
    assert rules.forced(rules.advance(START, f"{HEAD}<f20><b60>")) == "</seg>"


def test_without_the_last_background_a_block_ends_behind_foreground_only():
    rules = BlockRules((2, 3), tail=False)
    assert rules.tokens(rules.advance(START, f"{HEAD}<b1><f2>")) == ("<b1>", "<b2>", "</seg>")
    assert rules.tokens(rules.advance(START, f"{HEAD}<b5>")) == ("<f1>",)
    assert rules.forced(rules.advance(START, f"{HEAD}<f5>")) == "</seg>"


def test_separated_rows_end_with_a_line_break():
    rules = BlockRules((2, 2), "rows_separated", tail=True)
    assert rules.forced(rules.advance(START, f"{HEAD}<b2>")) == "\n"
    assert rules.tokens(rules.advance(START, f"{HEAD}<b2>\n")) == ("<f1>", "<f2>", "<b1>")
    short = BlockRules((2, 2), "rows_separated", tail=False)
    assert short.tokens(short.advance(START, HEAD)) == ("<f1>", "<f2>", "<b1>", "\n")
    assert short.tokens(short.advance(START, f"{HEAD}\n")) == ("<f1>", "<f2>", "<b1>")
    assert "</seg>" in short.tokens(short.advance(START, f"{HEAD}<f1>\n"))


def test_between_the_parts_the_next_tag_is_forced():
    rules = BlockRules((2, 2))
    for text, tag in (
        ("", "<ref>"),
        ("<ref>a</ref>", "<box>"),
        ("<ref>a</ref><box>(0,0),(9,999", ")"),
        ("<ref>a</ref><box>(0,0),(9,999)", "</box>"),
        ("<ref>a</ref><box></box>", "<seg>"),
        ("<ref>a</ref><box></box><seg>", "</seg>"),
        (f"<ref>{'a' * LONGEST_LABEL}", "</ref>"),
        ("<ref>a", ""),
        ("<ref>a</ref><box></box><seg></seg>", ""),
    ):
        assert rules.forced(rules.advance(START, text)) == tag, text


def test_every_box_of_the_image_can_be_spelled():
    draw = random.Random(1)
    rules = BlockRules((1, 1))
    for _ in range(200):
        (x0, x1), (y0, y1) = (sorted(draw.sample(range(1000), 2)) for _ in range(2))
        assert is_whole(rules, f"<ref>a</ref><box>({x0},{y0}),({x1},{y1})</box><seg><f1></seg>")


def test_the_shortest_end_names_a_target_that_has_no_words():
    assert BlockRules((2, 2)).finish(START) == "<ref>object</ref><box></box><seg></seg>"
    assert BlockRules((2, 2)).finish(BlockState("end")) == ""


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="unknown brick order 'zigzag'"):
        BlockRules((2, 2), "zigzag")
    with pytest.raises(ValueError, match=r"grid_hw \(0, 2\)"):
        BlockRules((0, 2))
