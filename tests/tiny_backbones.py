"""Tiny random models of every family, saved as real checkpoint folders with their processors."""

import torch
import transformers as hf
from conftest import CORPUS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from llava.model.backbones import BACKBONES, processors
from llava.settings import SegmentationSettings

SIDE = 24
PATCH = 6
PLACES = {"max_position_embeddings": 512}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer(special, *, eos, bos=None, **named):
    """Byte-level BPE with these special tokens, the first of which pads; `named` ones become attributes."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token=eos,
        pad_token=special[0],
        padding_side="left",
        extra_special_tokens=named,
    )


def vicuna():
    return tokenizer(["<pad>", "<s>", "</s>", "<image>"], bos="<s>", eos="</s>", image_token="<image>")


def text_config(kind, words, **more):
    """Language model with one key-value head less than heads, so that shapes cannot be mixed up."""
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    return kind(
        **SMALL,
        **PLACES,
        **ids,
        pad_token_id=words.pad_token_id,
        vocab_size=len(words),
        num_key_value_heads=1,
        **more,
    )


def squares(side=SIDE):
    return {"height": side, "width": side}


def llava_next():
    words = vicuna()
    tiles = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    processor = hf.LlavaNextProcessor(
        hf.LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size=squares(), image_grid_pinpoints=tiles
        ),
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**SMALL, image_size=SIDE, patch_size=PATCH, projection_dim=32),
        text_config=text_config(hf.LlamaConfig, words),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=tiles,
    )
    return config, processor


def llava_onevision():
    words = tokenizer([*CHATML, "<image>", "<video>"], eos="<|im_end|>")
    tiles = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    processor = processors.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessorPil(size=squares(), image_grid_pinpoints=tiles),
        words,
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
    )
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(
            **SMALL, image_size=SIDE, patch_size=PATCH, vision_use_head=False
        ),
        text_config=text_config(hf.Qwen2Config, words),
        image_token_index=processor.image_token_id,
        video_token_index=processor.video_token_id,
        image_grid_pinpoints=tiles,
    )
    return config, processor


QWEN_MARKS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def qwen(family, processor_class, vision):
    words = tokenizer([*CHATML, *QWEN_MARKS], eos="<|im_end|>")
    limits = {"shortest_edge": 12 * 12, "longest_edge": 40 * 40}
    processor = processor_class(hf.Qwen2VLImageProcessorPil(patch_size=PATCH, size=limits), words)
    ids = dict(
        zip(
            ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
            words.convert_tokens_to_ids(QWEN_MARKS),
            strict=True,
        )
    )
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = text_config(getattr(hf, f"{family}TextConfig"), words, rope_parameters=rope)
    kind = getattr(hf, f"{family}VisionConfig")
    return getattr(hf, f"{family}Config")(text_config=text, vision_config=kind(**vision), **ids), processor


def qwen2_vl():
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": PATCH}
    return qwen("Qwen2VL", processors.Qwen2VLProcessor, vision)


def qwen2_5_vl():
    vision = {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
    vision |= {"patch_size": PATCH, "window_size": 24, "fullatt_block_indexes": [1]}
    return qwen("Qwen2_5_VL", processors.Qwen2_5_VLProcessor, vision)


def internvl():
    marks = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    words = tokenizer([*CHATML, *marks], eos="<|im_end|>", **dict(zip(names, marks, strict=True)))
    features = (SIDE // PATCH // 2) ** 2
    processor = processors.InternVLProcessor(
        hf.GotOcr2ImageProcessorPil(size=squares(), crop_to_patches=True), words, image_seq_length=features
    )
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**SMALL, image_size=SIDE, patch_size=PATCH),
        text_config=text_config(hf.Qwen2Config, words),
        image_token_id=processor.image_token_id,
        image_seq_length=features,
    )
    return config, processor


def deepseek_vl():
    end = "<\uff5cend\u2581of\u2581sentence\uff5c>"
    words = tokenizer(
        [end, "<begin>", "<image_placeholder>"], bos="<begin>", eos=end, image_token="<image_placeholder>"
    )
    processor = hf.DeepseekVLProcessor(
        hf.DeepseekVLImageProcessorPil(size=squares()), words, num_image_tokens=(SIDE // PATCH) ** 2
    )
    config = hf.DeepseekVLConfig(
        vision_config=hf.SiglipVisionConfig(**SMALL, image_size=SIDE, patch_size=PATCH),
        text_config=text_config(hf.LlamaConfig, words),
        image_token_id=processor.image_token_id,
    )
    return config, processor


FAMILIES = {
    build.__name__: build
    for build in (llava_next, llava_onevision, qwen2_vl, qwen2_5_vl, internvl, deepseek_vl)
}


def tiny(name, seed=0):
    """(model, processor, settings) of a family other than LLaVA-1.5."""
    config, processor = FAMILIES[name]()
    torch.manual_seed(seed)
    backbone = BACKBONES[name]
    settings = SegmentationSettings(
        grid_hw=(4, 4), image_side=backbone.image_side(config), prompt=backbone.prompts[0]
    )
    return backbone.model_class(config).eval(), processor, settings
