#!/usr/bin/env bash
# Score a checkpoint on maps of classes: mean IoU with the class names in the question.
#
#   bash scripts/v1_5/eval/semantic_seg.sh CHECKPOINT [DATASET|SPLIT ...]
#
# Without splits: ADE20K-150, PASCAL Context 59 and PASCAL VOC 20, each its val split. mIoU by the standard rules,
# with the background as a class where there is one, and by those of Text4Seg. Labels of the answers that name no
# class are counted; llava/eval/semantic_scores.py tells the rule. Examples:
#
#   bash scripts/v1_5/eval/semantic_seg.sh checkpoints/text4seg-ovs "voc20|val"
#   DATA_ROOT=playground/data/refer_seg SAM_PATH=none LIMIT=50 \
#     bash scripts/v1_5/eval/semantic_seg.sh playground/checkpoints/tiny-llava-refshapes "refshapes|val"
#
# Results: $OUT/results.json, report.html, predictions.jsonl. The same command resumes a killed run. Variables that
# set batch size, device, processes and more stand in benchmark.sh.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export BENCHMARK=semantic_seg HEADER="${BASH_SOURCE[0]}"
export DATA_ROOT="${DATA_ROOT:-$(cd "$HERE/../../.." && pwd)/playground/data}"
exec bash "$HERE/benchmark.sh" "$@"
