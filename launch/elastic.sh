#!/usr/bin/env bash
# Ranks that go on with fewer nodes when one is lost, and with more when one joins.   docs/elastic.md says how.
# In a SLURM job (sbatch --no-kill):   MIN_NODES=2 launch/elastic.sh --config configs/lcd_fast.yaml
# Without SLURM, the same on each node:  RENDEZVOUS=node1:29500 NODES=3 MIN_NODES=2 RANKS_PER_NODE=2 launch/elastic.sh ...
# To join a run that is under way:       JOIN=JOB_NUMBER launch/elastic.sh, or JOIN=node1:29500 without SLURM
#   MAX_NODES=4  most nodes, counting those that join (NODES); further ones wait as spares
#   RESTARTS=3   failures that are forgiven though no node was lost
#   WAIT=120     seconds that fewer than MIN_NODES (1) wait for others before they give up, and a node that joins for them
set -euo pipefail
source "$(dirname "$0")/common.sh"
agent=(python -m dist_calo.cli.elastic) command=() first=()
if [[ ${JOIN:-} =~ ^[0-9]+$ ]]; then
    JOIN=$(python -m dist_calo job meet "$JOIN")
fi
if [[ -n ${JOIN:-} ]]; then
    agent+=(--meet="$JOIN" --join --wait="${WAIT:-120}")
else
    RENDEZVOUS=${RENDEZVOUS:-${FIRST_HOST:-localhost}:$PORT}
    agent+=(--meet="$RENDEZVOUS" --job="${SLURM_JOB_ID:-${JOB:-dist_calo}}" --nodes="${MIN_NODES:-1}:${MAX_NODES:-$NODES}")
    first=(--first)
    agent+=(--ranks-per-node="$RANKS_PER_NODE" --restarts="${RESTARTS:-3}" --wait="${WAIT:-120}")
    command=(-- "${COMMAND[@]}" --checkpoint.resume=auto "$@")
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then exec "${agent[@]}" "${command[@]}"; fi

# One agent a node. That on the first node, where the batch script runs and all meet, decides how the run has ended.
step=(srun --no-kill --kill-on-bad-exit=0 --mpi=none --cpu-bind=none --ntasks-per-node=1 --cpus-per-task="$((CORES * RANKS_PER_NODE))")
others=$("$LAUNCH/discover_hosts.sh" | cut -d: -f1 | grep -vxF -- "$FIRST_HOST" | paste -sd, || true)
started=()
# shellcheck disable=SC2317
pass_on() {
    interrupted=yes
    # Of SIGTERM srun would end the agents at once; they take both for the same.
    kill -s USR1 "${started[@]}" 2>/dev/null || true
}
trap pass_on USR1 TERM
"${step[@]}" --nodes=1 --ntasks=1 --nodelist="$FIRST_HOST" "${agent[@]}" "${first[@]}" "${command[@]}" &
started+=($!)
if [[ -n $others ]]; then
    commas=${others//[^,]/}
    count=$((${#commas} + 1))
    "${step[@]}" --nodes="$count" --ntasks="$count" --nodelist="$others" "${agent[@]}" "${command[@]}" &
    started+=($!)
fi
# A signal ends `wait`, not the agents.
while
    interrupted='' code=0
    wait "${started[0]}" || code=$?
    [[ -n $interrupted ]]
do :; done
exit "$code"
