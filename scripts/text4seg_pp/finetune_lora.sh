#!/usr/bin/env bash
# Text4Seg++ (arXiv 2509.06321): one Qwen2-VL for expressions, classes, reasoning, captions and conversations,
# whose masks are a box and bricks of its 64x64 inside.
#
#   for set in refcoco refcoco+ refcocog refclef; do
#     python playground/data/create_json/create_refcoco.py --dataset $set --split train --format store
#   done
#   for set in grefercoco coco_panoptic pix2cap reasonseg muse rrsisd earthreason; do
#     python playground/data/create_json/create_$set.py --split train --format store
#   done
#   bash scripts/text4seg_pp/finetune_lora.sh
#   python scripts/merge_lora_weights.py --model-path checkpoints/text4seg-pp-lora --save-path checkpoints/text4seg-pp
#   bash scripts/v1_5/eval/refer_seg.sh checkpoints/text4seg-pp "refcoco|val" "refcoco+|val" "refcocog|val"
#
# From the paper: Qwen2-VL-7B unchanged, LoRA of rank 128, ZeRO-1, AdamW at 2e-4 with 3 % warm-up and linear
# decay, 50,000 steps of 128 samples, input of 784 x 784 pixels. Not in the paper, so ours: the scale of the
# adapters (256), a projector trained at 2e-5, images that keep their shape up to that many pixels, the weights
# of the datasets (see mixture.yaml), and of the vocabulary only the rows of the new tokens trained.
#
# Hardware    8 GPUs with 80 GB; fewer do the same steps, in more time.
# Time        about 26 hours on 8 H100, estimated and not measured: 6.4 million samples of about 1000 tokens,
#             6 x 7.6e9 operations a token, 40 % of 989e12 operations a second and GPU.
# Expected    published for 7B without a refiner: mean cIoU of the eight RefCOCO splits 79.3, mean of gRefCOCO
#             69.8, MUSE 63.8, RRSIS-D 70.8, EarthReason 70.1; REC Acc@0.5 91.1; ReasonSeg 54.5 with SAMRefiner.
#
# Every variable can be set from outside, here and in scripts/v1_5/finetune_lora.sh; flags after the name are
# passed on. The same masks with LLaVA-1.5: see there.
set -euo pipefail

export MODEL=${MODEL:-Qwen/Qwen2-VL-7B-Instruct}
export DATA=${DATA:-scripts/text4seg_pp/mixture.yaml}
export IMAGES=${IMAGES:-playground/data}
export OUTPUT=${OUTPUT:-checkpoints/text4seg-pp-lora}
export CODEC=${CODEC:-bricks}
export MAX_PIXELS=${MAX_PIXELS-614656}            # 784 x 784
export MAX_STEPS=${MAX_STEPS:-50000}
export LORA_R=${LORA_R:-128}
export LORA_ALPHA=${LORA_ALPHA:-256}
export SCHEDULE=${SCHEDULE:-linear}
export LONG_SAMPLES=${LONG_SAMPLES:-skip}         # long conversations of LLaVA-665k are counted and left out
export ZERO=${ZERO:-1}

exec bash "$(dirname "${BASH_SOURCE[0]}")/../v1_5/finetune_lora.sh" "$@"
