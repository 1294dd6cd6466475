#!/usr/bin/env bash
# Ranks started by Horovod over Gloo, without MPI; HOSTS places them on several nodes that ssh reaches:
# RANKS=8 HOSTS=node1:4,node2:4 launch/horovodrun.sh --config configs/lcd_fast.yaml
set -euo pipefail
hosts=()
if [[ -n "${HOSTS:-}" ]]; then hosts=(-H "$HOSTS"); fi
exec horovodrun --gloo -np "${RANKS:-2}" "${hosts[@]}" python -m dist_calo.train "$@"
