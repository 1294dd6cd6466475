"""Records on their way to the disk of a spool, in memory."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dist_calo.tracking.journal import Journal
from dist_calo.tracking.records import Record

log = logging.getLogger("dist_calo.tracking")

MOST_RECORDS = 100_000
"""Records held in memory while the disk takes none; what comes after is dropped and counted."""


class Outbox:
    """Records in order, for a moment, or for as long as the disk takes none.

    Any thread may ``put``, one calls ``flush``; another one may send, as long as the disk takes none, what is
    ``offered``.
    """

    def __init__(self, journal: Journal) -> None:
        self.failure: str | None = None
        """Why the disk took nothing the last time, None if it did."""
        self.has_failed = False
        """Whether it ever took nothing."""
        self.end: Record | None = None
        """The end of the run, once it was said."""
        self.dropped = 0
        self._records: list[Record] = []
        self._journal = journal
        self._turn = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: Record) -> None:
        """Add a record, or drop it if too many wait; the end of the run always has room."""
        if record["kind"] == "end":
            self.end = record
        elif len(self) >= MOST_RECORDS:
            self.dropped += 1
            return
        self._records.append(record)

    def flush(self) -> None:
        """Bring all records to the disk, unless the store is just taking them; say once if the disk takes nothing."""
        if self.end and self._records[-1:] not in ([], [self.end]):
            # The end is on disk before the last pictures are drawn, and stays the last thing that is said.
            self._records.append(self.end)
        # While the first of them are sent, later ones must not get to the disk, which counts as earlier.
        if not self._records or not self._turn.acquire(blocking=False):
            return
        folder, count = self._journal.folder, len(self)
        try:
            self._journal.append(self._records[:count])
        except Exception as error:
            if self.failure is None:
                rest = "what it does not take is lost if the job ends before the disk has room"
                log.error(
                    "the spool %s takes nothing (%s): the store gets the record directly; %s",
                    folder,
                    error,
                    rest,
                )
            self.failure, self.has_failed = str(error), True
        else:
            self.confirm(count)
            if self.failure is not None:
                log.warning("the spool %s takes the record again", folder)
            self.failure = None
        finally:
            self._turn.release()

    @contextmanager
    def offered(self) -> Iterator[list[tuple[Record, int]]]:
        """Give records for the store to take now, each with its number; none as long as the disk takes them."""
        with self._turn:
            offered = self.failure is not None and self._journal.is_sent
            yield [(record, number) for number, record in enumerate(self._records, 1)] if offered else []

    def confirm(self, count: int) -> None:
        """Forget the first so many records, which are on disk or in the store."""
        del self._records[:count]
