# shellcheck shell=bash
# What the SLURM scripts share (source launch/job.sh): the site's settings, the launcher, staging, signals, the requeue
# and the summary at the end of the log. A job script calls `run_job MODULE ARGUMENTS...` or `run_training` last.
# Reads slurm/site.env where it exists (slurm/site.env.example explains it): LAUNCHER MPI VENV TRACKING_URI STAGE ...
# Modules and activation scripts use variables that are not set.
set +u
# shellcheck source=/dev/null
if [[ -f slurm/site.env ]]; then source slurm/site.env; fi
# Everybody on a node can read its command lines: the ranks find a password of the address in their environment.
if [[ ${TRACKING_URI:-} =~ ://[^/?#]*@ ]]; then
    export MLFLOW_TRACKING_URI=$TRACKING_URI
    TRACKING_URI=${TRACKING_URI/"${BASH_REMATCH[0]}"/://***@}
fi
# shellcheck source=/dev/null
if [[ -f ${VENV:=.venv}/bin/activate ]]; then source "$VENV/bin/activate"; fi
set -uo pipefail
source launch/common.sh

# A task of an array has a name of its own; the bare number of one of them means the whole array.
JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
JOB=${JOB:-$SLURM_JOB_ID}
STOPPED='' INTERRUPTED='' LAUNCHED='' STAGED='' LOST='' BEFORE=''
# Where ranks on any node leave word for this script, and one start of the job for the next.
WORD=$PWD/.job-$JOB

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
    if ! [[ $LAUNCHER =~ ^(srun|mpirun|torchrun|horovodrun|horovodrun_mpi|elastic|local)$ ]]; then
        echo "LAUNCHER=$LAUNCHER: choose auto, srun, mpirun, torchrun, horovodrun, horovodrun_mpi or elastic" >&2
        exit 2
    fi
    case $LAUNCHER in
        srun) MPI=${MPI:-$("$LAUNCH/mpi_plugin.sh")} ;;
        mpirun | horovodrun | horovodrun_mpi)
            # Where ranks of the torch backend meet, which these launchers do not tell.
            export MASTER_ADDR=$FIRST_HOST MASTER_PORT=$PORT
            ;;
    esac
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

# Run a command on every node, for LIMIT seconds at most where that is set.
each_node() {
    ${LIMIT:+timeout "$LIMIT"} srun --mpi=none --overlap --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 "$@"
}

# Whether a node starts a process; of the first one, where this script runs, it tells whether srun works here at all.
starts_process() {
    timeout --kill-after=5 30 srun --mpi=none --overlap --nodes=1 --ntasks=1 --nodelist="$1" true &>/dev/null
}

# Copy the files of a glob to the folder STAGE on the local disk of every node; sets STAGED to their glob there.
stage_data() {
    local folder=${STAGE:?}/dist_calo-$SLURM_JOB_ID files
    mapfile -d '' files < <(python -m dist_calo.data.staging "$1")
    if [[ ${#files[@]} == 0 ]]; then return; fi
    # shellcheck disable=SC2016
    if each_node --kill-on-bad-exit=1 bash -c 'mkdir -p -- "$1" && cp --preserve=timestamps -- "${@:2}" "$1/"' \
        stage "$folder" "${files[@]}"; then
        STAGED="$folder/${1##*/}"
        # Checkpoints name the files that are there tomorrow.
        DIST_CALO_STAGED_FROM=$(realpath -- "$(dirname -- "${files[0]}")")
        export DIST_CALO_STAGED_FROM
        echo "data: $1 copied to $folder on each node"
    else
        each_node rm -rf -- "$folder" || true
        echo "data: STAGE=$STAGE cannot be written, or is full: read from where they are" >&2
    fi
}

# SLURM tells the batch script that the time is nearly up; the ranks are told in the way that reaches them.
pass_on() {
    STOPPED=$1 INTERRUPTED=yes
    if [[ -z $LAUNCHED ]]; then return; fi
    echo "SIG$1 for job $JOB at $(date +%T): the ranks save their work"
    # Always as USR1: srun and mpirun kill the ranks when they get a TERM themselves.
    case $LAUNCHER in
        srun | mpirun | local | elastic) kill -s USR1 "$LAUNCHED" 2>/dev/null ;;
        *) each_node "$LAUNCH/signal_ranks.sh" USR1 "$SLURM_JOB_ID" & ;;
    esac
}

# What has been achieved so far below a folder: names and times of checkpoints and of measured points.
progress() {
    if [[ -n $1 ]]; then
        # A name that begins with a dash would be an order to find.
        find "$(realpath -m -- "$1")" \( -name 'step-*.pt' -o -name 'repeat-*.json' \) -printf '%P %T@\n' 2>/dev/null | sort | cksum
    fi
}

# Whether this job should be put back into the queue after an exit code.   wants_requeue CODE FOLDER
wants_requeue() {
    if [[ $1 == 0 || $1 == 2 || (-z $STOPPED$LOST && $1 != 75) || ${REQUEUE:-yes} == no ]]; then return 1; fi
    # SIGNALING is what SLURM calls a running job while it sends it the signal.
    [[ $(scontrol --oneliner show job "$JOB") =~ JobState=(RUNNING|SIGNALING)\ .*\ Requeue=1\  ]] || return 1
    if [[ -n $2 && $BEFORE == "$BEGAN_WITH" && $(progress "$2") == "$BEGAN_WITH" ]]; then
        echo "not requeued: two starts of the job saved nothing new in $2; give it more time (--time, --signal)," \
            "or save more often (--checkpoint.every_steps)" >&2
        return 1
    fi
}

# Run a module on all ranks, and then say how it went, requeue the job, or leave with its code.   run_job MODULE ARGS...
# PROGRESS is the folder that shows whether a start of the job achieved anything, checkpoint.dir by default.
run_job() {
    local module=$1 code=0 folder began=$SECONDS guard told='' reason=''
    shift
    trap 'pass_on USR1' USR1
    trap 'pass_on TERM' TERM
    choose_launcher
    folder=$(setting checkpoint.dir "$@")
    PROGRESS=${PROGRESS:-$folder}
    BEGAN_WITH=$(progress "$PROGRESS")
    echo "job $JOB (${SLURM_RESTART_COUNT:-0} restarts) on $SLURM_JOB_NODELIST: $RANKS rank(s)," \
        "$RANKS_PER_NODE a node, $CORES core(s) each; $LAUNCHER${MPI:+ --mpi=$MPI}, Python $(command -v python)"
    if [[ -n ${STAGE:-} && -n $(setting data.path "$@") ]]; then
        stage_data "$(setting data.path "$@")"
        if [[ -n $STAGED ]]; then set -- "$@" "--data.path=$STAGED"; fi
    elif [[ -n ${STAGE:-} ]]; then
        echo "data: STAGE copies what --data.path or DATA names, and neither is given: read from where it is" >&2
    fi
    export DIST_CALO_LOST=$WORD/lost-node DIST_CALO_FAILURE=$WORD/failure REQUEUE=${REQUEUE:-yes}
    mkdir -p "$WORD"
    rm -f "$DIST_CALO_LOST" "$DIST_CALO_FAILURE"
    if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 ]]; then BEFORE=$(cat "$WORD/began" 2>/dev/null); fi
    printf '%s' "$BEGAN_WITH" >"$WORD/began"
    MODULE=$module "$LAUNCH/$LAUNCHER.sh" "$@" &
    LAUNCHED=$!
    end_with_lost_node &
    guard=$!
    if [[ -n $STOPPED ]]; then pass_on "$STOPPED"; fi
    # A signal ends `wait`, not the launcher.
    while
        INTERRUPTED=''
        wait "$LAUNCHED"
        code=$?
        [[ -n $INTERRUPTED ]]
    do :; done
    # The ranks know of a lost node long before SLURM does.
    kill "$guard" 2>/dev/null
    read_loss
    # The first rank that failed tells why; the launcher's code is often that of a rank ended because of it.
    { read -r told && read -r reason; } 2>/dev/null <"$DIST_CALO_FAILURE"
    if [[ $told =~ ^[1-9][0-9]{0,2}$ && $code != 0 && $code != 75 ]]; then code=$told; fi
    if [[ -z $LOST$told && $LAUNCHER != elastic && ! $code =~ ^(0|2|75)$ ]] && starts_process "$FIRST_HOST" &&
        ! LIMIT=30 each_node true &>/dev/null; then
        # A launcher that loses a node may end the other ranks before they can tell.
        LOST='a node of this job no longer answers'
        printf '\nerror: %s\n' "$LOST"
    fi
    if [[ -n $STAGED && -z $LOST ]]; then LIMIT=15 each_node rm -rf -- "${STAGED%/*}" || true; fi
    if wants_requeue "$code" "$PROGRESS"; then
        echo "job $JOB (exit code $code) goes back into the queue and will continue"
        trap '' TERM USR1
        if scontrol requeue "$JOB"; then
            sleep 60 # SLURM ends this script meanwhile
            exit "$code"
        fi
    fi
    rm -rf "$WORD"
    printf '\njob %s: exit code %s after %s s on %s\n' "$JOB" "$code" "$((SECONDS - began))" "$SLURM_JOB_NODELIST"
    if compgen -G "$folder/step-*.json" >/dev/null; then python -m dist_calo status "$folder" || true; fi
    if [[ $code -gt 2 && $code != 75 ]]; then lost_nodes; fi
    # Last, as that is where people look.
    if [[ -n $reason && $code != 0 && $code != 75 ]]; then echo "$reason"; fi
    exit "$code"
}

# Train in a folder named after the job's own number, so that it goes on there after a requeue; settings given to the
# script come last and override these.   run_training SETTINGS...
run_training() {
    local settings=(--checkpoint.dir="runs/$SLURM_JOB_ID" --checkpoint.resume=auto)
    settings+=(--tracking.run_name="$SLURM_JOB_NAME-$SLURM_JOB_ID")
    if [[ -n ${TRACKING_URI:-} ]]; then settings+=(--tracking.uri="$TRACKING_URI"); fi
    if [[ -n ${DATA:-} ]]; then settings+=(--data.path="$DATA"); fi
    run_job dist_calo.train "${settings[@]}" "$@"
}

# Once the ranks have named a lost node and left, srun and others wait for it for as long as SLURM does, often minutes.
end_with_lost_node() {
    until loss_was_told; do sleep 2; done
    sleep 10
    kill -KILL "$LAUNCHED" 2>/dev/null
}

# Whether ranks have named a lost node. A network file system remembers for up to a minute that a file was not there,
# unless the folder is listed anew.
loss_was_told() {
    ls "$WORD" &>/dev/null
    [[ -s $DIST_CALO_LOST ]]
}

# What the ranks say of a lost node; sets LOST. Where they know no more than that a process of it has ended, which they
# cannot tell from a rank that was killed or ran out of memory, the node is lost only if it starts no other process.
read_loss() {
    local cause='' suspect=''
    if ! loss_was_told; then return; fi
    { read -r cause && read -r suspect; } <"$DIST_CALO_LOST"
    printf '\nerror: %s\n' "$cause"
    suspect=${suspect%%.*}
    if [[ -n $suspect ]]; then
        # A name that SLURM does not know tells nothing.
        if ! scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -qxF -- "$suspect"; then return; fi
        if ! starts_process "$FIRST_HOST" || starts_process "$suspect"; then return; fi
        echo "error: node $suspect no longer answers"
    fi
    LOST=$cause
}

# Name the nodes of this job that SLURM has given up.
lost_nodes() {
    local down
    down=$(sinfo -h -N -n "$SLURM_JOB_NODELIST" -t down,fail,no_respond -o '%N (%t)' | sort -u | paste -sd ' ')
    if [[ -n $down ]]; then echo "error: lost node(s): $down"; fi
}
