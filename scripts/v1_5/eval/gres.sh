#!/usr/bin/env bash
# Score a checkpoint on gRefCOCO: expressions with several targets, with one and with none.
#
#   bash scripts/v1_5/eval/gres.sh CHECKPOINT [DATASET|SPLIT ...]
#
# Without splits: val, testA and testB of gRefCOCO. gIoU and cIoU under the definitions of ReLA (the official one,
# masks squashed to 480x480), GSVA and Text4Seg, N_acc and T_acc. Examples:
#
#   bash scripts/v1_5/eval/gres.sh checkpoints/text4seg-grefer
#   SAM_PATH=playground/checkpoints/tiny-sam-refshapes LIMIT=100 \
#     bash scripts/v1_5/eval/gres.sh playground/checkpoints/tiny-llava-refshapes "grefshapes|val"
#
# Results: $OUT/results.json, report.html, predictions.jsonl. The same command resumes a killed run. Variables that
# set batch size, device, processes and more stand in benchmark.sh.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export BENCHMARK=gres HEADER="${BASH_SOURCE[0]}"
exec bash "$HERE/benchmark.sh" "$@"
