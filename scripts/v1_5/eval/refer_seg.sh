#!/usr/bin/env bash
# Score a checkpoint on referring segmentation; coarse and refined masks side by side.
#
#   bash scripts/v1_5/eval/refer_seg.sh CHECKPOINT [DATASET|SPLIT ...]
#
# Without splits: the eight RefCOCO, RefCOCO+ and RefCOCOg splits of the papers. Examples:
#   bash scripts/v1_5/eval/refer_seg.sh checkpoints/llava-v1.5-7b-p16
#   NPROC=8 bash scripts/v1_5/eval/refer_seg.sh checkpoints/llava-v1.5-7b-p16 "refcoco|testA"
#   SAM_PATH=playground/checkpoints/tiny-sam-refshapes LIMIT=100 \
#     bash scripts/v1_5/eval/refer_seg.sh playground/checkpoints/tiny-llava-refshapes "refshapes|val"
#
# Results: $OUT/results.json, report.html, predictions.jsonl. The same command resumes a killed run.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
DATA_ROOT="${DATA_ROOT:-$ROOT/playground/data/refer_seg}"  # datasets and images/
MODEL_BASE="${MODEL_BASE:-}"                               # base of an adapter, where it names none
SAM_PATH="${SAM_PATH:-facebook/sam-vit-huge}"              # folder or hub name; "none" scores coarse masks only
BATCH_SIZE="${BATCH_SIZE:-8}"
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-}"                       # empty: what the grid needs
LIMIT="${LIMIT:-}"                                         # empty: every sample
SEED="${SEED:-0}"
DEVICE="${DEVICE:-}"                                       # empty: cuda where there is one
DTYPE="${DTYPE:-}"                                         # empty: what fits the device
NPROC="${NPROC:-1}"                                        # processes, one per GPU
OUT="${OUT:-}"                                             # empty: results/<name of the checkpoint>
PYTHON="${PYTHON:-}"                                       # empty: .venv of the project, else python

if [[ $# -lt 1 || "$1" == "-h" || "$1" == "--help" ]]; then
  sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit $(($# < 1 ? 2 : 0))
fi
CHECKPOINT="${1%/}"
shift
SPLITS=("$@")
if [[ ${#SPLITS[@]} -eq 0 ]]; then
  SPLITS=("refcoco|unc|val" "refcoco|unc|testA" "refcoco|unc|testB"
    "refcoco+|unc|val" "refcoco+|unc|testA" "refcoco+|unc|testB"
    "refcocog|umd|val" "refcocog|umd|test")
fi
OUT="${OUT:-results/$(basename "$CHECKPOINT")}"
if [[ -z "$PYTHON" ]]; then
  PYTHON=python
  [[ -x "$ROOT/.venv/bin/python" ]] && PYTHON="$ROOT/.venv/bin/python"
fi

LAUNCH=("$PYTHON")
[[ "$NPROC" -gt 1 ]] && LAUNCH+=(-m torch.distributed.run --standalone --nproc_per_node "$NPROC")
ARGUMENTS=(--model-path "$CHECKPOINT" --sam-path "$SAM_PATH" --data-root "$DATA_ROOT" --splits "${SPLITS[@]}"
  --batch-size "$BATCH_SIZE" --seed "$SEED" --out "$OUT")
[[ -n "$MODEL_BASE" ]] && ARGUMENTS+=(--model-base "$MODEL_BASE")
[[ -n "$MAX_NEW_TOKENS" ]] && ARGUMENTS+=(--max-new-tokens "$MAX_NEW_TOKENS")
[[ -n "$LIMIT" ]] && ARGUMENTS+=(--limit "$LIMIT")
[[ -n "$DEVICE" ]] && ARGUMENTS+=(--device "$DEVICE")
[[ -n "$DTYPE" ]] && ARGUMENTS+=(--dtype "$DTYPE")

PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "${LAUNCH[@]}" -m llava.eval.model_refer_seg "${ARGUMENTS[@]}"
