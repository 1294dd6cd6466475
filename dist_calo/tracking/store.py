"""A tracking store of MLflow: opening it, and finding runs and experiments in it."""

import logging
import os
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from dist_calo.errors import TrackingError
from dist_calo.masking import mask
from dist_calo.tracking.server import address_of, denial, require_listening
from dist_calo.tracking.spool import SPOOL_PREFIX
from dist_calo.tracking.store_uri import checked_uri, sqlite_file, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SPOOL_TAG = "dist_calo.spool_id"
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
    """Return a client of a store, which is made if it is an SQLite file that does not exist.

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
    """Return None if a store answers, else the reason in one line. Takes seconds: MLflow is imported."""
    try:
        address = address_of(checked_uri(uri))
        require_listening(address)
        open_store(address).search_experiments(max_results=1)
    except Exception as error:
        return denial(error) or one_line(error)
    return None


def one_line(error: BaseException) -> str:
    """Return the first words of an error that may be pages long."""
    return mask(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]


def complaint(error: BaseException) -> str:
    """Say what a store does that raises this error, to be read after its name."""
    if isinstance(error, TrackingError):
        return f"does not get all: {error}"
    return denial(error) or f"does not answer ({one_line(error)})"


def find_run(client: "MlflowClient", run_id: str, experiment_id: str | None = None) -> "Run | None":
    """Return the run of this name, also if it was deleted; None where the store has none.

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
    """Return the id of the experiment of this name, made where there is none and restored where it was deleted.

    If another job makes it at the same moment this fails, and finds it when called again.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return client.create_experiment(name, _artifact_location(uri, name), EXPERIMENT_TAGS)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _artifact_location(uri: str, experiment: str) -> str | None:
    """Name a place beside an SQLite file, so that ``mlflow ui`` finds it from any folder; a server has its own."""
    if not uri.startswith("sqlite:"):
        return None
    beside = sqlite_file(uri).absolute().parent / "mlartifacts"
    return (beside / re.sub(r"[^\w.-]+", "_", experiment)).as_uri()
