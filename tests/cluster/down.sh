#!/usr/bin/env bash
# End the virtual cluster that up.sh started, and all jobs on it; its logs stay.   down.sh [-p PREFIX]
set -uo pipefail
PREFIX=vn
if [[ ${1:-} == -p ]]; then PREFIX=$2; fi
BASE=/tmp/vcluster-$PREFIX
export SLURM_CONF=$BASE/slurm.conf
for file in "$BASE"/run/node.*.pid; do
    if [[ -s $file ]]; then kill -9 "$(<"$file")" 2>/dev/null; fi
done
if [[ -s $BASE/run/slurmctld.pid ]]; then kill -9 "$(<"$BASE/run/slurmctld.pid")" 2>/dev/null; fi
for name in $(ip netns list | awk -v node="^${PREFIX}[0-9]+\$" '$1 ~ node {print $1}'); do
    # A network lives until its last process has ended; the cable can be taken out at once.
    ip link del "v-$name" 2>/dev/null
    ip netns del "$name"
    rmdir "/sys/fs/cgroup/cpu/$name" 2>/dev/null
done
ip link del "${PREFIX}br" 2>/dev/null
while iptables -w -D FORWARD -i "${PREFIX}br" -o "${PREFIX}br" -j ACCEPT 2>/dev/null; do :; done
others=$(find /tmp/vcluster-*/run -name slurmctld.pid ! -path "$BASE/*" 2>/dev/null)
if [[ -e $BASE/run/we_started_munged && -z $others ]]; then kill "$(</run/munge/munged.pid)" 2>/dev/null; fi
rm -rf "$BASE"/{state,spool,run,disk,local,hosts,slurm.conf,gres.conf}
exit 0
