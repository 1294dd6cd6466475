"""Sending a spooled run to MLflow: the only module that talks to a tracking store."""

import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_calo.errors import TrackingError
from dist_calo.masking import mask
from dist_calo.tracking.provenance import OF_ONE_START
from dist_calo.tracking.records import Record, first_batch
from dist_calo.tracking.server import address_of, denial, require_listening
from dist_calo.tracking.spool import SPOOL_PREFIX, Spool
from dist_calo.tracking.store_uri import checked_uri, sqlite_file, sqlite_uri
from dist_calo.tracking.unkept import Unkept

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger("dist_calo.tracking")

SPOOL_TAG = "dist_calo.spool_id"
POINTS_PER_CALL = 1000
"""Most metric points that MLflow takes at once."""
PAIRS_PER_CALL = 100
"""Most parameters or tags that MLflow takes at once."""
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST")
"""Answers that sending again will not change."""
EARLIER = "earlier."
"""Begins the name of a tag with what another tag has said in earlier attempts of the run."""
LONGEST_TAG = 5000
"""Most characters of a tag that every store takes."""
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages show runs with their metric charts, not as evaluations of language models."""
MLFLOW_SETTINGS = {
    # A store that hangs must not hold the sender for MLflow's default of 120 s and 7 retries: the spool retries.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


def quiet_mlflow() -> None:
    """Import MLflow with short time limits and without its messages; what the user has set in the environment stays."""
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name in ("alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)


def open_store(address: str, **options: str) -> "MlflowClient":
    """A client of a store, which is made if it is an SQLite file that does not exist.

    MLflow makes its tables one by one: a process killed meanwhile, or two that do so at once, would leave a file that
    MLflow never opens again. So they are made in another file, which gets the name when it is complete.

    Args:
        address: a checked URI, or the address of a server.
        options: further arguments of MLflow's client.
    """
    quiet_mlflow()
    from mlflow import MlflowClient

    if address.startswith("sqlite:") and not (file := sqlite_file(address)).exists():
        temporary = file.with_name(f".{file.name}.{socket.gethostname()}.{os.getpid()}.tmp")
        try:
            MlflowClient(tracking_uri=sqlite_uri(temporary)).search_experiments(max_results=1)
            # Unlike a renaming, a link never replaces the file that another process has made first.
            with suppress(FileExistsError):
                os.link(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    return MlflowClient(tracking_uri=address, **options)


def why_unreachable(uri: str) -> str | None:
    """None if the store answers, otherwise the reason in one line. Takes seconds: MLflow is imported."""
    try:
        address = address_of(checked_uri(uri))
        require_listening(address)
        open_store(address).search_experiments(max_results=1)
    except Exception as error:
        return denial(error) or one_line(error)
    return None


def one_line(error: BaseException) -> str:
    """The first words of an error that may be pages long."""
    return mask(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]


def complaint(error: BaseException) -> str:
    """What a store does that raises this error, to be read after its name."""
    if isinstance(error, TrackingError):
        return f"does not get all: {error}"
    return denial(error) or f"does not answer ({one_line(error)})"


class Sender:
    """Sends the records of a spool to its store, in order, each once, and those that its disk does not take.

    Any error but a refusal means that the store is away: ``send`` raises it, nothing is lost, and the next call
    connects anew. Points at or below the last step that an earlier attempt of the run has recorded are left out, as
    a run resumed from a checkpoint repeats the steps between the checkpoint and its end.
    """

    def __init__(self, spool: Spool, unkept: Unkept | None = None) -> None:
        self._spool = spool
        self._unkept = unkept or Unkept(spool)
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._started_ms = 0
        self._parameters: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._latest: dict[str, int] = {}
        self._floor: dict[str, int] = {}
        self._sent_file: Path | None = None

    def send(self) -> bool:
        """Send what waits, up to 1,000 points or one other record; False if nothing waited."""
        if self._send_first(self._spool.unsent(), self._spool.confirm):
            return True
        with self._unkept.offered() as records:
            return self._send_first(records, self._unkept.confirm)

    def _send_first(self, waiting: Iterable[tuple[Record, int]], confirm: Callable[[int], None]) -> bool:
        records, position = first_batch(waiting, POINTS_PER_CALL)
        if not records:
            return False
        try:
            if self._client is None:
                self._client = self._connected()
            self._deliver(self._client, records)
        except Exception:
            self._client = None
            raise
        confirm(position)
        if self._sent_file is not None:
            self._spool.drop_file(self._sent_file)
            self._sent_file = None
        return True

    def _deliver(self, client: "MlflowClient", records: list[Record]) -> None:
        record = records[0]
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

    def _points(self, record: Record) -> "list[Metric]":
        from mlflow.entities import Metric

        time_ms = int(record["time_ms"])
        # The load of the machine has no training step: seconds since the run began increase through all attempts.
        step = int(record["step"]) if "step" in record else (time_ms - self._started_ms) // 1000
        keys = [key for key in record["values"] if step > self._floor.get(key, step - 1)]
        self._latest |= {key: max(step, self._latest.get(key, step)) for key in keys}
        return [Metric(key, record["values"][key], time_ms, step) for key in keys]

    def _log_points(self, client: "MlflowClient", points: "list[Metric]") -> None:
        for start in range(0, len(points), POINTS_PER_CALL):
            block = points[start : start + POINTS_PER_CALL]
            try:
                client.log_batch(self._run_id, metrics=block)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                if len(block) == 1:
                    self._refuse({"kind": "point", **dict(block[0])}, error)
                else:
                    for point in block:
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
        tags = _overwritten(self._tags, tags) | tags
        new = [Param(key, value) for key, value in parameters.items() if key not in self._parameters]
        self._parameters |= {param.key: param.value for param in new}
        client.update_run(self._run_id, status="RUNNING")
        for start in range(0, len(new), PAIRS_PER_CALL):
            client.log_batch(self._run_id, params=new[start : start + PAIRS_PER_CALL])
        self._log_tags(client, tags)
        if record["datasets"]:
            client.log_inputs(self._run_id, datasets=_dataset_inputs(record["datasets"]))

    def _log_tags(self, client: "MlflowClient", tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        pairs = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, len(pairs), PAIRS_PER_CALL):
            client.log_batch(self._run_id, tags=pairs[start : start + PAIRS_PER_CALL])
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
            self._sent_file = file

    def _refuse(self, record: Record, error: Exception) -> None:
        log.warning(
            "not taken by %s: %s (%s)",
            self._spool.uri,
            record.get("file", record.get("key")),
            one_line(error),
        )
        self._spool.refuse(record, one_line(error))

    def _connected(self) -> "MlflowClient":
        address = address_of(self._spool.uri)
        require_listening(address)
        client = open_store(address)
        run = self._existing_run(client) or self._new_run(client)
        self._run_id = run.info.run_id
        if not self._run_id:  # something answers that is no tracking server
            raise ConnectionError("its answer names no run")
        self._started_ms = run.info.start_time
        self._parameters = dict(run.data.params)
        self._tags = dict(run.data.tags)
        # The last step of every metric; the public ``run.data.metrics`` has the values only.
        self._latest = {metric.key: metric.step for metric in run.data._metric_objs}
        self._floor = dict(self._latest)
        if self._spool.run_id != self._run_id:
            self._spool.identify(run_id=self._run_id)
        return client

    def _existing_run(self, client: "MlflowClient") -> "Run | None":
        if self._spool.run_id is not None:
            run = find_run(client, self._spool.run_id)
            if run is not None:
                return _restored(client, run)
            log.warning("%s has no run %s: a new run continues it", self._spool.uri, self._spool.run_id)
        # A deleted experiment comes back with its runs.
        experiment = experiment_id(client, self._spool.uri, self._spool.experiment)
        run = find_run(client, self._spool.spool_id, experiment)
        return None if run is None else _restored(client, run)

    def _new_run(self, client: "MlflowClient") -> "Run":
        return client.create_run(
            experiment_id(client, self._spool.uri, self._spool.experiment),
            start_time=self._spool.started_ms,
            tags={SPOOL_TAG: self._spool.spool_id},
            run_name=self._spool.run_name,
        )


def _overwritten(before: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """What tags have said so far where they now say something else: which code, job and host made the first half."""
    kept = {}
    for name, value in tags.items():
        old = before.get(name, value)
        if old != value:
            earlier = [word for word in before.get(EARLIER + name, "").split(" | ") if word not in ("", old)]
            kept[EARLIER + name] = " | ".join([*earlier, *filter(None, [old])])[-LONGEST_TAG:]
    return kept


def _is_refusal(error: Exception) -> bool:
    return getattr(error, "error_code", None) in REFUSALS


def _restored(client: "MlflowClient", run: "Run") -> "Run":
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(run.info.run_id)
    return run


def find_run(client: "MlflowClient", run_id: str, experiment_id: str | None = None) -> "Run | None":
    """The run of this name, also if it was deleted; None where the store has none.

    Args:
        client: of the store.
        run_id: the store's name of the run, or that of its spool, which checkpoints bear that were written before the
            store had answered.
        experiment_id: the experiment in which a spool's run is looked for; None for all, one page after the other.
    """
    from mlflow.entities import ViewType

    if not run_id.startswith(SPOOL_PREFIX):
        try:
            return client.get_run(run_id)
        except Exception as error:
            if getattr(error, "error_code", None) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def first(experiment_ids: list[str]) -> "Run | None":
        wanted = f"tags.`{SPOOL_TAG}` = '{run_id}'"
        found = client.search_runs(experiment_ids, wanted, run_view_type=ViewType.ALL, max_results=1)
        return found[0] if found else None

    if experiment_id is not None:
        return first([experiment_id])
    token = None
    while True:
        page = client.search_experiments(view_type=ViewType.ALL, page_token=token)
        ids = [experiment.experiment_id for experiment in page]
        if ids and (run := first(ids)):
            return run
        if not (token := page.token):
            return None


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """The experiment of this name, made where there is none and restored where it was deleted.

    If another job makes it at the same moment this fails, and finds it when called again.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return client.create_experiment(
            name, artifact_location=_artifact_location(uri, name), tags=EXPERIMENT_TAGS
        )
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def now_ms() -> int:
    """Time since 1970 in ms, as MLflow counts it."""
    return time.time_ns() // 1_000_000


def _artifact_location(uri: str, experiment: str) -> str | None:
    """Beside an SQLite file, so that ``mlflow ui`` finds the pictures from any folder; a server has its own place."""
    if not uri.startswith("sqlite:"):
        return None
    return (
        sqlite_file(uri).absolute().parent / "mlartifacts" / re.sub(r"[^\w.-]+", "_", experiment)
    ).as_uri()


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
