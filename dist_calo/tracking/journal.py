"""Records of a run on disk, in order, and how far its store has them."""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dist_calo.errors import TrackingError
from dist_calo.files import read_bytes, write_text
from dist_calo.leases.signs_of_life import flocked
from dist_calo.tracking.records import Record, record_of

COMPACT_ABOVE = 4 * 2**20
"""Size of a wholly sent journal, in bytes, above which it starts anew."""


class Journal:
    """The journal of the run in a spool folder; one thread may write it and another one send it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "journal.jsonl"
        self._guard = threading.Lock()
        self._confirmed = 0
        """Like ``sent``, while the disk takes no note of it."""

    def append(self, records: Iterable[Record]) -> None:
        """Write records to the end of the journal, on disk when this returns.

        Raises:
            OSError: if the disk does not take them; none of them is then in the journal.
        """
        lines = "".join(json.dumps(record, default=str) + "\n" for record in records).encode()
        with self._guard, self._file.open("ab") as journal:
            if self.sent >= self._size() > COMPACT_ABOVE:
                with self.sending() as alone:
                    if alone and self.sent >= self._size():
                        write_text(self.folder / "sent", "0")
                        self._confirmed = 0
                        journal.truncate(0)
            _, whole = self._last()
            journal.truncate(whole)
            try:
                journal.write(lines)
                journal.flush()
                os.fsync(journal.fileno())
            except OSError:
                with suppress(OSError):
                    journal.truncate(whole)
                raise

    def unsent(self) -> Iterator[tuple[Record, int]]:
        """Yield records that were not confirmed, and for each the position to confirm once it is sent.

        Raises:
            TrackingError: if a line is damaged.
        """
        with self._guard:
            position = self.sent
            if position >= self._size():
                return
            journal = self._file.open("rb")
        with journal:
            journal.seek(position)
            for line in journal:
                if not line.endswith(b"\n"):
                    return
                try:
                    record = record_of(line)
                except ValueError as error:
                    journal.seek(0)
                    number = 1 + journal.read(position).count(b"\n")
                    raise TrackingError(
                        f"{self._file}, line {number}: {error}; remove that line, then dist-calo runs sync"
                    ) from None
                position += len(line)
                yield record, position

    @property
    def sent(self) -> int:
        """Position up to which the store has everything."""
        known = 0  # what is not known to be sent is sent again, which adds nothing
        with suppress(OSError, ValueError):
            known = int(read_bytes(self.folder / "sent", 20))
        return min(max(known, self._confirmed), self._size())

    def confirm(self, position: int) -> None:
        """Note that the store has everything up to this position."""
        with self._guard:
            self._confirmed = position
            with suppress(OSError):  # a full disk: the next sender sends some of it again, which counts once
                write_text(self.folder / "sent", str(position))
                self._confirmed = 0

    @contextmanager
    def sending(self) -> Iterator[bool]:
        """Keep others from sending the run meanwhile; False if another process or thread sends it now."""
        with ExitStack() as stack:
            alone = True
            with suppress(OSError):  # a full disk: a record that two send counts once
                alone = stack.enter_context(flocked(self.folder / "sending", create=True)) is not False
            yield alone

    @property
    def end(self) -> Record | None:
        """The record of the run's end if it is the last one.

        Raises:
            TrackingError: if the last line is damaged.
        """
        line, _ = self._last()
        try:
            record = record_of(line) if line else {"kind": None}
        except ValueError as error:
            raise TrackingError(f"{self._file}, the last line: {error}; remove it") from None
        return record if record["kind"] == "end" else None

    @property
    def is_sent(self) -> bool:
        """True if the store has all that was written so far."""
        return next(self.unsent(), None) is None

    @property
    def written_ms(self) -> int:
        """Time of the last record, in ms since 1970; 0 if there is none."""
        return self._file.stat().st_mtime_ns // 1_000_000 if self._size() else 0

    def backlog(self) -> int:
        """Count the records that wait to be sent, up to a damaged one."""
        count = 0
        with suppress(TrackingError, OSError):
            for _ in self.unsent():
                count += 1
        return count

    def _size(self) -> int:
        with suppress(FileNotFoundError):
            return self._file.stat().st_size
        return 0

    def _last(self) -> tuple[bytes, int]:
        """Return the last whole line and its end in bytes; a process that was killed leaves half a line behind it."""
        size, length = self._size(), 4096
        while size:
            start = max(0, size - length)
            with self._file.open("rb") as journal:
                journal.seek(start)
                tail = journal.read(size - start)
            end = tail.rfind(b"\n") + 1
            line = tail.rfind(b"\n", 0, max(0, end - 1)) + 1
            if not start or line:
                return tail[line:end], start + end
            length *= 8
        return b"", 0
