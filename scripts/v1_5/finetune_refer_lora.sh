#!/usr/bin/env bash
# Text4Seg for referring expressions: RefCOCO, RefCOCO+, RefCOCOg and RefCLEF alone, five epochs. First stage of
# the two for gRefCOCO, see finetune_grefer_lora.sh.
#
#   for set in refcoco refcoco+ refcocog refclef; do
#     python playground/data/create_json/create_refcoco.py --dataset $set --split train --format store
#   done
#   bash scripts/v1_5/finetune_refer_lora.sh
#   python scripts/merge_lora_weights.py --model-path checkpoints/text4seg-refer-lora --save-path checkpoints/text4seg-refer
#   bash scripts/v1_5/eval/refer_seg.sh checkpoints/text4seg-refer
#
# Hardware    8 GPUs with 40 GB; fewer do the same steps of 128 samples, in more time.
# Time        about 43 hours on 8 A100, estimated and not measured: 4.4 million samples of about 870 tokens,
#             6 x 6.7e9 operations a token, 40 % of 312e12 operations a second and GPU.
# Expected    published for LLaVA-1.5-7B (Text4Seg, arXiv 2410.09855, Table 1), cIoU with SAM ViT-H:
#             RefCOCO 79.3 val, 81.9 testA, 76.2 testB; RefCOCO+ 72.1, 77.6, 66.1; RefCOCOg 72.1 val, 73.9 test;
#             mean 74.9; without a refiner 67.2. That run also trained on val and test photographs, which are
#             left out here; its projector had adapters, ours is trained in full.
#
# Every variable can be set from outside, here and in finetune_lora.sh; flags after the name are passed on.
set -euo pipefail

export DATA=${DATA:-scripts/v1_5/mixtures/text4seg_refer.yaml}
export IMAGES=${IMAGES:-playground/data}
export OUTPUT=${OUTPUT:-checkpoints/text4seg-refer-lora}
export GRID=${GRID-16}
export EPOCHS=${EPOCHS:-5}
export BATCH=${BATCH:-8}
export SCHEDULE=${SCHEDULE:-linear}               # what the published DeepSpeed file ran, whatever its flags say
export MAX_LENGTH=${MAX_LENGTH-2048}
export LONG_SAMPLES=${LONG_SAMPLES:-skip}
export SAVE_STEPS=${SAVE_STEPS:-500}

exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune_lora.sh" "$@"
