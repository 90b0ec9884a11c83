"""The grammar of mask texts, held against llguidance, Python's `re`, the encoder and the reader."""

import importlib.util
import os
import random
import re
import string

import numpy as np
import pytest
import real_tokenizers
from conftest import tiny_tokenizer

from llava.codec import encode, mask_answer, read_answer
from llava.codec.grammar import FORMATS, LABEL_UNITS, answer_grammar, answer_lark, main, mask_grammar
from llava.codec.grid import parse_grid
from llava.codec.rules import Alt, NoneOf, Ref, Repeat, Seq, Text, to_gbnf, to_lark, to_regex
from llava.settings import CODECS

llguidance = pytest.importorskip("llguidance")
real_data = pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")

GRID = (3, 12)
LABELS = ["red car", "car"]
ODD = ['a "b" c', "c\\d", "dög 犬 😀", "[a]{2}.^$-/#", "M*A*S*H", "a <b> c", "x's"]


class Acceptor:
    """Whether llguidance takes whole texts of a Lark grammar, byte by byte or in a tokenizer's tokens."""

    def __init__(self, lark, tokens=None):
        self.matcher = llguidance.LLMatcher(tokens or llguidance.LLTokenizer("byte"), lark)
        assert not self.matcher.is_error(), self.matcher.get_error()

    def __call__(self, text, ids=None):
        ids = list(text.encode()) if ids is None else ids
        self.matcher.reset()
        return self.matcher.try_consume_tokens(ids) == len(ids) and self.matcher.is_accepting()


def random_grid(rng, grid_hw, labels):
    """Rows of random runs, in which any label may be missing."""
    cells = rng.integers(0, labels, grid_hw)
    return np.where(rng.random(grid_hw) < rng.random(), np.roll(cells, 1, axis=1), cells)


def broken(text, rng):
    """The text with one to three small accidents."""
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(text) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            text = text[:place] + text[place + 1 :]
        elif kind == 1:
            text = text[:place] + rng.choice("0123456789|* \nx<>") + text[place:]
        elif kind == 2:
            text = re.sub(r"\d+", str(rng.randint(0, 13)), text, count=rng.randint(1, 9))
        else:
            mark = ("| ", "\n ")[kind % 2]
            pieces = text.split(mark)
            chosen = rng.randrange(len(pieces))
            text = mark.join(pieces[:chosen] + pieces[chosen + rng.choice((-1, 0, 1)) :])
    return text


def is_canonical(text, labels, codec):
    """Whether a text reads without a fault and is what the encoder writes of its own grid."""
    answer = read_answer(f"<seg>{text}</seg>", GRID, codec=codec)
    if answer.faults or "<seg>" in text or "</seg>" in text:
        return False
    block = answer.blocks[0]
    known = labels is None or set(block.labels) <= {"others", *labels}
    return known and encode(block.grid, block.labels, codec=codec) == text


def valid_texts(count, codec, labels=("others", *LABELS), grid_hw=GRID, seed=0):
    rng = np.random.default_rng(seed)
    return [encode(random_grid(rng, grid_hw, len(labels)), labels, codec=codec) for _ in range(count)]


def sample(grammar, rng):
    """A text that follows the rules, chosen at random."""

    def write(rule):
        if isinstance(rule, Text):
            return rule.text
        if isinstance(rule, NoneOf):
            return rng.choice(re.findall(f"[^{rule.spans}]", string.printable + "犬é\xa0"))
        if isinstance(rule, Ref):
            return write(grammar.rules[rule.name])
        if isinstance(rule, Seq):
            return "".join(map(write, rule.parts))
        if isinstance(rule, Alt):
            return write(rng.choice(rule.options))
        assert isinstance(rule, Repeat)
        most = min(rule.low + 4, rule.low + 4 if rule.high is None else rule.high)
        return "".join(write(rule.part) for _ in range(rng.randint(rule.low, most)))

    return write(Ref("root"))


@pytest.mark.parametrize("labels", [LABELS, None], ids=["closed", "free"])
@pytest.mark.parametrize("codec", CODECS)
def test_what_the_encoder_writes_is_accepted_with_any_words_around(codec, labels):
    accepts = Acceptor(answer_lark(GRID, labels, codec))
    around = ["Sure:", "a <seg b < s <<se", "犬é <|x|> 5 *3\n", "</seg>"]
    for number, text in enumerate(valid_texts(200, codec)):
        answer = mask_answer(around[number % 4], text)
        assert accepts(answer) and accepts(f"{answer} {around[-number % 4]}{answer}<se")


@pytest.mark.parametrize("labels", [LABELS, None], ids=["closed", "free"])
@pytest.mark.parametrize("codec", CODECS)
def test_broken_texts_are_refused_exactly_where_the_reader_or_the_encoder_objects(codec, labels):
    accepts = Acceptor(to_lark(mask_grammar(GRID, labels, codec=codec)))
    rng = random.Random(5)
    texts = [broken(text, rng) for text in valid_texts(600, codec, seed=1)]
    wrong = [text for text in texts if not is_canonical(text, labels, codec)]
    assert len(wrong) > 250
    for text in texts:
        found = accepts(f"<seg>{text}</seg>")
        if labels is None and found:
            assert not read_answer(f"<seg>{text}</seg>", GRID, codec=codec).faults, text
        elif labels is not None or not re.search("[<>]", text):
            assert found == is_canonical(text, labels, codec), text


@pytest.mark.parametrize("labels", [LABELS, ODD, [], None], ids=["closed", "odd", "none", "free"])
@pytest.mark.parametrize("codec", CODECS)
def test_whatever_follows_the_grammar_reads_without_a_fault(codec, labels):
    grammar, rng = answer_grammar((2, 5), labels, codec=codec), random.Random(7)
    for _ in range(150):
        text = sample(grammar, rng)
        answer = read_answer(text, (2, 5), codec=codec)
        assert answer.faults == () and answer.blocks, text
        assert labels is None or {label for block in answer.blocks for label in block.labels} <= {
            "others",
            *labels,
        }


@pytest.mark.parametrize("labels", [["dog"], None], ids=["closed", "free"])
@pytest.mark.parametrize("codec", CODECS)
def test_all_notations_describe_the_same_texts(codec, labels):
    grammar = mask_grammar((2, 4), labels, codec=codec)
    lark = Acceptor(to_lark(grammar))
    gbnf = Acceptor(llguidance.grammar_from("gbnf", to_gbnf(grammar)))
    regex = re.compile(to_regex(grammar))
    rng, seen = random.Random(3), set()
    for text in valid_texts(60, codec, ("others", "dog"), (2, 4)):
        for mask in (f"<seg>{text}</seg>", f" <seg>{text}</seg>", f"<seg>{broken(text, rng)}</seg>"):
            seen.add(lark(mask))
            assert lark(mask) == gbnf(mask) == bool(regex.fullmatch(mask)), mask
    assert seen == {True, False}


@pytest.mark.parametrize("codec", CODECS)
def test_labels_with_marks_of_the_notations_are_written_as_they_are(codec):
    grammar = mask_grammar((1, 3), ODD, codec=codec)
    lark = Acceptor(to_lark(grammar))
    gbnf = Acceptor(llguidance.grammar_from("gbnf", to_gbnf(grammar)))
    regex = re.compile(to_regex(grammar))
    for text in valid_texts(40, codec, ("others", *ODD), (1, 3)):
        mask = f"<seg>{text}</seg>"
        assert lark(mask) and gbnf(mask) and regex.fullmatch(mask), mask


@pytest.mark.parametrize(
    ("label", "accepted"),
    [
        ("the 2nd dog's, ear", True),
        ("M*A*S*H", True),
        ("犬", True),
        ("x" * LABEL_UNITS, True),
        ("x" * (LABEL_UNITS + 1), False),
        ("", False),
        (" ", False),
        ("\xa0", False),
        ("\u3000", False),
        ("*dog", False),
        ("a *dog", False),
        ("two  spaces", False),
        ("a<b", False),
        ("a\nb", False),
    ],
)
def test_free_labels_are_words_as_the_reader_knows_them(label, accepted):
    for codec, text in (("rrle", f"{label} *2\n"), ("irle", f"{label} *2"), ("full", f"{label}| {label}")):
        accepts = Acceptor(to_lark(mask_grammar((1, 2), None, codec=codec)))
        assert accepts(f"<seg>{text}</seg>") == accepted, codec


def test_equal_neighbours_are_refused_for_few_labels_and_let_pass_for_many():
    many = [f"class {number}" for number in range(150)]
    for labels, passes in ((many[:12], False), (many, True), (None, True)):
        accepts = Acceptor(to_lark(mask_grammar((1, 16), labels)))
        assert accepts("<seg>class 3 *9| class 3 *7\n</seg>") == passes
        assert accepts("<seg>class 3 *9| class 4 *7\n</seg>")
        assert accepts("<seg>class 149 *16\n</seg>") == (labels is not many[:12] and passes)


def test_labels_are_cleaned_and_others_comes_once():
    same = to_lark(mask_grammar((2, 2), ["a b"]))
    assert to_lark(mask_grammar((2, 2), ["others", " a|b", "a b"])) == same
    assert Acceptor(same)("<seg>others *2\n a b *2\n</seg>")


@pytest.mark.parametrize(
    ("grid", "labels", "codec"),
    [
        ((64, 64), ["red car"], "rrle"),
        ((24, 32), None, "rrle"),
        ((3, 110), ["a", "b"], "rrle"),
        ((11, 11), ["dog"], "irle"),
    ],
)
def test_large_grids_are_filled_exactly(grid, labels, codec):
    accepts = Acceptor(answer_lark(grid, labels, codec))
    names = ("others", *(labels or ["any words"]))
    for text in [*valid_texts(2, codec, names, grid), encode(np.ones(grid, int), names, codec=codec)]:
        last = re.findall(r"\d+", text)[-1]
        one_more = str(int(last) + 1).join(text.rsplit(last, 1))
        assert accepts(f"Sure:\n<seg>{text}</seg>") and not accepts(f"Sure:\n<seg>{one_more}</seg>")


def test_a_tokenizers_own_tokens_are_accepted_and_the_end_allowed_behind_the_mask_only():
    import llguidance.hf

    tokenizer = tiny_tokenizer()
    accepts = Acceptor(answer_lark(GRID, LABELS), llguidance.hf.from_tokenizer(tokenizer))
    for text in valid_texts(50, "rrle"):
        answer = mask_answer(" Sure", text)
        ids = tokenizer(answer, add_special_tokens=False).input_ids
        assert accepts(answer, ids) and not accepts(answer, ids[:-1]) and not accepts("", ids[:2])


@pytest.mark.real_data
@real_data
@pytest.mark.parametrize("name", ["llama2", "qwen"])
def test_real_tokenizers_spell_answers_along_the_grammar(name):
    import llguidance.hf

    tokenizer = getattr(real_tokenizers, name)()
    tokens = llguidance.hf.from_tokenizer(tokenizer)
    for labels in (["the left dog's 2nd 犬 ear"], None):
        accepts = Acceptor(answer_lark((16, 16), labels), tokens)
        masks = Acceptor(to_lark(mask_grammar((16, 16), labels)), tokens)
        for text in valid_texts(20, "rrle", ("others", "the left dog's 2nd 犬 ear"), (16, 16)):
            for answer in (mask_answer("Sure, here it is:", text), f"<seg>{text}</seg>."):
                ids = tokenizer(answer, add_special_tokens=False).input_ids
                assert accepts(answer, ids)
                assert not accepts(answer, ids[:-40])
            assert masks("", tokenizer(f"<seg>{text}</seg>", add_special_tokens=False).input_ids)


@pytest.mark.skipif(importlib.util.find_spec("xgrammar") is None, reason="xgrammar is not installed")
@pytest.mark.parametrize("labels", [LABELS, None], ids=["closed", "free"])
@pytest.mark.parametrize("codec", CODECS)
def test_xgrammar_takes_and_refuses_the_same_texts(codec, labels):
    import xgrammar

    vocabulary = [chr(code) for code in range(128)] + ["</s>"]
    info = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[128])
    grammar = answer_grammar(GRID, labels, codec=codec)
    compiled = xgrammar.GrammarCompiler(info).compile_grammar(FORMATS["ebnf"](grammar))
    lark, rng, seen = Acceptor(to_lark(grammar)), random.Random(3), []
    for text in valid_texts(100, codec):
        for answer in (mask_answer("Sure:", text), mask_answer("Sure:", broken(text, rng))):
            matcher = xgrammar.GrammarMatcher(compiled)
            seen.append(matcher.accept_string(answer) and matcher.accept_token(128))
            assert seen[-1] == lark(answer), answer
    assert sum(seen) >= 100 and False in seen


def test_nothing_is_repeated_more_often_than_llama_cpp_reads():
    for codec, grid in (("full", (64, 64)), ("irle", (32, 32)), ("rrle", (64, 64))):
        times = re.findall(r"(\d+)}", to_gbnf(answer_grammar(grid, None, codec=codec)))
        assert times and max(map(int, times)) <= 2000, codec


@pytest.mark.parametrize(
    ("grid", "labels", "codec", "message"),
    [
        ((0, 4), None, "rrle", "grid_hw"),
        ((4, 4), None, "polygon", "unknown codec 'polygon'; known: rrle"),
        ((4, 4), "dog", "rrle", r"needed is a list of labels, here \['dog'\]"),
        ((4, 4), ["do\x07g"], "rrle", "label 'do.x07g': holds a character"),
        ((64, 64), None, "irle", "runs over 4096 cells, at most 1024"),
    ],
)
def test_wrong_requests_are_refused_in_words(grid, labels, codec, message):
    with pytest.raises(ValueError, match=message):
        answer_grammar(grid, labels, codec=codec)


def test_a_regular_expression_beyond_use_is_refused():
    with pytest.raises(ValueError, match="choose gbnf, ebnf or lark"):
        to_regex(mask_grammar((16, 16), ["dog"]))


def test_the_command_prints_what_the_functions_write(capsys):
    for name, write in FORMATS.items():
        main(["--grid", "2x3", "--labels", "red car", "--format", name])
        assert capsys.readouterr().out.rstrip("\n") == write(answer_grammar((2, 3), ["red car"])).rstrip("\n")
    main(["--grid", "2", "--codec", "full", "--mask", "--format", "lark"])
    assert capsys.readouterr().out == to_lark(mask_grammar((2, 2), None, codec="full"))


def test_the_command_tells_what_is_wrong(capsys):
    for arguments, message in (
        (["--grid", "4y"], "--grid '4y'"),
        (["--codec", "irle", "--grid", "64"], "1024"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err


def test_the_grammar_of_one_row_is_short_enough_to_read():
    assert to_gbnf(mask_grammar((1, 2), ["dog"])).splitlines() == [
        'root ::= " "? "<seg>" mask "</seg>"',
        r'mask ::= row "\n"',
        "row ::= run0x2 | run1x2",
        'run1x2 ::= "dog *" ("1| " run0x1 | "2")',
        'run0x2 ::= "others *" ("1| " run1x1 | "2")',
        'run1x1 ::= "dog *1"',
        'run0x1 ::= "others *1"',
    ]


def test_a_grid_is_one_side_or_two():
    assert parse_grid("16") == (16, 16) and parse_grid("12X16") == (12, 16)
