#!/usr/bin/env bash
# Text4Seg for open vocabulary: COCO-Stuff with 171 names, a 32x32 grid, asked for lists of names afterwards.
#
#   python playground/data/create_json/create_cocostuff.py --split train --format store
#   bash scripts/v1_5/finetune_ovs_lora.sh
#   python scripts/merge_lora_weights.py --model-path checkpoints/text4seg-ovs-lora --save-path checkpoints/text4seg-ovs
#
# Hardware    8 GPUs with 40 GB; fewer do the same steps of 128 samples, in more time.
# Time        about 50 hours on 8 A100, estimated and not measured: 2.4 million samples of about 1850 tokens,
#             6 x 6.7e9 operations a token, 40 % of 312e12 operations a second and GPU.
# Expected    published for LLaVA-1.5-7B (Text4Seg, arXiv 2410.09855, Table 5), mIoU: ADE20K-150 16.5,
#             PASCAL Context-59 52.5, PASCAL VOC-20 76.5, under that paper's own way of counting.
#
# Every variable can be set from outside, here and in finetune_lora.sh; flags after the name are passed on.
set -euo pipefail

export DATA=${DATA:-scripts/v1_5/mixtures/text4seg_ovs.yaml}
export IMAGES=${IMAGES:-playground/data}
export OUTPUT=${OUTPUT:-checkpoints/text4seg-ovs-lora}
export GRID=${GRID-32}
export EPOCHS=${EPOCHS:-2}
export BATCH=${BATCH:-4}
export MAX_LENGTH=${MAX_LENGTH-3072}
export LONG_SAMPLES=${LONG_SAMPLES:-skip}         # two answers about a crowded scene can be longer; counted

exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune_lora.sh" "$@"
