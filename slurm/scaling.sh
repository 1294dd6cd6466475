#!/usr/bin/env bash
# Measure points of a scaling experiment, one an array task. `dist-calo scale plan RESULTS ...` prints the commands:
#   sbatch -N 2 --ntasks-per-node=2 --cpus-per-task=1 --array=4-7 slurm/scaling.sh RESULTS
# Start it in the folder of the checkout. A task that was stopped, or started again, measures only what is missing.
# Options before the script's name go to sbatch; what follows RESULTS to `dist-calo scale run`, such as --again.
#SBATCH --job-name=scaling
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=01:00:00
#SBATCH --output=%x-%A_%a.log
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append

cd "${DIST_CALO_HOME:-$SLURM_SUBMIT_DIR}" || exit 2
if ! [[ -f launch/job.sh ]]; then
    echo "$PWD is not the folder of dist_calo: call sbatch there, or set DIST_CALO_HOME to it" >&2
    exit 2
fi
source launch/job.sh
dist_calo_job scale "$@"
