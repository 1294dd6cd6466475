"""Collectives over ranks, on four backends.

world = find_world(os.environ)
communicator = connect("auto", world, timeout_s=600)
communicator.all_reduce(tensor)
"""

import importlib.util
import os
import pkgutil
import resource
from collections.abc import Callable, Mapping
from contextlib import suppress

from dist_calo.comm.agreement import NUMBER, Door, installed, require_agreement
from dist_calo.comm.device import local_device
from dist_calo.comm.liveness.leaving import (
    CommunicationError,
    leave_in_order,
    leave_when_asked,
    rank_name,
    report_failure,
)
from dist_calo.comm.meter import Meter
from dist_calo.comm.protocol import Communicator, Reduction, Work
from dist_calo.errors import ConfigError, LaunchError, MissingComponentError
from dist_calo.launching.environment import World, find_world, mpi_started

__all__ = [
    "BACKENDS",
    "CommunicationError",
    "Communicator",
    "Reduction",
    "Work",
    "World",
    "choose_backend",
    "connect",
    "find_world",
    "leave_in_order",
    "local_device",
    "rank_name",
    "report_failure",
]


def _builder(name: str) -> Callable[[World, float, str, float], Communicator]:
    """Return the class of a communicator, whose libraries are loaded at its first use."""
    return lambda *arguments: pkgutil.resolve_name(f"dist_calo.comm.{name}")(*arguments)


BACKENDS: dict[str, Callable[[World, float, str, float], Communicator]] = {
    "single": _builder("single:SingleCommunicator"),
    "torch": _builder("torch_dist:TorchCommunicator"),
    "horovod": _builder("horovod:HorovodCommunicator"),
    "mpi": _builder("mpi:MpiCommunicator"),
}
"""Builder of each backend, from world, timeout in seconds, device, and the time that a node may be silent."""

# Enough for many thousands of ranks; programs that close all files before they start others take long with no limit.
_MOST_FILES = 65536
_MODULES = {"mpi": "mpi4py", "horovod": "horovod"}
_INSTALL = {
    "mpi": "the mpi backend needs mpi4py: pip install 'dist_calo[mpi]', with an MPI at hand",
    "horovod": "the horovod backend needs Horovod: dist-calo horovod build",
}


def is_installed(backend: str) -> bool:
    """Tell if what a backend needs is installed; import nothing."""
    return backend not in _MODULES or importlib.util.find_spec(_MODULES[backend]) is not None


def choose_backend(backend: str, world: World, environ: Mapping[str, str] = os.environ) -> str:
    """Return the backend to use: ``auto`` picks by launcher, any other name is checked against it.

    Raises:
        ConfigError: if there is no such backend.
        LaunchError: if the launcher did not start what the backend needs.
        MissingComponentError: if the backend is not installed.
    """
    if backend == "auto":
        backend = _by_launcher(world, environ)
    if backend not in BACKENDS:
        raise ConfigError(f"comm.backend={backend}: choose from auto, {', '.join(BACKENDS)}")
    if backend == "single" and world.size > 1:
        raise LaunchError(
            f"comm.backend=single, but {world.launcher} started {world.size} ranks, which would each train alone: "
            "use comm.backend=auto, or start one process"
        )
    needs_mpi = backend == "mpi" or (backend == "horovod" and "HOROVOD_RANK" not in environ)
    if needs_mpi and world.launcher != "none" and not mpi_started(environ):
        started = "horovodrun or mpirun" if backend == "horovod" else "mpirun, or srun --mpi=pmix"
        raise LaunchError(
            f"comm.backend={backend}, but {world.launcher} did not start the ranks for it: start them with {started}, "
            "or use comm.backend=auto"
        )
    if not is_installed(backend):
        raise MissingComponentError(f"comm.backend={backend}: {_INSTALL[backend]}")
    return backend


def _by_launcher(world: World, environ: Mapping[str, str]) -> str:
    # One rank needs no library, and that of MPI starts once only in a shell that mpirun has started.
    if world.size == 1:
        return "single"
    if world.launcher == "horovodrun" and (is_installed("horovod") or not mpi_started(environ)):
        return "horovod"
    if world.launcher in ("horovodrun", "mpirun"):
        return "horovod" if is_installed("horovod") and not is_installed("mpi") else "mpi"
    if world.launcher == "srun" and _starts_under_srun(environ):
        return next((backend for backend in ("mpi", "horovod") if is_installed(backend)), "torch")
    return "torch"


def _starts_under_srun(environ: Mapping[str, str]) -> bool:
    """Open MPI from the package index speaks PMIx alone and would end a process that srun gave PMI-2."""
    if "PMIX_RANK" in environ:
        return True
    return (
        "PMI_RANK" in environ and importlib.util.find_spec("mpi4py") is not None and _wheel_version() is None
    )


def _wheel_version() -> str | None:
    from dist_calo.comm.mpi import wheel_version

    return wheel_version()


def connect(
    backend: str,
    world: World,
    timeout_s: float = 600.0,
    device: str = "cpu",
    silence_s: float = 30.0,
    facts: Mapping[str, str] | None = None,
) -> Communicator:
    """Join the other ranks; every rank has to.

    Args:
        backend: ``auto`` or a key of BACKENDS.
        world: this process among the ranks, from `find_world`.
        timeout_s: time after which a rank that does not answer is an error, in seconds.
        device: where tensors will live, as `local_device` takes it.
        silence_s: time for which nothing is heard from a node before it is lost, in seconds.
        facts: what has to be the same on all ranks, besides backend, kind of device and number of ranks; None where
            versions may differ.

    Raises:
        ConfigError: if there is no such backend.
        LaunchError: if backend and launcher contradict each other, the backend counts other ranks than the launcher
            started, or the ranks do not agree on the facts.
        MissingComponentError: if the backend is not installed.
        CommunicationError: if the other ranks do not answer.
    """
    backend = choose_backend(backend, world)
    device = local_device(device, world)
    library = _MODULES.get(backend)
    versions = {library: installed(library)} if library and facts is not None else {}
    kind = device.split(":")[0]
    facts = {**(facts or {}), NUMBER: str(world.size), "backend": backend, "device": kind, **versions}
    door = None
    if world.size > 1:
        leave_when_asked(world)
        _allow_files(_MOST_FILES)
        if backend == "torch":
            with Meter().blocked("meeting the other ranks"):
                door = Door(world, timeout_s)
                door.agree(facts)
    try:
        communicator = BACKENDS[backend](world, timeout_s, device, silence_s)
    except ImportError as error:
        raise MissingComponentError(
            f"comm.backend={backend}: {_INSTALL.get(backend, '')} ({error})"
        ) from error
    _check_ranks(backend, communicator)
    if world.size > 1 and door is None:
        require_agreement(communicator, facts)
    return communicator


def _allow_files(most: int) -> None:
    """Raise the limit of open files as far as this process may: sockets count, and Gloo opens two for each other rank.

    Shells and batch systems set it to 1,024 as a rule, for the sake of programs that use select().
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _check_ranks(backend: str, communicator: Communicator) -> None:
    """Refuse a library built for another MPI: it starts without error, and every process is rank 0 of 1."""
    world = communicator.world
    found = getattr(communicator, "rank_and_size", (world.rank, world.size))
    if found == (world.rank, world.size):
        return
    library = {"mpi": "mpi4py", "horovod": "Horovod"}.get(backend, backend)
    advice = "use comm.backend=torch, or start the ranks in another way"
    if found == (0, 1):
        advice = (
            f"{library} was built for another MPI than the one that started the ranks; "
            f"use that MPI's mpirun, or build {library} again with this one"
        )
    raise LaunchError(
        f"{world.launcher} started rank {world.rank} of {world.size}, but {library} calls it "
        f"rank {found[0]} of {found[1]}: {advice}"
    )
