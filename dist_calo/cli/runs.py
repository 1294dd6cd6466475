"""List or send what training could not send to the tracking store: ``dist-calo runs list|sync``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dist_calo.cli.command_line import add_store_option
from dist_calo.config import TrackingConfig
from dist_calo.errors import TrackingError


def main(arguments: Sequence[str]) -> int:
    """List or send the spooled runs of a folder.

    Returns:
        0 if every store has everything, or the runs were listed, 1 if something is left.

    Raises:
        TrackingError: if there is no such folder, or the URI names no possible store.
    """
    given = _parser().parse_args(list(arguments))
    root = Path(given.spool)
    if root.is_dir():
        from dist_calo.tracking.sync import list_spools, send_spools

        return send_spools(root, given.tracking_uri) if given.command == "sync" else list_spools(root)
    if root == Path(str(TrackingConfig.spool)):
        print(f"nothing to send: there is no folder {root} here")
        return 0
    raise TrackingError(f"--spool {root}: there is no such folder; name the tracking.spool of the runs")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dist-calo runs", description="What runs have recorded and MLflow does not have yet."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    sync = commands.add_parser("sync", help="send what a tracking store that was away has missed")
    add_store_option(sync, "another store than the one the run was meant for")
    listing = commands.add_parser("list", help="show what waits to be sent")
    for command in (sync, listing):
        command.add_argument(
            "--spool", default=TrackingConfig.spool, help="folder of the spools (default: %(default)s)"
        )
    return parser
