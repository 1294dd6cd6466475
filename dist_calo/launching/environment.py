"""The rank that this process is, by the variables that launchers set.

Nothing here talks to anyone: a `World` is a function of an environment mapping, so every launcher is tested without
one. Launchers may be nested (mpirun in a SLURM allocation, torchrun started by srun); the inner-most one decides.
Variables that contradict each other or are half set are an error that names them, never a silent single process.

``DIST_CALO_LAUNCHER=none`` makes a process of its own out of any environment.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dist_calo.errors import LaunchError
from dist_calo.launching.slurm import tasks_on_node
from dist_calo.launching.variables import whole_number


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the ranks of a job."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among the processes on the same node."""
    local_size: int = 1
    node: str = "localhost"
    launcher: str = "none"
    """What started the ranks: none, local, torchrun, horovodrun, mpirun, srun."""
    remark: str = ""
    """What the log has to say first of how this process was found, if anything."""


# SLURM numbers the steps that are not srun's from the top: batch script, external, interactive (slurm.h).
_FIRST_SPECIAL_STEP = 0xFFFFFF00
_SPECIAL_STEPS = ("batch", "extern", "interactive")
# Variables of ranks whose number nothing here can read, with the one that counts them, where there is one.
_FOREIGN_RANKS = {
    "PMIX_RANK": "",
    "PALS_RANKID": "",
    "FLUX_TASK_RANK": "FLUX_JOB_SIZE",
    "JSM_NAMESPACE_RANK": "JSM_NAMESPACE_SIZE",
}
# What `horovodrun --mpi` and the command lines of Horovod's documentation hand to Open MPI's mpirun.
_HOROVOD_MPI_FLAGS = {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "^openib"}


class RanksNotStartedError(LaunchError):
    """Batch job whose ranks nothing has started yet: ``--launch`` may."""


def find_world(environ: Mapping[str, str], node: str | None = None, process: int | None = None) -> World:
    """Find this process among the ranks of its job.

    Args:
        environ: the environment's variables.
        node: name of this host where the launcher does not tell; the operating system's by default.
        process: number of this process; the operating system's by default.

    Raises:
        LaunchError: if variables contradict each other, are half set, or are not numbers; also in a SLURM job of
            several tasks whose ranks were not started.

    Example:
        >>> world = find_world({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, node="n1")
        >>> world.rank, world.size, world.local_rank, world.launcher
        (3, 4, 1, 'torchrun')
    """
    node = node or environ.get("SLURMD_NODENAME") or socket.gethostname()
    chosen = environ.get("DIST_CALO_LAUNCHER")
    if chosen == "none":
        return World(node=node)
    if chosen not in (None, "local", "elastic"):
        raise LaunchError(
            f"DIST_CALO_LAUNCHER={chosen}: must be none, or local or elastic (set by what starts the ranks)"
        )
    # What started the agents of an elastic run counts the nodes of its beginning.
    outer = None if chosen == "elastic" else _outer(environ, process or os.getpid())
    if chosen in ("local", "elastic") or "TORCHELASTIC_RUN_ID" in environ:
        world = _torchrun(environ, outer)
    else:
        world = _with_plain_variables(environ, outer)
    if world is None:
        _refuse_leftovers(environ)
        return World(node=node)
    return world if world.node else replace(world, node=node)


def _outer(environ: Mapping[str, str], process: int) -> World | None:
    return _horovodrun(environ) or _mpirun(environ) or _srun_or_pmi(environ, process)


def most_ranks(world: World, environ: Mapping[str, str]) -> int:
    """Return the number of ranks that this job may grow to: an elastic run may take in further nodes."""
    return max(
        world.size, whole_number(environ, "DIST_CALO_MOST_RANKS") if world.launcher == "elastic" else 0
    )


def mpi_started(environ: Mapping[str, str]) -> bool:
    """Return whether the launcher offers the interface (PMIx, PMI) that MPI starts with."""
    return any(name in environ for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"))


def _shown(environ: Mapping[str, str], *names: str) -> str:
    return ", ".join(f"{name}={environ.get(name, '(not set)')}" for name in names)


def _world(
    environ: Mapping[str, str], launcher: str, names: tuple[str, str, str, str], node: str | None = None
) -> World | None:
    """Return the world of rank, size, local rank and local size variables; None where none of them is set."""
    given = [name for name in names if name in environ]
    if not given:
        return None
    if len(given) < len(names):
        raise LaunchError(
            f"{launcher}'s variables are half set: {_shown(environ, *names)}; start the ranks with {launcher}, "
            f"or unset {' and '.join(given)}"
        )
    rank, size, local_rank, local_size = (whole_number(environ, name) for name in names)
    return _checked(environ, names, rank, size, local_rank, local_size, launcher, node)


def _checked(
    environ: Mapping[str, str],
    names: tuple[str, ...],
    rank: int,
    size: int,
    local_rank: int,
    local_size: int,
    launcher: str,
    node: str | None,
) -> World:
    if not (rank < size and local_rank < local_size <= size and local_rank <= rank):
        raise LaunchError(
            f"{_shown(environ, *names)}: a rank must be below the number of ranks, and a node holds no more than "
            f"all of them; start the ranks with {launcher}"
        )
    return World(
        rank=rank, size=size, local_rank=local_rank, local_size=local_size, node=node or "", launcher=launcher
    )


def _horovodrun(environ: Mapping[str, str]) -> World | None:
    """Find a rank of Horovod over Gloo; HOROVOD_HOSTNAME alone makes none, the user may have exported it."""
    names = ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE")
    return _world(environ, "horovodrun", names, environ.get("HOROVOD_HOSTNAME"))


def _mpirun(environ: Mapping[str, str]) -> World | None:
    """Open MPI 4 and 5; the latter sets the same variables besides PMIx's."""
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    variables = tuple(f"OMPI_COMM_WORLD_{name}" for name in names)
    world = _world(environ, "mpirun", variables, environ.get("PMIX_HOSTNAME"))  # type: ignore[arg-type]
    return replace(world, launcher="horovodrun") if world and _is_horovodrun_mpi(environ) else world


def _is_horovodrun_mpi(environ: Mapping[str, str]) -> bool:
    """Return whether ``horovodrun --mpi`` started this: it leaves flags for mpirun or its tuning variables."""
    tuned = any(name.startswith("HOROVOD_") for name in environ)
    return tuned or all(environ.get(name) == value for name, value in _HOROVOD_MPI_FLAGS.items())


def _pmi(environ: Mapping[str, str]) -> World | None:
    """Find a rank of MPICH, Intel MPI (Hydra) or Cray PALS."""
    if "PMI_RANK" not in environ and "PMI_SIZE" not in environ:
        return None
    local = ("MPI_LOCALRANKID", "MPI_LOCALNRANKS")
    if "PMI_LOCAL_RANK" in environ:
        local = ("PMI_LOCAL_RANK", "PMI_LOCAL_SIZE")
    world = _world(environ, "mpirun", ("PMI_RANK", "PMI_SIZE", *local))
    return replace(world, launcher="horovodrun") if world and _is_horovodrun_mpi(environ) else world


def _step_id(environ: Mapping[str, str]) -> int | None:
    """Return the number of the srun step that this process belongs to.

    The batch script's own process has SLURM_PROCID=0 as well, and the interactive step of salloc has a step number.
    """
    name = "SLURM_STEP_ID" if "SLURM_STEP_ID" in environ else "SLURM_STEPID"
    if name not in environ or "SLURM_PROCID" not in environ:
        return None
    if environ[name] in _SPECIAL_STEPS:
        return None
    step = whole_number(environ, name)
    return step if step < _FIRST_SPECIAL_STEP else None


def _srun(environ: Mapping[str, str]) -> World | None:
    if _step_id(environ) is None:
        return None
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    missing = [name for name in (tasks, "SLURM_LOCALID") if name not in environ]
    if missing:
        shown = _shown(environ, "SLURM_STEP_ID", "SLURM_PROCID", tasks, "SLURM_LOCALID")
        raise LaunchError(f"srun's variables are half set: {shown}; start the ranks with srun")
    rank, size, local_rank = (
        whole_number(environ, name) for name in ("SLURM_PROCID", tasks, "SLURM_LOCALID")
    )
    per_node = next((n for n in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE") if n in environ), None)
    if per_node is not None:
        node_index = whole_number(environ, "SLURM_NODEID") if "SLURM_NODEID" in environ else 0
        local_size = tasks_on_node(environ[per_node], node_index)
    elif "SLURM_NTASKS_PER_NODE" in environ:
        local_size = min(whole_number(environ, "SLURM_NTASKS_PER_NODE"), size)
    else:
        local_size = size
    names = ("SLURM_PROCID", tasks, "SLURM_LOCALID", per_node or "SLURM_NTASKS_PER_NODE")
    return _checked(
        environ, names, rank, size, local_rank, local_size, "srun", environ.get("SLURMD_NODENAME")
    )


def _srun_or_pmi(environ: Mapping[str, str], process: int) -> World | None:
    """Find a task of srun, or a process of Hydra's mpirun, which in a SLURM job starts one agent a node by srun."""
    task = _srun(environ)
    if task is None:
        return _pmi(environ)
    # srun sets PMI's variables itself as well (--mpi=pmi2), to its own numbers.
    if {"PMI_RANK", "PMI_SIZE"} <= environ.keys():
        inner = whole_number(environ, "PMI_RANK"), whole_number(environ, "PMI_SIZE")
        if inner != (task.rank, task.size) or "MPI_LOCALRANKID" in environ:
            return _pmi(environ)
    return _in_terminal(environ, task, process)


def _in_terminal(environ: Mapping[str, str], task: World, process: int) -> World:
    """Return a process of its own where task 0 of several is the shell of ``srun --pty``: the others have ended.

    The task itself, such as a trainer that ``srun --pty`` started without a shell, is a rank like any other, and so are
    those of an srun within that shell, which inherit its variables.
    """
    of_task = environ.get("SLURM_TASK_PID") == str(process)
    if task.size == 1 or of_task or not environ.get("SLURM_PTY_PORT"):
        return task
    if task.rank > 0:
        raise LaunchError(
            f"{_shown(environ, 'SLURM_PTY_PORT', 'SLURM_PROCID')}: task 0 would take itself for a shell of srun --pty "
            "and train alone; start the ranks without --pty, within such a shell after: unset SLURM_PTY_PORT"
        )
    remark = (
        f"one rank: this is the shell of srun --pty, task 0 of {task.size}, and the other tasks have ended; "
        "--launch N starts N ranks on this node"
    )
    return World(node=task.node, remark=remark)


def _torchrun(environ: Mapping[str, str], outer: World | None) -> World | None:
    """Find a rank of torchrun or of our own launchers, which may run in an outer launcher's tasks, one a node."""
    launcher = environ.get("DIST_CALO_LAUNCHER", "torchrun")
    world = _world(environ, launcher, ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if world is None:
        mark = "DIST_CALO_LAUNCHER" if "DIST_CALO_LAUNCHER" in environ else "TORCHELASTIC_RUN_ID"
        raise LaunchError(
            f"{mark}={environ[mark]} without RANK and WORLD_SIZE: start the ranks with {launcher}"
        )
    if outer is None or outer.size == 1 or (outer.rank, outer.size) == (world.rank, world.size):
        return world
    nodes = environ.get("GROUP_WORLD_SIZE", "1")
    if nodes == "1":
        raise LaunchError(
            f"{outer.launcher} started {outer.size} tasks, and each of them its own {launcher} with "
            f"WORLD_SIZE={world.size} (GROUP_WORLD_SIZE={nodes}): they would train the same thing {outer.size} times; "
            f"give torchrun --nnodes={outer.size} and a common --rdzv-endpoint, or let {outer.launcher} start the ranks"
        )
    return world


def _with_plain_variables(environ: Mapping[str, str], outer: World | None) -> World | None:
    """Return the launcher's world, compared with RANK and WORLD_SIZE, which job scripts often export besides."""
    if "RANK" not in environ and "WORLD_SIZE" not in environ:
        return outer
    if outer is not None and outer.launcher != "none":
        for name, value in (("RANK", outer.rank), ("WORLD_SIZE", outer.size)):
            if name in environ and whole_number(environ, name) != value:
                shown = _shown(environ, "RANK", "WORLD_SIZE")
                raise LaunchError(
                    f"{shown} contradicts {outer.launcher}, by which this is rank {outer.rank} of {outer.size}: "
                    "unset RANK and WORLD_SIZE, or start the ranks with one launcher only"
                )
        return outer
    local = ("LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if any(name in environ for name in local) or not {"RANK", "WORLD_SIZE"} <= environ.keys():
        return _world(environ, "torchrun", ("RANK", "WORLD_SIZE", *local))
    # One process a node, as Kubernetes operators start them.
    alone = {**environ, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return _world(alone, "torchrun", ("RANK", "WORLD_SIZE", *local))


def _refuse_leftovers(environ: Mapping[str, str]) -> None:
    """Raise if ranks were asked for but not started: they would be one process that trains alone."""
    for name, count in _FOREIGN_RANKS.items():
        if name in environ and environ.get(count) != "1":
            raise LaunchError(
                f"{_shown(environ, name)} without the variables that tell the number of ranks: start the ranks with "
                "mpirun, srun or torchrun, or set DIST_CALO_LAUNCHER=none for a process of its own"
            )
    tasks = whole_number(environ, "SLURM_NTASKS", 1) if "SLURM_JOB_ID" in environ else 1
    if tasks > 1:
        raise RanksNotStartedError(
            f"SLURM_NTASKS={tasks} in job {environ['SLURM_JOB_ID']}, but this process was not started by srun, mpirun, "
            "horovodrun or torchrun: put srun before the command, add --launch N, or set DIST_CALO_LAUNCHER=none "
            "for a process of its own"
        )
