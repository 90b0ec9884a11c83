"""Segment Anything's own .pth files become the very same `SamModel`, or an error."""

import re

import numpy as np
import pytest
import torch
from conftest import tiny_sam_config
from transformers import SamModel

from llava.model import original_sam
from llava.model.original_sam import SIZES, load_original_sam, rename_sam, sam_size
from llava.model.refine import SamRefiner

# transformers' names on the left, those of the original code on the right; written from its modules.
BACKWARDS = [
    ("vision_encoder.patch_embed.projection.", "image_encoder.patch_embed.proj."),
    ("vision_encoder.neck.conv1.", "image_encoder.neck.0."),
    ("vision_encoder.neck.layer_norm1.", "image_encoder.neck.1."),
    ("vision_encoder.neck.conv2.", "image_encoder.neck.2."),
    ("vision_encoder.neck.layer_norm2.", "image_encoder.neck.3."),
    ("vision_encoder.layers.", "image_encoder.blocks."),
    ("vision_encoder.", "image_encoder."),
    (
        "prompt_encoder.shared_embedding.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    ("prompt_encoder.point_embed.", "prompt_encoder.point_embeddings."),
    ("prompt_encoder.mask_embed.conv1.", "prompt_encoder.mask_downscaling.0."),
    ("prompt_encoder.mask_embed.layer_norm1.", "prompt_encoder.mask_downscaling.1."),
    ("prompt_encoder.mask_embed.conv2.", "prompt_encoder.mask_downscaling.3."),
    ("prompt_encoder.mask_embed.layer_norm2.", "prompt_encoder.mask_downscaling.4."),
    ("prompt_encoder.mask_embed.conv3.", "prompt_encoder.mask_downscaling.6."),
    ("mask_decoder.transformer.layer_norm_final_attn.", "mask_decoder.transformer.norm_final_attn."),
    ("mask_decoder.upscale_conv1.", "mask_decoder.output_upscaling.0."),
    ("mask_decoder.upscale_layer_norm.", "mask_decoder.output_upscaling.1."),
    ("mask_decoder.upscale_conv2.", "mask_decoder.output_upscaling.3."),
]


def original_name(name):
    for ours, theirs in BACKWARDS:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    name = re.sub(r"(blocks|transformer\.layers)\.(\d+)\.layer_norm(\d)", r"\1.\2.norm\3", name)
    for head in (r"iou_prediction_head", r"output_hypernetworks_mlps\.\d"):
        name = re.sub(rf"({head})\.layers\.0\.", r"\1.layers.1.", name)
        name = re.sub(rf"({head})\.proj_in\.", r"\1.layers.0.", name)
        name = re.sub(rf"({head})\.proj_out\.", r"\1.layers.2.", name)
    return name


def original_tensors(model):
    return {
        original_name(name): tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if name != "shared_image_embedding.positional_embedding"
    }


@pytest.fixture
def tiny(monkeypatch):
    """A tiny `SamModel` of random weights whose size is among the known ones."""
    monkeypatch.setitem(SIZES, "tiny", tiny_sam_config())
    torch.manual_seed(0)
    model = SamModel(tiny_sam_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(
            model.shared_image_embedding.positional_embedding
        )
    return model


def saved(tensors, folder):
    path = folder / "weights_of_any_name.pth"
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(("size", "count"), [("vit_b", 314), ("vit_l", 482), ("vit_h", 594)])
def test_every_published_size_is_told_by_its_shapes_and_fits_name_by_name(size, count):
    with torch.device("meta"):
        needed = SamModel(SIZES[size]).state_dict()
    tensors = {original_name(name): tensor for name, tensor in needed.items() if "shared_image" not in name}
    assert len(tensors) == count
    assert "image_encoder.blocks.11.attn.rel_pos_h" in tensors
    assert "mask_decoder.output_hypernetworks_mlps.3.layers.2.bias" in tensors
    assert sam_size(tensors, "file") == size
    found = rename_sam(tensors | {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)})
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tensor.shape for name, tensor in needed.items()
    }


def test_an_original_file_gives_the_masks_of_the_tensors_put_by_hand(tiny, tmp_path, picture):
    path = saved(original_tensors(tiny), tmp_path)
    model, processor = load_original_sam(path)
    image = picture(48, 32)
    inputs = processor(images=image, return_tensors="pt")
    prompts = {
        "input_points": torch.tensor([[[[20.0, 20.0], [50.0, 30.0]]]]),
        "input_labels": torch.tensor([[[1, 0]]]),
        "input_masks": torch.linspace(-7, 7, 256).reshape(1, 1, 16, 16),
    }
    with torch.no_grad():
        found = model(pixel_values=inputs["pixel_values"], **prompts)
        expected = tiny(pixel_values=inputs["pixel_values"], **prompts)
    assert torch.equal(found.pred_masks, expected.pred_masks)
    assert torch.equal(found.iou_scores, expected.iou_scores)
    assert inputs["pixel_values"].shape == (1, 3, 64, 64) and not model.training


def test_a_refiner_takes_the_file_as_it_takes_a_folder(tiny, tiny_sam_folder, tmp_path, picture):
    tiny.save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / "preprocessor_config.json").write_text(
        (tiny_sam_folder / "preprocessor_config.json").read_text()
    )
    image, masks = picture(48, 32), np.zeros((1, 32, 48), bool)
    masks[0, 8:20, 10:30] = True
    of_file = SamRefiner(saved(original_tensors(tiny), tmp_path)).refine(image, masks)
    of_folder = SamRefiner(tmp_path / "folder").refine(image, masks)
    assert np.array_equal(of_file.masks, of_folder.masks) and of_file.notes == of_folder.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_decoder.iou_token.weight": None}, r"1 missing: mask_decoder\.iou_token\.weight\."),
        ({"mask_decoder.hf_token.weight": torch.ones(2)}, r"1 unexpected: mask_decoder\.hf_token\.weight"),
        ({"image_encoder.pos_embed": torch.ones(1, 3, 3, 32)}, r"pos_embed is \(1, 3, 3, 32\), needed"),
    ],
)
def test_a_missing_a_left_over_and_a_misshapen_tensor_are_named(tiny, tmp_path, change, message):
    tensors = original_tensors(tiny) | change
    path = saved({name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path)
    with pytest.raises(ValueError, match=message):
        load_original_sam(path)


def test_other_files_and_sizes_are_refused_with_what_is_known(tiny, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no original Segment Anything checkpoint"):
        load_original_sam(saved({"weight": torch.ones(2)}, tmp_path))
    monkeypatch.delitem(original_sam.SIZES, "tiny")
    with pytest.raises(ValueError, match=r"32 wide with 2 layers; known: vit_b \(768 wide, 12 layers\)"):
        load_original_sam(saved(original_tensors(tiny), tmp_path))
    with pytest.raises(FileNotFoundError, match="not found"):
        load_original_sam(tmp_path / "none.pth")
