#!/usr/bin/env bash
# The nodes of this job that are alive, as HOST:RANKS a line, for starters that ask again and again
# (horovodrun --host-discovery-script launch/discover_hosts.sh). Outside SLURM it is what HOSTS says.
set -euo pipefail
source "$(dirname "$0")/common.sh"
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    tr ',' '\n' <<<"${HOSTS:-localhost:$RANKS}"
    exit
fi
# With --no-kill a job's list of nodes shrinks once SLURM has given one up; a * marks those that do not answer now.
allocated=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%N)
sinfo --noheader --Node --nodes="$allocated" --format='%N %T' | sort -u |
    awk -v ranks="$RANKS_PER_NODE" '$2 !~ /down|fail|error|unk|power|reboot|\*/ {print $1 ":" ranks}'
