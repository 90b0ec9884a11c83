#!/usr/bin/env bash
# Train the two shipped models from scratch, score them, and put them into playground/checkpoints.
#
#   bash scripts/tiny_model/train.sh        # about three hours on two CPU cores, the sum of its steps
#
# Everything is seeded; the LLaVA step goes on from its last save when the script is started again.
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
[ -f "$RUN/sam/model.safetensors" ] || "$PYTHON" scripts/tiny_model/train_sam.py --vision "$RUN/vision" --out "$RUN/sam"

"$PYTHON" playground/data/create_refshapes.py --root "$RUN/data" --train 0
LIMIT=150 SAM_PATH="$RUN/sam" DATA_ROOT="$RUN/data" OUT="$RUN/val" \
  bash scripts/v1_5/eval/refer_seg.sh "$RUN/llava" "refshapes|val" "grefshapes|val"
"$PYTHON" scripts/tiny_model/ship.py --llava "$RUN/llava" --sam "$RUN/sam" --results "$RUN/val/results.json"
