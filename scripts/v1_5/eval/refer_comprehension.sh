#!/usr/bin/env bash
# Score a checkpoint on referring comprehension: is the box of its mask the right one?
#
#   bash scripts/v1_5/eval/refer_comprehension.sh CHECKPOINT [DATASET|SPLIT ...]
#
# Without splits: the eight RefCOCO, RefCOCO+ and RefCOCOg splits of the papers. box_acc, the share of boxes that are
# right, under "rec" (against the annotated box, IoU >= 0.5) and "text4seg" (against the box of the true mask,
# IoU > 0.5). Where answers write a box themselves, it is scored as it stands under "rec:box=written". Answers are
# those of refer_seg.sh. Examples:
#
#   bash scripts/v1_5/eval/refer_comprehension.sh checkpoints/llava-v1.5-7b-p16 "refcoco|testA"
#   SAM_PATH=playground/checkpoints/tiny-sam-refshapes LIMIT=100 \
#     bash scripts/v1_5/eval/refer_comprehension.sh playground/checkpoints/tiny-llava-refshapes "refshapes|val"
#
# Results: $OUT/results.json, report.html, predictions.jsonl. The same command resumes a killed run. Variables that
# set batch size, device, processes and more stand in benchmark.sh.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export BENCHMARK=refer_comprehension HEADER="${BASH_SOURCE[0]}"
exec bash "$HERE/benchmark.sh" "$@"
