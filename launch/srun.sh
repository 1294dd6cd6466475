#!/usr/bin/env bash
# Ranks started by SLURM, inside a job (sbatch, salloc): one a task.   launch/srun.sh --config configs/lcd_fast.yaml
# MPI=pmix|pmi2|none says how they find each other; by default PMIx where the site has it, for MPI, and otherwise none,
# for torch.distributed. A rank gets the cores of its own; when one fails, SLURM ends the others.
set -euo pipefail
source "$(dirname "$0")/common.sh"
if [[ -z ${MPI:-} ]]; then MPI=$("$LAUNCH/mpi_plugin.sh"); fi
options=(--kill-on-bad-exit=1 --mpi="$MPI")
if [[ -n $CORES ]]; then
    options+=(--nodes="$NODES" --ntasks="$RANKS" --ntasks-per-node="$RANKS_PER_NODE" --cpus-per-task="$CORES")
    options+=(--cpu-bind=cores)
fi
exec srun "${options[@]}" "${COMMAND[@]}" "$@"
