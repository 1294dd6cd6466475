#!/usr/bin/env bash
# Ranks started by Horovod over MPI; MPI_ARGS are handed to mpirun (as root: MPI_ARGS=--allow-run-as-root):
# RANKS=8 HOSTS=node1:4,node2:4 launch/horovodrun_mpi.sh --config configs/lcd_fast.yaml
set -euo pipefail
source "$(dirname "$0")/common.sh"
if [[ -n ${SLURM_JOB_ID:-} ]]; then export PATH="$LAUNCH/in_job:$PATH"; fi
options=()
if [[ -n $HOSTS ]]; then options+=(-H "$HOSTS"); fi
if [[ -n ${MPI_ARGS:-} ]]; then options+=(--mpi-args="$MPI_ARGS"); fi
exec horovodrun --mpi -np "$RANKS" "${options[@]}" "${COMMAND[@]}" "$@"
