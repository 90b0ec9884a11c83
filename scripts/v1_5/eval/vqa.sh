#!/usr/bin/env bash
# Visual question answering of a merged checkpoint, by lmms-eval, the harness that the field uses.
#
#   bash scripts/v1_5/eval/vqa.sh CHECKPOINT [TASK ...]
#
# Without tasks: VQAv2, GQA, VizWiz, ScienceQA, TextVQA, POPE, MME and MMBench, on the splits whose answers are public
# (papers report VQAv2 test-dev and VizWiz test, which are scored by their servers: vqav2_test, vizwiz_vqa_test).
#   python scripts/merge_lora_weights.py --model-path checkpoints/text4seg-lora --save-path checkpoints/text4seg
#   bash scripts/v1_5/eval/vqa.sh checkpoints/text4seg
#   NPROC=8 bash scripts/v1_5/eval/vqa.sh checkpoints/text4seg gqa pope
#
# lmms-eval needs torchvision, which this project can do without, so it gets an environment of its own (some GB with
# torch for a GPU). Data sets come from the hub, which it reads logged in: set HF_TOKEN, or run `hf auth login` once.
# MMBench is scored by its letters; the task mmbench_en_dev asks a paid language model about answers without one.
# Published for LLaVA-1.5-7B and for Text4Seg on top of it (Table 4): VQAv2 78.0 / 76.6, GQA 61.7 / 60.2,
# VizWiz 50.6 / 50.9, ScienceQA 68.4 / 68.1, TextVQA 55.0 / 55.0, POPE 85.4 / 84.2.
# Images are prepared as the folder's own processor says; a merged LLaVA-1.5 squashes them, as its training did.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
ENVIRONMENT="${ENVIRONMENT:-$ROOT/runs/lmms-eval}"         # made here on the first run
LMMS_EVAL="${LMMS_EVAL:-lmms-eval[video-legacy]==0.7.3}"   # what pip installs into it; its LLaVA imports decord
TORCH="${TORCH:-torch torchvision}"                        # and, before that, for your machine
BASE_PYTHON="${BASE_PYTHON:-python3}"                      # 3.10 or newer; makes the environment
USE_ACTIVE_ENV="${USE_ACTIVE_ENV:-0}"                      # 1: the active python has lmms-eval
NPROC="${NPROC:-1}"                                        # processes, one per GPU
BATCH_SIZE="${BATCH_SIZE:-1}"                              # its LLaVA answers one question at a time
LIMIT="${LIMIT:-}"                                         # empty: every question; questions per task
DEVICE="${DEVICE:-}"                                       # empty: cuda
DTYPE="${DTYPE:-}"                                         # empty: that of the weights
OUT="${OUT:-}"                                             # empty: results/CHECKPOINT-vqa

if [[ $# -lt 1 || "$1" == "-h" || "$1" == "--help" ]]; then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
  exit $(($# < 1 ? 2 : 0))
fi
CHECKPOINT="${1%/}"
shift
TASKS=("$@")
[[ ${#TASKS[@]} -gt 0 ]] ||
  TASKS=(vqav2_val gqa vizwiz_vqa_val scienceqa_img textvqa_val pope mme mmbench_en_dev_static)
OUT="${OUT:-results/$(basename "$CHECKPOINT")-vqa}"

PYTHON="${PYTHON:-python}"
[[ "$USE_ACTIVE_ENV" == 1 ]] || PYTHON="$BASE_PYTHON"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
MODEL="$("$PYTHON" -m llava.eval.harness "$CHECKPOINT")"
if [[ "$USE_ACTIVE_ENV" != 1 ]]; then
  PYTHON="$ENVIRONMENT/bin/python"
  if [[ ! -f "$ENVIRONMENT/installed" || "$(cat "$ENVIRONMENT/installed")" != "$TORCH $LMMS_EVAL" ]]; then
    echo "Installing $TORCH $LMMS_EVAL into $ENVIRONMENT (some minutes)"
    [[ -x "$PYTHON" ]] || "$BASE_PYTHON" -m venv "$ENVIRONMENT"
    read -ra PACKAGES <<< "$TORCH"
    "$PYTHON" -m pip install --quiet "${PACKAGES[@]}"
    "$PYTHON" -m pip install --quiet "$LMMS_EVAL" "transformers>=5.18,<6"
    echo "$TORCH $LMMS_EVAL" > "$ENVIRONMENT/installed"
  fi
fi

LAUNCH=("$PYTHON" -m)
[[ "$NPROC" -gt 1 ]] && LAUNCH+=(accelerate.commands.launch --num_processes "$NPROC" -m)
MODEL_ARGS="pretrained=$CHECKPOINT${DTYPE:+,dtype=$DTYPE}${DEVICE:+,device=$DEVICE}"
[[ "$NPROC" -gt 1 ]] || MODEL_ARGS+=",device_map=${DEVICE:-cuda}"   # one process: transformers 5 refuses its default ""
ARGUMENTS=(--model "$MODEL" --model_args "$MODEL_ARGS"
  --tasks "$(IFS=,; echo "${TASKS[*]}")" --batch_size "$BATCH_SIZE" --output_path "$OUT" --log_samples)
[[ -n "$LIMIT" ]] && ARGUMENTS+=(--limit "$LIMIT")

exec "${LAUNCH[@]}" lmms_eval "${ARGUMENTS[@]}"
