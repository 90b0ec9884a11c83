#!/usr/bin/env bash
# Score a checkpoint on ReasonSeg: questions that need reasoning.
#
#   bash scripts/v1_5/eval/reason_seg.sh CHECKPOINT [DATASET|SPLIT ...]
#
# Without splits: val and test of ReasonSeg, whole and by short and long questions. gIoU and cIoU under LISA's
# definition; pixels marked "ignore" are dropped. Data in $DATA_ROOT/reason_seg/ReasonSeg;
# create_refshapes.py generates a set of this layout. Examples:
#
#   bash scripts/v1_5/eval/reason_seg.sh checkpoints/text4seg
#   python playground/data/create_refshapes.py --train 0 --questions 100
#   DATA_ROOT=playground/data/refer_seg SAM_PATH=playground/checkpoints/tiny-sam-refshapes \
#     bash scripts/v1_5/eval/reason_seg.sh playground/checkpoints/tiny-llava-refshapes "reasonshapes|val"
#
# Results: $OUT/results.json, report.html, predictions.jsonl. The same command resumes a killed run. Variables that
# set batch size, device, processes and more stand in benchmark.sh.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export BENCHMARK=reason_seg HEADER="${BASH_SOURCE[0]}"
export DATA_ROOT="${DATA_ROOT:-$(cd "$HERE/../../.." && pwd)/playground/data}"
exec bash "$HERE/benchmark.sh" "$@"
