"""What the disk of a spool does not take: records, which the store gets directly while the job lives, and files."""

import logging
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_calo.tracking.records import Record
from dist_calo.tracking.spool import Spool

log = logging.getLogger("dist_calo.tracking")


class Unkept:
    """Records on their way to a spool, in order, in memory: for a moment, or for as long as its disk is full.

    One thread adds to ``records`` and calls ``keep``; what is sent directly is behind all that is on disk.
    """

    def __init__(self, spool: Spool) -> None:
        self.records: list[Record] = []
        self.failure: str | None = None
        """Why the disk took nothing the last time, None if it did."""
        self.has_failed = False
        """Whether it ever took nothing."""
        self._spool = spool
        self._turn = threading.Lock()

    def keep(self) -> None:
        """Bring everything to the disk, unless the store is just taking it; says once that the disk takes nothing."""
        # While the first of them are sent, later ones must not get to the disk, which counts as earlier.
        if not self.records or not self._turn.acquire(blocking=False):
            return
        try:
            count = len(self.records)
            self._spool.append(self.records[:count])
        except Exception as error:
            if self.failure is None:
                log.error(
                    "the spool %s takes nothing (%s): the store gets the record directly; what it does not take "
                    "is lost if the job ends before the disk has room",
                    self._spool.folder,
                    error,
                )
            self.failure, self.has_failed = str(error), True
        else:
            del self.records[:count]
            if self.failure is not None:
                log.warning("the spool %s takes the record again", self._spool.folder)
            self.failure = None
        finally:
            self._turn.release()

    @contextmanager
    def offered(self) -> Iterator[list[tuple[Record, int]]]:
        """Records for the store to take now, and how many are taken with each; none as long as the disk takes them."""
        with self._turn:
            offered = self.failure is not None and self._spool.is_sent
            yield [(record, place) for place, record in enumerate(self.records, 1)] if offered else []

    def confirm(self, count: int) -> None:
        """The store has the first so many records, which were offered."""
        del self.records[:count]


def keep_file(spool: Spool, name: str, write: Callable[[Path], object]) -> str:
    """Have an artifact written where it stays until it is sent, before its record is.

    Args:
        spool: of the run.
        name: of the file.
        write: writes the file, to the path that it is given.

    Returns:
        Its path for the record: in the spool's folder, or absolute, in the machine's folder for temporary files, where
        the disk of the spool does not take it.

    Raises:
        OSError: if neither takes it.
    """
    failure = OSError()
    own = uuid.uuid4().hex
    for folder in (spool.folder / "files" / own, Path(tempfile.gettempdir(), f"dist_calo-{own}")):
        path = folder / name
        try:
            folder.mkdir(mode=0o700, parents=True)
            write(path)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            failure = error
        else:
            return (
                path.relative_to(spool.folder).as_posix() if path.is_relative_to(spool.folder) else str(path)
            )
    raise failure


def keep_copy(spool: Spool, source: Path, name: str) -> str:
    """`keep_file` of a file as it is now; a hard link where the file system has them.

    The source may be replaced or deleted afterwards; it must not be written to in place.
    """

    def link(path: Path) -> None:
        try:
            os.link(source, path)
        except OSError:
            shutil.copy2(source, path)

    return keep_file(spool, name, link)
