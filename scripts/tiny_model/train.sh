#!/usr/bin/env bash
# Train the three shipped models from scratch, score them, and put them into playground/checkpoints.
#
#   bash scripts/tiny_model/train.sh        # about four hours on two CPU cores, the sum of its steps
#
# Everything is seeded; the steps of the LLaVAs go on from their last save when the script is started again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
prepare_environment ""
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
RUN="${RUN:-runs/tiny}"

[ -f "$RUN/scenes/seed.json" ] || "$PYTHON" scripts/tiny_model/scenes.py --out "$RUN/scenes"
[ -f "$RUN/vision/head.pt" ] || "$PYTHON" scripts/tiny_model/pretrain_vision.py --scenes "$RUN/scenes" --out "$RUN/vision"
[ -f "$RUN/grounding/grounding.pt" ] || \
  "$PYTHON" scripts/tiny_model/pretrain_grounding.py --scenes "$RUN/scenes" --vision "$RUN/vision" --out "$RUN/grounding"
"$PYTHON" scripts/tiny_model/train_llava.py --scenes "$RUN/scenes" --vision "$RUN/vision" \
  --grounding "$RUN/grounding" --out "$RUN/llava"
"$PYTHON" scripts/tiny_model/train_llava.py --scenes "$RUN/scenes" --vision "$RUN/vision" \
  --start "$RUN/llava" --codec bricks --grid 32 --lr 1e-3 --steps 1600 --out "$RUN/bricks32"
"$PYTHON" scripts/tiny_model/train_llava.py --scenes "$RUN/scenes" --vision "$RUN/vision" \
  --start "$RUN/bricks32" --codec bricks --grid 32 --lr 7e-4 --warmup 20 --decay 1 --seed 1 --steps 600 --out "$RUN/bricks32b"
[ -f "$RUN/sam/model.safetensors" ] || "$PYTHON" scripts/tiny_model/train_sam.py --vision "$RUN/vision" --out "$RUN/sam"

"$PYTHON" playground/data/create_refshapes.py --root "$RUN/data" --train 0
for pair in "llava tiny-llava-refshapes val" "bricks32b tiny-llava-refshapes-bricks val_bricks"; do
  read -r model name results <<< "$pair"
  LIMIT=150 SAM_PATH="$RUN/sam" DATA_ROOT="$RUN/data" OUT="$RUN/$results" \
    bash scripts/v1_5/eval/refer_seg.sh "$RUN/$model" "refshapes|val" "grefshapes|val"
  "$PYTHON" scripts/tiny_model/ship.py "$RUN/$model" "$name" --results "$RUN/$results/results.json"
done
"$PYTHON" scripts/tiny_model/ship.py "$RUN/sam" tiny-sam-refshapes
