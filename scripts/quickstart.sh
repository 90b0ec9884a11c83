#!/usr/bin/env bash
# The whole of Text4Seg on a machine with two CPU cores and no GPU: generate data, score the shipped model on shapes
# it has never seen, fine-tune it on them, score again, ask it about one image, score the val split, write reports.
#
#   bash scripts/quickstart.sh                      # 6 to 11 minutes on two cores, besides the installation
#   OUT=/somewhere/else bash scripts/quickstart.sh  # default: runs/quickstart; finished steps are not repeated
#
# The steps are the project's usual commands; on a GPU node the same ones run on RefCOCO and LLaVA-1.5-7B.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment ""
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"

OUT="${OUT:-runs/quickstart}"
MODEL=playground/checkpoints/tiny-llava-refshapes
export SAM_PATH=playground/checkpoints/tiny-sam-refshapes
IMAGE=images/shapes.jpg
QUERY="the purple object"
STEPS="${STEPS:-200}"                               # optimizer steps of the fine-tuning

step() { printf '\n== %s\n' "$*"; }
table() { "$PYTHON" -m llava.eval.report "$1"; }

started=$SECONDS
step "1/6 Generate RefShapes, and a second set that shows only hearts and moons"
[ -f "$OUT/known/refshapes/refs(unc).p" ] ||
  "$PYTHON" playground/data/create_refshapes.py --root "$OUT/known" --train 0 --val 30 --testA 0 --testB 0
[ -f "$OUT/new/refshapes/refs(unc).p" ] ||
  "$PYTHON" playground/data/create_refshapes.py --root "$OUT/new" --shapes heart moon --train 300 --val 12 --testA 0 --testB 0

step "2/6 Turn the new shapes into conversations"
"$PYTHON" playground/data/create_json/create_refcoco.py --root "$OUT/new" --dataset refshapes --split train \
  --rounds 2 --copies 1 --output "$OUT/new.json"

step "3/6 Score the shipped model on hearts and moons, which it has never seen"
DATA_ROOT="$OUT/new" OUT="$OUT/before" bash scripts/v1_5/eval/refer_seg.sh "$MODEL" "refshapes|val"

step "4/6 Fine-tune it on them (LoRA), then score again"
[ -f "$OUT/adapter/segmentation.json" ] ||
  MODEL="$MODEL" DATA="$OUT/new.json" IMAGES="$OUT/new" OUTPUT="$OUT/adapter" MAX_STEPS="$STEPS" BATCH=8 ACCUMULATION=1 \
    LEARNING_RATE=2e-3 PROJECTOR_LR=1e-3 LORA_R=32 LORA_ALPHA=64 CHECKPOINTING=False WORKERS=1 SAVE_STEPS=1000 \
    bash scripts/v1_5/finetune_lora.sh --logging_steps 20
DATA_ROOT="$OUT/new" OUT="$OUT/after" bash scripts/v1_5/eval/refer_seg.sh "$OUT/adapter" "refshapes|val"

step "5/6 Ask the shipped model about one image"
"$PYTHON" llava/eval/run_llava.py --model-path "$MODEL" --sam-path "$SAM_PATH" --image-file "$IMAGE" \
  --query "$QUERY" --out "$OUT/answer"

step "6/6 Score the shipped model on the val split, coarse and refined"
DATA_ROOT="$OUT/known" OUT="$OUT/val" bash scripts/v1_5/eval/refer_seg.sh "$MODEL" "refshapes|val" "grefshapes|val"

step "Done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s. Hearts and moons, before fine-tuning:"
table "$OUT/before"
step "Hearts and moons, after fine-tuning:"
table "$OUT/after"
step "Look at"
echo "  $OUT/answer                 the mask and the overlay of '$QUERY'"
echo "  $OUT/val/report.html        scores and pictures of the val split"
echo "  $OUT/after/report.html      the same for the new shapes, after fine-tuning"
