#!/usr/bin/env bash
# Score a checkpoint on EarthReason: questions about aerial images that need reasoning.
#
#   bash scripts/v1_5/eval/earth_reason.sh CHECKPOINT [DATASET|SPLIT ...]
#
# Without splits: val and test of EarthReason. gIoU and cIoU under LISA's definition, which the evaluator of
# SegEarth-R1 follows, and their mean; N_acc and T_acc under that of ReLA, as some questions have no target.
# Data in $DATA_ROOT/earthreason. Examples:
#
#   bash scripts/v1_5/eval/earth_reason.sh checkpoints/text4seg-pp
#   DATA_ROOT=playground/data/refer_seg SAM_PATH=playground/checkpoints/tiny-sam-refshapes \
#     bash scripts/v1_5/eval/earth_reason.sh playground/checkpoints/tiny-llava-refshapes "reasonshapes|val"
#
# Results: $OUT/results.json, report.html, predictions.jsonl. The same command resumes a killed run. Variables that
# set batch size, device, processes and more stand in benchmark.sh.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export BENCHMARK=earth_reason HEADER="${BASH_SOURCE[0]}"
export DATA_ROOT="${DATA_ROOT:-$(cd "$HERE/../../.." && pwd)/playground/data}"
exec bash "$HERE/benchmark.sh" "$@"
