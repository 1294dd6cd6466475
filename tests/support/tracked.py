"""Runs recorded in MLflow by tests: a store, a configuration, a few metrics."""

import threading
from pathlib import Path

from matplotlib.figure import Figure

from dist_calo.cli import runs
from dist_calo.config import TrackingConfig
from dist_calo.tracking.spool import Spool

PNG = b"\x89PNG"


def make_config(uri, folder, experiment, **settings):
    return TrackingConfig(
        uri=uri, experiment=experiment, spool=str(folder / "spool"), **{"system_metrics": False, **settings}
    )


def drawing():
    figure = Figure()
    figure.subplots().plot([1.0, 2.0, 3.0], [1.0, 4.0, 9.0])
    return figure


def losses(first, last):
    """The points of a metric in the steps of a range, ends included."""
    return [(step, step / 8) for step in range(first, last + 1)]


def log_losses(tracker, first, last):
    for step, value in losses(first, last):
        tracker.metrics({"loss": value}, step)


def sync(config, *arguments):
    return runs.main(["sync", "--spool", config.spool, *arguments])


def spooled(config):
    (spool,) = spools(config)
    return [record for record, _ in spool.journal.unsent()]


def spools(config):
    return Spool.all(Path(config.spool))


def join_threads():
    """Let the threads of a tracker that gave up waiting come to their end."""
    for thread in threading.enumerate():
        if thread.name.startswith("tracking-"):
            thread.join(60)
            assert not thread.is_alive()
