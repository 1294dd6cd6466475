"""Signs of life in folders that several machines share: locks, touched files, and the names of processes."""

import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from dist_calo.errors import UserError
from dist_calo.launching.slurm import job_start


class Repeated(threading.Thread):
    """A thread that calls a function within a ``with`` block, at intervals, until that returns False.

    Args:
        function: what to call; its errors of files and users are ignored.
        every_s: time between two calls, in seconds.
    """

    def __init__(self, function: Callable[[], bool | None], every_s: float) -> None:
        super().__init__(name="signs-of-life", daemon=True)
        self._function = function
        self._every_s = every_s
        self._end = threading.Event()

    def run(self) -> None:
        """Call the function until the block ends."""
        while not self._end.wait(self._every_s):
            with suppress(OSError, UserError):  # a file system that fails for a moment is no reason to stop
                if self._function() is False:
                    return

    def __enter__(self) -> "Repeated":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process on some machine, as a lock names it."""

    host: str
    """Name of the node."""
    machine: str
    """Identity of this boot and process namespace of the node."""
    pid: int
    created: float
    """Time at which the process was started; tells it from a later one of the same number."""
    job: str
    """Batch job, empty outside of one."""
    start: int
    """Number of times that the batch system had started the job anew."""

    @classmethod
    def here(cls) -> "Process":
        """Return this process."""
        process = psutil.Process()
        job, start = job_start()
        return Process(
            host=socket.gethostname(),
            machine=_machine(),
            pid=process.pid,
            created=process.create_time(),
            job=job,
            start=start,
        )

    def is_same(self, other: "Process | None") -> bool:
        """Return whether the other is this process."""
        mine = (self.machine, self.pid, self.created)
        return other is not None and mine == (other.machine, other.pid, other.created)

    def is_known_dead(self, here: "Process") -> bool:
        """Return whether the process is known to have ended: on this machine, or as an earlier start of this job.

        False says nothing.
        """
        if self.job and self.job == here.job and self.start < here.start:
            return True
        if self.machine != here.machine:
            return False
        try:
            return psutil.Process(self.pid).create_time() != self.created
        except (psutil.NoSuchProcess, OverflowError, ValueError):  # or no number that a process can have
            return True


class Beat:
    """A file that is touched from a thread, and locked, for as long as a process works in its folder.

    Args:
        path: the file.
        every_s: time between two touches, in seconds.
        is_lost: asked whether another process works in the folder now; the file is touched no more then.
    """

    def __init__(self, path: Path, every_s: float, is_lost: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self.is_lost = is_lost
        self._handle = -1
        self._thread = Repeated(self._touch, every_s)

    def __enter__(self) -> "Beat":
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        flock(self._handle)
        self._touch()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.__exit__(*error)
        os.close(self._handle)

    def _touch(self) -> bool:
        if self.is_lost():
            return False
        self._path.touch()
        return True


def last_beat(path: Path, clock: Path) -> tuple[float, float]:
    """Return the time of the last touch of a file and the seconds since then, by the clock that stamps files.

    So the nodes' clocks need not agree. Of a file that is not there, the first is 0 and the second infinite.

    Args:
        path: the file.
        clock: a folder of the same file system that can be written.
    """
    now = server_time(clock)
    try:
        with open(
            path
        ) as beat:  # opening asks the server; the file's time alone may come from the node's cache
            stamp = os.fstat(beat.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0, float("inf")
    return stamp, now - stamp


def flock(handle: int) -> bool | None:
    """Lock a file for as long as it is open; False if another process has, None on a file system without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def flocked(path: Path, *, create: bool = False) -> Iterator[bool | None]:
    """Lock a file within a block, and yield what `flock` says; the lock of a dead process is free.

    Raises:
        OSError: if the file cannot be opened for writing, or is not there and is not to be made.
    """
    handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    try:
        yield flock(handle)
    finally:
        os.close(handle)


def server_time(folder: Path) -> float:
    """Return the present time of the clock that stamps the files of a folder, that of a file server if it has one."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _machine() -> str:
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(path) if os.path.islink(path) else Path(path).read_text().strip())
    return " ".join(parts)
