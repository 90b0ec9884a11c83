#!/usr/bin/env bash
# Score a checkpoint on a benchmark: what refer_seg.sh, gres.sh, reason_seg.sh and the other scripts of benchmarks
# share. By itself it runs the benchmark that BENCHMARK names.
#
#   BENCHMARK=gres bash scripts/v1_5/eval/benchmark.sh checkpoints/text4seg
#
set -euo pipefail

BENCHMARK="${BENCHMARK:-refer_seg}"                        # a name of llava/eval/benchmarks.py
HEADER="${HEADER:-${BASH_SOURCE[0]}}"                      # script whose header is the help
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
DATA_ROOT="${DATA_ROOT:-$ROOT/playground/data/refer_seg}"  # datasets and images/
MODEL_BASE="${MODEL_BASE:-}"                               # base of an adapter, where it names none
SAM_PATH="${SAM_PATH:-facebook/sam-vit-huge}"              # folder or hub name; "none" scores coarse masks only
REFINER="${REFINER:-}"                                     # sam, samrefiner or none; empty: sam where SAM_PATH is given
SOFT_PROMPTS="${SOFT_PROMPTS:-}"                           # 1: prompt SAM with the probabilities of the cells
BATCH_SIZE="${BATCH_SIZE:-8}"
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-}"                       # empty: what the grid needs
DECODING="${DECODING:-}"                                   # plain, constrained or fast; empty: fast
LIMIT="${LIMIT:-}"                                         # empty: every sample
SEED="${SEED:-0}"
DEVICE="${DEVICE:-}"                                       # empty: cuda where there is one
DTYPE="${DTYPE:-}"                                         # empty: what fits the device
NPROC="${NPROC:-1}"                                        # processes, one per GPU
OUT="${OUT:-}"                                             # empty: results/CHECKPOINT, or results/CHECKPOINT-BENCHMARK
PYTHON="${PYTHON:-}"                                       # empty: .venv of the project, else python

if [[ $# -lt 1 || "$1" == "-h" || "$1" == "--help" ]]; then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "$HEADER"
  exit $(($# < 1 ? 2 : 0))
fi
CHECKPOINT="${1%/}"
shift
NAME="$(basename "$CHECKPOINT")"
[[ "$BENCHMARK" == refer_seg ]] || NAME="$NAME-$BENCHMARK"
OUT="${OUT:-results/$NAME}"
if [[ -z "$PYTHON" ]]; then
  PYTHON=python
  [[ -x "$ROOT/.venv/bin/python" ]] && PYTHON="$ROOT/.venv/bin/python"
fi

LAUNCH=("$PYTHON")
[[ "$NPROC" -gt 1 ]] && LAUNCH+=(-m torch.distributed.run --standalone --nproc_per_node "$NPROC")
ARGUMENTS=(--benchmark "$BENCHMARK" --model-path "$CHECKPOINT" --sam-path "$SAM_PATH" --data-root "$DATA_ROOT"
  --batch-size "$BATCH_SIZE" --seed "$SEED" --out "$OUT")
[[ $# -gt 0 ]] && ARGUMENTS+=(--splits "$@")
[[ -n "$MODEL_BASE" ]] && ARGUMENTS+=(--model-base "$MODEL_BASE")
[[ -n "$REFINER" ]] && ARGUMENTS+=(--refiner "$REFINER")
[[ -n "$SOFT_PROMPTS" ]] && ARGUMENTS+=(--soft-prompts)
[[ -n "$MAX_NEW_TOKENS" ]] && ARGUMENTS+=(--max-new-tokens "$MAX_NEW_TOKENS")
[[ -n "$DECODING" ]] && ARGUMENTS+=(--decoding "$DECODING")
[[ -n "$LIMIT" ]] && ARGUMENTS+=(--limit "$LIMIT")
[[ -n "$DEVICE" ]] && ARGUMENTS+=(--device "$DEVICE")
[[ -n "$DTYPE" ]] && ARGUMENTS+=(--dtype "$DTYPE")

PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "${LAUNCH[@]}" -m llava.eval.model_refer_seg "${ARGUMENTS[@]}"
