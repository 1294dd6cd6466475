"""One writer for a spooled run, also where the file system's locks hold on one machine only.

``flock`` excludes other processes of this machine everywhere, and those of other machines where the file system passes
locks on: NFS, GPFS, Lustre mounted with ``flock``. Elsewhere (``nolock``, ``localflock``, BeeGFS as it comes) it says
yes on every machine, so the holder also gives signs of life: who it is, in the lock file, and that file's time.
"""

import fcntl
import os
import socket
import tempfile
import time
from pathlib import Path

BEAT_EVERY_S = 5.0
"""Time between two signs of life, in seconds."""
SILENT_AFTER_S = 30.0
"""Time without a sign of life after which a job takes over a run of another machine, in seconds."""


class RunLock:
    """The lock of one folder.

    Args:
        path: the lock file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        self._beaten_s = 0.0
        self.is_alive_elsewhere = False
        """Whether the last ``acquire`` failed by nothing but a recent sign of life from another machine."""

    def acquire(self, silent_after_s: float = SILENT_AFTER_S) -> bool:
        """Keep other processes out; False if another one is at work.

        Args:
            silent_after_s: how long a holder on another machine must have given no sign of life.

        Raises:
            OSError: if the lock file cannot be written.
        """
        self.is_alive_elsewhere = False
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = flock(handle)
            if locked is not False and self._is_elsewhere(handle, locked, silent_after_s):
                self.is_alive_elsewhere = True
            elif locked is not False:
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{_host()} {_job()}\n".encode(), 0)
                self._handle, handle = handle, -1
                return True
        finally:
            if handle >= 0:
                os.close(handle)
        return False

    def is_busy(self, silent_after_s: float = SILENT_AFTER_S) -> bool:
        """Whether ``acquire`` would fail now; the lock is left as it is, and nobody is kept out.

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
        """Whether a holder that the lock does not tell of seems to live."""
        holder = os.pread(handle, 4096, 0).decode(errors="replace").split()
        if len(holder) != 2 or (locked and holder[0] == _host()):
            return False
        if holder[1] == _job() != "-":  # this job was put back into the queue: its first attempt has ended
            return False
        with tempfile.NamedTemporaryFile(dir=self._path.parent) as now:  # in the file server's time
            silent_s = os.fstat(now.fileno()).st_mtime - os.fstat(handle).st_mtime
        return silent_s < silent_after_s

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock."""
        return self._handle is not None

    def beat(self) -> None:
        """Give a sign of life, if the last one is some seconds ago."""
        if self._handle is not None and time.monotonic() >= self._beaten_s + BEAT_EVERY_S:
            self._beaten_s = time.monotonic()
            os.utime(self._handle)

    def release(self) -> None:
        """Let other processes in."""
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None


def flock(handle: int) -> bool | None:
    """Lock a file for as long as it is open; False if another process has, None on a file system without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _host() -> str:
    return socket.gethostname()


def _job() -> str:
    return os.environ.get("SLURM_JOB_ID", "-")
