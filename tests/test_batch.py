import random

import pytest
import torch
from conftest import tiny_llava
from transformers import LlavaConfig, Qwen2VLConfig

from llava.constants import IGNORE_INDEX
from llava.train.batch import (
    ROW_TOKENS,
    Collator,
    CollatorWithImage,
    PackedCollator,
    check_packing,
    fill_rows,
    make_collator,
)
from llava.train.lora import add_lora

IMAGE_TOKENS = 16


def sample(length, *, image=True, seed=0):
    """Features of a sample whose second half is learnt."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 300, (length,), generator=draw)
    features = {"input_ids": ids, "labels": torch.where(torch.arange(length) < length // 2, -100, ids)}
    if image:
        spot = torch.full((IMAGE_TOKENS,), 3)
        features["input_ids"] = torch.cat([ids[:2], spot, ids[2:]])
        features["labels"] = torch.cat(
            [features["labels"][:2], torch.full_like(spot, -100), features["labels"][2:]]
        )
        features["pixel_values"] = torch.randn(1, 3, 24, 24, generator=draw)
    return features


SAMPLES = [sample(n, image=n % 2 == 0, seed=n) for n in (30, 13, 10, 44, 6, 21)]


def test_a_batch_is_padded_on_the_right_and_padding_is_not_learnt():
    rows = [{"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in ([5, 6, 7], [8])]
    rows[0]["pixel_values"] = torch.zeros(1, 3, 4, 4)
    batch = Collator(pad_id=0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, IGNORE_INDEX, IGNORE_INDEX]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["pixel_values"].shape == (1, 3, 4, 4)


def test_a_batch_without_an_image_gets_one_where_every_batch_must_show_one():
    blank = {"input_ids": torch.tensor([9, 9]), "labels": torch.tensor([IGNORE_INDEX] * 2)}
    blank["pixel_values"] = torch.zeros(1, 3, 2, 2)
    text = {"input_ids": torch.tensor([5]), "labels": torch.tensor([5])}
    collator = CollatorWithImage(Collator(0), blank)
    alone = collator([text])
    assert alone["input_ids"].tolist() == [[5, 0], [9, 9]] and alone["pixel_values"].shape == (1, 3, 2, 2)
    assert alone["labels"].tolist() == [[5, IGNORE_INDEX], [IGNORE_INDEX] * 2]
    shown = {**text, "pixel_values": torch.ones(1, 3, 2, 2)}
    assert torch.equal(collator([text, shown])["pixel_values"], shown["pixel_values"])


def test_whatever_an_image_brings_is_joined_in_the_order_of_the_samples():
    features = [
        {
            "input_ids": torch.tensor([1]),
            "labels": torch.tensor([1]),
            "image_grid_thw": torch.tensor([[1, 2, n]]),
        }
        for n in (4, 6)
    ]
    del features[0]["image_grid_thw"]
    assert Collator(pad_id=0)([*features, *features[1:]])["image_grid_thw"].tolist() == [[1, 2, 6]] * 2


@pytest.mark.parametrize(
    ("lengths", "budget", "rows"),
    [
        ([7], 7, [[0]]),
        ([5, 5], 10, [[0], [1]]),
        ([3, 9, 4, 6, 1, 6], 9, [[1], [3, 4], [5], [2, 0]]),
        ([3, 9, 4, 6, 1, 6], 15, [[1, 4], [3, 2], [5, 0]]),
        ([3, 9, 4, 6, 1, 6], 29, [[1, 3, 5, 2, 0, 4]]),
    ],
)
def test_rows_are_as_long_as_the_budget_allows_with_the_least_padding(lengths, budget, rows):
    assert fill_rows(lengths, budget, hidden_size=4096) == rows


def test_a_small_model_gets_shorter_rows_because_attention_weighs_more():
    counts = [len(fill_rows([100, 70, 70, 70], 999, hidden_size=width)) for width in (8, 64, 4096)]
    assert counts == [4, 2, 1]


def test_no_row_is_above_the_budget_and_none_holds_a_sample_twice():
    rng = random.Random(0)
    for _ in range(200):
        lengths = [rng.randint(2, 90) for _ in range(rng.randint(1, 16))]
        budget = max(lengths) + rng.randint(0, 200)
        rows = fill_rows(lengths, budget, hidden_size=rng.choice([16, 256, 4096]))
        assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
        assert max(sum(lengths[number] for number in row) for row in rows) <= budget


def test_a_packed_row_restarts_positions_and_teaches_no_first_token():
    rows = [
        {"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in ([5, 6, 7, 3], [8, 9], [4])
    ]
    batch = PackedCollator(pad_id=0, row_tokens=4, hidden_size=32)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 3], [8, 9, 4, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, 3], [-100, 9, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    assert "attention_mask" not in batch and batch["use_cache"] is False


def test_without_a_budget_all_samples_share_a_row_without_padding():
    batch = PackedCollator(pad_id=0, row_tokens=None, hidden_size=32)(SAMPLES)
    assert batch["input_ids"].shape == (1, sum(len(each["input_ids"]) for each in SAMPLES))
    assert (batch["position_ids"] == 0).sum() == len(SAMPLES)


def test_images_follow_their_tokens_into_the_rows():
    batch = PackedCollator(pad_id=0, row_tokens=0, hidden_size=32)(SAMPLES)
    firsts = {int(each["input_ids"][0]): each for each in SAMPLES}
    starts = (batch["position_ids"] == 0).nonzero().tolist()
    met = [firsts[int(batch["input_ids"][row, at])] for row, at in starts if int(batch["input_ids"][row, at])]
    images = [each["pixel_values"] for each in met if "pixel_values" in each]
    assert len(met) == len(SAMPLES) and torch.equal(batch["pixel_values"], torch.cat(images))


def loss_and_gradients(collator, samples, attention):
    """Loss of a batch and the gradients of a tiny LLaVA whose adapters are not zero."""
    model = tiny_llava()[0]
    model.set_attn_implementation(attention)
    adapted = add_lora(model, rank=2, alpha=8, dropout=0.0).train()
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    loss = adapted(**{**collator(samples), "use_cache": False}).loss
    loss.backward()
    return loss.item(), {n: p.grad for n, p in adapted.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_and_padded_batches_have_equal_losses_and_gradients(attention):
    loss, gradients = loss_and_gradients(Collator(0), SAMPLES, attention)
    for row_tokens in (0, 90, None):
        packed, found = loss_and_gradients(PackedCollator(0, row_tokens, 4096), SAMPLES, attention)
        assert packed == pytest.approx(loss, abs=1e-6)
        for name, gradient in gradients.items():
            assert torch.allclose(found[name], gradient, atol=2e-6), name


def test_with_a_cache_packed_samples_would_see_each_other():
    model, batch = tiny_llava()[0], PackedCollator(0, None, 32)(SAMPLES)
    with torch.no_grad():
        apart, mixed = model(**batch).loss, model(**{**batch, "use_cache": True}).loss
    assert abs(float(apart - mixed)) > 1e-4


def test_packing_is_refused_where_samples_could_see_each_other():
    check_packing(LlavaConfig(), "sdpa")
    with pytest.raises(ValueError, match="qwen2_vl_text of qwen2_vl is not known to keep samples"):
        check_packing(Qwen2VLConfig(), "sdpa")
    with pytest.raises(ValueError, match="attention 'flex_attention'; known are sdpa"):
        check_packing(LlavaConfig(), "flex_attention")


def test_flash_attention_reads_one_row_and_others_rows_within_a_budget():
    choices = {"packing": True, "row_tokens": 90, "hidden_size": 8}
    assert make_collator(7, **choices, attention="flash_attention_2") == PackedCollator(7, None, 8)
    assert make_collator(7, **choices, attention="sdpa") == PackedCollator(7, 90, 8)
    default = make_collator(7, **{**choices, "row_tokens": None}, attention="sdpa")
    assert default == PackedCollator(7, ROW_TOKENS, 8)
    assert make_collator(7, **{**choices, "packing": False}, attention="sdpa") == Collator(7)
