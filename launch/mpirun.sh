#!/usr/bin/env bash
# Ranks started by Open MPI: RANKS=8 HOSTS=node1:4,node2:4 launch/mpirun.sh --config configs/lcd_fast.yaml
# MPI_ARGS are handed to mpirun (as root: MPI_ARGS=--allow-run-as-root). In a SLURM job it finds the nodes by itself.
# Without --bind-to none Open MPI gives each of two ranks a single core; the ranks share a node's cores by themselves.
set -euo pipefail
source "$(dirname "$0")/common.sh"
options=(--bind-to none)
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    options+=(--map-by "ppr:$RANKS_PER_NODE:node")
elif [[ -n $HOSTS ]]; then
    options+=(--host "$HOSTS")
fi
if [[ -n ${MPI_ARGS:-} ]]; then read -r -a more <<<"$MPI_ARGS"; options+=("${more[@]}"); fi
exec mpirun -np "$RANKS" "${options[@]}" "${COMMAND[@]}" "$@"
