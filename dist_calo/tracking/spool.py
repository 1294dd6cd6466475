"""The spool of a run on disk: everything is written here first and sent to the tracking store from here.

A spool folder holds one run:

    run.json        which run of which store this is
    journal.jsonl   one record a line, in order, only ever appended to
    sent            how many bytes of the journal the store has confirmed
    files/          artifacts on their way to the store
    refused.jsonl   what the store has not taken though it answered, with the reason
    lock            held by the process that writes the run; ``dist_calo.leases.lease``
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
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dist_calo.documents import read_json
from dist_calo.errors import TrackingError
from dist_calo.files import read_bytes, write_text
from dist_calo.launching.slurm import restarted
from dist_calo.leases.lease import Lease
from dist_calo.masking import hidden
from dist_calo.tracking.journal import Journal
from dist_calo.tracking.outbox import Outbox
from dist_calo.tracking.records import Identity, Record, now_ms, refused_of

log = logging.getLogger("dist_calo.tracking")

SPOOL_PREFIX = "spool-"
"""Beginning of the name of a run that its tracking store has not named yet."""
DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
"""Failures of a disk that are nobody's mistake."""


class HeldError(TrackingError):
    """Spool that another process writes."""


class Spool:
    """The spool folder of one run, opened by ``Spool.open`` or ``Spool.all``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = read_json(folder / "run.json", Identity, TrackingError, "put it back, or remove the folder")
        self.identity = replace(found, uri=hidden(found.uri))
        for name in ("journal.jsonl", "sent", "sending", "refused.jsonl", "lock"):
            if (folder / name).exists() and not (folder / name).is_file():
                raise TrackingError(f"{folder / name}: is not an ordinary file; remove it")
        self.lock = Lease(folder / "lock")
        """Keeps other processes from writing the run."""
        self.journal = Journal(folder)
        self.outbox = Outbox(self.journal)
        self._refused = folder / "refused.jsonl"
        self._forgotten = 0
        """Records that the store refused and the disk did not take."""

    @classmethod
    def open(cls, root: Path, run_id: str | None, identity: Mapping[str, Any]) -> "Spool":
        """Open the spool of a run, made if there is none.

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
            known = spool.identity
            if run_id is not None and run_id in (known.run_id, known.spool_id):
                return spool
            if run_id is None and job is not None and restarted() and known.job == job:
                return spool
        spool_id, started_ms = SPOOL_PREFIX + uuid.uuid4().hex, now_ms()
        if run_id is not None and run_id.startswith(SPOOL_PREFIX):
            spool_id, run_id = run_id, None
        folder = root / spool_id
        folder.mkdir(parents=True, exist_ok=True)
        own = {"spool_id": spool_id, "run_id": run_id, "started_ms": started_ms}
        write_text(folder / "run.json", json.dumps({**identity, **own}))
        return cls(folder)

    @classmethod
    def open_locked(cls, root: Path, run_id: str | None, identity: Mapping[str, Any]) -> "Spool":
        """Open a spool and keep everybody else out; where the disk is full or fails, in a folder of this machine.

        Raises:
            TrackingError: if the folder cannot be written.
            HeldError: if another process writes this run.
        """
        while True:
            try:
                spool = cls.open(root, run_id, identity)
                if spool.lock.wait():
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
            raise HeldError(
                f"run {run_id}: another process is writing it ({spool.folder}/lock{spool.lock.held_by}); wait "
                "until that job has ended"
            )

    @classmethod
    def all(cls, root: Path, tell: Callable[[str], object] = log.warning) -> "list[Spool]":
        """List the spools of a folder, oldest first; of one that is damaged, tell why it is left out."""
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
        return [spool for _, spool in sorted(found, key=lambda pair: (pair[0], pair[1].identity.spool_id))]

    @property
    def name(self) -> str:
        """The store's name of the run; before the store was reached, that of the spool, which holds as well."""
        return self.identity.run_id or self.identity.spool_id

    def identify(self, **values: Any) -> None:
        """Note what is known of the run now, such as ``run_id``."""
        before, self.identity = self.identity, replace(self.identity, **values)
        if self.identity == before:
            return
        with suppress(OSError):  # a full disk: a run is found by the name of its spool as well
            write_text(self.folder / "run.json", json.dumps(asdict(self.identity)))

    @property
    def is_complete(self) -> bool:
        """True if the store has all that was written so far and has refused nothing; False if it cannot be read."""
        with suppress(TrackingError, OSError):
            return self.journal.is_sent and not self.refused
        return False

    @property
    def lost(self) -> int:
        """Number of records that neither the disk nor the store has taken."""
        return self.outbox.dropped + len(self.outbox) + self._forgotten

    @property
    def refused(self) -> list[Record]:
        """Everything that the store has not taken, as ``{"reason": ..., "record": ...}``.

        Raises:
            TrackingError: if a line is damaged.
        """
        found: list[Record] = []
        with suppress(FileNotFoundError):
            for number, line in enumerate(read_bytes(self._refused).splitlines(), start=1):
                try:
                    found.append(refused_of(line))
                except ValueError as error:
                    raise TrackingError(
                        f"{self._refused}, line {number}: {error}; remove that line"
                    ) from None
        return found

    def refuse(self, record: Record, reason: str) -> None:
        """Keep a record that the store will never take."""
        try:
            with self._refused.open("a") as file:
                file.write(json.dumps({"reason": reason, "record": record}) + "\n")
        except OSError:
            self._forgotten += 1

    def offer_again(self) -> None:
        """Put refused artifacts back into the journal: their place may be there again."""
        refused = self.refused
        again = [entry["record"] for entry in refused if entry["record"]["kind"] == "artifact"]
        if again:
            # The end of the run stays the last thing that is said.
            self.journal.append([*again, end] if (end := self.journal.end) else again)
            rest = [entry for entry in refused if entry["record"]["kind"] != "artifact"]
            write_text(self._refused, "".join(json.dumps(entry) + "\n" for entry in rest))

    def keep_file(self, name: str, write: Callable[[Path], object]) -> str:
        """Have an artifact written where it stays until it is sent, before its record is.

        Args:
            name: of the file.
            write: writes the file, to the path that it is given.

        Returns:
            Its path for the record: in the spool's folder, or absolute, in the machine's folder for temporary files,
            where the disk of the spool does not take it.

        Raises:
            OSError: if neither takes it.
        """
        failure = OSError()
        own = uuid.uuid4().hex
        for folder in (self.folder / "files" / own, Path(tempfile.gettempdir(), f"dist_calo-{own}")):
            try:
                folder.mkdir(mode=0o700, parents=True)
                write(folder / name)
            except OSError as error:
                shutil.rmtree(folder, ignore_errors=True)
                failure = error
            else:
                inside = folder.is_relative_to(self.folder)
                return (folder.relative_to(self.folder) if inside else folder).joinpath(name).as_posix()
        raise failure

    def keep_copy(self, source: Path, name: str) -> str:
        """Keep a file as it is now; a hard link where the file system has them.

        The source may be replaced or deleted afterwards; it must not be written to in place.
        """

        def link(path: Path) -> None:
            try:
                os.link(source, path)
            except OSError:
                shutil.copy2(source, path)

        return self.keep_file(name, link)

    def close(self, *, done: bool) -> None:
        """Delete the folder if nothing will be written or sent any more, otherwise let others have it."""
        if done:
            self.remove()
        else:
            self.lock.release()

    def remove(self) -> None:
        """Delete the folder; that of all spools stays, so that ``dist-calo runs sync`` can always be given it."""
        # First what makes it a spool: nobody else begins on a folder that is half gone.
        (self.folder / "run.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.release()
        # NFS keeps a file that was deleted while open, and the folder with it, until it is closed.
        shutil.rmtree(self.folder, ignore_errors=True)
