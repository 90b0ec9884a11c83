#!/usr/bin/env bash
# Score a checkpoint on referring segmentation; coarse and refined masks side by side.
#
#   bash scripts/v1_5/eval/refer_seg.sh CHECKPOINT [DATASET|SPLIT ...]
#
# Without splits: the eight RefCOCO, RefCOCO+ and RefCOCOg splits of the papers. Examples:
#
#   bash scripts/v1_5/eval/refer_seg.sh checkpoints/llava-v1.5-7b-p16
#   NPROC=8 bash scripts/v1_5/eval/refer_seg.sh checkpoints/llava-v1.5-7b-p16 "refcoco|testA"
#   SAM_PATH=playground/checkpoints/tiny-sam-refshapes LIMIT=100 \
#     bash scripts/v1_5/eval/refer_seg.sh playground/checkpoints/tiny-llava-refshapes "refshapes|val"
#
# Results: $OUT/results.json, report.html, predictions.jsonl. The same command resumes a killed run. Variables that
# set batch size, device, processes and more stand in benchmark.sh.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export BENCHMARK=refer_seg HEADER="${BASH_SOURCE[0]}"
exec bash "$HERE/benchmark.sh" "$@"
