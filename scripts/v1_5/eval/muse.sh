#!/usr/bin/env bash
# Score a checkpoint on MUSE: questions with several targets each.
#
#   bash scripts/v1_5/eval/muse.sh CHECKPOINT [DATASET|SPLIT ...]
#
# Without splits: val, test_less and test_many of MUSE. A question is asked once, for all its targets, and scored
# twice: the union of what is drawn against the union of the targets (LISA's definition), and target by target as
# PixelLM does, but without the language model that judges the words of an answer there. Published averages stand
# beside the second. Data in $DATA_ROOT/muse and coco. Examples:
#
#   bash scripts/v1_5/eval/muse.sh checkpoints/text4seg-pp
#   DATA_ROOT=playground/data/refer_seg SAM_PATH=playground/checkpoints/tiny-sam-refshapes \
#     bash scripts/v1_5/eval/muse.sh playground/checkpoints/tiny-llava-refshapes "reasonshapes|val"
#
# Results: $OUT/results.json, report.html, predictions.jsonl. The same command resumes a killed run. Variables that
# set batch size, device, processes and more stand in benchmark.sh.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export BENCHMARK=muse HEADER="${BASH_SOURCE[0]}"
export DATA_ROOT="${DATA_ROOT:-$(cd "$HERE/../../.." && pwd)/playground/data}"
exec bash "$HERE/benchmark.sh" "$@"
