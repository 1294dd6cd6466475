"""The study's journal on a shared file system, and the locks of its folder.

Optuna offers two locks for files. ``JournalFileOpenLock`` makes a file with O_CREAT and O_EXCL, which one process alone
can do on local file systems, Lustre, GPFS and NFS from version 3 on. ``JournalFileSymlinkLock`` makes a symbolic link,
which even NFS 2 does once; but it judges the age of a lock by what the link points to, the journal, so that a lock in
lively use may look abandoned, and one of a journal that was named by a relative path never does. Nothing has NFS 2 any
more, so the first is used. Neither needs flock or fcntl, which many clusters switch off.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_calo.errors import MissingComponentError

if TYPE_CHECKING:
    from optuna.storages import JournalStorage

WRITE_S = 30
"""Age at which the lock of one line's writing is that of a dead process, in seconds."""
WORK_S = 120
"""The same for longer work: choosing settings, or talking to MLflow."""


def load_optuna() -> Any:
    """Import Optuna, without its messages.

    Raises:
        MissingComponentError: if it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingComponentError("sweeps need Optuna: pip install -e '.[sweep]' in the checkout") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_journal(path: Path) -> "JournalStorage":
    """The storage of a study in this file, made if there is none."""
    load_optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class RepairingLock(JournalFileOpenLock):
        """Before anything is appended, cuts off half a line that a killed process or node has left."""

        def acquire(self) -> bool:
            acquired = super().acquire()
            cut_to_whole_lines(path)
            return acquired

        def release(self) -> None:
            # A process that was halted for long may find its lock taken as abandoned.
            with suppress(RuntimeError):
                super().release()

    name = str(path.absolute())
    return JournalStorage(JournalFileBackend(name, lock_obj=RepairingLock(name, grace_period=WRITE_S)))


def cut_to_whole_lines(path: Path) -> None:
    """Cut a file back to the end of its last whole line."""
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        size = end
        while size:
            start = max(0, size - 4096)
            file.seek(start)
            found = file.read(size - start).rfind(b"\n")
            if found >= 0:
                size = start + found + 1
                break
            size = start
        if size < end:
            file.truncate(size)


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Keep other workers on any node out of one kind of work on this study."""
    load_optuna()
    from optuna.storages.journal import JournalFileOpenLock

    lock = JournalFileOpenLock(str(folder / name), grace_period=WORK_S)
    lock.acquire()
    try:
        yield
    finally:
        with suppress(RuntimeError):
            lock.release()
