#!/usr/bin/env bash
# Score a checkpoint on RRSIS-D: referring expressions about aerial images.
#
#   bash scripts/v1_5/eval/rrsis_d.sh CHECKPOINT [DATASET|SPLIT ...]
#
# Without splits: val and test of RRSIS-D. cIoU, mIoU and P@0.5 to P@0.9 under LAVT's definition, which RMSIN, the
# system of the data set, took over with its 480x480 masks. Examples:
#
#   bash scripts/v1_5/eval/rrsis_d.sh checkpoints/text4seg-pp "rrsisd|test"
#   SAM_PATH=playground/checkpoints/tiny-sam-refshapes LIMIT=100 \
#     bash scripts/v1_5/eval/rrsis_d.sh playground/checkpoints/tiny-llava-refshapes "refshapes|val"
#
# Results: $OUT/results.json, report.html, predictions.jsonl. The same command resumes a killed run. Variables that
# set batch size, device, processes and more stand in benchmark.sh.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export BENCHMARK=rrsis_d HEADER="${BASH_SOURCE[0]}"
exec bash "$HERE/benchmark.sh" "$@"
