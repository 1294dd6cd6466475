#!/usr/bin/env bash
# Signal all ranks of this SLURM job on this node: launch/signal_ranks.sh USR1 [JOB]
# torchrun and horovodrun do not pass signals on; the ranks save their work and leave when they get one themselves.
set -euo pipefail
number=$1 job=${2:-$SLURM_JOB_ID}
for process in $(pgrep -u "$(id -u)" -f '^[^ ]*python[0-9.]* (-u )?-m dist_calo\.' || true); do
    # The environment tells this job's ranks from those of another job of the same user on this node.
    if tr '\0' '\n' 2>/dev/null <"/proc/$process/environ" | grep -qx "SLURM_JOB_ID=$job"; then
        kill -s "$number" "$process" 2>/dev/null || true
    fi
done
