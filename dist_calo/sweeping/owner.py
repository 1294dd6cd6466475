"""Who works on a trial, and whether that worker is still alive: files in the trial's folder, on a shared file system.

Optuna's journal has no heartbeat. A worker therefore writes who it is into ``owner.json`` and touches ``beat`` while it
works. It counts as dead at once when it was a process of this machine that is gone, or an earlier start of the same
batch job; on other machines when the beat is older than a limit and not locked: a worker that was only halted for long
holds its lock, where the file system passes locks on. Ages are differences of times that the file server gave, so that
the nodes' clocks need not agree.
"""

import json
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from dist_calo.errors import ConfigError, UserError
from dist_calo.files import read_json, write_whole
from dist_calo.launching.environment import whole_number
from dist_calo.leases import flock

BEATS = 12
"""Beats within the time after which a silent worker counts as dead."""
JOB_VARIABLE = "DIST_CALO_SWEEP_JOB"
"""Hands the batch job's name and start to ranks whose launcher hides SLURM's variables."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """One claim of a trial."""

    host: str
    """Name of the node."""
    machine: str
    """What tells this boot and process namespace of the node from any other."""
    pid: int
    created: float
    """When the process was started; tells it from a later one of the same number."""
    job: str
    """Batch job, empty outside of one."""
    start: int
    """How often the batch system had started the job anew."""
    attempt: int = 1
    """How often the trial was begun without getting further than the time before."""
    step: int = 0
    """Step of the newest checkpoint at the time of the claim."""
    released: bool = False
    """Whether the worker has left the trial in order."""

    @classmethod
    def here(cls, environ: Mapping[str, str] = os.environ, *, attempt: int = 1, step: int = 0) -> "Owner":
        """This process."""
        process = psutil.Process()
        job, start = batch_job(environ)
        return cls(
            host=socket.gethostname(),
            machine=_machine(),
            pid=process.pid,
            created=process.create_time(),
            job=job,
            start=start,
            attempt=attempt,
            step=step,
        )

    @classmethod
    def of(cls, folder: Path) -> "Owner | None":
        """The owner of the trial in this folder; None if it was never begun.

        Raises:
            ConfigError: if the file cannot be read.
        """
        with suppress(FileNotFoundError):
            return read_json(
                folder / "owner.json", cls, ConfigError, "remove it: another worker then takes the trial"
            )
        return None

    def write(self, folder: Path) -> None:
        """Make this the owner of the trial in this folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with write_whole(folder / "owner.json") as temporary:
            temporary.write_text(json.dumps(asdict(self)))

    def is_same(self, other: "Owner | None") -> bool:
        """Whether this is the same process."""
        mine = (self.machine, self.pid, self.created)
        return other is not None and mine == (other.machine, other.pid, other.created)

    def holds(self, folder: Path) -> bool:
        """Whether the trial in this folder is still this process's."""
        return self.is_same(Owner.of(folder))

    def is_known_dead(self, here: "Owner") -> bool:
        """Whether it can be told without waiting that the owner works no more; False says nothing."""
        if self.released or (self.job and self.job == here.job and self.start < here.start):
            return True
        if self.machine != here.machine:
            return False
        try:
            return psutil.Process(self.pid).create_time() != self.created
        except (psutil.NoSuchProcess, OverflowError, ValueError):  # or no number that a process can have
            return True


def batch_job(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Name of the batch job and how often it was started anew; an empty name outside of one."""
    if JOB_VARIABLE in environ:
        job, _, start = environ[JOB_VARIABLE].rpartition(":")
        return job, whole_number({JOB_VARIABLE: start}, JOB_VARIABLE)
    return environ.get("SLURM_JOB_ID", ""), whole_number(environ, "SLURM_RESTART_COUNT", 0)


class Beat:
    """Touches the trial's ``beat`` from a thread, and holds its lock, for as long as it is open and the trial is ours.

    Args:
        folder: the trial's.
        abandoned_after_s: silence after which others take the trial over.
        owner: whose the trial is; None to ask no more.
    """

    def __init__(self, folder: Path, abandoned_after_s: float, owner: Owner | None = None) -> None:
        self._folder = folder
        self._path = folder / "beat"
        self._owner = owner
        self._handle = -1
        self._every_s = abandoned_after_s / BEATS
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep-beat", daemon=True)

    def __enter__(self) -> "Beat":
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        flock(self._handle)
        if not self.is_lost():
            self._path.touch()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        os.close(self._handle)

    def is_lost(self) -> bool:
        """Whether another worker has taken the trial over meanwhile."""
        return self._owner is not None and not self._owner.holds(self._folder)

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            with suppress(OSError, UserError):  # a file system that hiccups is no reason to stop
                if self.is_lost():
                    return
                self._path.touch()


def is_held(folder: Path) -> bool:
    """Whether a living process, maybe halted, holds the lock of the trial's beat."""
    try:
        handle = os.open(folder / "beat", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return flock(handle) is False
    finally:
        os.close(handle)


def last_beat(folder: Path, probe: Path) -> tuple[float, float]:
    """When the trial's last beat was, and for how many seconds it has been silent, by the clock that stamps files.

    Both are in seconds; of a trial without a beat the first is 0 and the second infinite.
    """
    probe.touch()
    try:
        # Opening a file asks the server of a network file system; its time alone may come from the node's cache.
        with open(probe) as now, open(folder / "beat") as beat:
            stamp = os.fstat(beat.fileno()).st_mtime
            return stamp, os.fstat(now.fileno()).st_mtime - stamp
    except FileNotFoundError:
        return 0.0, float("inf")
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> str:
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(path) if os.path.islink(path) else Path(path).read_text().strip())
    return " ".join(parts)
