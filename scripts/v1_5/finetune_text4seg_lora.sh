#!/usr/bin/env bash
# Text4Seg's LLaVA recipe: LLaVA-665k once, the RefCOCO series three times; one model that converses and segments.
#
#   for set in refcoco refcoco+ refcocog refclef; do
#     python playground/data/create_json/create_refcoco.py --dataset $set --split train --format store
#   done
#   bash scripts/v1_5/finetune_text4seg_lora.sh
#   python scripts/merge_lora_weights.py --model-path checkpoints/text4seg-mix-lora --save-path checkpoints/text4seg-mix
#   bash scripts/v1_5/eval/refer_seg.sh checkpoints/text4seg-mix "refcoco|val" "refcoco+|val" "refcocog|val"
#
# Hardware    8 GPUs with 40 GB; fewer do the same steps of 128 samples, in more time.
# Time        about 40 hours on 8 A100, estimated and not measured: 3.5 million samples of about 1000 tokens,
#             6 x 6.7e9 operations a token, 40 % of 312e12 operations a second and GPU.
# Expected    published for LLaVA-1.5-7B with a 16x16 grid and SAM ViT-H (Text4Seg, arXiv 2410.09855, Table 4):
#             val cIoU 77.5 RefCOCO, 70.7 RefCOCO+, 73.4 RefCOCOg; VQAv2 76.6, GQA 60.2, VisWiz 50.9,
#             ScienceQA 68.1, TextVQA 55.0, POPE 84.2. That run also trained on val and test photographs, which
#             are left out here.
#
# Every variable can be set from outside, here and in finetune_lora.sh; flags after the name are passed on.
set -euo pipefail

export DATA=${DATA:-scripts/v1_5/mixtures/text4seg.yaml}
export IMAGES=${IMAGES:-playground/data}
export OUTPUT=${OUTPUT:-checkpoints/text4seg-mix-lora}
export GRID=${GRID-16}
export EPOCHS=${EPOCHS:-2}
export BATCH=${BATCH:-4}
export MAX_LENGTH=${MAX_LENGTH-3072}
export LONG_SAMPLES=${LONG_SAMPLES:-skip}         # long conversations of LLaVA-665k are counted and left out

exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune_lora.sh" "$@"
