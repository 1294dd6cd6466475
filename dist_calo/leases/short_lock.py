"""Locks that are held for an instant, many times a minute: files that one process alone can create.

They need no ``flock``, which many clusters switch off. A lock names its holder. One whose holder is known to be dead,
a process of this machine or an earlier start of the same batch job, is removed at once; any other one when its file
has not changed for `ABANDONED_S`. Time in which a look at the file hung does not count: while a file server is
restarted the holder hangs as well, and it is the first to be halted where all jobs are.
"""

import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from dist_calo.documents import from_json
from dist_calo.files import read_bytes, writing
from dist_calo.leases.signs_of_life import Process, Repeated

log = logging.getLogger("dist_calo.leases")

ABANDONED_S = 300.0
"""Silence after which a short lock's holder counts as dead: beyond an NFS server's grace period, in seconds."""
TOUCH_S = 20.0
"""Time between two signs of life of a short lock, in seconds."""
LOOK_S = 5.0
"""Longest time between two looks at a short lock that counts as silence, in seconds."""
TOLD_S = 30.0
"""Silence after which a process says that it waits for a short lock, in seconds."""


class ShortLock:
    """A lock, in the form that Optuna's journal asks for.

    Args:
        path: its file, there while somebody holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._here = Process.here()
        self._mine = ""

    def acquire(self) -> bool:
        """Wait for the lock and take it.

        Raises:
            OSError: if the folder cannot be written.
        """
        stamp: tuple[int, int, int] | None = None
        text, silent_s, pause_s = "", 0.0, 0.001
        told = False
        looked = time.monotonic()
        while not self._made():
            with suppress(OSError):  # released meanwhile
                status = os.stat(self._path)
                before, stamp = stamp, (status.st_ino, status.st_size, status.st_mtime_ns)
                now = time.monotonic()
                if stamp == before:
                    silent_s += min(now - looked, LOOK_S)
                else:
                    text, silent_s, told = _read(self._path), 0.0, False
                looked = now
                if silent_s > ABANDONED_S or _is_dead(text, self._here):
                    self._remove(text)
                    continue
            if silent_s > TOLD_S and not told:
                log.warning("waiting for %s, which counts as abandoned after %.0f s", self._path, ABANDONED_S)
                told = True
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)
        return True

    def release(self) -> None:
        """Give the lock back, unless it was taken as abandoned meanwhile."""
        if self.is_ours():
            with suppress(OSError):
                os.unlink(self._path)

    def is_ours(self) -> bool:
        """Return whether the lock that is there is the one that was made here."""
        return self._mine != "" and _read(self._path) == self._mine

    def touch(self) -> None:
        """Give a sign of life."""
        if self.is_ours():
            os.utime(self._path)

    def _made(self) -> bool:
        try:
            handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        self._mine = json.dumps([uuid.uuid4().hex, asdict(self._here)])
        try:
            with writing(self._path), os.fdopen(handle, "w") as file:
                file.write(self._mine)
        except OSError:  # a full disk
            self._path.unlink(missing_ok=True)
            raise
        return True

    def _remove(self, text: str) -> None:
        """Remove another's lock, which holds this text; of several that try at once, one succeeds."""
        aside = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}")
        with suppress(OSError):
            os.rename(self._path, aside)
            if _read(aside) != text:
                # Another worker was faster and made its own since we looked.
                with suppress(OSError):
                    os.link(aside, self._path)
            os.unlink(aside)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a short lock within a block.

    Raises:
        OSError: if the folder cannot be written.
    """
    lock = ShortLock(path)
    lock.acquire()
    try:
        with Repeated(lock.touch, TOUCH_S):
            yield
    finally:
        lock.release()


def _read(path: Path) -> str:
    try:
        return read_bytes(path, 1 << 16).decode(errors="replace")
    except OSError:
        return ""


def _is_dead(text: str, here: Process) -> bool:
    try:
        return from_json(text, tuple[str, Process])[1].is_known_dead(here)
    except ValueError:  # not written yet, or damaged: then it counts as abandoned after a while
        return False
