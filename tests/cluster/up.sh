#!/usr/bin/env bash
# Start a real SLURM cluster on this host: munged, slurmctld and N slurmd, each node in namespaces of its own.
#   up.sh [-p PREFIX] [-s SUBNET] [-n NODES] [-c CPUS]      defaults: nodes vn1..vn4 with 2 CPUs, network 10.77.77.0/24
#         [-q SHARE]      each node computes for this share of a core's time, whatever the others do (0.2; cgroup 1)
# Needs root and Debian's slurm-wlm, munge and iproute2. Clusters of different prefix and subnet live side by side.
# A node has its own network, host name, IPC, processes, /dev/shm and local disk; all other folders are shared.
set -euo pipefail
PREFIX=vn SUBNET=77 NODES=4 CPUS=2 SHARE=''
while getopts p:s:n:c:q: option; do
    case $option in
        p) PREFIX=$OPTARG ;; s) SUBNET=$OPTARG ;; n) NODES=$OPTARG ;; c) CPUS=$OPTARG ;; q) SHARE=$OPTARG ;; *) exit 2 ;;
    esac
done
if [[ -n $SHARE && ! -e /sys/fs/cgroup/cpu/cpu.cfs_quota_us ]]; then
    echo "-q $SHARE: this machine has no control groups of version 1 for processors (/sys/fs/cgroup/cpu)" >&2
    exit 1
fi
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BASE=/tmp/vcluster-$PREFIX NET=10.77.$SUBNET
if [[ -e $BASE/run/slurmctld.pid ]]; then "$HERE/down.sh" -p "$PREFIX"; fi
mkdir -p "$BASE"/{state,spool,run,log,local}
chmod 755 "$BASE"
echo "$NET" >"$BASE/run/net"
echo "$SHARE" >"$BASE/run/share"

if ! munge -n </dev/null &>/dev/null; then
    [[ -s /etc/munge/munge.key ]] || dd if=/dev/urandom of=/etc/munge/munge.key bs=128 count=1 status=none
    chown munge: /etc/munge/munge.key
    chmod 400 /etc/munge/munge.key
    install -d -o munge -g munge -m 755 /run/munge
    install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
    runuser -u munge -- /usr/sbin/munged
    touch "$BASE/run/we_started_munged"
fi

ip link show "${PREFIX}br" &>/dev/null || ip link add "${PREFIX}br" type bridge
ip addr replace "$NET.1/24" dev "${PREFIX}br"
ip link set "${PREFIX}br" up
# Beside Docker, packets between ports of a bridge pass through a firewall that drops them.
if [[ $(cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null) == 1 ]] && command -v iptables >/dev/null; then
    iptables -w -I FORWARD -i "${PREFIX}br" -o "${PREFIX}br" -j ACCEPT
fi

lines='' hosts="127.0.0.1 localhost"$'\n'"$NET.1 ${PREFIX}head"$'\n'
for number in $(seq "$NODES"); do
    address=$NET.$((10 + number)) name=$PREFIX$number
    hosts+="$address $name"$'\n'
    lines+="NodeName=$name NodeAddr=$address CPUs=$CPUS CoresPerSocket=$CPUS RealMemory=4096 Gres=gpu:2 State=UNKNOWN"$'\n'
done
printf '%s' "$hosts" >"$BASE/hosts"
conf=$(<"$HERE/slurm.conf.in")
conf=${conf//@BASE@/$BASE} conf=${conf//@PREFIX@/$PREFIX} conf=${conf//@NET@/$NET}
conf=${conf//@HEAD@/$(hostname -s)} conf=${conf//@PORT@/$((16800 + SUBNET))}
echo "Name=gpu File=/dev/null,/dev/zero" >"$BASE/gres.conf"
printf '%s\n' "${conf//@NODES@/$lines}" >"$BASE/slurm.conf"
export SLURM_CONF=$BASE/slurm.conf

slurmctld
for number in $(seq "$NODES"); do "$HERE/node.sh" -p "$PREFIX" up "$number"; done
for _ in $(seq 150); do
    if (($(sinfo -h -N -o %t 2>/dev/null | grep -c '^idle$') == NODES)); then
        sinfo -N -l >&2
        echo "export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.2
done
sinfo -N -l >&2
grep -h error "$BASE"/log/*.log | tail >&2
echo "the nodes did not come up; logs are in $BASE/log" >&2
exit 1
