#!/usr/bin/env bash
# Ranks started by torchrun. On one node:  RANKS=4 launch/torchrun.sh --config configs/lcd_fast.yaml
# On several, the same on each (RANKS is a node's number):  NODES=2 RENDEZVOUS=node1:29500 RANKS=4 launch/torchrun.sh ...
set -euo pipefail
meeting=(--standalone)
if [[ -n "${RENDEZVOUS:-}" ]]; then
    meeting=(--nnodes="${NODES:-1}" --rdzv-backend=c10d --rdzv-endpoint="$RENDEZVOUS" --rdzv-id="${JOB:-dist_calo}")
fi
exec torchrun "${meeting[@]}" --nproc-per-node="${RANKS:-2}" -m dist_calo.train "$@"
