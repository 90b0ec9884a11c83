#!/usr/bin/env bash
# LoRA fine-tuning of a LLaVA on mask-text records. Nothing to edit: every variable can be set from outside.
#
#   bash scripts/v1_5/finetune_lora.sh                                   # all GPUs, published values
#   NPROC_PER_NODE=1 DEEPSPEED= bash scripts/v1_5/finetune_lora.sh       # one process
#   FSDP=True bash scripts/v1_5/finetune_lora.sh                         # model split by torch's fully_shard
#   LAUNCHER=accelerate DEEPSPEED=scripts/zero3.json bash scripts/v1_5/finetune_lora.sh
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 bash scripts/v1_5/finetune_lora.sh    # and NODE_RANK=1 on the other
#   sbatch scripts/slurm/finetune_lora.sh                                # two machines of a cluster
#   MODEL=playground/checkpoints/tiny-llava-refshapes DATA=train.json IMAGES=playground/data/refer_seg \
#     LORA_R=16 LORA_ALPHA=32 MAX_STEPS=100 bash scripts/v1_5/finetune_lora.sh    # a laptop
#   CODEC=bricks DATA=scripts/text4seg_pp/mixture.yaml IMAGES=playground/data LONG_SAMPLES=skip \
#     bash scripts/v1_5/finetune_lora.sh                                 # LLaVA-1.5 with masks of Text4Seg++
#
# The values are those of Text4Seg's LLaVA track: 128 samples a step, 4 at a time on each GPU, 2 epochs, r 64,
# alpha 128, learning rates 2e-4 and 2e-5 (projector), cosine with 3 % warm-up. The published run used fp16.
# Paths start from the repository's root. Flags after the script's name are passed on and win: bash scripts/v1_5/finetune_lora.sh --resume
set -euo pipefail

CODEC=${CODEC:-}                                  # text of masks: rrle, full, irle, bricks; empty: the base's
if [ -z "${MODEL:-}" ] && [ "$CODEC" != bricks ]; then
  GRID=${GRID:-16}                                # the default base says no grid; the published one is 16
fi
MODEL=${MODEL:-llava-hf/llava-1.5-7b-hf}          # base: Hugging Face LLaVA, folder or model id
DATA=${DATA:-playground/data/json_files/refcoco_train_16x16_r2_c2.json}   # record files, stores, or one mixture .yaml
IMAGES=${IMAGES:-playground/data/refer_seg}       # folder that the records' image paths start from
OUTPUT=${OUTPUT:-checkpoints/text4seg-lora}
VERSION=${VERSION:-}                              # prompt; empty: the base's, else text4seg_v1
GRID=${GRID:-}                                    # label grid; empty: what the base's segmentation.json says
BRICK_ORDER=${BRICK_ORDER:-}                      # with bricks: order of the cells of a box
BRICK_TAIL=${BRICK_TAIL:-}                        # with bricks: True writes the background behind the last object
NEW_TOKENS=${NEW_TOKENS:-rows}                    # with bricks: rows trains their tokens alone, full the vocabulary
MAX_PIXELS=${MAX_PIXELS:-}                        # images of any shape: most pixels; empty: the base's limit
LORA_R=${LORA_R:-64}
LORA_ALPHA=${LORA_ALPHA:-128}
LORA_DROPOUT=${LORA_DROPOUT:-0.05}
LEARNING_RATE=${LEARNING_RATE:-2e-4}
PROJECTOR_LR=${PROJECTOR_LR:-2e-5}
EPOCHS=${EPOCHS:-2}
MAX_STEPS=${MAX_STEPS:--1}                        # above 0 it replaces EPOCHS
BATCH=${BATCH:-4}                                 # samples per process and forward pass
GLOBAL_BATCH=${GLOBAL_BATCH-auto}                 # samples per step over all processes; auto: 128 with GPUs
ACCUMULATION=${ACCUMULATION:-}                    # forward passes per step, in place of GLOBAL_BATCH
WARMUP=${WARMUP:-0.03}
SCHEDULE=${SCHEDULE:-cosine}
MAX_LENGTH=${MAX_LENGTH:-}                        # tokens; empty: 3072, or less where the base takes less
LONG_SAMPLES=${LONG_SAMPLES:-error}               # error or skip
CHECKPOINTING=${CHECKPOINTING:-True}              # less memory, a third more time
SAVE_STEPS=${SAVE_STEPS:-1000}
WORKERS=${WORKERS:-4}
REPORT_TO=${REPORT_TO:-none}                      # none, tensorboard, wandb
PREVIEW_STEPS=${PREVIEW_STEPS:-0}                 # steps between two sheets of answers; 0: none
PREVIEW_SAMPLES=${PREVIEW_SAMPLES:-4}             # records on a sheet
PREVIEW_DATA=${PREVIEW_DATA:-}                    # record file they come from; empty: the training data
SEED=${SEED:-42}
if command -v nvidia-smi > /dev/null && nvidia-smi -L > /dev/null 2>&1; then
  gpus=$(nvidia-smi -L | wc -l)
else
  gpus=0
fi
NPROC_PER_NODE=${NPROC_PER_NODE:-$((gpus > 1 ? gpus : 1))}
NNODES=${NNODES:-1}                               # machines; each runs this script with its NODE_RANK
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
PRECISION=${PRECISION:-auto}                      # auto (bf16 on a GPU that has it), bf16, fp16 or fp32
ATTENTION=${ATTENTION:-auto}                      # auto, sdpa, eager or flash_attention_2
LAUNCHER=${LAUNCHER:-auto}                        # auto, python, torchrun, deepspeed or accelerate
FSDP=${FSDP:-False}                               # True: split the model by torch's fully_shard
if [ "$FSDP" = True ]; then DEEPSPEED=${DEEPSPEED:-}; fi
ZERO=${ZERO:-2}                                   # stage of DeepSpeed where there are several GPUs
DEEPSPEED=${DEEPSPEED-$([ "$gpus" -gt 1 ] && echo "scripts/zero$ZERO.json" || true)}   # empty: plain data parallel
MASTER_PORT=${MASTER_PORT:-29500}

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}

flags=(
  --model_name_or_path "$MODEL"
  --image_folder "$IMAGES"
  --output_dir "$OUTPUT"
  --lora_enable True --lora_r "$LORA_R" --lora_alpha "$LORA_ALPHA" --lora_dropout "$LORA_DROPOUT"
  --learning_rate "$LEARNING_RATE" --mm_projector_lr "$PROJECTOR_LR"
  --num_train_epochs "$EPOCHS" --max_steps "$MAX_STEPS"
  --per_device_train_batch_size "$BATCH" --attn "$ATTENTION"
  --weight_decay 0. --warmup_ratio "$WARMUP" --lr_scheduler_type "$SCHEDULE"
  --group_by_modality_length True --long_samples "$LONG_SAMPLES"
  --gradient_checkpointing "$CHECKPOINTING"
  --save_steps "$SAVE_STEPS" --save_total_limit 1 --logging_steps 1
  --dataloader_num_workers "$WORKERS" --report_to "$REPORT_TO" --seed "$SEED"
  --preview_steps "$PREVIEW_STEPS" --preview_samples "$PREVIEW_SAMPLES"
)
read -r -a data <<< "$DATA"
flags+=(--data_path "${data[@]}")
if [ -n "$VERSION" ]; then flags+=(--version "$VERSION"); fi
if [ -n "$GRID" ]; then flags+=(--grid "$GRID"); fi
if [ -n "$CODEC" ]; then flags+=(--codec "$CODEC"); fi
if [ -n "$BRICK_ORDER" ]; then flags+=(--brick_order "$BRICK_ORDER"); fi
if [ -n "$BRICK_TAIL" ]; then flags+=(--brick_tail "$BRICK_TAIL"); fi
if [ "$NEW_TOKENS" != rows ]; then flags+=(--new_tokens "$NEW_TOKENS"); fi
if [ -n "$MAX_PIXELS" ]; then flags+=(--max_pixels "$MAX_PIXELS"); fi
if [ -n "$MAX_LENGTH" ]; then flags+=(--model_max_length "$MAX_LENGTH"); fi
if [ -n "$DEEPSPEED" ]; then flags+=(--deepspeed "$DEEPSPEED"); fi
if [ "$FSDP" != False ]; then flags+=(--fsdp "$FSDP"); fi
if [ "$GLOBAL_BATCH" = auto ]; then
  GLOBAL_BATCH=$([ "$gpus" -gt 0 ] && [ -z "$ACCUMULATION" ] && echo 128 || true)
fi
if [ -n "$PREVIEW_DATA" ]; then flags+=(--preview_data "$PREVIEW_DATA"); fi
if [ -n "$GLOBAL_BATCH" ]; then flags+=(--global_batch_size "$GLOBAL_BATCH"); fi
if [ -n "$ACCUMULATION" ]; then flags+=(--gradient_accumulation_steps "$ACCUMULATION"); fi
case "$PRECISION" in
  auto) ;;
  fp16 | bf16) flags+=("--$PRECISION" True) ;;
  fp32) flags+=(--bf16 False) ;;
  *) echo "error: PRECISION=$PRECISION; known are auto, bf16, fp16, fp32" >&2; exit 2 ;;
esac

if [ "$LAUNCHER" = auto ]; then
  if [ "$NPROC_PER_NODE" -gt 1 ] || [ "$NNODES" -gt 1 ] || [ -n "$DEEPSPEED" ] || [ "$FSDP" = True ]; then
    LAUNCHER=torchrun
  else
    LAUNCHER=python
  fi
fi
case "$LAUNCHER" in
  python)
    launch=("$PYTHON" -m llava.train.train) ;;
  torchrun)
    launch=("$PYTHON" -m torch.distributed.run --nproc_per_node "$NPROC_PER_NODE" --nnodes "$NNODES"
      --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT"
      -m llava.train.train) ;;
  deepspeed)
    if [ "$NNODES" -gt 1 ]; then
      echo "error: LAUNCHER=deepspeed starts one machine, NNODES=$NNODES; use LAUNCHER=torchrun" >&2
      exit 2
    fi
    launch=("$PYTHON" -m deepspeed.launcher.runner --num_gpus "$NPROC_PER_NODE" --master_port "$MASTER_PORT"
      --module llava.train.train) ;;
  accelerate)
    engine=(--multi_gpu)
    if [ -n "$DEEPSPEED" ]; then
      engine=(--use_deepspeed --deepspeed_config_file "$DEEPSPEED" --deepspeed_multinode_launcher standard)
    fi
    launch=("$PYTHON" -m accelerate.commands.launch "${engine[@]}" --mixed_precision no --dynamo_backend no
      --num_processes $((NPROC_PER_NODE * NNODES)) --num_machines "$NNODES" --machine_rank "$NODE_RANK"
      --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" -m llava.train.train) ;;
  *)
    echo "error: LAUNCHER=$LAUNCHER; known are auto, python, torchrun, deepspeed, accelerate" >&2
    exit 2 ;;
esac

set -x
exec "${launch[@]}" "${flags[@]}" "$@"
