"""Tiny random SAM-HQ and SAM 2 folders, saved as the published ones are."""

import torch
from conftest import tiny_sam_config
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel, SamHQConfig, SamHQModel

HIERA = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 8,
    "num_attention_heads": 1,
    "image_size": [64, 64],
    "window_positional_embedding_background_size": [2, 2],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 1, 2, 2],
    "window_size_per_stage": [4, 4, 2, 2],
    "global_attention_blocks": [3],
}
SAM2 = {
    "vision_config": {
        "model_type": "sam2_vision_model",
        "backbone_config": HIERA,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    },
    "prompt_encoder_config": {
        "hidden_size": 32,
        "image_size": 64,
        "patch_size": 16,
        "mask_input_channels": 8,
    },
    "mask_decoder_config": {
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
    },
}
MEMORY = {
    "image_size": 64,
    "memory_attention_hidden_size": 32,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 64,
    "memory_encoder_hidden_size": 32,
    "memory_encoder_output_channels": 16,
    "memory_fuser_embed_dim": 32,
    "memory_fuser_intermediate_dim": 32,
    "mask_downsampler_embed_dim": 32,
}


def save_sam_hq(folder, processor_from):
    """SAM-HQ of the size of `tiny_sam_folder`, with the image processor of that folder."""
    fields = tiny_sam_config().to_dict()
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    plain = {
        part: {key: value for key, value in fields[part].items() if key != "model_type"} for part in parts
    }
    plain["mask_decoder_config"]["vit_dim"] = 32
    torch.manual_seed(1)
    SamHQModel(SamHQConfig(**plain)).save_pretrained(folder)
    name = "preprocessor_config.json"
    (folder / name).write_bytes((processor_from / name).read_bytes())


def save_sam2(folder):
    """SAM 2 for 64-pixel images, without an image processor."""
    torch.manual_seed(2)
    Sam2Model(Sam2Config(**SAM2)).save_pretrained(folder)


def save_sam2_video(folder):
    """The video model, as which SAM 2 is published: the image model and a memory."""
    torch.manual_seed(2)
    Sam2VideoModel(Sam2VideoConfig(**SAM2, **MEMORY)).save_pretrained(folder)
