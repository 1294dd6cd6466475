"""Spooled records of MLflow runs: ``dist-calo runs`` lists what waits to be sent, and sends it."""

from contextlib import suppress
from pathlib import Path

from dist_calo.errors import EXIT_FAILURE, TrackingError
from dist_calo.tracking.sender import Sender
from dist_calo.tracking.spool import Spool
from dist_calo.tracking.store import complaint
from dist_calo.tracking.store_uri import checked_uri

SILENT_AFTER_S = 300.0
"""Time without a sign of life after which a run of another machine counts as killed, in seconds."""


def list_spools(root: Path) -> int:
    """Print what waits in each spool of a folder and return the exit code.

    Raises:
        TrackingError: if spools are damaged.
    """
    damaged: list[str] = []
    spools = Spool.all(root.absolute(), damaged.append)
    for spool in spools:
        try:
            records = [record for record, _ in spool.journal.unsent()]
            state = _state(spool)
            refused = f", {len(spool.refused)} refused" if spool.refused else ""
            size_mb = _size(spool.folder) / 1e6
        except FileNotFoundError:  # its job has just sent the last of it
            continue
        except PermissionError:
            print(f"{spool.name}  another user's")
            continue
        except (TrackingError, OSError) as error:
            damaged.append(str(error))
            continue
        points = sum(len(record.get("values", ())) for record in records)
        files = sum(record["kind"] == "artifact" for record in records)
        waiting = f"{points} points and {files} files wait{refused}, {size_mb:.1f} MB"
        print(f"{spool.name}  {state}: {waiting}, for {spool.identity.uri}")
    _end(root, spools, damaged)
    return 0


def _state(spool: Spool) -> str:
    if spool.journal.end:
        return "ended"
    return "running" if spool.lock.is_busy(SILENT_AFTER_S) else "killed"


def _end(root: Path, spools: list[Spool], damaged: list[str]) -> None:
    """Print a line if there was nothing to do.

    Raises:
        TrackingError: if spools are damaged.
    """
    if damaged:
        raise TrackingError("; ".join(damaged))
    if not spools:
        print(f"nothing to send in {root}")


def send_spools(root: Path, uri: str | None) -> int:
    """Send all spools of a folder and return the exit code: 0 if every store has everything, else 1.

    Args:
        root: folder of the spools.
        uri: another store than those that the runs were meant for.

    Raises:
        TrackingError: if spools are damaged, or the URI names no possible store.
    """
    store = None if uri is None else checked_uri(uri)
    damaged: list[str] = []
    spools = Spool.all(root.absolute(), damaged.append)
    complete = True
    for spool in spools:
        try:
            complete &= _send(spool, store)
        except PermissionError as error:
            print(f"run {spool.name}: {error.strerror}: {error.filename}; its user must send it")
            complete = False
        except (TrackingError, OSError) as error:
            if isinstance(error, FileNotFoundError) and not spool.folder.exists():
                print(f"run {spool.name}: its job has sent it")
            else:
                damaged.append(str(error))
            spool.lock.release()
    _end(root, spools, damaged)
    return 0 if complete else EXIT_FAILURE


def _send(spool: Spool, store: str | None) -> bool:
    """Send one spool, print the result, and return whether its store has everything recorded so far."""
    journal, uri = spool.journal, store or spool.identity.uri
    running = not spool.lock.acquire(SILENT_AFTER_S)
    if running and uri != (records_to := spool.identity.uri):
        print(
            f"run {spool.name}: its job is still running and records to {records_to}; name another store later"
        )
        return False
    if not running:
        spool.identify(uri=uri)
        if not journal.end:
            # The job that wrote this spool was killed: nobody else will say that the run has ended.
            ended_ms = journal.written_ms or spool.identity.started_ms
            spool.outbox.put({"kind": "end", "time_ms": ended_ms, "status": "KILLED"})
            spool.outbox.flush()
        with suppress(OSError):  # a full disk, which what is sent will free
            spool.offer_again()
        # A job that continues the run must not find it locked while a long record is sent.
        spool.lock.release()
    note = "; its job is still running" if running else ""
    waiting = journal.backlog()
    with journal.sending() as alone:
        if not alone:
            print(f"run {spool.name}: another process is sending it")
            return False
        try:
            Sender(spool).send_all()
        except TrackingError:
            raise
        except Exception as error:
            print(f"run {spool.name}: {journal.backlog()} records wait: {uri} {complaint(error)}{note}")
            return False
    refused = spool.refused
    for entry in refused:
        print(f"run {spool.name}: {uri} does not take {entry['record']}: {entry['reason']}")
    print(f"run {spool.name}: {waiting - len(refused)} records sent to {uri}{note}")
    if not running and not refused and spool.lock.acquire(SILENT_AFTER_S):
        # It may have been continued meanwhile.
        spool.close(done=bool(journal.end) and journal.is_sent)
    return not refused


def _size(folder: Path) -> int:
    """Return the bytes on disk, artifacts included."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # sent meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total
