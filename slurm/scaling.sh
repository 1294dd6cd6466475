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
if [[ -z ${SLURM_ARRAY_TASK_ID:-} || $# == 0 ]]; then
    echo "usage: sbatch -N NODES --array=POINTS slurm/scaling.sh RESULTS (dist-calo scale plan prints it)" >&2
    exit 2
fi
source launch/job.sh

point=(run "$1" --point "$SLURM_ARRAY_TASK_ID" "${@:2}")
read -r nodes ranks threads backend < <(python -m dist_calo scale show "$1" --point "$SLURM_ARRAY_TASK_ID")
if [[ -z ${backend:-} ]]; then exit 2; fi
if [[ $nodes != "$SLURM_JOB_NUM_NODES" ]]; then
    echo "point $SLURM_ARRAY_TASK_ID is for $nodes node(s), this job has $SLURM_JOB_NUM_NODES: sbatch -N $nodes" >&2
    exit 2
fi
# A point may take less than the whole allocation.
unset SLURM_NTASKS_PER_NODE SLURM_TRES_PER_TASK
export RANKS_PER_NODE=$ranks SLURM_CPUS_PER_TASK=$threads
source launch/common.sh
case $backend in
    horovod) LAUNCHER=horovodrun ;;
    mpi)
        MPI=${MPI:-$("$LAUNCH/mpi_plugin.sh")}
        if [[ $MPI == none ]]; then LAUNCHER=mpirun; else LAUNCHER=srun; fi
        ;;
esac
# A second start without a whole repeat (repeat-*.json) of this point is not followed by a third.
PROGRESS=$1/points/$(printf %04d "$SLURM_ARRAY_TASK_ID")
run_job dist_calo.cli.scale "${point[@]}"
