#!/usr/bin/env bash
# Ranks started by torchrun.   RANKS=4 launch/torchrun.sh --config configs/lcd_fast.yaml
# In a SLURM job srun starts one torchrun a node. On several nodes without SLURM, the same on each of them:
#   RANKS=8 NODES=2 RENDEZVOUS=node1:29500 launch/torchrun.sh ...
set -euo pipefail
source "$(dirname "$0")/common.sh"
# torchrun's own default is 1 thread, with a warning.
if [[ -n $CORES ]]; then export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$CORES}; fi
start=() meeting=(--standalone)
if [[ -n ${SLURM_JOB_ID:-} && $NODES -gt 1 ]]; then
    RENDEZVOUS=${RENDEZVOUS:-$FIRST_HOST:$PORT}
    start=(srun --mpi=none --cpu-bind=none --kill-on-bad-exit=1 --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1)
    start+=(--cpus-per-task="$((CORES * RANKS_PER_NODE))")
fi
if [[ -n ${RENDEZVOUS:-} ]]; then
    meeting=(--nnodes="$NODES" --rdzv-backend=c10d --rdzv-endpoint="$RENDEZVOUS")
    meeting+=(--rdzv-id="${SLURM_JOB_ID:-${JOB:-dist_calo}}")
fi
exec "${start[@]}" torchrun "${meeting[@]}" --nproc-per-node="$RANKS_PER_NODE" "${COMMAND[@]:1}" "$@"
