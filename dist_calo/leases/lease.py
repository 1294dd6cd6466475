"""The right to write in a folder for as long as a run lasts, also where locks hold on one machine only.

``flock`` excludes other processes of this machine everywhere, and those of other machines where the file system passes
locks on: NFS, GPFS, Lustre mounted with ``flock``. Elsewhere (``nolock``, ``localflock``, BeeGFS by default) it
succeeds on every machine, so the holder also gives signs of life: its name is in the lock file, and it touches that
file. A file server keeps the lock of a machine that has died: with NFSv4 until the lease ends, with NFSv3 until that
machine is back. A job that was started again therefore replaces the lock file of its earlier attempt.
"""

import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dist_calo.files import open_ordinary, writing
from dist_calo.launching.slurm import batch_job, restarted
from dist_calo.leases.signs_of_life import Repeated, flock, server_time

log = logging.getLogger("dist_calo.leases")

BEAT_EVERY_S = 5.0
"""Time between two signs of life of a lease, in seconds."""
SILENT_AFTER_S = 30.0
"""Time without a sign of life after which a job takes over a lease of another machine, in seconds."""
LEASE_S = 150.0
"""Time in which a file server releases the locks of a machine that is gone, in seconds: NFSv4's 90 and a margin."""


class Lease:
    """The right to write in a folder, held for as long as a run lasts.

    Args:
        path: the lock file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        self._beaten_s = 0.0
        self.patience_s = 0.0
        """Time after a failed ``acquire`` in which the lock becomes free if its holder's machine is gone, in seconds:
        until that machine has been silent for long enough, or the file server has given up its lock. The lock of an
        earlier attempt can be taken over then."""

    def acquire(self, silent_after_s: float = SILENT_AFTER_S) -> bool:
        """Keep other processes out; False if another one is at work.

        Args:
            silent_after_s: how long a holder on another machine must have given no sign of life.

        Raises:
            OSError: if the lock file cannot be written.
        """
        self.patience_s = 0.0
        with writing(self._path), ExitStack() as unless_held:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            unless_held.callback(os.close, handle)
            locked = flock(handle)
            if locked is False:
                host, job = _holder(handle)
                if host not in ("", _host()):
                    # An earlier attempt's lock is taken over after that silence; for others the file server decides.
                    leased = self._silent_s(handle) >= silent_after_s and not _is_earlier_attempt(host, job)
                    self.patience_s = LEASE_S if leased else silent_after_s
            elif self._is_elsewhere(handle, locked, silent_after_s):
                self.patience_s = silent_after_s
            elif self._is_named(handle):  # neither taken over nor removed meanwhile
                self._take(handle, self._path)
                unless_held.pop_all()
        return self._handle is not None

    def take_over(self) -> bool:
        """Replace the lock of an earlier attempt of this job, which a file server keeps for a machine that is gone.

        Returns:
            Whether this process holds the lock now; False if its holder is no earlier attempt, or seems to live.

        Raises:
            OSError: if the lock file cannot be replaced.
        """
        with writing(self._path), ExitStack() as unless_held:
            with open(self._path, "rb") as before:
                holder, silent_s = _holder(before.fileno()), self._silent_s(before.fileno())
            if not _is_earlier_attempt(*holder) or silent_s < SILENT_AFTER_S:
                return False
            handle, name = tempfile.mkstemp(dir=self._path.parent)
            unless_held.callback(os.close, handle)
            # Locked and signed before it gets the name, so that nobody finds it free.
            flock(handle)
            self._take(handle, Path(name))
            unless_held.pop_all()
        return True

    def _take(self, handle: int, path: Path) -> None:
        """Sign a locked file and make it the lock; one that cannot be signed would name nobody, and is removed."""
        try:
            _sign(handle)
            if path != self._path:
                os.replace(path, self._path)
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise
        self._handle = handle

    def wait(self, timeout_s: float = 3.0) -> bool:
        """Acquire the lease within this time; wait longer where a holder on another machine may be dead.

        After that, the lease of an earlier attempt of this job is taken over, although the file server keeps its lock.
        """
        began, told = time.monotonic(), False
        while not self.acquire():
            if time.monotonic() - began > self.patience_s + timeout_s:
                return self.take_over()
            if self.patience_s > SILENT_AFTER_S and not told:
                told = True
                log.warning(
                    "%s%s: waiting up to %.0f s, in which a file server releases the locks of a machine that is gone",
                    self._path,
                    self.held_by,
                    self.patience_s,
                )
            time.sleep(0.2)
        return True

    @property
    def held_by(self) -> str:
        """Return the machine and the job that the lock file names, for messages after its name, or nothing."""
        with suppress(OSError), open_ordinary(self._path) as file:
            host, job = _holder(file.fileno())
            if host:
                return f", held by {host} (job {job})" if job != "-" else f", held by {host}"
        return ""

    def is_busy(self, silent_after_s: float = SILENT_AFTER_S) -> bool:
        """Return whether ``acquire`` would fail now; the lock is left as it is, and nobody is kept out.

        Raises:
            OSError: if the lock file cannot be opened for writing, as locks need.
        """
        try:
            handle = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            locked = flock(handle)
            return locked is False or self._is_elsewhere(handle, locked, silent_after_s)
        finally:
            os.close(handle)

    def _is_elsewhere(self, handle: int, locked: bool | None, silent_after_s: float) -> bool:
        """Return whether a holder seems to live whose lock is not seen on this machine."""
        host, job = _holder(handle)
        if not host or (locked and host == _host()):
            return False
        if job == batch_job() != "-":  # this job was put back into the queue: its first attempt has ended
            return False
        return self._silent_s(handle) < silent_after_s

    def _silent_s(self, handle: int) -> float:
        """Return the time since the last sign of life, in seconds."""
        return server_time(self._path.parent) - os.fstat(handle).st_mtime

    def beat(self) -> None:
        """Give a sign of life, if the last one is some seconds ago."""
        if self._handle is not None and time.monotonic() >= self._beaten_s + BEAT_EVERY_S:
            self._beaten_s = time.monotonic()
            os.utime(self._handle)

    def _is_named(self, handle: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(handle), os.stat(self._path))
        return False

    def release(self, *, remove: bool = False) -> None:
        """Let other processes in, and remove the file if asked to."""
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            if remove:
                self._path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    @contextmanager
    def kept(self, *, remove: bool = False) -> Iterator[None]:
        """Give signs of life from a thread within a block, and `release` the lease at its end."""
        try:
            with Repeated(self.beat, BEAT_EVERY_S):
                yield
        finally:
            with suppress(OSError):
                self.release(remove=remove)


def _sign(handle: int) -> None:
    """Write this machine and job into a lock file."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{_host()} {batch_job()}\n".encode(), 0)


def _holder(handle: int) -> tuple[str, str]:
    """Return the machine and job that a lock file names; both empty if it names none."""
    words = os.pread(handle, 4096, 0).decode(errors="replace").split(maxsplit=1)
    return (words[0], words[1].strip()) if len(words) == 2 else ("", "")


def _is_earlier_attempt(host: str, job: str) -> bool:
    """Return whether a holder is an earlier start of this job, on another machine."""
    return restarted() and host not in ("", _host()) and job == batch_job() != "-"


def _host() -> str:
    return socket.gethostname()
