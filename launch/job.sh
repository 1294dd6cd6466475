# shellcheck shell=bash
# What the SLURM scripts share (source launch/job.sh): the site's settings and software. A job script ends with
#   run_training SETTINGS...          train in a folder named after the job
#   run_job MODULE ARGUMENTS...       run a module on all ranks
# both of which hand over to `dist-calo job`; its --help tells what else there is.
# Modules and activation scripts use variables that are not set.
set +u
# shellcheck source=/dev/null
if [[ -f slurm/site.env ]]; then source slurm/site.env; fi
# shellcheck source=/dev/null
if [[ -f ${VENV:=.venv}/bin/activate ]]; then source "$VENV/bin/activate"; fi

# Python takes the place of the job's script, so that SLURM's signals reach it.
dist_calo_job() {
    export LAUNCHER MPI MPI_ARGS STAGE DATA TRACKING_URI REQUEUE PROGRESS RANKS_PER_NODE
    exec python -m dist_calo job "$@"
}
run_training() { dist_calo_job train "$@"; }
run_job() { dist_calo_job run "$@"; }
