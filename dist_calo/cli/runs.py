"""``dist-calo runs``: what training could not send to the tracking store: list it, send it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.config import TrackingConfig
from dist_calo.errors import EXIT_FAILURE, TrackingError
from dist_calo.masking import hidden

if TYPE_CHECKING:
    from dist_calo.tracking.spool import Spool

SILENT_AFTER_S = 300.0
"""Time without a sign of life after which a run of another machine counts as killed, in seconds."""


def main(arguments: Sequence[str]) -> int:
    """List or send the spooled runs of a folder.

    Returns:
        0 if every store has everything, or the runs were listed, 1 if something is left.

    Raises:
        TrackingError: if there is no such folder, or the URI names no possible store.
    """
    import argparse

    default = {field.name: field.default for field in fields(TrackingConfig)}
    parser = argparse.ArgumentParser(
        prog="dist-calo runs", description="What runs have recorded and MLflow does not have yet."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    sync = commands.add_parser("sync", help="send what a tracking store that was away has missed")
    sync.add_argument(
        "--tracking.uri", dest="uri", type=hidden, help="another store than the one the run was meant for"
    )
    listing = commands.add_parser("list", help="show what waits to be sent")
    for command in (sync, listing):
        command.add_argument(
            "--spool", default=default["spool"], help="folder of the spools (default: %(default)s)"
        )
    given = parser.parse_args(list(arguments))
    root = Path(given.spool)
    if root.is_dir():
        return _sync(root, given.uri) if given.command == "sync" else _list(root)
    if root == Path(str(TrackingConfig.spool)):
        print(f"nothing to send: there is no folder {root} here")
        return 0
    raise TrackingError(f"--spool {root}: there is no such folder; name the tracking.spool of the runs")


def _list(root: Path) -> int:
    from dist_calo.tracking.spool import Spool

    damaged: list[str] = []
    spools = Spool.all(root.absolute(), damaged.append)
    for spool in spools:
        try:
            records = [record for record, _ in spool.unsent()]
            state = "ended" if spool.has_ended else "running" if spool.is_busy(SILENT_AFTER_S) else "killed"
            refused = f", {len(spool.refused)} refused" if spool.refused else ""
            size_mb = _size(spool.folder) / 1e6
        except FileNotFoundError:  # its job has just sent the last of it
            continue
        except PermissionError:
            print(f"{_name(spool)}  another user's")
            continue
        except (TrackingError, OSError) as error:
            damaged.append(str(error))
            continue
        points = sum(len(record.get("values", ())) for record in records)
        files = sum(record["kind"] == "artifact" for record in records)
        waiting = f"{points} points and {files} files wait{refused}, {size_mb:.1f} MB"
        print(f"{_name(spool)}  {state}: {waiting}, for {spool.uri}")
    _end(root, spools, damaged)
    return 0


def _end(root: Path, spools: "list[Spool]", damaged: list[str]) -> None:
    """Say it if there was nothing to do.

    Raises:
        TrackingError: if spools are damaged.
    """
    if damaged:
        raise TrackingError("; ".join(damaged))
    if not spools:
        print(f"nothing to send in {root}")


def _sync(root: Path, uri: str | None) -> int:
    from dist_calo.tracking.spool import Spool
    from dist_calo.tracking.store_uri import checked_uri

    store = None if uri is None else checked_uri(uri)
    damaged: list[str] = []
    spools = Spool.all(root.absolute(), damaged.append)
    complete = True
    for spool in spools:
        try:
            complete &= _sync_run(spool, store)
        except PermissionError as error:
            print(f"run {_name(spool)}: {error.strerror}: {error.filename}; its user must send it")
            complete = False
        except (TrackingError, OSError) as error:
            if isinstance(error, FileNotFoundError) and not spool.folder.exists():
                print(f"run {_name(spool)}: its job has sent it")
            else:
                damaged.append(str(error))
            spool.unlock()
    _end(root, spools, damaged)
    return 0 if complete else EXIT_FAILURE


def _sync_run(spool: "Spool", store: str | None) -> bool:
    """Send one spool, say how it went, and tell whether its store has everything that was recorded so far."""
    from dist_calo.tracking.store import Sender, complaint
    from dist_calo.tracking.unkept import Unkept

    unkept = Unkept(spool)
    running = not spool.lock(SILENT_AFTER_S)
    if running and store not in (None, spool.uri):
        print(
            f"run {_name(spool)}: its job is still running and records to {spool.uri}; name another store later"
        )
        return False
    if not running:
        if store is not None and store != spool.uri:
            spool.identify(uri=store)
        if spool.is_locked and not spool.has_ended:
            # The job that wrote this spool was killed: nobody else will say that the run has ended.
            unkept.records.append({"kind": "end", "time_ms": spool.written_ms, "status": "KILLED"})
            unkept.keep()
        with suppress(OSError):  # a full disk, which what is sent will free
            spool.offer_again()
        # A job that continues the run must not find it locked while a long record is sent.
        spool.unlock()
    note = "; its job is still running" if running else ""
    waiting = spool.backlog()
    with spool.sending() as alone:
        if not alone:
            print(f"run {_name(spool)}: another process is sending it")
            return False
        try:
            sender = Sender(spool, unkept)
            while sender.send():
                pass
        except TrackingError:
            raise
        except Exception as error:
            print(f"run {_name(spool)}: {spool.backlog()} records wait: {spool.uri} {complaint(error)}{note}")
            return False
    refused = spool.refused
    for entry in refused:
        print(f"run {_name(spool)}: {spool.uri} does not take {entry['record']}: {entry['reason']}")
    print(f"run {_name(spool)}: {waiting - len(refused)} records sent to {spool.uri}{note}")
    if not running and not refused and spool.lock(SILENT_AFTER_S):
        # It may have been continued meanwhile.
        if spool.has_ended and spool.is_sent:
            spool.remove()
        else:
            spool.unlock()
    return not refused


def _size(folder: Path) -> int:
    """Bytes on disk, artifacts included."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # sent meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def _name(spool: "Spool") -> str:
    return spool.run_id or spool.spool_id
