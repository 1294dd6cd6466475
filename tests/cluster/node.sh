#!/usr/bin/env bash
# One node of the virtual cluster that up.sh started.
#   node.sh [-p PREFIX] up NUMBER         start it
#   node.sh [-p PREFIX] crash NUMBER      its first process is killed, so that all of it vanishes
#   node.sh [-p PREFIX] exec NUMBER CMD   run a command there
set -euo pipefail
PREFIX=vn
if [[ ${1:-} == -p ]]; then PREFIX=$2 && shift 2; fi
action=$1 number=$2
BASE=/tmp/vcluster-$PREFIX name=$PREFIX$number
GROUP=/sys/fs/cgroup/cpu/$name
export SLURM_CONF=$BASE/slurm.conf

# Give the node its share of a core's time, in slices that are short against a training step.
limit_time() {
    local share period=5000
    share=$(<"$BASE/run/share")
    if [[ -z $share ]]; then return; fi
    mkdir -p "$GROUP"
    echo "$period" >"$GROUP/cpu.cfs_period_us"
    awk -v period="$period" -v share="$share" 'BEGIN {printf "%d", period * share}' >"$GROUP/cpu.cfs_quota_us"
}

up() {
    local address unshared first
    address=$(<"$BASE/run/net").$((10 + number))
    ip netns list | grep -qw "$name" || ip netns add "$name"
    if ! ip -n "$name" link show eth0 &>/dev/null; then
        ip link add "v-$name" type veth peer name eth0 netns "$name"
        ip link set "v-$name" master "${PREFIX}br" up
        ip -n "$name" addr add "$address/24" dev eth0
        ip -n "$name" link set eth0 up
        ip -n "$name" link set lo up
    fi
    mkdir -p "$BASE/disk/$name" "$BASE/spool/$name"
    limit_time
    # shellcheck disable=SC2016
    nohup setsid nsenter --net="/run/netns/$name" \
        unshare --uts --ipc --mount --pid --fork --mount-proc --propagation private bash -c '
            if [[ -e $3/tasks ]]; then echo 0 >"$3/tasks"; fi
            hostname "$1"
            mount -t tmpfs -o mode=1777 tmpfs /dev/shm
            mount --bind "$2/disk/$1" "$2/local"
            mount --bind "$2/hosts" /etc/hosts
            chmod 1777 "$2/local"
            slurmd -N "$1"
            while :; do sleep 1000 & wait; done
        ' node "$name" "$BASE" "$GROUP" >"$BASE/log/node.$name.log" 2>&1 </dev/null &
    unshared=$!
    for _ in $(seq 100); do
        first=$(pgrep -P "$unshared" -x bash) && break
        sleep 0.05
    done
    echo "$first" >"$BASE/run/node.$name.pid"
}

case $action in
    up) up ;;
    crash) kill -9 "$(<"$BASE/run/node.$name.pid")" ;;
    exec) exec nsenter -t "$(<"$BASE/run/node.$name.pid")" -a -- "${@:3}" ;;
    *) exit 2 ;;
esac
