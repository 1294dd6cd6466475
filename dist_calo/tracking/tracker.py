"""The record of a run in MLflow, kept by rank 0 without ever holding up training.

The training thread only puts what it has to say into memory. Other threads take it to the run's spool on disk, send it
from there (`dist_calo.tracking.delivery`) and draw pictures (`dist_calo.tracking.pictures`), for which nothing else
waits. A store that is away costs neither a step nor a point: the spool is sent when the store answers again, by this
job, by the job that resumes it, or by ``dist-calo runs sync``. A job killed at any instant loses what it said in about
its last second. A run never ends for its record.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dist_calo.config import TrackingConfig
from dist_calo.launching.slurm import batch_job
from dist_calo.tracking.delivery import Delivery
from dist_calo.tracking.pictures import Artist, Drawing
from dist_calo.tracking.records import now_ms
from dist_calo.tracking.spool import Spool
from dist_calo.tracking.store import one_line
from dist_calo.tracking.store_uri import checked_uri

log = logging.getLogger("dist_calo.tracking")

DRAWING_SHARE = 0.75
"""Part of the time at a run's end for its last pictures; what is drawn is sent meanwhile and in the rest."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """Recorder of one run; made on rank 0 only.

    Args:
        config: where to record.
        run_id: the run to continue, as an earlier tracker's ``run_id`` gave it; None for a new run.
        job: what this training has in common with earlier attempts of the same batch job, of which it continues the
            run where ``run_id`` is None, as no checkpoint names it; None where there can be none.

    Raises:
        TrackingError: if no store can have the URI, the spool cannot be written, or another process writes this run.
    """

    def __init__(self, config: TrackingConfig, run_id: str | None = None, job: str | None = None) -> None:
        uri = checked_uri(config.uri)
        self._config = config
        identity = {"uri": uri, "experiment": config.experiment, "run_name": config.run_name, "job": job}
        self._spool = Spool.open_locked(Path(config.spool).absolute(), run_id, identity)
        self._spool.identify(uri=uri)
        self._delivery = Delivery(self._spool, config.system_metrics)
        self._artist = Artist(self._spool.keep_file, self._put_file)

    @property
    def run_id(self) -> str:
        """The store's name of the run; before the store answered, a name that resumes the run as well."""
        return self._spool.name

    def named_run_id(self, timeout_s: float = 15.0) -> str:
        """Return ``run_id`` after a moment for the store to name the run; at once if it is known not to answer."""
        deadline_s = time.monotonic() + timeout_s
        while not (self._spool.identity.run_id or self._delivery.is_away or time.monotonic() > deadline_s):
            time.sleep(0.05)
        return self.run_id

    def start(
        self,
        parameters: Mapping[str, Any],
        tags: Mapping[str, Any] | None = None,
        datasets: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> str:
        """Open the run, or set it to running again; returns at once, whether or not the store answers.

        Args:
            parameters: dotted names and values of the configuration.
            tags: facts about the job, such as `dist_calo.tracking.provenance.describe_run` collects.
            datasets: for each use ("training", ...) the ``name``, ``digest`` and ``source`` of a data set, and
                anything else worth keeping with it, as plain values.

        Returns:
            ``run_id``.
        """
        record = {"parameters": dict(parameters), "tags": dict(tags or {}), "datasets": dict(datasets or {})}
        self._put("start", time_ms=now_ms(), **record)
        self._delivery.start()
        self._artist.start()
        return self.run_id

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a training step. Steps that the run recorded before it was resumed count once."""
        plain = {key: float(value) for key, value in values.items()}
        self._put("metrics", time_ms=now_ms(), step=int(step), values=plain)

    def figure(self, drawing: Drawing, name: str, step: int | None = None) -> None:
        """Record a picture.

        Args:
            drawing: a matplotlib figure, or a function that draws one, both used on another thread: neither must be
                touched afterwards.
            name: path within the run, such as ``pictures/profiles.png``; without a suffix ``_step000200.png`` is added.
            step: the training step.
        """
        if not Path(name).suffix:
            name += ".png" if step is None else f"_step{step:06d}.png"
        self._artist.add(drawing, name)

    def artifact(self, path: Path | str, folder: str = "") -> None:
        """Record a file, or every file of a folder, under this folder of the run. The file may be deleted afterwards,
        but not written to in place."""
        path = Path(path)
        files = [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())
        for file in files:
            inside = file.relative_to(path).parent if path.is_dir() else Path()
            name = (Path(folder) / inside / file.name).as_posix()
            self._record(name, partial(self._spool.keep_copy, file))

    def checkpoint(self, path: Path | str) -> None:
        """Record a checkpoint, and the readable file beside it, if the configuration asks for it."""
        if self._config.log_checkpoints:
            for file in (Path(path), Path(path).with_suffix(".json")):
                if file.is_file():
                    self.artifact(file, "checkpoints")

    def text(self, text: str, name: str) -> None:
        """Record a text under this path of the run."""
        self._record(
            name, lambda file: self._spool.keep_file(file, lambda path: path.write_text(text, "utf-8"))
        )

    def model(self, path: Path | str, description: Mapping[str, Any]) -> None:
        """Record the final generator: its file and what it is, under ``model/``."""
        self.artifact(path, "model")
        facts = {**description, "file": Path(path).name}
        self.text(json.dumps(facts, indent=2, default=str) + "\n", "model/model.json")

    def secure(self, timeout_s: float = 10.0) -> None:
        """Wait until all metrics recorded so far are on disk: what a checkpoint has behind it is never said again."""
        self._delivery.secure(timeout_s)

    def finish(self, status: Status, timeout_s: float = 60.0) -> bool:
        """End the run: write everything to disk, then draw its last pictures and send what the store takes.

        Pictures that are not drawn in time are lost, and named in one line.

        Args:
            status: how training ended.
            timeout_s: longest time for this call, in seconds.

        Returns:
            Whether the store has everything; otherwise the spool keeps the rest.
        """
        if not self._delivery.has_started:
            self._spool.remove()
            return True
        deadline_s = time.monotonic() + timeout_s
        self._put("end", time_ms=now_ms(), status=status)
        self._delivery.secure(timeout_s=0.0)
        self._artist.close(DRAWING_SHARE * timeout_s)
        return self._delivery.finish(deadline_s)

    def _put(self, kind: str, **values: Any) -> None:
        self._spool.outbox.put({"kind": kind, **values})

    def _record(self, name: str, keep: Callable[[str], str]) -> None:
        try:
            kept = keep(Path(name).name)
        except OSError as error:
            log.warning("%s is not recorded: %s", name, one_line(error))
        else:
            self._put_file(kept, name)

    def _put_file(self, file: str, name: str) -> None:
        folder = Path(name).parent.as_posix()
        self._put("artifact", file=file, folder=None if folder == "." else folder)


class NullTracker:
    """Recorder of nothing: for ranks other than 0, and for ``tracking.uri=none``."""

    run_id: str | None = None

    def finish(self, status: Status, timeout_s: float = 60.0) -> bool:
        """Say that nothing is left to send."""
        return True

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Return any other method of a `Tracker`, which does nothing."""
        return lambda *_, **__: None


def make_tracker(
    config: TrackingConfig, run_id: str | None = None, *, rank: int = 0, folder: str | None = None
) -> Tracker | NullTracker:
    """Make the tracker of a rank: exactly one rank of a job records it.

    Args:
        config: where to record.
        run_id: the run to continue, None for a new one.
        rank: of this process.
        folder: where the training keeps its checkpoints. A batch job that is started again before it wrote one
            continues the run of its first attempt.

    Raises:
        TrackingError: on rank 0, if the configuration names no possible store or spool.
    """
    if rank != 0 or config.uri == "none":
        return NullTracker()
    job = f"{batch_job()} {Path(folder).absolute()}" if batch_job() != "-" and folder else None
    return Tracker(config, run_id, job)
