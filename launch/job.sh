# shellcheck shell=bash
# What the SLURM scripts share (source launch/job.sh): the site's settings, the launcher, staging, signals, the requeue
# and the summary at the end of the log. A job script calls `run_job MODULE ARGUMENTS...` last.
# Reads slurm/site.env where it exists (slurm/site.env.example explains it): LAUNCHER MPI VENV TRACKING_URI STAGE ...
set -uo pipefail
# shellcheck source=/dev/null
if [[ -f slurm/site.env ]]; then source slurm/site.env; fi
# shellcheck source=/dev/null
if [[ -f ${VENV:=.venv}/bin/activate ]]; then source "$VENV/bin/activate"; fi
source launch/common.sh

STOPPED='' INTERRUPTED='' LAUNCHED='' LOST=''

choose_launcher() {
    if [[ ${LAUNCHER:-auto} == auto ]]; then
        if srun --mpi=none --nodes=1 --ntasks=1 true &>/dev/null; then
            LAUNCHER=srun
        elif command -v mpirun >/dev/null; then
            LAUNCHER=mpirun
        else
            LAUNCHER=torchrun
        fi
    fi
    # shellcheck disable=SC2153
    if ! [[ -x $LAUNCH/$LAUNCHER.sh ]]; then
        echo "LAUNCHER=$LAUNCHER: choose auto, srun, mpirun, torchrun, horovodrun, horovodrun_mpi or elastic" >&2
        exit 2
    fi
    if [[ $LAUNCHER == srun ]]; then MPI=${MPI:-$("$LAUNCH/mpi_plugin.sh")}; fi
    export MPI LAUNCHER
}

# The value of the last --NAME=VALUE or --NAME VALUE among the arguments.   setting NAME ARGUMENTS...
setting() {
    local name=--$1 value='' previous=''
    for word in "${@:2}"; do
        if [[ $previous == "$name" ]]; then value=$word; fi
        if [[ $word == "$name="* ]]; then value=${word#*=}; fi
        previous=$word
    done
    printf '%s' "$value"
}

# Copy the files of data.path to the local disk of every node; sets STAGED.   stage_data GLOB
stage_data() {
    local folder=${STAGE:?}/dist_calo-$SLURM_JOB_ID
    # shellcheck disable=SC2016
    srun --mpi=none --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 \
        bash -c 'mkdir -p "$1" && cp --preserve=timestamps $2 "$1/"' stage "$folder" "$1" || return
    STAGED="$folder/${1##*/}"
    echo "data: $1 copied to $folder on each node"
}

unstage() {
    if [[ -n ${STAGED:-} ]]; then
        srun --mpi=none --overlap --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 rm -rf "${STAGED%/*}" || true
    fi
}

# SLURM tells the batch script that the time is nearly up; the ranks are told in the way that reaches them.
pass_on() {
    STOPPED=$1 INTERRUPTED=yes
    echo "SIG$1 for job $SLURM_JOB_ID at $(date +%T): the ranks save their work"
    case $LAUNCHER in
        srun | mpirun | local | elastic) kill -s "$1" "$LAUNCHED" ;;
        *) srun --mpi=none --overlap --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 \
            "$LAUNCH/signal_ranks.sh" "$1" "$SLURM_JOB_ID" & ;;
    esac
}

newest_step() { find "$1" -name 'step-*.pt' -printf '%f\n' 2>/dev/null | sort | tail -1; }

# Whether this job should be put back into the queue after an exit code.   wants_requeue CODE FOLDER
wants_requeue() {
    if [[ $1 == 0 || $1 == 2 || (-z $STOPPED$LOST && $1 != 75) || ${REQUEUE:-yes} == no ]]; then return 1; fi
    # SIGNALING is what SLURM calls a running job while it sends it the signal.
    [[ $(scontrol --oneliner show job "$SLURM_JOB_ID") =~ JobState=(RUNNING|SIGNALING)\ .*\ Requeue=1\  ]] || return 1
    if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 && -n $2 && $(newest_step "$2") == "$BEGAN_AFTER" ]]; then
        echo "not requeued: this start of the job saved nothing new in $2; give it more time (--time, --signal)" >&2
        return 1
    fi
}

# Run a module on all ranks, and then say how it went, requeue the job, or leave with its code.   run_job MODULE ARGS...
run_job() {
    local module=$1 code=0 folder began=$SECONDS
    shift
    choose_launcher
    folder=$(setting checkpoint.dir "$@")
    BEGAN_AFTER=$(newest_step "$folder")
    echo "job $SLURM_JOB_ID (${SLURM_RESTART_COUNT:-0} restarts) on $SLURM_JOB_NODELIST: $RANKS ranks," \
        "$RANKS_PER_NODE a node, $CORES core(s) each; $LAUNCHER${MPI:+ --mpi=$MPI}, Python $(command -v python)"
    if [[ -n ${STAGE:-} && -n $(setting data.path "$@") ]]; then
        if stage_data "$(setting data.path "$@")"; then
            set -- "$@" "--data.path=$STAGED"
        else
            echo "data: STAGE=$STAGE cannot be written, or is full: read from where they are" >&2
        fi
    fi
    trap 'pass_on USR1' USR1
    trap 'pass_on TERM' TERM
    export DIST_CALO_LOST=$PWD/.lost-node-$SLURM_JOB_ID
    rm -f "$DIST_CALO_LOST"
    MODULE=$module "$LAUNCH/$LAUNCHER.sh" "$@" &
    LAUNCHED=$!
    end_with_lost_node &
    local guard=$!
    # A signal ends `wait`, not the launcher.
    while
        INTERRUPTED=''
        wait "$LAUNCHED"
        code=$?
        [[ -n $INTERRUPTED ]]
    do :; done
    # The ranks know of a lost node long before SLURM does.
    kill "$guard" 2>/dev/null
    LOST=$(cat "$DIST_CALO_LOST" 2>/dev/null)
    rm -f "$DIST_CALO_LOST"
    if [[ -z $LOST ]]; then unstage; fi
    echo
    if [[ -n $LOST ]]; then echo "error: $LOST"; fi
    echo "job $SLURM_JOB_ID: exit code $code after $((SECONDS - began)) s on $SLURM_JOB_NODELIST"
    if [[ -n $folder ]]; then python -m dist_calo status "$folder" || true; fi
    if wants_requeue "$code" "$folder"; then
        echo "job $SLURM_JOB_ID goes back into the queue and will continue"
        trap '' TERM USR1
        scontrol requeue "$SLURM_JOB_ID" && sleep 60
    fi
    if [[ $code -gt 2 && $code != 75 ]]; then lost_nodes; fi
    exit "$code"
}

# Once the ranks have named a lost node and left, srun and others wait for it for as long as SLURM does, often minutes.
end_with_lost_node() {
    until [[ -s $DIST_CALO_LOST ]]; do sleep 2; done
    sleep 10
    kill -KILL "$LAUNCHED" 2>/dev/null
}

# Name the nodes of this job that SLURM has given up.
lost_nodes() {
    local down
    down=$(sinfo -h -N -n "$SLURM_JOB_NODELIST" -t down,drain,fail,no_respond -o '%N (%t)' | sort -u | paste -sd ' ')
    if [[ -n $down ]]; then echo "error: lost node(s): $down"; fi
}
