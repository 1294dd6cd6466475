#!/usr/bin/env bash
# Ranks started by Horovod over Gloo, without MPI; HOSTS places them on several nodes that ssh reaches:
# RANKS=8 HOSTS=node1:4,node2:4 launch/horovodrun.sh --config configs/lcd_fast.yaml
# In a SLURM job srun takes the place of ssh, which many sites do not allow between nodes.
set -euo pipefail
source "$(dirname "$0")/common.sh"
if [[ -n ${SLURM_JOB_ID:-} ]]; then export PATH="$LAUNCH/in_job:$PATH"; fi
hosts=()
if [[ -n $HOSTS ]]; then hosts=(-H "$HOSTS"); fi
exec horovodrun --gloo -np "$RANKS" "${hosts[@]}" "${COMMAND[@]}" "$@"
