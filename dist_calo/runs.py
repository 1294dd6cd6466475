"""``dist-calo runs``: send what training could not send to the tracking store."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.config import TrackingConfig
from dist_calo.errors import EXIT_FAILURE, TrackingError

if TYPE_CHECKING:
    from dist_calo.training.spool import Spool


def main(arguments: Sequence[str]) -> int:
    """Send the spooled runs of a folder.

    Returns:
        0 if every store has everything, 1 if something is left.

    Raises:
        TrackingError: if there is no such folder, or the URI names no possible store.
    """
    import argparse

    default = {field.name: field.default for field in fields(TrackingConfig)}
    parser = argparse.ArgumentParser(prog="dist-calo runs", description="Runs recorded in MLflow.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sync = commands.add_parser("sync", help="send what a tracking store that was away has missed")
    sync.add_argument("--spool", default=default["spool"], help="folder of the spools (default: %(default)s)")
    sync.add_argument("--tracking.uri", dest="uri", help="another store than the one the run was meant for")
    given = parser.parse_args(list(arguments))
    return _sync(Path(given.spool), given.uri)


def _sync(root: Path, uri: str | None) -> int:
    from dist_calo.training.spool import Spool
    from dist_calo.training.store_uri import checked_uri

    if not root.is_dir():
        if root == Path(str(TrackingConfig.spool)):
            print(f"nothing to send: there is no folder {root} here")
            return 0
        raise TrackingError(f"--spool {root}: there is no such folder; name the tracking.spool of the runs")
    store = None if uri is None else checked_uri(uri)
    spools = Spool.all(root.absolute())
    if not spools:
        print(f"nothing to send in {root}")
    complete = [_sync_run(spool, store) for spool in spools]
    return 0 if all(complete) else EXIT_FAILURE


def _sync_run(spool: "Spool", store: str | None) -> bool:
    """Send one spool, say how it went, and tell whether its store has everything."""
    from dist_calo.training.store import Sender, one_line

    name = spool.run_id or spool.spool_id
    if not spool.lock():
        print(f"run {name}: its job is still running and sends by itself")
        return True
    if store is not None and store != spool.uri:
        spool.identify(uri=store)
    if spool.is_locked and not spool.has_ended:
        # The job that wrote this spool was killed: nobody else will say that the run has ended.
        spool.append([{"kind": "end", "time_ms": spool.written_ms, "status": "KILLED"}])
    waiting = spool.backlog()
    sender = Sender(spool)
    try:
        spool.offer_again()
        while sender.send():
            pass
    except Exception as error:
        print(f"run {name}: {spool.backlog()} records wait: {spool.uri} does not answer ({one_line(error)})")
        spool.unlock()
        return False
    for entry in spool.refused:
        print(f"run {spool.run_id}: {spool.uri} does not take {entry['record']}: {entry['reason']}")
    print(f"run {spool.run_id}: {waiting - len(spool.refused)} records sent to {spool.uri}")
    if spool.refused or not spool.has_ended:
        spool.unlock()
        return not spool.refused
    spool.remove()
    return True
