"""Sources of trained models: a checkpoint file or folder, a registered model, or a run's artifacts."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_calo.config import TrackingConfig
from dist_calo.errors import CheckpointError
from dist_calo.masking import hidden
from dist_calo.tracking.server import address_of
from dist_calo.tracking.store import one_line, quiet_mlflow
from dist_calo.tracking.store_uri import checked_uri, sqlite_file
from dist_calo.training.checkpoint import Checkpoint, State, load_checkpoint
from dist_calo.training.checkpoint_folder import find_checkpoint
from dist_calo.training.restore import require_parts

MLFLOW_SCHEMES = ("models:/", "runs:/")


def state_of(source: str, tracking_uri: str | None = None) -> Checkpoint:
    """Read the checkpoint of a trained model, whole.

    On many ranks, rank 0 calls this and broadcasts the result.

    Args:
        source: a checkpoint file, a folder of checkpoints (its best one), or MLflow's ``models:/NAME/VERSION`` or
            ``runs:/ID/PATH``, under which one file ``*.pt`` lies at any depth. A training run has its final model under
            ``runs:/ID/model``.
        tracking_uri: MLflow's store; by default what MLFLOW_TRACKING_URI says, else what training records to by
            default.

    Raises:
        CheckpointError: if there is nothing to read, the store does not answer, or there are several files.
        TrackingError: if no store can have this URI.
    """
    state = (
        _downloaded(source, tracking_uri) if source.startswith(MLFLOW_SCHEMES) else find_checkpoint(source)
    )
    require_parts(state, source)
    return Checkpoint.from_dict(state)


def _downloaded(source: str, tracking_uri: str | None) -> State:
    uri = _existing_store(source, tracking_uri)
    quiet_mlflow()
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory(prefix="dist_calo-") as folder:
        try:
            with _store(address_of(uri)):
                found = Path(download_artifacts(artifact_uri=source, dst_path=folder))
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {source}: {uri} does not give it ({one_line(error)}); check the name, and the store in "
                "--tracking.uri or MLFLOW_TRACKING_URI"
            ) from error
        files = [found] if found.suffix == ".pt" else sorted(found.rglob("*.pt"))
        if len(files) != 1:
            names = ", ".join(file.relative_to(found).as_posix() for file in files) or "none"
            raise CheckpointError(
                f"checkpoint {source}: there must be one file *.pt, found {names}; name it, such as runs:/ID/PATH.pt"
            )
        try:
            return load_checkpoint(files[0])
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from None


@contextmanager
def _store(uri: str) -> Iterator[None]:
    """Have MLflow look in this store: names of models are looked up in the process's own, whatever it is told.

    Afterwards the process's own stores are those of before: MLflow keeps a choice in the environment as well. What it
    tells of them may be its default, which must not become a choice: later clients would look for models elsewhere
    than where they record.
    """
    import mlflow

    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(before["MLFLOW_REGISTRY_URI"] or uri)
    try:
        yield
    finally:
        # None, as MLflow's own code says it: an empty string would be a choice.
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        mlflow.set_registry_uri(None)  # type: ignore[arg-type]
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _existing_store(source: str, tracking_uri: str | None) -> str:
    """Return the URI of the store; MLflow would make an SQLite database that does not exist."""
    uri = hidden(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or TrackingConfig().uri)
    if uri.startswith("sqlite:///") and not sqlite_file(uri).is_file():
        raise CheckpointError(
            f"checkpoint {source}: there is no tracking store {uri} here; name the one that training recorded to in "
            "--tracking.uri or MLFLOW_TRACKING_URI"
        )
    return checked_uri(uri)
