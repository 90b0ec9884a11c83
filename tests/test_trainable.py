import json

import pytest
import torch
from conftest import tiny_llava

from llava.model.backbones import backbone_of
from llava.train.arguments import DataArguments, ModelArguments, RunArguments
from llava.train.lora import (
    LORA_TYPES,
    Rates,
    add_lora,
    linears_under,
    parameter_groups,
    projector_of,
    target_pattern,
    train_in_full,
)
from llava.train.trainable import (
    save_trainable,
    table_text,
    trainable_table,
    training_problems,
    unreached_loss,
)

CHOICE = {"rank": 2, "alpha": 4, "dropout": 0.0}
RATES = Rates(1e-3, projector=1e-5, vision=1e-6, weight_decay=0.1)


def adapted(**choice):
    return add_lora(tiny_llava()[0], **CHOICE | choice)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def with_adapters(model):
    return {name for name, module in model.named_modules() if hasattr(module, "lora_A")}


def test_lora_goes_on_every_language_linear_and_nowhere_else():
    model = adapted()
    assert len(with_adapters(model)) == 2 * 7
    assert not [name for name in with_adapters(model) if "model.language_model." not in name]
    assert {name for name in trained(model) if "lora_" not in name} == {
        f"base_model.model.model.multi_modal_projector.linear_{layer}.{kind}"
        for layer in (1, 2)
        for kind in ("weight", "bias")
    }


def test_the_vision_tower_gets_adapters_only_when_asked_and_the_projector_never():
    model = adapted(vision=True)
    towers = {name for name in with_adapters(model) if ".vision_tower." in name}
    assert len(towers) == 2 * 6 and len(with_adapters(model)) == 2 * 6 + 2 * 7
    assert not [name for name in with_adapters(model) if "multi_modal_projector" in name]


def test_a_model_without_language_linears_is_refused():
    with pytest.raises(ValueError, match=r"no linear layers under model.language_model"):
        linears_under(torch.nn.Linear(2, 2), "model.language_model")


def test_a_frozen_projector_takes_no_gradient():
    assert all("lora_" in name for name in trained(adapted(projector=False)))
    assert not any("projector" in name for name in trained(train_in_full(tiny_llava()[0], projector=False)))


@pytest.mark.parametrize("kind", LORA_TYPES)
def test_each_kind_of_adapter_starts_as_the_base_and_trains(kind):
    model, ids = adapted(kind=kind).train(), torch.arange(10, 40)[None]
    before = tiny_llava()[0](input_ids=ids).logits
    assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-5)
    model(input_ids=ids, labels=ids).loss.backward()
    reached = {
        n.split(".lora_")[1].split(".")[0]
        for n, p in model.named_parameters()
        if "lora_" in n and p.grad is not None
    }
    assert reached == {"A", "B"} | ({"magnitude_vector"} if kind == "dora" else set())


def test_the_scale_of_rslora_falls_with_the_root_of_the_rank():
    scales = {
        kind: next(
            m.scaling["default"]
            for m in adapted(kind=kind, rank=4, alpha=8).modules()
            if hasattr(m, "lora_A")
        )
        for kind in ("lora", "rslora")
    }
    assert scales == {"lora": 2.0, "rslora": 4.0}


def test_trained_weights_are_float32_in_a_half_precision_model():
    model = add_lora(tiny_llava()[0].to(torch.bfloat16), **CHOICE)
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_in_full_all_but_the_vision_tower_is_trained_and_that_too_when_asked():
    frozen = {
        name.split(".")[1]
        for name, parameter in train_in_full(tiny_llava()[0]).named_parameters()
        if not parameter.requires_grad
    }
    assert frozen == {"vision_tower"}
    assert all(p.requires_grad for p in train_in_full(tiny_llava()[0], vision=True).parameters())


@pytest.mark.parametrize(("projector_lr", "expected"), [(1e-5, {1e-3, 1e-5}), (None, {1e-3})])
def test_the_projector_has_its_own_learning_rate(projector_lr, expected):
    model = adapted()
    groups = parameter_groups(model, Rates(1e-3, projector=projector_lr, weight_decay=0.1))
    assert {group["lr"] for group in groups} == expected and groups[0]["lr"] == 1e-3
    projector = {id(parameter) for parameter in projector_of(model).parameters()}
    for group in groups:
        inside = {id(parameter) in projector for parameter in group["params"]}
        assert inside == {group["lr"] == 1e-5} or projector_lr is None
        assert (group["weight_decay"] == 0.0) == all(parameter.ndim == 1 for parameter in group["params"])
    counted = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert counted == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_the_table_says_what_is_trained_of_each_part_and_how_fast(tmp_path):
    model = adapted(vision=True)
    table = trainable_table(model, parameter_groups(model, RATES))
    rates = {line.group: line.learning_rate for line in table}
    assert rates == {
        "adapters on the language model": 1e-3,
        "adapters on the vision tower": 1e-3,
        "language model": None,
        "output head": None,
        "projector": 1e-5,
        "vision tower": None,
    }
    assert sum(line.parameters for line in table) == sum(p.numel() for p in model.parameters())
    assert sum(line.trained for line in table) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert all(line.trained in (0, line.parameters) for line in table)
    save_trainable(table, tmp_path)
    saved = json.loads((tmp_path / "trainable.json").read_text())["groups"]
    assert [entry["group"] for entry in saved] == list(rates) and saved[0]["trained"] == table[0].trained
    lines = table_text(table).splitlines()
    assert len(lines) == len(table) + 2 and len(set(map(len, lines[:-1]))) == 1
    assert lines[1].split()[-1] == "0.001" and lines[-1].endswith("% trained")


def test_a_tower_trained_in_full_has_its_own_learning_rate():
    model = train_in_full(tiny_llava()[0], vision=True)
    table = trainable_table(model, parameter_groups(model, RATES))
    assert {line.group: line.learning_rate for line in table} == {
        "language model": 1e-3,
        "output head": 1e-3,
        "projector": 1e-5,
        "vision tower": 1e-6,
    }


@pytest.mark.parametrize("has_images", [True, False])
def test_every_trained_weight_of_the_tower_and_the_projector_is_reached_by_any_batch(has_images):
    model = train_in_full(tiny_llava()[0], vision=True)
    loss = unreached_loss(model, has_images=has_images)
    loss.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    parts = (
        ("model.vision_tower.",) if has_images else ("model.vision_tower.", "model.multi_modal_projector.")
    )
    assert reached == {name for name, _ in model.named_parameters() if name.startswith(parts)}
    assert loss.item() == 0.0 and not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_nothing_is_added_where_every_batch_reaches_all():
    assert unreached_loss(adapted(), has_images=True) is None
    assert unreached_loss(adapted(projector=False), has_images=False) is None


def problems(*, run=None, data=None, **model):
    return training_problems(ModelArguments(**model), DataArguments(**data or {}), RunArguments(**run or {}))


def test_the_defaults_have_no_problem():
    assert problems() == []


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"lora_type": "qlora"}, "--lora_type 'qlora': known are lora, dora, rslora"),
        ({"bits": 5}, "--bits 5: known are 4, 8, 16"),
        ({"bits": 4}, "--bits 4: not installed; pip install bitsandbytes"),
        ({"bits": 8}, "--bits 8 needs an NVIDIA GPU"),
        ({"bits": 8, "lora_enable": False}, "quantized weights take no gradients"),
        ({"tune_vision": True}, "--lora_vision True"),
        ({"lora_vision": True, "lora_enable": False}, "the whole tower: --tune_vision True"),
        ({"mm_vision_tower_lr": 1e-6}, "needs --tune_vision True"),
        ({"data": {"packing_length": 512}}, "--packing_length 512 needs --packing True"),
        ({"data": {"packing_length": 0}}, "--packing_length 0: must be at least 1"),
        ({"bits": 4, "run": {"deepspeed": "scripts/zero3.json"}}, "ZeRO-3 cannot split quantized weights"),
    ],
)
def test_what_does_not_go_together_is_told_before_weights_are_read(asked, expected, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert any(expected in problem for problem in problems(**asked))


def test_the_pattern_of_each_family_names_its_own_parts():
    model = tiny_llava()[0]
    assert backbone_of(model.config).language_model == "model.language_model"
    assert target_pattern(model).startswith(r"model\.language_model\..*\.(")
