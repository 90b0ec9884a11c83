"""Constrained and fast decoding: one text whatever the number of passes, and no mask with a fault."""

import importlib.util
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import real_tokenizers
import torch
from conftest import tiny_llava, tiny_settings, tiny_tokenizer
from tiny_backbones import FAMILIES, tiny

from llava.codec import encode, read_answer
from llava.eval.run_llava import load_models
from llava.eval.run_llava import parse as parse_run
from llava.model.checkpoint import Checkpoint, load_checkpoint
from llava.model.decoding import DECODINGS, batch, check_decoding
from llava.model.decoding.closing import closing
from llava.model.decoding.confidence import cell_confidence
from llava.model.decoding.drafts import draft
from llava.model.decoding.hints import hints_for
from llava.model.decoding.language import Language
from llava.model.decoding.writing import Scores, Writing
from llava.model.text_mask import TextMaskSegmenter
from llava.types import Query

pytest.importorskip("llguidance")

real_data = pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
SHIPPED = Path(__file__).parents[1] / "playground/checkpoints/tiny-llava-refshapes"

MODES = [mode for mode in DECODINGS if mode != "plain"]
SHAPES = (
    "<seg>others *1| red square *2| others *1\n others *4\n others *1| red square *3\n others *4\n</seg></s>"
)
CELLS = "<seg>others| red square| others| others| blue circle| red square</seg></s>"
WORDS = ("x", "the second blue circle", "red square", "a square right of the triangle, not blue")


def bias(model, processor, *texts, strength=9.0):
    """Make a model write what resembles these texts: it prefers tokens that follow the last one there.

    Works on the scores of each place alone, so that caches and masks are put to the test as without it.
    """
    tokenizer = processor.tokenizer
    size = model.get_output_embeddings().weight.shape[0]
    table = torch.zeros(size, size)
    for text in texts:
        ids = tokenizer("ASSISTANT:" + text, add_special_tokens=False).input_ids
        for first, second in pairwise(ids):
            table[first, second] = strength

    def prefer(_module, _args, given, output):
        output.logits += table[given["input_ids"][:, -output.logits.shape[1] :]]
        return output

    model.register_forward_hook(prefer, with_kwargs=True)


def lively(seed=3, *texts, strength=9.0, prepare=None, **settings):
    """Checkpoint of a random model with large weights, so that each prompt gets its own answer.

    Args:
        seed: of the weights.
        texts: what the model is drawn to, see `bias`.
        strength: how much.
        prepare: what is done to model and processor first.
        settings: fields of `tiny_settings`.
    """
    model, processor = tiny_llava(seed=seed)
    if prepare:
        prepare(model, processor)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    bias(model, processor, *texts, strength=strength)
    return Checkpoint(model, processor, tiny_settings(**settings), None)


@pytest.fixture(scope="module")
def writer():
    """Checkpoint of a model that writes masks, most of them broken when it is let alone."""
    return lively(3, SHAPES)


@pytest.fixture
def queries(picture):
    """Two images with two questions each, and one with one."""
    images = [picture(40 + seed, 30, seed=seed) for seed in range(3)]
    shown = [images[0], images[1], images[0], images[1], images[2]]
    return [Query([image], [word]) for image, word in zip(shown, (*WORDS, "dog"), strict=True)]


def ask(checkpoint, queries, mode, **options):
    options = {"max_new_tokens": 64} | options
    return TextMaskSegmenter(checkpoint, decoding=mode, **options).segment(queries)


def texts(predictions):
    return [prediction.text for prediction in predictions]


@pytest.fixture(scope="module")
def by_mode(writer):
    """Predictions of each decoding for the same queries."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    images = [Image.fromarray(one) for one in pixels]
    asked = [Query([images[number % 3]], [word]) for number, word in enumerate((*WORDS, "dog"))]
    return {mode: ask(writer, asked, mode) for mode in DECODINGS}


def test_every_constrained_mode_writes_the_same_text(by_mode):
    assert len(set(texts(by_mode["constrained"]))) == 5
    for mode in MODES:
        assert texts(by_mode[mode]) == texts(by_mode["constrained"])
        assert [one.faults for one in by_mode[mode]] == [one.faults for one in by_mode["constrained"]]


def test_the_modes_need_fewer_and_fewer_passes(by_mode):
    passes = {mode: sum(one.stats["passes"] for one in by_mode[mode]) for mode in MODES}
    tokens = sum(one.stats["tokens"] for one in by_mode["fast"])
    assert tokens == passes["constrained"] > passes["forced"] > passes["fast"]
    for one in by_mode["fast"]:
        assert one.stats["passes"] == one.stats["tokens"] - one.stats["accepted"]
        assert one.stats["drafted"] >= one.stats["accepted"]


def test_masks_have_no_fault_where_the_plain_ones_do(by_mode):
    assert sum(bool(one.faults) for one in by_mode["plain"]) >= 3
    for one in by_mode["fast"]:
        assert "<seg>" in one.text
        assert read_answer(one.text, (4, 4)).faults == ()


def test_the_text_before_the_first_fault_is_the_plain_one(by_mode):
    for plain, fast in zip(by_mode["plain"], by_mode["fast"], strict=True):
        pairs = enumerate(zip(plain.text, fast.text, strict=False))
        same = next((place for place, (one, other) in pairs if one != other), len(plain.text))
        assert same >= len("<seg>")
        assert same == len(plain.text) or plain.faults


@pytest.mark.parametrize(("codec", "text"), [("full", CELLS), ("irle", SHAPES.replace("\n", "|"))])
def test_other_codecs_are_written_without_faults(codec, text, picture):
    checkpoint = lively(1, text, codec=codec)
    asked = [Query([picture(30, 30, seed=number)], [word]) for number, word in enumerate(WORDS)]
    written = {mode: ask(checkpoint, asked, mode) for mode in MODES}
    assert texts(written["fast"]) == texts(written["constrained"]) == texts(written["forced"])
    opened = [one for one in written["fast"] if "<seg>" in one.text]
    assert opened and all(read_answer(one.text, (4, 4), codec=codec).faults == () for one in opened)
    assert all(one.confidence.shape == (1, 4, 4) for one in opened)


def test_a_batch_answers_as_one_by_one(writer, queries):
    together = ask(writer, queries, "fast")
    alone = [ask(writer, [query], "fast")[0] for query in queries]
    assert texts(together) == texts(alone)
    assert [one.stats for one in together] == [one.stats for one in alone]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-4)


def test_a_cache_that_is_rebuilt_at_every_pass_changes_nothing(writer, queries, monkeypatch):
    expected = texts(ask(writer, queries, "fast"))
    rebuilt = []
    spread = batch.Batch.spread
    monkeypatch.setattr(batch.Batch, "has_waste", lambda self: True)
    monkeypatch.setattr(
        batch.Batch, "spread", lambda self, owners: rebuilt.append(owners) or spread(self, owners)
    )
    assert texts(ask(writer, queries, "fast")) == expected
    assert len(rebuilt) > 10


def test_holes_are_counted_as_waste_and_gone_after_a_rebuild(writer):
    held = batch.Batch(writer.model, TextMaskSegmenter(writer)._backbone, writer.processor, pad=0)
    word = torch.zeros(0)
    held._model = lambda input_ids, past_key_values, **given: _cached(input_ids, past_key_values)
    held._model.device = word.device
    held._mask, held._shift = torch.ones(2, 0, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long)
    held.put([[5] * 100, [6] * 100])
    assert not held.has_waste()
    held.keep([100, 20], 100)
    held.put([[7], [8]])
    held.keep([1, 1], 1)
    assert held._mask.sum(1).tolist() == [101, 21]
    held.spread([1])
    assert held._mask.tolist() == [[1] * 21]
    assert held._cache.layers[0].keys[0, 0, :, 0].tolist() == [6.0] * 20 + [8.0]


def _cached(input_ids, cache):
    """Stands for a model whose keys are the tokens."""
    keys = input_ids[:, None, :, None].float()
    cache.update(keys, keys, 0)
    return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 3)})


def test_questions_about_one_image_share_its_way_through_the_vision_tower(writer, queries):
    seen = []
    hook = writer.model.model.vision_tower.register_forward_pre_hook(
        lambda _module, args, given: seen.append(len([*args, *given.values()][0])), with_kwargs=True
    )
    try:
        ask(writer, queries, "fast", max_new_tokens=3)
        assert seen == [3]
    finally:
        hook.remove()


def test_targets_of_one_query_are_answered_as_alone(writer, picture):
    image = picture(33, 44)
    (both,) = ask(writer, [Query([image], list(WORDS[:2]))], "fast")
    alone = [ask(writer, [Query([image], [word])], "fast")[0] for word in WORDS[:2]]
    assert both.text == "\n".join(texts(alone))
    assert both.stats["tokens"] == sum(one.stats["tokens"] for one in alone)
    assert both.confidence.shape == (2, 4, 4)


def test_a_model_that_writes_no_mask_answers_as_plainly(queries):
    stranger = lively(3)
    plain, fast = (ask(stranger, queries, mode, max_new_tokens=25) for mode in ("plain", "fast"))
    assert texts(plain) == texts(fast) and len(set(texts(plain))) > 3
    assert [one.faults for one in plain] == [one.faults for one in fast]
    assert all("no_mask" in one.faults[-1] and not one.confidence.any() for one in fast)


def test_any_budget_leaves_whole_masks(writer, queries):
    early = []
    for budget in range(2, 62, 10):
        answers = {
            mode: ask(writer, queries[:2], mode, max_new_tokens=budget) for mode in ("constrained", "fast")
        }
        assert texts(answers["constrained"]) == texts(answers["fast"])
        for one in answers["fast"]:
            if "<seg>" in one.text:
                assert read_answer(one.text, (4, 4)).faults == ()
            assert one.stats["passes"] <= budget
            early.append(one.stats["closed_early"])
    assert 0 < sum(early) < len(early)


@pytest.mark.parametrize("codec", ["rrle", "irle", "full"])
def test_a_mask_cut_off_anywhere_is_completed_by_background(codec):
    rng = np.random.default_rng(0)
    for _ in range(20):
        grid = rng.integers(0, 3, (3, 11))
        text = encode(grid, ("others", "the dog", "odd"), codec=codec) + "</seg>"
        for cut in range(len(text)):
            whole = text[:cut] + closing(text[:cut], (3, 11), codec=codec)
            answer = read_answer(f"<seg>{whole}", (3, 11), codec=codec)
            assert answer.faults == (), whole
        assert closing("", (3, 11), codec=codec).count("others") == {"rrle": 3, "irle": 1, "full": 33}[codec]


def test_labels_keep_masks_to_themselves(writer, queries):
    for mode in MODES:
        answers = ask(writer, queries, mode, labels=["blue circle"])
        used = {label for one in answers for label in one.labels}
        assert used == {"blue circle"}
        assert all(read_answer(one.text, (4, 4)).faults == () for one in answers if "<seg>" in one.text)


def test_rows_are_told_as_they_are_written(writer, picture):
    told = []
    query = Query([picture(30, 30)], ["red square"])
    (answer,) = ask(writer, [query], "fast", on_row=lambda *row: told.append(row))
    first = read_answer(answer.text, (4, 4)).blocks[0].grid != 0
    assert [(target, row) for target, row, _ in told[:4]] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert np.array_equal(np.stack([cells for _, _, cells in told[:4]]), first)


def test_confidence_follows_labels_and_mixes_the_edges():
    pieces = [
        ("<seg>", 1.0),
        ("others", 0.9),
        (" *", 1.0),
        ("2", 0.6),
        ("|", 1.0),
        (" dog", 0.8),
        (" *2", 1.0),
    ]
    pieces += [("\n", 1.0), (" dog *4\n", 0.5), ("</seg>", 1.0)]
    text, spans = b"", []
    for piece, chance in pieces:
        spans.append((len(text), chance))
        text += piece.encode()
    found = cell_confidence(text, spans, [(5, text.index(b"</seg>"))], (2, 4))
    # A fifth goes to the run one cell longer, a fifth to the one shorter: 0.1 and 0.8 mix at the edge.
    np.testing.assert_allclose(found, [[0.1, 0.24, 0.66, 0.8], [1, 1, 1, 1]], atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_writes_one_text(name, picture):
    model, processor, settings = tiny(name)
    bias(model, processor, SHAPES, strength=1.0)
    bias(model, processor, "\n<seg>", strength=2.0)
    checkpoint = Checkpoint(model, processor, settings, None)
    images = [picture(40, 30), picture(24, 36, seed=1)]
    asked = [Query([images[number % 2]], [word]) for number, word in enumerate(WORDS[:3])]
    plain, slow, fast = (
        ask(checkpoint, asked, mode, max_new_tokens=40) for mode in ("plain", "constrained", "fast")
    )
    assert texts(slow) == texts(fast)
    for one, other in zip(plain, fast, strict=True):
        assert one.text.split("<seg>")[0] == other.text.split("<seg>")[0]
    assert any("<seg>" in one.text for one in fast)


@pytest.mark.slow
def test_the_shipped_model_writes_its_plain_answers_in_a_fraction_of_the_passes():
    from PIL import Image

    checkpoint = load_checkpoint(SHIPPED, device="cpu")
    image = Image.open(SHIPPED.parents[2] / "images/shapes.jpg").convert("RGB")
    asked = [Query([image], [word]) for word in ("the purple object", "the green circle")]
    written = {
        mode: ask(checkpoint, asked, mode, max_new_tokens=400) for mode in ("plain", "constrained", "fast")
    }
    grids, soft = [], []
    for plain, slow, fast in zip(*written.values(), strict=True):
        assert slow.text == fast.text
        assert plain.faults or plain.text == fast.text
        assert fast.faults == ()
        grids.append(read_answer(fast.text, (16, 16)).foreground)
        soft.append(fast.confidence[0])
        assert fast.stats["passes"] * 5 < fast.stats["tokens"] == slow.stats["passes"]
    inside, sure = np.stack(grids), np.stack(soft)
    assert sure[inside].mean() > 0.8 and sure[~inside].mean() < 0.1


def write_along(language, hints, ids, mode="fast"):
    """Writing of a model that wants these tokens, and nothing when a guess has led it away from them."""
    writing = Writing(language, hints, limit=4000)
    writing.take(Scores([ids[0]], [1.0], torch.zeros(1, language.size)), [])
    while not writing.ended:
        guess = writing.guess(mode)
        place = len(writing.tokens)
        wanted = (ids[place : place + len(guess) + 1] + [0] * len(guess))[: len(guess) + 1]
        writing.take(Scores(wanted, [1.0] * len(wanted), torch.zeros(len(wanted), language.size)), guess)
    return writing


@real_data
@pytest.mark.real_data
@pytest.mark.parametrize("name", ["llama2", "qwen"])
def test_real_tokenizers_write_whole_masks_in_a_sixth_of_the_passes(name):
    tokenizer = getattr(real_tokenizers, name)()
    end = tokenizer.eos_token_id if name == "llama2" else tokenizer.convert_tokens_to_ids("<|im_end|>")
    rows, columns = np.mgrid[:16, :16]
    grid = ((rows - 7) ** 2 / 20 + (columns - 8) ** 2 / 30 < 1).astype(int)
    language = Language(tokenizer, len(tokenizer), ends=[end], grid_hw=(16, 16))
    label = "the left black dog's ball"
    answer = (
        f"Sure, here is the segmentation mask for '{label}':\n<seg>{encode(grid, ('others', label))}</seg>"
    )
    ids = [*tokenizer(answer, add_special_tokens=False).input_ids, end]
    writing = write_along(language, hints_for(label, (16, 16)), ids)
    assert writing.tokens == ids and tokenizer.decode(ids[:-1]) == answer
    assert writing.stats["passes"] * 6 < len(ids)
    assert write_along(language, hints_for("cat", (16, 16)), ids, "constrained").stats["passes"] == len(ids)


@real_data
@pytest.mark.real_data
def test_a_piece_that_runs_from_the_tag_into_a_label_is_written_and_guessed():
    tokenizer = real_tokenizers.qwen()
    language = Language(tokenizer, len(tokenizer), ends=[tokenizer.eos_token_id], grid_hw=(2, 4))
    text = "It is:\n<seg>The dog *4\n others *4\n</seg>"
    ids = tokenizer(text).input_ids
    assert ">The" in tokenizer.convert_ids_to_tokens(ids)
    writing = write_along(language, hints_for("The", (2, 4)), [*ids, tokenizer.eos_token_id])
    assert writing.text.decode() == text
    # The same piece with a star in it cannot begin a mask; the best one that can is taken.
    star = tokenizer(">*", add_special_tokens=False).input_ids
    assert len(star) == 1
    writing = Writing(language, hints_for("dog", (2, 4)), limit=100)
    before = tokenizer("It is:\n<seg").input_ids
    for token in before:
        assert not writing.blocks
        writing.take(Scores([token], [1.0], torch.zeros(1, language.size)), [])
    scores = torch.zeros(1, language.size)
    scores[0, star[0]], scores[0, tokenizer.convert_tokens_to_ids(">")] = 9.0, 5.0
    writing.take(Scores(star, [0.9], scores), [])
    assert writing.text == b"It is:\n<seg>"


def test_tokens_of_a_guess_are_those_of_the_whole_text():
    tokenizer = tiny_tokenizer()
    language = Language(tokenizer, len(tokenizer), ends=[tokenizer.eos_token_id], grid_hw=(4, 4))
    text = "Sure:\n<seg>others *4\n others *1| red square *2| others *1\n d\u00f6g *4\n others *4\n</seg>"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    for place in range(1, len(ids)):
        known = b"".join(map(language.bytes_of, ids[:place]))
        assert language.tokens_behind(
            ids[:place], text.encode()[len(known) :].decode(errors="ignore")
        ) == ids[place:] or (known.decode(errors="ignore").encode() != known)


def test_guesses_continue_any_text_and_keep_masks_whole():
    rng = np.random.default_rng(1)
    for _ in range(40):
        grid = np.cumsum(rng.random((4, 6)) < 0.3, axis=1) % 3
        text = "Sure:\n<seg>" + encode(grid, ("others", "dog", "black dog")) + "</seg>"
        cut = rng.integers(12, len(text))
        whole = text[:cut] + draft(text[:cut], hints_for("dog", (4, 6)), rows=4)
        if whole != text[:cut]:
            assert read_answer(whole, (4, 6)).faults == (), whole
        junk = "".join(rng.choice(list("<seg>/ *|\n12do"), 30))
        assert isinstance(draft(junk, hints_for("dog", (4, 6)), rows=2), str)


def test_a_label_that_no_token_can_spell_is_refused(writer):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {
        letter: number
        for number, letter in enumerate(["<unk>", "</s>", *"\n <>/seg*|0123456789others\u010a\u0120"])
    }
    bpe = Tokenizer(models.BPE({word: rank for rank, word in enumerate(letters)}, [], unk_token="<unk>"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    poor = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", unk_token="<unk>")
    Language(poor, len(poor), ends=[1], grid_hw=(2, 2), labels=["tree"])
    with pytest.raises(ValueError, match="label 'dog' cannot be written with the tokens of this checkpoint"):
        Language(poor, len(poor), ends=[1], grid_hw=(2, 2), labels=["tree", "dog"])


def test_sixteen_bit_weights_write_whole_masks(picture):
    checkpoint = lively(3, SHAPES)
    checkpoint.model.to(torch.bfloat16)
    (answer,) = ask(checkpoint, [Query([picture(30, 30)], ["red square"])], "fast")
    assert "<seg>" in answer.text and read_answer(answer.text, (4, 4)).faults == ()


def test_wrong_options_are_refused_before_anything_is_loaded(writer, monkeypatch, tiny_llava_folder):
    with pytest.raises(ValueError, match="unknown decoding 'quick'; known: plain, constrained, forced, fast"):
        TextMaskSegmenter(writer, decoding="quick")
    with pytest.raises(ValueError, match="neither labels nor on_row"):
        TextMaskSegmenter(writer, labels=["dog"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("llava.model.decoding.find_spec", lambda name: None)
    check_decoding("plain")
    command = ["--model-path", str(tiny_llava_folder), "--image-file", "photo.jpg", "--query", "dog"]
    with pytest.raises(ValueError, match=r"'fast' needs llguidance.*pip install.*or choose --decoding plain"):
        load_models(parse_run(command))
