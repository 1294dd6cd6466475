# shellcheck shell=bash disable=SC2034
# Where the ranks go: read by every starter (source common.sh). In a SLURM job its allocation decides, elsewhere
#   RANKS=8                   ranks in all (2)
#   HOSTS=node1:4,node2:4     hosts and their ranks (this machine)
# and everywhere
#   RANKS_PER_NODE=4          ranks a node
#   MODULE=dist_calo.train    what a rank runs
#   MPI_ARGS='...'            more options of mpirun
# Sets NODES RANKS RANKS_PER_NODE CORES (of a rank) HOSTS FIRST_HOST PORT COMMAND. Nodes hold equally many ranks.
# A number of the environment is checked before the shell computes with it, which runs commands that stand in one.
#   must_be PATTERN RULE NAME...    the variables that are set and not empty; exit code 2 where one breaks the rule
must_be() {
    local LC_ALL=C name
    for name in "${@:3}"; do
        if [[ -n ${!name:-} && ! ${!name} =~ ^($1)$ ]]; then
            printf '%s=%q: must be %s; correct it, or unset %s\n' "$name" "${!name:0:80}" "$2" "$name" >&2
            exit 2
        fi
    done
}
LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
COMMAND=(python -m "${MODULE:-dist_calo.train}")
CORES=''
# Where the ranks of a SLURM job meet: below the ports that outgoing connections get; another one each time the job starts
# again.   meeting_port JOB RESTARTS
meeting_port() { echo $((28000 + ($1 + 1009 * $2) % 4000)); }
# c10d warns of every address without a name, as those between nodes often are.
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
some='[1-9][0-9]{0,6}'
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    must_be '0|[1-9][0-9]{0,9}' 'a whole number' SLURM_JOB_ID SLURM_RESTART_COUNT SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID
    must_be "$some" 'a whole number from 1 to 9999999' RANKS_PER_NODE SLURM_JOB_NUM_NODES SLURM_NTASKS \
        SLURM_NTASKS_PER_NODE SLURM_CPUS_PER_TASK
    group="$some(\\(x$some\\))?"
    must_be "$group(,$group)*" 'numbers of cores such as 64(x2),48' \
        SLURM_JOB_CPUS_PER_NODE SLURM_CPUS_ON_NODE
    NODES=${SLURM_JOB_NUM_NODES:-1}
    RANKS_PER_NODE=${RANKS_PER_NODE:-${SLURM_NTASKS_PER_NODE:-$((${SLURM_NTASKS:-$NODES} / NODES))}}
    RANKS_PER_NODE=$((RANKS_PER_NODE > 0 ? RANKS_PER_NODE : 1))
    if [[ -z ${SLURM_NTASKS_PER_NODE:-} && $((${SLURM_NTASKS:-NODES} % NODES)) != 0 ]]; then
        echo "$SLURM_NTASKS tasks on $NODES nodes: all nodes hold equally many ranks, use --ntasks-per-node" >&2
        exit 2
    fi
    RANKS=$((NODES * RANKS_PER_NODE))
    # Of the smallest node, such as 48 of "64(x2),48": ranks are alike on all.
    fewest=$(tr , '\n' <<<"${SLURM_JOB_CPUS_PER_NODE:-${SLURM_CPUS_ON_NODE:-1}}" | sort -n | head -n 1)
    CORES=${SLURM_CPUS_PER_TASK:-$((${fewest%%[^0-9]*} / RANKS_PER_NODE))}
    CORES=$((CORES > 0 ? CORES : 1))
    mapfile -t nodes < <(scontrol show hostnames "${SLURM_JOB_NODELIST:-$(hostname -s)}")
    FIRST_HOST=${nodes[0]}
    HOSTS=$(printf ",%s:$RANKS_PER_NODE" "${nodes[@]}")
    HOSTS=${HOSTS:1}
    PORT=$(meeting_port "$SLURM_JOB_ID" "${SLURM_RESTART_COUNT:-0}")
else
    must_be "$some" 'a whole number from 1 to 9999999' RANKS RANKS_PER_NODE NODES
    must_be '[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]' 'a port, 1 to 65535' PORT
    host="[A-Za-z0-9_][A-Za-z0-9_.-]*(:$some)?"
    must_be "$host(,$host)*" 'hosts and their ranks such as node1:4,node2:4' HOSTS
    HOSTS=${HOSTS:-}
    commas=${HOSTS//[^,]/}
    NODES=${NODES:-$((${#commas} + 1))}
    RANKS=${RANKS:-${RANKS_PER_NODE:+$((NODES * RANKS_PER_NODE))}}
    RANKS=${RANKS:-2}
    RANKS_PER_NODE=${RANKS_PER_NODE:-$((RANKS / NODES))}
    FIRST_HOST=${HOSTS%%[:,]*}
    PORT=${PORT:-29500}
fi
