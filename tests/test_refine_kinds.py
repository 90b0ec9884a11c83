"""SAM, SAM-HQ and SAM 2 are told by their config.json and prompted each in its own geometry."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sam_folders import save_sam2, save_sam2_video, save_sam_hq
from transformers import SamImageProcessorPil, SamModel

from llava.model.refine import PromptedSam, SamRefiner, frame_hw, make_refiner, mask_prompt


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_sam_folder):
    """A tiny folder of each kind of SAM."""
    root = tmp_path_factory.mktemp("sams")
    made = {name: root / name for name in ("sam_hq", "sam2", "sam2_video")}
    for folder in made.values():
        folder.mkdir()
    save_sam_hq(made["sam_hq"], tiny_sam_folder)
    save_sam2(made["sam2"])
    save_sam2_video(made["sam2_video"])
    return made | {"sam": tiny_sam_folder}


def rectangle(size_hw, top, bottom, left, right):
    mask = np.zeros(size_hw, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("kind", ["sam", "sam_hq", "sam2", "sam2_video"])
@pytest.mark.parametrize("way", ["sam", "samrefiner"])
def test_every_kind_of_sam_refines_in_every_way(folders, picture, kind, way):
    refiner = make_refiner(way, folders[kind], device="cpu", iterations=2, min_agreement=0.0)
    masks = np.stack([rectangle((40, 64), 4, 30, 8 * i, 30 + 8 * i) for i in range(3)])
    masks[1] = False
    found = refiner.refine(picture(64, 40), masks)
    assert found.masks.shape == masks.shape and found.masks.dtype == bool
    assert found.notes[1] == "coarse is empty" and not found.masks[1].any()
    alone = [refiner.refine(picture(64, 40), mask[None]) for mask in masks]
    assert np.array_equal(np.concatenate([one.masks for one in alone]), found.masks)
    assert (refiner.sam.side, refiner.sam.prompt_side) == (64, 16)


@pytest.mark.parametrize("kind", ["sam_hq", "sam2"])
def test_prompts_over_a_kept_embedding_give_what_the_model_gives_from_pixels(folders, picture, kind):
    sam = PromptedSam(folders[kind], device="cpu")
    image = picture(64, 48)
    logits = sam.tensor(mask_prompt(rectangle((48, 64), 9, 40, 5, 50), 16)[None])
    point = (np.array([[20, 30]], np.float32), np.array([1]))
    prompts = sam.sparse((48, 64), points=[point])
    kept = sam.decode(sam.embed(image), logits=logits, prompts=prompts, count=1, several=True)
    with torch.no_grad():
        whole = sam.model(
            pixel_values=sam.pixels(image), input_masks=logits[:, None], multimask_output=True, **prompts
        ).pred_masks[:, 0]
    assert kept.shape == (1, 3, 16, 16)
    assert torch.allclose(kept, whole, atol=1e-5)


@pytest.mark.parametrize("kind", ["sam", "sam_hq", "sam2"])
@pytest.mark.parametrize("way", ["sam", "samrefiner"])
@pytest.mark.parametrize("size_wh", [(1, 1), (2, 1), (300, 1), (1, 300)])
def test_the_thinnest_images_are_refined_too(folders, picture, kind, way, size_wh):
    refiner = make_refiner(way, folders[kind], device="cpu", iterations=2, min_agreement=0.0)
    mask = np.zeros(size_wh[::-1], bool)
    mask[: size_wh[1] // 2 + 1, : size_wh[0] // 2 + 1] = True
    assert refiner.refine(picture(*size_wh), mask[None]).masks.shape == (1, *mask.shape)


def test_masks_of_sam_are_those_of_its_processor(tiny_sam_folder, picture):
    sam = PromptedSam(tiny_sam_folder, device="cpu")
    image, logits = picture(90, 37), torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    processor = SamImageProcessorPil.from_pretrained(tiny_sam_folder)
    sizes = processor(images=image, return_tensors="pt")
    full = processor.post_process_masks(
        [logits[:, None]], sizes["original_sizes"], sizes["reshaped_input_sizes"]
    )
    assert np.array_equal(sam.full_size(sam.embed(image), logits), full[0][:, 0].numpy())


def test_sam_2_sees_the_image_stretched_and_answers_at_its_size(folders):
    sam = PromptedSam(folders["sam2"], device="cpu")
    image = Image.new("RGB", (128, 32), (255, 255, 255))
    pixels = sam.pixels(image)
    assert pixels.shape == (1, 3, 64, 64)
    assert torch.allclose(pixels[0, :, 63, 63], torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-4)
    assert frame_hw((32, 128), 64, keep_aspect=False) == (64, 64)
    mask = rectangle((32, 128), 0, 16, 64, 128)
    prompt = mask_prompt(mask, 16, keep_aspect=False)
    assert (prompt[:8, 8:] > 0).all() and (prompt < 0).sum() == 192
    assert (sam.full_size(sam.embed(image), sam.tensor(prompt[None]))[0] == mask).mean() > 0.95
    sparse = sam.sparse((32, 128), boxes=[np.array([64, 0, 128, 16], np.float32)])
    assert sparse["input_boxes"].tolist() == [[[32, 0, 64, 32]]]


def test_the_colours_of_a_processor_beside_sam_2_are_used(folders, tmp_path):
    folder = tmp_path / "sam2"
    shutil.copytree(folders["sam2"], folder)
    fields = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    assert torch.equal(
        PromptedSam(folder, device="cpu").pixels(Image.new("RGB", (4, 4), "white")), torch.ones(1, 3, 64, 64)
    )


def test_the_image_part_of_a_published_sam_2_is_the_image_model(folders, picture):
    image, mask = picture(50, 40), rectangle((40, 50), 4, 30, 8, 40)
    video = SamRefiner(folders["sam2_video"], device="cpu", min_agreement=0.0)
    assert type(video.sam.model).__name__ == "Sam2Model"
    assert video.refine(image, mask[None]).masks.shape == (1, 40, 50)


def test_a_folder_that_is_no_sam_is_told(folders, tiny_llava_folder, tmp_path):
    with pytest.raises(ValueError, match="of type 'llava', which refines no masks; known: sam, sam_hq, sam2"):
        SamRefiner(tiny_llava_folder)
    folder = tmp_path / "hq"
    shutil.copytree(folders["sam_hq"], folder)
    (folder / "config.json").write_text((folders["sam"] / "config.json").read_text())
    with pytest.raises(ValueError, match=r"does not fit SamModel - weights 25 unexpected: mask_decoder"):
        SamRefiner(folder)


def test_the_plain_model_class_is_used_for_plain_sam(folders):
    assert type(PromptedSam(folders["sam"], device="cpu").model) is SamModel
