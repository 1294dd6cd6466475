#!/usr/bin/env bash
# Train on nodes that may come and go:  sbatch -N 4 slurm/train_elastic.sh --config configs/lcd_fast.yaml
# A node that is lost does not end the job: the others go on from the last checkpoint, without it. To give a job that
# runs further nodes, whether some are lost or not:
#   sbatch -N 1 slurm/train_elastic.sh --join=JOB_NUMBER
# They take part as soon as they have started, up to MAX_NODES=8 (the job's own number, unless it is set in your shell
# when you submit the job); those beyond wait as spares. Below MIN_NODES (1) the job goes back into the queue.
# docs/elastic.md has the details.
#SBATCH --job-name=dist_calo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --exclusive
#SBATCH --no-kill
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

cd "${DIST_CALO_HOME:-$SLURM_SUBMIT_DIR}" || exit 2
if ! [[ -f launch/job.sh ]]; then
    echo "$PWD is not the folder of dist_calo: call sbatch there, or set DIST_CALO_HOME to it" >&2
    exit 2
fi
source launch/job.sh
LAUNCHER=elastic
# Nodes that join later have no files on their local disks.
unset STAGE

if [[ ${1:-} == --join=* ]]; then
    export JOIN=${1#--join=}
    run_job dist_calo.train
fi
run_training "$@"
