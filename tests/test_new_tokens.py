"""Tokens of bricks in the tokenizer and the model of every family: added, started, saved, loaded, merged."""

import copy

import numpy as np
import pytest
import real_tokenizers
import torch
from conftest import TINY_GRID, tiny_llava, tiny_settings
from tiny_backbones import CHATML, FAMILIES, qwen2_vl, tiny, tokenizer

from llava.codec.boxwise import block_of, box_answer, read_boxes, write_block
from llava.constants import BACKGROUND_BRICKS, BRICK_TOKENS, FOREGROUND_BRICKS
from llava.model.backbones import BACKBONES, backbone_of
from llava.model.checkpoint import load_checkpoint, load_processor, merge, save_adapter
from llava.model.new_tokens import (
    add_brick_tokens,
    brick_token_ids,
    is_tied,
    make_room,
    missing_brick_tokens,
    start_rows,
    trained_vocabulary,
    vocabulary_rows,
)
from llava.settings import BRICKS, SegmentationSettings
from llava.train.lora import add_lora

ANSWER = "Here:\n<ref>a dog</ref><box>(12,3),(999,40)</box><seg><b12><f63><f1></seg><ref>cat</ref><box></box>"
MODELS = ("llava", *FAMILIES)


def model_of(name, *, tied=False, spare=0):
    """(model, processor, settings) of a family; Qwen2-VL also with one vocabulary matrix or spare rows."""
    if name == "llava":
        return *tiny_llava(), tiny_settings()
    if not tied and not spare:
        return tiny(name)
    config, processor = qwen2_vl()
    config.text_config.vocab_size += spare
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    torch.manual_seed(0)
    settings = SegmentationSettings(grid_hw=TINY_GRID, image_side=0, prompt="qwen_vl")
    return BACKBONES[name].model_class(config).eval(), processor, settings


def matrices(model):
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


def start(name, **kind):
    """(model, processor) that know bricks."""
    model, processor, _ = model_of(name, **kind)
    added = add_brick_tokens(processor.tokenizer)
    make_room(model, processor.tokenizer)
    start_rows(model, processor.tokenizer, added)
    return model, processor


@pytest.mark.parametrize("name", MODELS)
def test_every_token_of_a_mask_is_one_token_that_decoding_keeps(name, tmp_path):
    words = model_of(name)[1].tokenizer
    length = len(words)
    assert add_brick_tokens(words) == list(BRICK_TOKENS) and len(words) == length + 132
    assert add_brick_tokens(words) == [] and len(words) == length + 132
    assert brick_token_ids(words) == list(range(length, length + 132))
    ids = words(ANSWER, add_special_tokens=False).input_ids
    assert [words.decode([token]) for token in ids if token >= length] == [
        *("<ref>", "</ref>", "<box>", "</box>", "<seg>", "<b12>", "<f63>", "<f1>", "</seg>"),
        *("<ref>", "</ref>", "<box>", "</box>"),
    ]
    assert words.decode(ids, skip_special_tokens=True) == ANSWER


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_processor_knows_the_tokens(name, tmp_path):
    model, processor, _ = model_of(name)
    assert missing_brick_tokens(processor.tokenizer) == list(BRICK_TOKENS)
    add_brick_tokens(processor.tokenizer)
    processor.save_pretrained(tmp_path)
    again = load_processor(tmp_path, backbone_of(model.config)).tokenizer
    assert missing_brick_tokens(again) == []
    ids = again(ANSWER, add_special_tokens=False).input_ids
    assert ids == processor.tokenizer(ANSWER, add_special_tokens=False).input_ids
    assert again.decode(ids, skip_special_tokens=True) == ANSWER


def test_special_tokens_of_that_spelling_become_ordinary_and_keep_their_ids(tmp_path):
    words = tokenizer([*CHATML, "<ref>", "</ref>"], eos="<|im_end|>")
    words.add_special_tokens({"additional_special_tokens": ["<box>", "</box>", "<quad>"]})
    before = words.convert_tokens_to_ids(["<ref>", "</ref>", "<box>", "</box>"])
    assert words.decode(words(ANSWER).input_ids, skip_special_tokens=True) != ANSWER
    added = add_brick_tokens(words)
    assert added[0] == "<seg>" and len(added) == 128
    assert words.convert_tokens_to_ids(["<ref>", "</ref>", "<box>", "</box>"]) == before
    words.save_pretrained(tmp_path)
    for each in (words, type(words).from_pretrained(tmp_path)):
        ids = each(f"<quad>{ANSWER}<|im_end|>").input_ids
        assert each.decode(ids, skip_special_tokens=True) == ANSWER
        assert missing_brick_tokens(each) == []


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"Slow is no fast tokenizer.*tokenizer\.json"):
        add_brick_tokens(Slow())


@pytest.mark.parametrize("name", MODELS)
def test_a_vocabulary_grows_by_rows_that_are_not_random_and_keeps_the_old_ones(name):
    model, processor, _ = model_of(name)
    old, tied = [weight.detach().clone() for weight in matrices(model)], is_tied(model)
    add_brick_tokens(processor.tokenizer)
    torch.manual_seed(1)
    make_room(model, processor.tokenizer)
    rows = len(old[0])
    for weight, before in zip(matrices(model), old, strict=True):
        assert (
            weight.shape[0] == -(-len(processor.tokenizer) // 64) * 64 == model.config.text_config.vocab_size
        )
        assert torch.equal(weight[:rows], before)
        torch.testing.assert_close(weight[rows:], before.mean(dim=0).expand(len(weight) - rows, -1))
    assert is_tied(model) == tied


def test_a_vocabulary_that_zero_3_has_split_has_all_of_its_rows():
    model, processor = tiny_llava()
    rows = vocabulary_rows(model)
    weight = model.get_input_embeddings().weight
    weight.ds_shape, weight.data = weight.shape, torch.empty(0)
    assert vocabulary_rows(model) == rows == model.config.text_config.vocab_size
    make_room(model, processor.tokenizer)
    assert weight.numel() == 0


def test_spare_rows_are_used_before_new_ones_are_made():
    model, processor, _ = model_of("qwen2_vl", spare=140)
    old = matrices(model)[0].detach().clone()
    added = add_brick_tokens(processor.tokenizer)
    make_room(model, processor.tokenizer)
    start_rows(model, processor.tokenizer, added)
    embeddings, ids = matrices(model)[0], brick_token_ids(processor.tokenizer)
    assert embeddings.shape == old.shape
    others = [row for row in range(len(old)) if row not in ids]
    assert torch.equal(embeddings[others], old[others])
    assert not any(torch.equal(embeddings[row], old[row]) for row in ids)


@pytest.mark.parametrize("tied", [False, True])
def test_bricks_start_apart_and_near_their_neighbours(tied):
    model, processor = start("qwen2_vl", tied=tied)
    words = processor.tokenizer
    again = start("qwen2_vl", tied=tied)[0]
    assert is_tied(model) == is_tied(again) == tied
    for weight, other in zip(matrices(model), matrices(again), strict=True):
        assert torch.equal(weight, other)
        bricks = weight[brick_token_ids(words)[6:]].detach()
        distances = torch.cdist(bricks, bricks) + 9 * torch.eye(126)
        assert distances.min() > 1e-3
        row = {token: weight[words.convert_tokens_to_ids(token)] for token in BRICK_TOKENS}
        assert (row["<f21>"] - row["<f29>"]).norm() < (row["<f21>"] - row["<f52>"]).norm()
        kinds = torch.stack(
            [row[f] - row[b] for f, b in zip(FOREGROUND_BRICKS, BACKGROUND_BRICKS, strict=True)]
        )
        torch.testing.assert_close(kinds, kinds[:1].expand_as(kinds), atol=1e-6, rtol=0)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["llama2", "qwen"])
def test_real_tokenizers_read_masks_back_and_start_all_bricks_apart(name):
    words = copy.deepcopy(getattr(real_tokenizers, name)())
    added = add_brick_tokens(words)
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.Embedding.from_pretrained(torch.randn(len(words), 16, generator=generator))
    start_rows(OneTable(table), words, added)
    bricks = table.weight[brick_token_ids(words)]
    assert (torch.cdist(bricks, bricks) + 9 * torch.eye(132)).min() > 0.1
    mask = np.zeros((48, 64), bool)
    mask[5:30, 10:40] = True
    mask[10:14, 12:20] = False
    blocks = [write_block(block_of(label, mask, (16, 16))) for label in ("man in red", "a 2nd dog")]
    answer = box_answer("Sure:", [*blocks, write_block(block_of("cat", 0 * mask, (16, 16)))])
    ids = words(answer, add_special_tokens=False).input_ids
    found = read_boxes(words.decode(ids, skip_special_tokens=True), (16, 16))
    assert found.faults == () and [block.label for block in found.blocks] == [
        "man in red",
        "a 2nd dog",
        "cat",
    ]
    for block, other in zip(found.blocks, read_boxes(answer, (16, 16)).blocks, strict=True):
        assert block.box == other.box and np.array_equal(block.cells, other.cells)


class OneTable:
    """The vocabulary of a model whose head is its embeddings."""

    def __init__(self, table):
        self.get_input_embeddings = self.get_output_embeddings = lambda: table


def test_rows_that_a_base_has_learnt_stay():
    model, processor = start("llava")
    before = matrices(model)[0].detach().clone()
    make_room(model, processor.tokenizer)
    start_rows(model, processor.tokenizer, add_brick_tokens(processor.tokenizer))
    assert torch.equal(matrices(model)[0], before)


KINDS = [
    pytest.param("llava", {}, id="llava"),
    pytest.param("qwen2_vl", {"spare": 140}, id="spare"),
    pytest.param("qwen2_vl", {"tied": True}, id="tied"),
]


def folders(name, kind, what, tmp_path):
    """(base folder, adapter folder, adapted model): everything that is trained moved by some random step."""
    model, processor, settings = model_of(name, **kind)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model.save_pretrained(base)
    processor.save_pretrained(base)
    model = backbone_of(model.config).model_class.from_pretrained(base).eval()
    added = add_brick_tokens(processor.tokenizer)
    make_room(model, processor.tokenizer)
    start_rows(model, processor.tokenizer, added)
    vocabulary = trained_vocabulary(model, brick_token_ids(processor.tokenizer), what)
    adapted = add_lora(model, rank=2, alpha=4, dropout=0.0, vocabulary=vocabulary).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    bricks = SegmentationSettings(
        system="text4seg++", codec=BRICKS, image_side=settings.image_side, prompt=settings.prompt
    )
    save_adapter(adapted, processor, bricks, adapter)
    return base, adapter, adapted


def logits(model, processor):
    ids = torch.tensor([processor.tokenizer(ANSWER, add_special_tokens=False).input_ids])
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("what", ["rows", "full"])
@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_an_adapter_with_new_tokens_loads_and_merges_to_the_bit(name, kind, what, tmp_path):
    base, folder, adapted = folders(name, kind, what, tmp_path)
    loaded = load_checkpoint(folder, device="cpu", dtype=torch.float32)
    words = loaded.processor.tokenizer
    found = logits(loaded.model, loaded.processor)
    assert torch.equal(found, logits(adapted, loaded.processor))
    merge(folder, tmp_path / "merged")
    merged = load_checkpoint(tmp_path / "merged", device="cpu", dtype=torch.float32)
    assert is_tied(merged.model) == kind.get("tied", False)
    assert merged.settings == loaded.settings and missing_brick_tokens(merged.processor.tokenizer) == []
    torch.testing.assert_close(logits(merged.model, merged.processor), found, atol=2e-5, rtol=0)
    before = matrices(backbone_of(merged.model.config).model_class.from_pretrained(base))
    bricks = brick_token_ids(words)
    for trained, whole, old in zip(matrices(adapted), matrices(merged.model), before, strict=True):
        assert torch.equal(trained, whole)
        kept = [row for row in range(len(old)) if row not in bricks]
        assert torch.equal(whole[kept], old[kept]) == (what == "rows")


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_only_the_rows_of_the_tokens_have_gradients_and_are_saved(name, kind, tmp_path):
    from safetensors.torch import load_file

    _, folder, adapted = folders(name, kind, "rows", tmp_path)
    saved = load_file(folder / "adapter_model.safetensors")
    rows = {key: tensor for key, tensor in saved.items() if "trainable_tokens" in key}
    assert [tuple(tensor.shape) for tensor in rows.values()] == [(132, 32)] * (1 if kind.get("tied") else 2)
    assert all("lora_" in key for key in saved.keys() - rows.keys())
    trained = {key for key, parameter in adapted.named_parameters() if parameter.requires_grad}
    vocabulary = {key for key in trained if "embed_tokens" in key or "lm_head" in key}
    assert len(vocabulary) == len(rows) and all("trainable_tokens_delta" in key for key in vocabulary)


def test_weights_of_new_tokens_that_are_missing_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    _, folder, _ = folders("llava", {}, "rows", tmp_path)
    file = folder / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if "lm_head" not in key}, file)
    with pytest.raises(ValueError, match=r"1 missing: .*lm_head.*trainable_tokens_delta"):
        load_checkpoint(folder, device="cpu")


def test_bricks_without_their_tokens_are_refused(tmp_path):
    model, processor, _ = model_of("llava")
    settings = tiny_settings(codec=BRICKS)
    problems = backbone_of(model.config).problems(model, processor, settings)
    assert len(problems) == 1 and "does not write 132 of its tokens, first <ref>" in problems[0]
