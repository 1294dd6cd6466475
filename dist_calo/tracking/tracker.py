"""The record of a run in MLflow, kept by rank 0 without ever holding up training.

The training thread puts what it has to say into a queue. One thread writes the queue to the run's spool on disk
(`dist_calo.tracking.spool`), another sends the spool to the tracking store (`dist_calo.tracking.store`), a third draws
pictures (`dist_calo.tracking.pictures`), for which nothing else waits. A store that is away costs neither a step nor
a point: the spool is sent when the store answers again, by this job, by the job that resumes it, or by
``dist-calo runs sync``. A job killed at any instant loses what it said in about its last second. What the spool's disk
does not take waits in memory (`dist_calo.tracking.unkept`) and is sent directly. A run never ends for its record.
"""

import json
import logging
import queue
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from dist_calo.config import TrackingConfig
from dist_calo.launching.environment import batch_job
from dist_calo.tracking.pictures import Artist, Drawable
from dist_calo.tracking.records import Record
from dist_calo.tracking.spool import Spool
from dist_calo.tracking.store import Sender, complaint, now_ms, one_line
from dist_calo.tracking.store_uri import checked_uri
from dist_calo.tracking.system_load import SystemLoad
from dist_calo.tracking.unkept import Unkept, keep_copy, keep_file

log = logging.getLogger("dist_calo.tracking")

WRITE_EVERY_S = 0.5
SEND_EVERY_S = 1.0
LONGEST_WAIT_S = 60.0
"""Longest pause between two tries to reach a store that is away, in seconds."""
QUEUE_LENGTH = 100_000
"""Records held in memory while the disk takes none; what comes after is dropped and counted."""
DRAWING_SHARE = 0.75
"""Part of the time at a run's end for its last pictures; what is drawn is sent meanwhile and in the rest."""

Status = Literal["FINISHED", "FAILED", "KILLED"]
Drawing: TypeAlias = "Path | str | Drawable"
Entry = Record | threading.Event
"""What the queue holds: a record, or what is set when all records before it are on disk."""


class Tracker:
    """Records one run; made on rank 0 only.

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
        if self._spool.uri != uri:
            self._spool.identify(uri=uri)
        self._queue: queue.Queue[Entry] = queue.Queue(QUEUE_LENGTH)
        self._dropped = 0
        self._ending = threading.Event()
        self._complete = threading.Event()
        self._written = threading.Event()
        self._stopped = threading.Event()
        self._writer = self._thread("writer", self._write)
        self._sender = self._thread("sender", self._send)
        self._unkept = Unkept(self._spool)
        self._end: Record | None = None
        self._artist = Artist(partial(keep_file, self._spool), self._put_file)
        self._wake = threading.Event()
        self._away = False

    @property
    def run_id(self) -> str:
        """The store's name of the run; before the store answered a name that resumes the run as well."""
        return self._spool.run_id or self._spool.spool_id

    def named_run_id(self, timeout_s: float = 15.0) -> str:
        """``run_id``, after a moment for the store to name the run; at once if it is known not to answer."""
        deadline = time.monotonic() + timeout_s
        while self._spool.run_id is None and not self._away and time.monotonic() < deadline:
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
        self._put({"kind": "start", "time_ms": now_ms(), **record})
        self._writer.start()
        self._sender.start()
        self._artist.start()
        return self.run_id

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a training step. Steps that the run recorded before it was resumed count once."""
        plain = {key: float(value) for key, value in values.items()}
        self._put({"kind": "metrics", "time_ms": now_ms(), "step": int(step), "values": plain})

    def figure(self, drawing: Drawing, name: str, step: int | None = None) -> None:
        """Record a picture.

        Args:
            drawing: an image file, a matplotlib figure, or a function that draws one. Figures are drawn and rendered
                on another thread and must not be touched afterwards.
            name: path within the run, such as ``pictures/profiles.png``; without a suffix ``_step000200.png`` is added.
            step: the training step.
        """
        if not Path(name).suffix:
            name += ".png" if step is None else f"_step{step:06d}.png"
        if isinstance(drawing, str | Path):
            self._record(name, lambda kept: keep_copy(self._spool, Path(drawing), kept))
        else:
            self._artist.add(drawing, name)

    def artifact(self, path: Path | str, folder: str = "") -> None:
        """Record a file, or every file of a folder, under this folder of the run. The file may be deleted afterwards,
        but not written to in place."""
        path = Path(path)
        files = [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())
        for file in files:
            inside = file.relative_to(path).parent if path.is_dir() else Path()
            self._record(
                (Path(folder) / inside / file.name).as_posix(), partial(keep_copy, self._spool, file)
            )

    def checkpoint(self, path: Path | str) -> None:
        """Record a checkpoint, and the readable file beside it, if the configuration asks for it."""
        if self._config.log_checkpoints:
            for file in (Path(path), Path(path).with_suffix(".json")):
                if file.is_file():
                    self.artifact(file, "checkpoints")

    def text(self, text: str, name: str) -> None:
        """Record a text under this path of the run."""
        self._record(
            name, lambda file: keep_file(self._spool, file, lambda path: path.write_text(text, "utf-8"))
        )

    def json(self, values: Mapping[str, Any], name: str) -> None:
        """Record plain values as JSON under this path of the run."""
        self.text(json.dumps(values, indent=2, default=str) + "\n", name)

    def model(self, path: Path | str, description: Mapping[str, Any]) -> None:
        """Record the final generator: its file and what it is, under ``model/``."""
        self.artifact(path, "model")
        self.json({**description, "file": Path(path).name}, "model/model.json")

    def secure(self, timeout_s: float = 10.0) -> None:
        """Wait until all metrics recorded so far are on disk: what a checkpoint has behind it is never said again."""
        if self._writer.is_alive():
            done = threading.Event()
            self._put(done)
            self._wake.set()
            done.wait(timeout_s)

    def finish(self, status: Status, timeout_s: float = 60.0) -> bool:
        """End the run: write everything to disk, then draw its last pictures and send what the store takes.

        Pictures that are not drawn in time are lost, and named in one line.

        Args:
            status: how training ended.
            timeout_s: longest time for this call, in seconds.

        Returns:
            Whether the store has everything; otherwise the spool keeps the rest.
        """
        if self._writer.ident is None:
            self._spool.remove()
            return True
        deadline = time.monotonic() + timeout_s
        self._ending.set()
        self._put({"kind": "end", "time_ms": now_ms(), "status": status}, timeout_s)
        self._wake.set()
        self._artist.close(DRAWING_SHARE * max(0.0, deadline - time.monotonic()))
        self._complete.set()
        self._wake.set()
        self._writer.join(max(0.0, deadline - time.monotonic()))
        self._sender.join(max(0.0, deadline - time.monotonic()))
        self._stopped.set()
        if self._writer.is_alive():  # and may write at any moment, so the spool stays locked
            log.error(
                "the spool %s takes nothing: the last records of run %s are lost if this process ends first",
                self._spool.folder,
                self.run_id,
            )
            return False
        self._take()  # what a writer left that has ended, or the disk took not then
        lost = self._dropped + self._queue.qsize() + len(self._unkept.records) + self._spool.lost
        if lost:
            log.error(
                "%d records of run %s were lost: neither the spool %s nor %s took them in time",
                lost,
                self.run_id,
                self._spool.folder,
                self._spool.uri,
            )
        try:
            return self._close(lost) and not lost
        except OSError as error:
            log.error("the spool %s cannot be closed: %s", self._spool.folder, one_line(error))
            return False

    def _close(self, lost: int) -> bool:
        """Let others have the spool, or remove it if the store has everything; whether it has."""
        if self._sender.is_alive():
            log.warning("the end of run %s is not recorded yet; %s", self.run_id, self._later())
            self._spool.unlock()
            return False
        if self._spool.is_complete:
            if self._unkept.has_failed and not lost:
                log.warning("the spool %s took nothing for a time; nothing was lost", self._spool.folder)
            self._spool.remove()
            return True
        log.warning("run %s is not complete in %s; %s", self.run_id, self._spool.uri, self._later())
        self._spool.unlock()
        return False

    def _later(self) -> str:
        root = shlex.quote(str(self._spool.folder.parent))
        return f"the rest is kept: dist-calo runs sync --spool {root}"

    def _put(self, entry: Entry, timeout_s: float = 0.0) -> None:
        try:
            self._queue.put(entry, timeout_s > 0, timeout_s)
        except queue.Full:
            self._dropped += 1

    def _record(self, name: str, keep: Callable[[str], str]) -> None:
        try:
            kept = keep(Path(name).name)
        except OSError as error:
            log.warning("%s is not recorded: %s", name, one_line(error))
        else:
            self._put_file(kept, name)

    def _put_file(self, file: str, name: str) -> None:
        folder = Path(name).parent.as_posix()
        self._put({"kind": "artifact", "file": file, "folder": None if folder == "." else folder})

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """A thread of the tracker, whose end is not passed over in silence if it is an error."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                log.error("the %s of the record of run %s has ended: %s", name, self.run_id, one_line(error))
                if name == "writer":
                    self._written.set()

        return threading.Thread(target=run, name=f"tracking-{name}", daemon=True)

    def _write(self) -> None:
        """The writer's thread: from the queue to the disk."""
        while True:
            self._wake.wait(WRITE_EVERY_S)
            self._wake.clear()
            with suppress(Exception):
                self._spool.beat()
            last = self._complete.is_set()
            self._take()
            if last:
                self._written.set()
                return

    def _take(self) -> None:
        """Bring everything that was said to the disk."""
        asked: list[threading.Event] = []
        with suppress(queue.Empty):
            while len(self._unkept.records) < QUEUE_LENGTH:
                entry = self._queue.get_nowait()
                if isinstance(entry, threading.Event):
                    asked.append(entry)
                    continue
                self._unkept.records.append(entry)
                if entry["kind"] == "end":
                    self._end = entry
        records = self._unkept.records
        if self._end and records[-1:] not in ([], [self._end]):
            # The end is on disk before the last pictures are drawn, and stays the last thing that is said.
            records.append(self._end)
        self._unkept.keep()
        for event in asked:
            event.set()

    def _send(self) -> None:
        """The sender's thread: from the disk to the store, and the machine's load into the queue."""
        sender = Sender(self._spool, self._unkept)
        load = None
        with suppress(Exception):  # no record is worth less than that of the machine's load
            load = SystemLoad() if self._config.system_metrics else None
        wait_s, next_try = 0.0, 0.0
        last = False
        while not last:
            last = self._written.wait(SEND_EVERY_S)
            if load and not self._ending.is_set() and load.is_due():
                self._put({"kind": "system", "time_ms": now_ms(), "values": load.sample()})
            if not last and time.monotonic() < next_try:
                continue
            try:
                if last and self._spool.refused and not self._stopped.is_set():
                    with suppress(OSError):  # a full disk
                        self._spool.offer_again()
                with self._spool.sending() as alone:  # or `dist-calo runs sync` sends it just now
                    while alone and not self._stopped.is_set() and sender.send():
                        pass
            except Exception as error:
                wait_s = min(LONGEST_WAIT_S, max(1.0, 2 * wait_s))
                next_try = time.monotonic() + wait_s
                self._tell(complaint(error))
            else:
                wait_s = 0.0
                if alone:
                    self._tell(None)

    def _tell(self, failure: str | None) -> None:
        """Say once that the store went away, and once that it came back."""
        if failure and not self._away:
            log.warning(
                "%s %s; training goes on, the record is kept in %s",
                self._spool.uri,
                failure,
                self._spool.folder if self._unkept.failure is None else "memory alone",
            )
        if self._away and not failure:
            log.warning("%s answers again; it has the whole record", self._spool.uri)
        self._away = failure is not None


class NullTracker:
    """Records nothing: for ranks other than 0, and for ``tracking.uri=none``."""

    run_id: str | None = None

    def finish(self, status: Status, timeout_s: float = 60.0) -> bool:
        """Say that nothing is left to send."""
        return True

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Any other method of a `Tracker`: does nothing."""
        return lambda *_, **__: None


def make_tracker(
    config: TrackingConfig, run_id: str | None = None, *, rank: int = 0, folder: str | None = None
) -> Tracker | NullTracker:
    """The tracker of a rank: exactly one rank of a job records it.

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
