#!/usr/bin/env bash
# Text4Seg for gRefCOCO, second stage: the model of finetune_refer_lora.sh, merged, learns several targets and none.
#
#   bash scripts/v1_5/finetune_refer_lora.sh
#   python scripts/merge_lora_weights.py --model-path checkpoints/text4seg-refer-lora --save-path checkpoints/text4seg-refer
#   python playground/data/create_json/create_grefercoco.py --split train --format store
#   bash scripts/v1_5/finetune_grefer_lora.sh
#   python scripts/merge_lora_weights.py --model-path checkpoints/text4seg-grefer-lora --save-path checkpoints/text4seg-grefer
#   bash scripts/v1_5/eval/refer_seg.sh checkpoints/text4seg-grefer "grefcoco|val" "grefcoco|testA" "grefcoco|testB"
#
# Hardware    8 GPUs with 40 GB; fewer do the same steps of 128 samples, in more time.
# Time        about 8 hours on 8 A100 after the first stage, estimated and not measured: 0.8 million samples of
#             about 870 tokens, 6 x 6.7e9 operations a token, 40 % of 312e12 operations a second and GPU.
# Expected    published for LLaVA-1.5-7B with SAM ViT-H (Text4Seg, arXiv 2410.09855, Table 2), gIoU / cIoU:
#             val 73.6 / 67.9, testA 74.1 / 72.8, testB 66.1 / 64.8. No N-acc or T-acc is published.
#
# Every variable can be set from outside, here and in finetune_lora.sh; flags after the name are passed on.
set -euo pipefail

export MODEL=${MODEL:-checkpoints/text4seg-refer} # the merged first stage; its grid and prompt stay
export DATA=${DATA:-scripts/v1_5/mixtures/text4seg_grefer.yaml}
export IMAGES=${IMAGES:-playground/data}
export OUTPUT=${OUTPUT:-checkpoints/text4seg-grefer-lora}
export EPOCHS=${EPOCHS:-2}
export BATCH=${BATCH:-8}
export SCHEDULE=${SCHEDULE:-linear}
export MAX_LENGTH=${MAX_LENGTH-2048}
export LONG_SAMPLES=${LONG_SAMPLES:-skip}
export SAVE_STEPS=${SAVE_STEPS:-500}

exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune_lora.sh" "$@"
