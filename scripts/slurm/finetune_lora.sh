#!/usr/bin/env bash
# scripts/v1_5/finetune_lora.sh on several machines of a SLURM cluster; all of its variables and flags hold.
#
#   sbatch scripts/slurm/finetune_lora.sh
#   DATA=train.json OUTPUT=checkpoints/mine sbatch --nodes 4 --account NAME scripts/slurm/finetune_lora.sh --save_steps 200
#
# Five minutes before the time is up (and before a preemption that leaves as long) every process saves a
# checkpoint and ends; the job queues again and goes on from there. OUTPUT must lie on a shared file system.
#SBATCH --job-name=text4seg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# Wait for a process to end; its exit code comes out. A signal interrupts wait with a code above 128.
wait_for() {
  local code=0 last
  wait "$1" || code=$?
  while [ "$code" -gt 128 ]; do
    last=$code
    code=0
    wait "$1" || code=$?
    if ! kill -0 "$1" 2> /dev/null && { [ "$code" = 127 ] || [ "$code" = "$last" ]; }; then
      return "$last"
    fi
  done
  return "$code"
}

# On each machine: the launcher must outlive the signal, which is for the training processes that it started.
if [ "${1:-}" = on-this-machine ]; then
  shift
  launcher=
  trap 'if [ -n "$launcher" ]; then pkill -USR1 -P "$launcher" || true; fi' USR1
  (trap '' USR1; NODE_RANK=$SLURM_NODEID exec bash scripts/v1_5/finetune_lora.sh --resume "$@") &
  launcher=$!
  wait_for "$launcher"
  exit
fi

cd "${SLURM_SUBMIT_DIR:-$PWD}"
read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
NNODES=$SLURM_NNODES
NPROC_PER_NODE=${NPROC_PER_NODE:-${SLURM_GPUS_ON_NODE:-8}}
LAUNCHER=${LAUNCHER:-torchrun}                    # or accelerate; both start the training processes themselves
export MASTER_ADDR MASTER_PORT NNODES NPROC_PER_NODE LAUNCHER

stopped=
step=
trap 'stopped=yes; if [ -n "$step" ]; then kill -USR1 "$step"; fi' USR1
srun bash scripts/slurm/finetune_lora.sh on-this-machine "$@" &
step=$!
code=0
wait_for "$step" || code=$?
if [ -n "$stopped" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
