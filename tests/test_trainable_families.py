"""Adapters, reach of gradients and packing in every family of models."""

import pytest
import torch
from test_backbones import RECORDS, SHAPES, features_of
from tiny_backbones import FAMILIES, tiny

from llava.model.backbones import BACKBONES
from llava.train.batch import PACKABLE_TEXT, Collator, CollatorWithImage, PackedCollator, check_packing
from llava.train.dataset import blank_features
from llava.train.lora import add_lora, linears_under
from llava.train.trainable import unreached_loss


@pytest.fixture
def family(request, tmp_path, picture):
    """(name, model, features of its records, the last of which has no image)."""
    for number, (width, height) in enumerate(SHAPES):
        picture(width, height, seed=number).save(tmp_path / f"{number}.png")
    model, dataset = features_of(request.param, tmp_path)
    return request.param, model, [dataset[index] for index in range(len(RECORDS))]


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_adapters_sit_on_language_and_tower_and_every_batch_reaches_them(family):
    name, model, features = family
    own = BACKBONES[name]
    linears = {*linears_under(model, own.language_model), *linears_under(model, own.vision)}
    projector = {key for key in linears if key.startswith(f"{own.projector}.")}
    adapted = add_lora(model, rank=2, alpha=4, dropout=0.0, vision=True).train()
    found = {
        key.removeprefix("base_model.model.")
        for key, module in adapted.named_modules()
        if hasattr(module, "lora_A")
    }
    assert found <= linears - projector
    assert not [key for key in linears - projector - found if any(part.isdigit() for part in key.split("."))]
    for batch, has_images in ((features, True), (features[-1:], False)):
        adapted.zero_grad(set_to_none=True)
        loss = adapted(**Collator(0)(batch), use_cache=False).loss
        (loss + unreached_loss(adapted, has_images=has_images)).backward()
        assert [key for key, p in adapted.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_packed_and_padded_losses_agree_or_packing_is_refused(family):
    _, model, features = family
    if model.config.get_text_config().model_type not in PACKABLE_TEXT:
        with pytest.raises(ValueError, match="is not known to keep samples of one row apart"):
            check_packing(model.config, "sdpa")
        return
    check_packing(model.config, "sdpa")
    with torch.no_grad():
        padded = model(**Collator(0)(features), use_cache=False).loss
        packed = [model(**PackedCollator(0, row_tokens, 4096)(features)).loss for row_tokens in (0, None)]
    assert [float(loss) for loss in packed] == pytest.approx([float(padded)] * 2, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_a_blank_image_beside_text_alone_changes_no_loss(family):
    name, model, features = family
    _, processor, settings = tiny(name)
    blank = blank_features(processor, settings)
    with torch.no_grad():
        alone = model(**Collator(0)(features[-1:]), use_cache=False).loss
        shown = model(**CollatorWithImage(Collator(0), blank)(features[-1:]), use_cache=False).loss
    assert float(shown) == pytest.approx(float(alone), abs=1e-6)
