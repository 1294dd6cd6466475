#!/usr/bin/env bash
# Ranks started by SLURM, inside an allocation (sbatch, salloc): one a task.  launch/srun.sh --config configs/lcd_fast.yaml
# MPI=pmix starts them with MPI (see srun --mpi=list); otherwise they talk through torch.distributed.
# SLURM does not hand --cpus-per-task of the allocation on to its steps by itself.
set -euo pipefail
options=(--kill-on-bad-exit=1)
if [[ -n "${MPI:-}" ]]; then options+=(--mpi="$MPI"); fi
if [[ -n "${SLURM_CPUS_PER_TASK:-}" ]]; then options+=(--cpus-per-task="$SLURM_CPUS_PER_TASK"); fi
exec srun "${options[@]}" python -m dist_calo.train "$@"
