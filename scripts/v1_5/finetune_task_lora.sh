#!/usr/bin/env bash
# Fine-tune on one's own images, masks and sentences: the folder is checked, stored, and trained on.
#
#   OWN=my_folder bash scripts/v1_5/finetune_task_lora.sh
#   python scripts/merge_lora_weights.py --model-path checkpoints/own-lora --save-path checkpoints/own
#   python llava/eval/run_llava.py --model-path checkpoints/own --image-file my_folder/images/a.jpg --query "the red cup"
#
# The shipped example and the shipped model, on a laptop:
#
#   OWN=playground/data/own_example MODEL=playground/checkpoints/tiny-llava-refshapes OUTPUT=runs/own \
#     EPOCHS=8 BATCH=8 LEARNING_RATE=2e-3 WORKERS=0 bash scripts/v1_5/finetune_task_lora.sh
#
# Hardware    one GPU with 24 GB or more; the shipped model needs none.
# Time        about 0.3 s for each target and epoch on one A100, estimated and not measured (870 tokens, 6 x 6.7e9
#             operations a token, 40 % of 312e12 a second). The shipped example: 32 steps of 1.7 s processor time,
#             measured on a busy machine, about a minute on one core.
# Expected    depends on the data; keep images apart as split val and look at masks of them.
#
# Rank, batch and saving are those of Text4Seg's script for tasks (arXiv 2410.09855): r 16, alpha 32, 2 samples at
# a time and 8 a step, every 500 steps, one epoch. It starts from a model that segments already.
# Every variable can be set from outside, here and in finetune_lora.sh; flags after the name are passed on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

OWN=${OWN:-playground/data/own}                   # folder with images, masks and sentences.csv, .json or .jsonl
export MODEL=${MODEL:-checkpoints/text4seg}       # a merged checkpoint; its grid and prompt stay
export OUTPUT=${OUTPUT:-checkpoints/own-lora}
export DATA=${DATA:-}                             # empty: a store of split train of OWN, made now
export IMAGES=${IMAGES:-$OWN}
export LORA_R=${LORA_R:-16}
export LORA_ALPHA=${LORA_ALPHA:-32}
export EPOCHS=${EPOCHS:-1}
export BATCH=${BATCH:-2}
export GLOBAL_BATCH=${GLOBAL_BATCH-$([ -n "${ACCUMULATION:-}" ] || echo 8)}   # samples a step over all processes
export SAVE_STEPS=${SAVE_STEPS:-500}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}

if [ -z "$DATA" ]; then
  DATA=$OUTPUT-data
  "$PYTHON" playground/data/create_json/create_own.py --root "$OWN" --split train --format store --output "$DATA"
fi

exec bash scripts/v1_5/finetune_lora.sh "$@"
