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
# c10d warns of every address without a name, as those between nodes often are.
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
some='[1-9][0-9]{0,6}'
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    place=$(python -m dist_calo job place) || exit 2
    eval "$place"
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
