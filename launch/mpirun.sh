#!/usr/bin/env bash
# Ranks started by Open MPI; MPI_ARGS are handed to it (as root: MPI_ARGS=--allow-run-as-root):
# RANKS=8 HOSTS=node1:4,node2:4 launch/mpirun.sh --config configs/lcd_fast.yaml
# Without --bind-to none Open MPI gives each of two ranks a single core.
set -euo pipefail
options=(--bind-to none)
if [[ -n "${HOSTS:-}" ]]; then options+=(--host "$HOSTS"); fi
if [[ -n "${MPI_ARGS:-}" ]]; then read -r -a more <<<"$MPI_ARGS"; options+=("${more[@]}"); fi
exec mpirun -np "${RANKS:-2}" "${options[@]}" python -m dist_calo.train "$@"
