"""Sending the records of a spooled run to its tracking store."""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dist_calo.errors import TrackingError
from dist_calo.tracking.provenance import OF_ONE_START
from dist_calo.tracking.records import Record
from dist_calo.tracking.server import address_of, require_listening
from dist_calo.tracking.spool import Spool
from dist_calo.tracking.store import SPOOL_TAG, experiment_id, find_run, one_line, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger("dist_calo.tracking")

POINTS_PER_CALL = 1000
"""Points after which what is sent is confirmed; MLflow takes as many at once."""
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST")
"""Answers that sending again will not change."""
EARLIER = "earlier."
"""Beginning of the name of a tag that holds an earlier attempt's value of another tag."""
LONGEST_TAG = 5000
"""Most characters of a tag that every store takes."""


class Sender:
    """Sender of the records of a spool to its store, in order, each once; also of those that its disk refuses.

    Any error but a refusal means that the store is away: ``send`` raises it, nothing is lost, and the next call
    connects anew. Points at or below the last step that an earlier attempt of the run has recorded are left out, as
    a run resumed from a checkpoint repeats the steps between the checkpoint and its end.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._started_ms = 0
        self._parameters: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._latest: dict[str, int] = {}
        self._floor: dict[str, int] = {}

    def send_all(self) -> None:
        """Send everything that waits."""
        while self.send():
            pass

    def send(self) -> bool:
        """Send up to 1,000 points or one other record; False if nothing waited."""
        records, position = _first_batch(self._spool.journal.unsent())
        if records:
            self._deliver(records)
            self._spool.journal.confirm(position)
            return True
        with self._spool.outbox.offered() as waiting:
            records, count = _first_batch(waiting)
            if records:
                self._deliver(records)
                self._spool.outbox.confirm(count)
        return bool(records)

    def _deliver(self, records: list[Record]) -> None:
        record = records[0]
        try:
            self._client = client = self._client or self._connected()
            match record["kind"]:
                case "metrics" | "system":
                    self._log_points(client, [point for entry in records for point in self._points(entry)])
                case "start":
                    self._log_start(client, record)
                case "artifact":
                    self._log_artifact(client, record)
                case "tags":
                    self._log_tags(client, record["tags"])
                case "end":
                    client.set_terminated(self._run_id, record["status"], end_time=record["time_ms"])
        except Exception:
            self._client = None
            raise

    def _points(self, record: Record) -> "list[Metric]":
        from mlflow.entities import Metric

        time_ms = int(record["time_ms"])
        # The load of the machine has no training step: seconds since the run began increase through all attempts.
        step = int(record["step"]) if "step" in record else (time_ms - self._started_ms) // 1000
        keys = [key for key in record["values"] if step > self._floor.get(key, step - 1)]
        self._latest |= {key: max(step, self._latest.get(key, step)) for key in keys}
        return [Metric(key, record["values"][key], time_ms, step) for key in keys]

    def _log_points(self, client: "MlflowClient", points: "list[Metric]") -> None:
        try:
            client.log_batch(self._run_id, metrics=points)
        except Exception as error:
            if getattr(error, "error_code", None) not in REFUSALS:
                raise
            if len(points) == 1:
                self._refuse({"kind": "point", **dict(points[0])}, error)
            else:
                for point in points:
                    self._log_points(client, [point])

    def _log_start(self, client: "MlflowClient", record: Record) -> None:
        from mlflow.entities import Param

        self._floor = dict(self._latest)
        tags = {key: str(value) for key, value in record["tags"].items()}
        parameters = {key: str(value) for key, value in record["parameters"].items()}
        # MLflow keeps the first value of a parameter for ever; what a resumed run has changed becomes a tag.
        tags |= {
            f"changed.{key}": value
            for key, value in parameters.items()
            if self._parameters.get(key, value) != value or f"changed.{key}" in self._tags
        }
        tags = dict.fromkeys(self._tags.keys() & set(OF_ONE_START), "") | tags
        new = {key: value for key, value in parameters.items() if key not in self._parameters}
        self._parameters |= new
        client.update_run(self._run_id, status="RUNNING")
        client.log_batch(self._run_id, params=[Param(key, value) for key, value in new.items()])
        self._log_tags(client, _overwritten(self._tags, tags) | tags)
        if record["datasets"]:
            client.log_inputs(self._run_id, datasets=_dataset_inputs(record["datasets"]))

    def _log_tags(self, client: "MlflowClient", tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        client.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._tags |= tags

    def _log_artifact(self, client: "MlflowClient", record: Record) -> None:
        file = self._spool.folder / record["file"]
        if not file.exists():  # sent already by a process that was killed before it could confirm that
            return
        try:
            client.log_artifact(self._run_id, str(file), record["folder"])
        except Exception as error:
            # Where artifacts are kept may be away or forbidden while the store answers: points must not wait for it.
            client.get_run(self._run_id)
            self._refuse(record, error)
        else:
            shutil.rmtree(file.parent, ignore_errors=True)  # its own folder

    def _refuse(self, record: Record, error: Exception) -> None:
        uri, name = self._spool.identity.uri, record.get("file", record.get("key"))
        log.warning("not taken by %s: %s (%s)", uri, name, one_line(error))
        self._spool.refuse(record, one_line(error))

    def _connected(self) -> "MlflowClient":
        address = address_of(self._spool.identity.uri)
        require_listening(address)
        client = open_store(address)
        run = self._run(client)
        self._run_id = run.info.run_id
        if not self._run_id:  # something answers that is no tracking server
            raise ConnectionError("its answer names no run")
        self._started_ms = run.info.start_time
        self._parameters = dict(run.data.params)
        self._tags = dict(run.data.tags)
        # The last step of every metric; the public ``run.data.metrics`` has the values only.
        self._latest = {metric.key: metric.step for metric in run.data._metric_objs}
        self._floor = dict(self._latest)
        self._spool.identify(run_id=self._run_id)
        return client

    def _run(self, client: "MlflowClient") -> "Run":
        """Find the run in the store, restored if it was deleted, or make it."""
        known = self._spool.identity
        run = find_run(client, known.run_id) if known.run_id is not None else None
        if run is None:
            if known.run_id is not None:
                log.warning("%s has no run %s: a new run continues it", known.uri, known.run_id)
            # A deleted experiment comes back with its runs.
            experiment = experiment_id(client, known.uri, known.experiment)
            tags = {SPOOL_TAG: known.spool_id}
            run = find_run(client, known.spool_id, experiment) or client.create_run(
                experiment, start_time=known.started_ms, tags=tags, run_name=known.run_name
            )
        if run.info.lifecycle_stage == "deleted":
            client.restore_run(run.info.run_id)
        return run


def _first_batch(waiting: Iterable[tuple[Record, int]]) -> tuple[list[Record], int]:
    """Return the first records that are sent together, points or one of another kind, and the position behind them.

    Args:
        waiting: records, each with the position behind it.

    Raises:
        TrackingError: if the first is damaged.
    """
    taken: list[Record] = []
    points, end = 0, 0
    try:
        for record, position in waiting:
            is_points = record["kind"] in ("metrics", "system")
            points += len(record.get("values", ()))
            if taken and (not is_points or points > POINTS_PER_CALL):
                break
            taken.append(record)
            end = position
            if not is_points:
                break
    except TrackingError:  # first what comes before it
        if not taken:
            raise
    return taken, end


def _overwritten(before: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags of what tags have said so far and now replace: which code, job and host made the first half."""
    kept = {}
    for name, value in tags.items():
        old = before.get(name, value)
        if old != value:
            earlier = [word for word in before.get(EARLIER + name, "").split(" | ") if word not in ("", old)]
            kept[EARLIER + name] = " | ".join([*earlier, *filter(None, [old])])[-LONGEST_TAG:]
    return kept


def _dataset_inputs(datasets: Mapping[str, Mapping[str, Any]]) -> "list[Any]":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for context, values in datasets.items():
        profile = {key: value for key, value in values.items() if key not in ("name", "digest", "source")}
        dataset = Dataset(
            name=str(values["name"])[:500],
            digest=str(values["digest"])[:36],
            source_type="local",
            source=json.dumps({"uri": values["source"]}),
            profile=json.dumps(profile),
        )
        inputs.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)]))
    return inputs
