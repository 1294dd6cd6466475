"""Number of compute threads of a rank, so that the ranks of a node together use each core once."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from dist_calo.comm.protocol import Communicator


def plan_threads(
    cores: Sequence[frozenset[int]], index: int, limits: Mapping[str, int | None] | None = None
) -> tuple[int, str]:
    """Share the cores of a node among its ranks.

    A core that several ranks may use counts as a fraction for each of them. So pinned ranks get what they are pinned
    to, and ranks that may all use the whole node get equal shares.

    Args:
        cores: the cores that each rank of this node may use.
        index: which of these ranks is this one.
        limits: upper bounds by the name of who set them, such as ``SLURM_CPUS_PER_TASK``; None is no bound.

    Returns:
        Number of threads, at least 1, and a line that says why.
    """
    users = Counter(core for mask in cores for core in mask)
    own = cores[index]
    share = max(1, int(sum((Fraction(1, users[core]) for core in own), Fraction())))
    sharing = sum(bool(own & mask) for mask in cores)
    reason = _plural(len(own), "core") + (f" shared by {sharing} ranks" if sharing > 1 else " of its own")
    threads = share
    for name, limit in (limits or {}).items():
        if limit is not None and max(1, limit) < threads:
            threads = max(1, limit)
            reason += f", {name}={limit}"
    return threads, f"{_plural(threads, 'thread')}: {reason}"


def share_of_node(cores: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """Return neighbouring cores for each rank where all ranks of a node may use the same; else what each has.

    Core numbers follow the sockets on most machines, so that neighbours share one.
    """
    ordered = sorted(cores[0])
    each = len(ordered) // len(cores)
    if len(cores) == 1 or len(set(cores)) > 1 or each == 0:
        return list(cores)
    return [frozenset(ordered[index * each : (index + 1) * each]) for index in range(len(cores))]


def set_threads(
    communicator: Communicator, requested: int | None = None, environ: Mapping[str, str] = os.environ
) -> tuple[int, str]:
    """Set the compute threads of this rank, and in a SLURM job bind it to cores of its own; collective.

    srun binds ranks itself; mpirun, torchrun and horovodrun leave them to wander over the sockets of a node that is the
    job's alone. Outside of a job other programs may need the same cores, so that nothing is bound.

    Args:
        communicator: tells which ranks share this node's cores.
        requested: most threads that the user wants (``comm.threads``).
        environ: the environment's variables.

    Returns:
        Number of threads, and a line for the log that says why.
    """
    world = communicator.world
    mine = (world.node, sorted(available_cores()))
    everyone = communicator.all_gather_object(mine)
    here = [rank for rank, (node, _) in enumerate(everyone) if node == world.node]
    quota = processor_quota()
    limits = {
        "SLURM_CPUS_PER_TASK": _number(environ.get("SLURM_CPUS_PER_TASK")),
        "OMP_NUM_THREADS": _omp_limit(environ, world.launcher, world.local_size),
        "processor quota": None if quota is None else max(1, int(quota / len(here))),
        "comm.threads": requested,
    }
    index = here.index(world.rank)
    cores = [frozenset(everyone[rank][1]) for rank in here]
    if "SLURM_JOB_ID" in environ and (shares := share_of_node(cores)) != cores:
        _bind(shares[index])
        cores = shares
    threads, reason = plan_threads(cores, index, limits)
    if world.launcher == "mpirun" and _unused_cores([set(mask) for mask in cores]):
        # Open MPI's default for two ranks is one core each, however many the node has.
        reason += "; mpirun leaves cores unused, --bind-to none shares them all"
    apply_threads(threads)
    return threads, reason


def apply_threads(threads: int) -> None:
    """Compute with so many threads from now on, here and in child processes."""
    import torch
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    # NumPy's linear algebra has a pool of its own, which would take every core of the node on every rank.
    threadpool_limits(threads)
    if torch.get_num_interop_threads() != 1:
        # Operators that run side by side would each start that many threads. Torch refuses once it has begun to.
        with suppress(RuntimeError):
            torch.set_num_interop_threads(1)


def available_cores() -> frozenset[int]:
    """Return physical cores that this process may use; hardware threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return frozenset(range(os.cpu_count() or 1))
    return frozenset(_first_sibling(cpu) for cpu in os.sched_getaffinity(0))


def _bind(cores: frozenset[int]) -> None:
    """Keep this process, and the threads that it starts from now on, on some physical cores."""
    os.sched_setaffinity(0, {cpu for cpu in os.sched_getaffinity(0) if _first_sibling(cpu) in cores})


def _unused_cores(cores: Sequence[set[int]]) -> bool:
    everywhere = {_first_sibling(cpu) for cpu in range(os.cpu_count() or 1)}
    return bool(everywhere - set().union(*cores))


def _first_sibling(cpu: int) -> int:
    """Return the number that the hardware threads of a core have in common: the lowest of theirs."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        return int(text.split(",")[0].split("-")[0])
    except (OSError, ValueError):
        return cpu


def processor_quota(
    mounted: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")
) -> float | None:
    """Return the processor time a second that control groups allow this process and those with it, in cores.

    Batch systems hand out whole cores; container engines limit time instead (``docker run --cpus 4``).

    Args:
        mounted: where the kernel shows control groups, of version 2 or 1.
        groups: the groups of this process.

    Returns:
        The least of its groups and those above them; None where none sets a limit.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = mounted / controllers / path.lstrip("/")
        # Within a container the path may be that of the host, and the group is shown at the top.
        while folder.is_relative_to(mounted):
            limits.append(_group_limit(folder))
            folder = folder.parent
    return min((limit for limit in limits if limit is not None), default=None)


def _group_limit(folder: Path) -> float | None:
    """Return cores' time that a control group allows."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # among them version 2's "max"
        return None


def _omp_limit(environ: Mapping[str, str], launcher: str, local_size: int) -> int | None:
    """Return the limit that the user set; torchrun sets 1 unasked when it starts several ranks."""
    limit = _number(environ.get("OMP_NUM_THREADS"))
    return None if launcher == "torchrun" and local_size > 1 and limit == 1 else limit


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
