"""The journal of a run on disk: everything is written here first and sent to the tracking store from here.

A spool folder holds one run:

    run.json        which run of which store this is
    journal.jsonl   one record a line, in order, only ever appended to
    sent            how many bytes of the journal the store has confirmed
    files/          artifacts on their way to the store
    refused.jsonl   what the store has not taken though it answered, with the reason
    lock            held by the process that writes the run; ``dist_calo.leases``
    sending         held by the process that sends it: the one that writes it, or ``dist-calo runs sync``

A process that is killed leaves at most half a line, which is cut off at the next start. A record may be sent twice, if
the store took it and the answer was lost; it then carries the same time, step and value, and counts once.
"""

import errno
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dist_calo.errors import TrackingError
from dist_calo.files import read_bytes, read_json, write_whole
from dist_calo.launching.environment import restarted
from dist_calo.leases.lease import SILENT_AFTER_S, Lease
from dist_calo.leases.signs_of_life import flocked
from dist_calo.masking import hidden
from dist_calo.tracking.records import Identity, Record, line_at, read_refused, record_of, require_ordinary

log = logging.getLogger("dist_calo.tracking")

SPOOL_PREFIX = "spool-"
"""How the name of a run begins that its tracking store has not named yet."""
COMPACT_ABOVE = 4 * 2**20
"""Size of a wholly sent journal, in bytes, above which it starts anew."""
DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
"""What becomes of a disk without anybody's mistake."""


class HeldError(TrackingError):
    """Another process writes the run."""


class Spool:
    """The spool folder of one run, opened by ``Spool.open`` or ``Spool.all``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        remedy = "put it back, or remove the folder"
        self._identity = asdict(read_json(folder / "run.json", Identity, TrackingError, remedy))
        self._identity["uri"] = hidden(self._identity["uri"])
        self._journal = folder / "journal.jsonl"
        require_ordinary(folder)
        self._guard = threading.Lock()
        self._confirmed = 0
        """Like ``sent``, while the disk takes no note of it."""
        self.lost = 0
        """Records that the store refused and the disk did not take."""
        self._lock = Lease(folder / "lock")

    @classmethod
    def open(cls, root: Path, run_id: str | None, identity: Mapping[str, Any]) -> "Spool":
        """The spool of a run, made if there is none.

        Args:
            root: the folder of all spools.
            run_id: the run to continue, named by its store or by an earlier spool; None for a new run.
            identity: ``uri``, ``experiment`` and ``run_name``, as far as the run is new here; and ``job``, None or the
                name of the job's attempts at one training, of which the later ones continue the run of the first.

        Raises:
            OSError: if the folder cannot be written.
        """
        job = identity.get("job")
        for spool in cls.all(root):
            if run_id is not None and run_id in (spool.run_id, spool.spool_id):
                return spool
            if run_id is None and job is not None and restarted() and spool.job == job:
                return spool
        unnamed = run_id is not None and run_id.startswith(SPOOL_PREFIX)
        spool_id = run_id if run_id is not None and unnamed else SPOOL_PREFIX + uuid.uuid4().hex
        now_ms = time.time_ns() // 1_000_000
        values = {
            **identity,
            "spool_id": spool_id,
            "run_id": None if unnamed else run_id,
            "started_ms": now_ms,
        }
        folder = root / spool_id
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "run.json", json.dumps(values))
        return cls(folder)

    @classmethod
    def open_locked(cls, root: Path, run_id: str | None, identity: Mapping[str, Any]) -> "Spool":
        """``open``, with everybody else kept out; where the disk is full or fails, in a folder of this machine.

        Raises:
            TrackingError: if the folder cannot be written.
            HeldError: if another process writes this run.
        """
        while True:
            try:
                spool = cls.open(root, run_id, identity)
                if spool._lock.wait():
                    return spool
            except FileNotFoundError:  # `dist-calo runs sync` had just sent all of it; it begins anew
                continue
            except OSError as error:
                if error.errno in DISK_FAILURES and not root.is_relative_to(tempfile.gettempdir()):
                    temporary = Path(tempfile.mkdtemp(prefix="dist_calo-spool-"))
                    log.error("tracking.spool=%s: %s; this job uses %s", root, error.strerror, temporary)
                    root = temporary
                    continue
                raise TrackingError(
                    f"tracking.spool={root}: {error.strerror}; it must be a folder that this job can write to, "
                    "as everything is written there before it is sent; or switch tracking off with tracking.uri=none"
                ) from error
            else:
                raise HeldError(
                    f"run {run_id}: another process is writing it ({spool.folder}/lock{spool._lock.held_by}); wait "
                    "until that job has ended"
                )

    @classmethod
    def all(cls, root: Path, tell: Callable[[str], object] = log.warning) -> "list[Spool]":
        """The spools of a folder, oldest first; of one that is damaged is told why it is left out."""
        found = []
        for path in root.glob("*/run.json"):
            try:
                found.append((path.stat().st_mtime, cls(path.parent)))
            except TrackingError as error:
                # Another user's is nobody else's business.
                if not isinstance(error.__cause__, PermissionError):
                    tell(str(error))
            except (FileNotFoundError, PermissionError):  # another job has just ended and removed its spool
                continue
        return [spool for _, spool in sorted(found, key=lambda pair: (pair[0], pair[1].spool_id))]

    @property
    def spool_id(self) -> str:
        """The name of the run that holds even if its store was never reached."""
        return str(self._identity["spool_id"])

    @property
    def run_id(self) -> str | None:
        """The name that the store gave the run; None before the store was reached."""
        return self._identity["run_id"]

    @property
    def uri(self) -> str:
        """The run's tracking store."""
        return str(self._identity["uri"])

    @property
    def experiment(self) -> str:
        """The run's experiment."""
        return str(self._identity["experiment"])

    @property
    def run_name(self) -> str | None:
        """The name that a user gave the run."""
        return self._identity["run_name"]

    @property
    def job(self) -> str | None:
        """What all attempts of a batch job at one training have in common."""
        return self._identity.get("job")

    @property
    def started_ms(self) -> int:
        """When the run was first started here, in ms since 1970."""
        return int(self._identity["started_ms"])

    def identify(self, **values: str | None) -> None:
        """Change what is known of the run, such as ``run_id``."""
        self._identity |= values
        with suppress(OSError):  # a full disk: a run is found by the name of its spool as well
            _replace(self.folder / "run.json", json.dumps(self._identity))

    def lock(self, silent_after_s: float = SILENT_AFTER_S) -> bool:
        """Keep other processes out; False if another one is at work, or has been until so many seconds ago.

        Raises:
            OSError: if the folder is gone or cannot be written.
        """
        return self._lock.acquire(silent_after_s)

    def is_busy(self, silent_after_s: float = SILENT_AFTER_S) -> bool:
        """Whether ``lock`` would fail now; only a look.

        Raises:
            OSError: if the lock cannot be opened for writing.
        """
        return self._lock.is_busy(silent_after_s)

    def beat(self) -> None:
        """Tell other machines that this process is still at work."""
        self._lock.beat()

    @property
    def is_locked(self) -> bool:
        """Whether this process holds the lock, so that no other one writes the run."""
        return self._lock.is_held

    def unlock(self) -> None:
        """Let other processes in."""
        self._lock.release()

    @contextmanager
    def sending(self) -> Iterator[bool]:
        """Keep others from sending the run meanwhile; False if another process or thread sends it now."""
        with ExitStack() as stack:
            alone = True
            with suppress(OSError):  # a full disk: a record that two send counts once
                alone = stack.enter_context(flocked(self.folder / "sending", create=True)) is not False
            yield alone

    def append(self, records: Iterable[Record]) -> None:
        """Write records to the end of the journal, on disk when this returns.

        Raises:
            OSError: if the disk does not take them; none of them is then in the journal.
        """
        lines = "".join(json.dumps(record, default=str) + "\n" for record in records).encode()
        with self._guard, self._journal.open("ab") as journal:
            if self.sent >= self._size() > COMPACT_ABOVE:
                with self.sending() as alone:
                    if alone and self.sent >= self._size():
                        _replace(self.folder / "sent", "0")
                        self._confirmed = 0
                        journal.truncate(0)
            whole = self._whole_lines()
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
        """Records that were not confirmed, and for each the position to confirm once it is sent."""
        with self._guard:
            position = self.sent
            if position >= self._size():
                return
            journal = self._journal.open("rb")
        with journal:
            journal.seek(position)
            for line in journal:
                if not line.endswith(b"\n"):
                    return
                position += len(line)
                try:
                    yield record_of(line), position
                except ValueError as error:
                    where = f"{self._journal}, line {line_at(self._journal, position - len(line))}"
                    raise TrackingError(
                        f"{where}: {error}; remove that line, then dist-calo runs sync"
                    ) from None

    @property
    def sent(self) -> int:
        """Position in the journal up to which the store has everything."""
        text = ""
        with suppress(OSError):
            text = read_bytes(self.folder / "sent", 4096).decode(errors="replace")
        # What is not known to be sent is sent again, which adds nothing.
        known = int(text) if text.isdecimal() and len(text) < 20 else 0
        return min(max(known, self._confirmed), self._size())

    def confirm(self, position: int) -> None:
        """The store has everything up to this position."""
        with self._guard:
            self._confirmed = position
            with suppress(
                OSError
            ):  # a full disk: whoever sends it next sends some of it again, which counts once
                _replace(self.folder / "sent", str(position))
                self._confirmed = 0

    @property
    def has_ended(self) -> bool:
        """Whether the last thing that was said is that the run has ended."""
        return self._last_line().startswith(b'{"kind": "end"')

    @property
    def is_sent(self) -> bool:
        """Whether the store has all that was written so far."""
        return next(self.unsent(), None) is None

    @property
    def is_complete(self) -> bool:
        """Whether the store has all that was written so far, and has refused nothing; False if it cannot be read."""
        with suppress(TrackingError, OSError):
            return self.is_sent and not self.refused
        return False

    @property
    def written_ms(self) -> int:
        """When the journal was last written, in ms since 1970."""
        return self._journal.stat().st_mtime_ns // 1_000_000 if self._size() else self.started_ms

    def backlog(self) -> int:
        """How many records wait to be sent, up to a damaged one."""
        count = 0
        with suppress(TrackingError, OSError):
            for _ in self.unsent():
                count += 1
        return count

    def refuse(self, record: Record, reason: str) -> None:
        """Keep a record that the store will never take."""
        try:
            with (self.folder / "refused.jsonl").open("a") as file:
                file.write(json.dumps({"reason": reason, "record": record}) + "\n")
        except OSError:
            self.lost += 1

    @property
    def refused(self) -> list[Record]:
        """What the store has not taken, as ``{"reason": ..., "record": ...}``."""
        return read_refused(self.folder / "refused.jsonl")

    def offer_again(self) -> None:
        """Put refused artifacts back into the journal: their place may be there again."""
        refused = self.refused
        again = [entry["record"] for entry in refused if entry["record"]["kind"] == "artifact"]
        if again:
            # The end of the run stays the last thing that is said.
            try:
                self.append([*again, record_of(self._last_line())] if self.has_ended else again)
            except ValueError as error:
                raise TrackingError(f"{self._journal}, the last line: {error}; remove it") from None
            rest = [entry for entry in refused if entry["record"]["kind"] != "artifact"]
            _replace(self.folder / "refused.jsonl", "".join(json.dumps(entry) + "\n" for entry in rest))

    def drop_file(self, path: Path) -> None:
        """Delete an artifact that was sent."""
        shutil.rmtree(path.parent, ignore_errors=True)

    def remove(self) -> None:
        """Delete the folder; that of all spools stays, so that ``dist-calo runs sync`` can always be given it."""
        # First what makes it a spool: nobody else begins on a folder that is half gone.
        (self.folder / "run.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.unlock()
        # NFS keeps a file that was deleted while open, and the folder with it, until it is closed.
        shutil.rmtree(self.folder, ignore_errors=True)

    def _size(self) -> int:
        try:
            return self._journal.stat().st_size
        except FileNotFoundError:
            return 0

    def _last_line(self) -> bytes:
        """The end of the journal's last whole line, at least the whole of a short one."""
        size = self._whole_lines()
        if not size:
            return b""
        with self._journal.open("rb") as journal:
            journal.seek(max(0, size - 4096))
            return journal.read(size - max(0, size - 4096)).splitlines()[-1]

    def _whole_lines(self) -> int:
        """Size of the journal without a last line that a killed process left half written."""
        size = self._size()
        if not size:
            return 0
        with self._journal.open("rb") as journal:
            while size:
                start = max(0, size - 65536)
                journal.seek(start)
                end = journal.read(size - start).rfind(b"\n")
                if end >= 0:
                    return start + end + 1
                size = start
        return 0


def _replace(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new text, never a part."""
    with write_whole(path) as temporary:
        temporary.write_text(text)
