"""One writer for a spooled run, also where the file system's locks hold on one machine only.

``flock`` excludes other processes of this machine everywhere, and those of other machines where the file system passes
locks on: NFS, GPFS, Lustre mounted with ``flock``. Elsewhere (``nolock``, ``localflock``, BeeGFS as it comes) it says
yes on every machine, so the holder also gives signs of life: who it is, in the lock file, and that file's time.
A file server keeps the lock of a machine that has died: with NFSv4 until the lease ends, with NFSv3 until that machine
is back. A job that was started again therefore replaces the lock file of its earlier attempt.
"""

import fcntl
import logging
import os
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from dist_calo.files import open_ordinary, writing
from dist_calo.launching.environment import whole_number

log = logging.getLogger("dist_calo.tracking")

BEAT_EVERY_S = 5.0
"""Time between two signs of life, in seconds."""
SILENT_AFTER_S = 30.0
"""Time without a sign of life after which a job takes over a run of another machine, in seconds."""
LEASE_S = 150.0
"""Time in which a file server lets go of the locks of a machine that is gone, in seconds: NFSv4's 90 and a margin."""


class RunLock:
    """The lock of one folder.

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
        with writing(self._path):
            return self._acquire(silent_after_s)

    def _acquire(self, silent_after_s: float) -> bool:
        self.patience_s = 0.0
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
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
                try:
                    self._sign(handle)
                except OSError:
                    with suppress(OSError):
                        self._path.unlink()  # it would name nobody
                    raise
                self._handle, handle = handle, -1
                return True
        finally:
            if handle >= 0:
                os.close(handle)
        return False

    def take_over(self, silent_after_s: float = SILENT_AFTER_S) -> bool:
        """Replace the lock of an earlier attempt of this job, which a file server keeps for a machine that is gone.

        Args:
            silent_after_s: how long that attempt must have given no sign of life.

        Returns:
            Whether this process holds the lock now; False if its holder is no earlier attempt, or seems to live.

        Raises:
            OSError: if the lock file cannot be replaced.
        """
        with writing(self._path):
            return self._take_over(silent_after_s)

    def _take_over(self, silent_after_s: float) -> bool:
        before = os.open(self._path, os.O_RDONLY)
        try:
            if not _is_earlier_attempt(*_holder(before)) or self._silent_s(before) < silent_after_s:
                return False
        finally:
            os.close(before)
        handle, name = tempfile.mkstemp(dir=self._path.parent)
        try:
            # Locked and signed before it gets the name, so that nobody finds it free.
            flock(handle)
            self._sign(handle)
            os.replace(name, self._path)
        except OSError:
            os.close(handle)
            with suppress(OSError):
                os.unlink(name)
            raise
        self._handle = handle
        return True

    def wait(self, timeout_s: float = 3.0) -> bool:
        """``acquire`` within this time; longer if it takes that to see that the last holder, elsewhere, is dead.

        After that, an earlier attempt of this very job is dead, whatever the file server says of its lock.
        """
        began, told = time.monotonic(), False
        while not self.acquire():
            if time.monotonic() - began > self.patience_s + timeout_s:
                return self.take_over()
            if self.patience_s > SILENT_AFTER_S and not told:
                told = True
                log.warning(
                    "%s%s: waiting up to %.0f s, in which a file server lets go of a machine that is gone",
                    self._path,
                    self.held_by,
                    self.patience_s,
                )
            time.sleep(0.2)
        return True

    @property
    def held_by(self) -> str:
        """The machine and the job that the lock file names, to be read after its own name; empty if it names none."""
        with suppress(OSError), open_ordinary(self._path) as file:
            host, job = _holder(file.fileno())
            if host:
                return f", held by {host} (job {job})" if job != "-" else f", held by {host}"
        return ""

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
        host, job = _holder(handle)
        if not host or (locked and host == _host()):
            return False
        if job == batch_job() != "-":  # this job was put back into the queue: its first attempt has ended
            return False
        return self._silent_s(handle) < silent_after_s

    def _silent_s(self, handle: int) -> float:
        """Time since the last sign of life, in seconds."""
        with tempfile.NamedTemporaryFile(dir=self._path.parent) as now:  # in the file server's time
            return os.fstat(now.fileno()).st_mtime - os.fstat(handle).st_mtime

    @staticmethod
    def _sign(handle: int) -> None:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{_host()} {batch_job()}\n".encode(), 0)

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock."""
        return self._handle is not None

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
        """Let other processes in; the file goes as well if it is in the way of people who look."""
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            if remove:
                self._path.unlink(missing_ok=True)
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


def batch_job() -> str:
    """The job that this process belongs to, ``-`` if to none; the nodes of an elastic run may be of several jobs."""
    return os.environ.get("DIST_CALO_JOB") or os.environ.get("SLURM_JOB_ID") or "-"


def restarted() -> bool:
    """Whether this job was started before: requeued by SLURM, or its ranks anew by an elastic launcher."""
    starters = ("SLURM", "TORCHELASTIC", "DIST_CALO")
    return any(whole_number(os.environ, f"{by}_RESTART_COUNT", 0) for by in starters)


def _holder(handle: int) -> tuple[str, str]:
    """Machine and job that a lock file names; both empty if it names none."""
    words = os.pread(handle, 4096, 0).decode(errors="replace").split(maxsplit=1)
    return (words[0], words[1].strip()) if len(words) == 2 else ("", "")


def _is_earlier_attempt(host: str, job: str) -> bool:
    """Whether a holder is an earlier start of this job, on another machine."""
    return restarted() and host not in ("", _host()) and job == batch_job() != "-"


def _host() -> str:
    return socket.gethostname()
