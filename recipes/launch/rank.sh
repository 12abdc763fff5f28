#!/usr/bin/env bash
# One rank of srun: give a command the variables that torchrun would set, and become it (signals reach it itself).
set -euo pipefail
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
export LOCAL_WORLD_SIZE=${SLURM_NTASKS_PER_NODE:-1}
exec "$@"
