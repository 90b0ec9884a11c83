"""Shared fixtures: no network, one thread, tiny random models that are saved as real checkpoint folders."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytest_socket import disable_socket

TINY_SIDE = 24
TINY_PATCH = 6
TINY_GRID = (4, 4)
CORPUS = [
    "USER: <image>\nPlease segment only the red square in the image. ASSISTANT: Sure, here is the mask",
    "Can you segment the second blue circle from the left? Here is the segmentation map of the triangle:",
    "\n<seg>others *4\n others *1| red square *2| others *1\n others *2| blue circle *2\n</seg>",
]


def pytest_configure(config):
    """PEFT 0.21 asks transformers 5.23 for a property under its old name; nothing of ours can change that."""
    config.addinivalue_line(
        "filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Tests of a file stay in one process, and all that start processes of their own in one, begun first."""
    items.sort(key=lambda item: item.get_closest_marker("engines") is None)
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            group = "engines" if item.get_closest_marker("engines") else item.path.name
            item.add_marker(pytest.mark.xdist_group(group))


def pytest_runtest_setup():
    """Python sockets stay shut in every test."""
    disable_socket(allow_unix_socket=True)


def tiny_tokenizer():
    """Byte-level BPE of a few hundred tokens, with the special tokens of Llama and `<image>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def tiny_llava(seed=0):
    """(model, processor): LLaVA with random weights, 24-pixel images, 4x4 patches, 0.1 M parameters."""
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = tiny_tokenizer()
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    sides = {"height": TINY_SIDE, "width": TINY_SIDE}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": TINY_SIDE}, crop_size=sides),
        tokenizer=tokenizer,
        patch_size=TINY_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            **small, image_size=TINY_SIDE, patch_size=TINY_PATCH, projection_dim=32
        ),
        text_config=LlamaConfig(
            **small,
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=image_id,
        image_seq_length=(TINY_SIDE // TINY_PATCH) ** 2,
    )
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config).eval(), processor


def tiny_settings(**changes):
    """Settings that fit `tiny_llava`."""
    from llava.settings import SegmentationSettings

    fields = {"grid_hw": TINY_GRID, "image_side": TINY_SIDE, "prompt": "plain_v1"}
    return SegmentationSettings(**(fields | changes))


def tiny_sam_config():
    """SAM with 64-pixel input, 4x4 embedding and 16-pixel mask prompt: 0.1 M parameters, 15 ms an image."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

    width = {"hidden_size": 32}
    vision = SamVisionConfig(
        **width,
        output_channels=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        window_size=4,
        global_attn_indexes=[1],
        num_pos_feats=16,
        mlp_ratio=2.0,
    )
    decoder = SamMaskDecoderConfig(
        **width,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_dim=64,
        iou_head_hidden_dim=32,
        iou_head_depth=2,
    )
    prompt = SamPromptEncoderConfig(**width, image_size=64, patch_size=16, mask_input_channels=8)
    return SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)


@pytest.fixture(scope="session")
def tiny_llava_folder(tmp_path_factory) -> Path:
    """A plain checkpoint folder: tiny random LLaVA, processor, `segmentation.json`. Treat it as read-only."""
    folder = tmp_path_factory.mktemp("tiny_llava")
    model, processor = tiny_llava()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tiny_settings().save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sam_folder(tmp_path_factory) -> Path:
    """A tiny random SamModel with its image processor. Treat it as read-only."""
    import torch
    from transformers import SamImageProcessorPil, SamModel

    folder = tmp_path_factory.mktemp("tiny_sam")
    torch.manual_seed(0)
    SamModel(tiny_sam_config()).save_pretrained(folder)
    SamImageProcessorPil(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def picture():
    """Function that draws a seeded RGB image: `picture(width, height, seed=0)`."""

    def draw(width: int, height: int, seed: int = 0) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return draw
