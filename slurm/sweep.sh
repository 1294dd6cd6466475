#!/usr/bin/env bash
# Search for good settings:   sbatch --array=1-8 slurm/sweep.sh configs/sweeps/NAME.yaml [--trials N] [-- --NAME=VALUE ...]
# Start it in the folder of the checkout. Every task of the array joins one study, sweeps/NAME, and trains trials of it
# until it has them all; the same command again goes on. `dist-calo sweep show sweeps/NAME` tells what was found.
# Options before the script's name override the lines below; partition and account may stand in slurm/site.env.
#SBATCH --job-name=dist_calo_sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --time=24:00:00
#SBATCH --output=%x-%A_%a.log
# Two minutes before the time is up the trial is saved, and the task waits in the queue again and goes on with it:
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

# One task of SLURM is one worker. More ranks a trial: sbatch --ntasks-per-node=4, or --nodes=2 for more nodes.
cd "${DIST_CALO_HOME:-$SLURM_SUBMIT_DIR}" || exit 2
if ! [[ -f launch/job.sh ]]; then
    echo "$PWD is not the folder of dist_calo: call sbatch there, or set DIST_CALO_HOME to it" >&2
    exit 2
fi
source launch/job.sh
dist_calo_job sweep "$@"
