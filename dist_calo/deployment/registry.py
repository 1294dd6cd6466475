"""Writing a generator into MLflow's model registry, with what is known of it."""

import math
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_calo import __version__
from dist_calo.deployment.serving import input_columns, output_name
from dist_calo.documents import from_json
from dist_calo.errors import ConfigError, TrackingError
from dist_calo.files import read_bytes
from dist_calo.geometry import Geometry
from dist_calo.resources import PACKAGED
from dist_calo.tracking.provenance import describe_run
from dist_calo.tracking.records import now_ms
from dist_calo.tracking.server import address_of
from dist_calo.tracking.store import experiment_id, find_run, one_line, open_store
from dist_calo.tracking.store_uri import checked_uri
from dist_calo.training.checkpoint import Checkpoint, checkpoint_bytes
from dist_calo.training.restore import restore_generator

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models.signature import ModelSignature

KEPT = (
    "step",
    "run_id",
    "config",
    "geometry",
    "manifest",
    "transform",
    "condition_ranges",
    "model",
    "average",
)
"""Parts of a checkpoint that go into the registry: all that generating and evaluating need, not the optimizers."""
MOST_TAGS = 40
"""Numbers of an evaluation that become tags; all of them become metrics of the model."""
MOST_METRICS = 1000
"""Numbers that MLflow takes at once."""
TAG_CHARACTERS = 250


def check_names(name: str, aliases: list[str]) -> None:
    """Check the name and the aliases of a model by MLflow's rules, before anything is sent.

    Raises:
        ConfigError: if MLflow would refuse one.
    """
    if not name.strip() or set(name) & set("/:") or len(name) > 256:
        raise ConfigError(f"--name {name!r}: a model's name has 1 to 256 characters, none of them / or :")
    for alias in aliases:
        if not re.fullmatch(r"[\w-]{1,255}", alias) or re.fullmatch(r"v\d+|latest", alias.lower()):
            raise ConfigError(
                f"--alias {alias!r}: letters, digits, _ and - alone, and neither latest nor a version such as v1"
            )


def read_metrics(path: str | Path) -> dict[str, Any]:
    """Read what ``dist-calo evaluate`` wrote.

    Returns:
        ``score``, None where it is not known, and ``score_definition``, its number; ``metrics``, by name ``{value,
        error, floor, sigmas}``; ``model``, facts of the checkpoint that was evaluated, empty for files.

    Raises:
        ConfigError: if the file is not one of those.
    """
    try:
        found = from_json(read_bytes(path), dict[str, Any])
        score, metrics = found["score"], dict(found["metrics"])
        score = None if score is None else float(score)
        model = dict(found.get("facts", {}).get("Model", {}))
        numbers = {
            str(name): {
                key: float(entry[key])
                for key in ("value", "error", "floor", "sigmas")
                if isinstance(entry.get(key), int | float)
            }
            for name, entry in metrics.items()
        }
    except OSError as error:
        raise ConfigError(
            f"--metrics {path}: {error.strerror}; name the metrics.json of dist-calo evaluate"
        ) from None
    except (ArithmeticError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"--metrics {path}: not the metrics.json of dist-calo evaluate ({type(error).__name__}: {error})"
        ) from None
    definition = found.get("score_definition")
    return {"score": score, "score_definition": definition, "metrics": numbers, "model": model}


def require_evaluated(checkpoint: Checkpoint, metrics: Mapping[str, Any], path: str) -> None:
    """Refuse the evaluation of another checkpoint; that of files does not tell what made them.

    Raises:
        ConfigError: if step or MLflow run are others.
    """
    facts = {"training step": f"{checkpoint.step:,}", "MLflow run": checkpoint.run_id or ""}
    for what, here in facts.items():
        there = str(metrics["model"].get(what, here))
        # A run that had not been sent yet has another id by now.
        if there != here and not here.startswith("spool-"):
            raise ConfigError(
                f"--metrics {path} is of another checkpoint: {what} {there}, and this one has {here or 'none'}; "
                "evaluate this one: dist-calo evaluate --checkpoint"
            )


def register(
    checkpoint: Checkpoint,
    name: str,
    *,
    tracking_uri: str,
    metrics: Mapping[str, Any] | None = None,
    aliases: list[str] | None = None,
) -> "ModelVersion":
    """Log the generator of a checkpoint as a new version of a registered model.

    The version belongs to the run that trained it where the store knows that run, whose status stays as it is;
    otherwise to a new run.

    Args:
        checkpoint: the weights, and their training.
        name: the registered model, made if there is none.
        tracking_uri: MLflow tracking store or server.
        metrics: what `read_metrics` returned.
        aliases: names for this version, such as ``champion``.

    Raises:
        ConfigError: if a name breaks a rule.
        CheckpointError: if the networks cannot be put together.
        TrackingError: if the store cannot be reached or refuses.
    """
    check_names(name, aliases or [])
    restore_generator(checkpoint)  # fails here rather than where the model is served
    uri = checked_uri(tracking_uri)
    try:
        # Only the client, never MLflow's fluent functions: they set the store of the whole process, and
        # continuing the run that trained the model would end it anew.
        uri = address_of(uri)
        client = open_store(uri, registry_uri=uri)
        with warnings.catch_warnings(
            action="ignore"
        ):  # MLflow's own, of its type hints and its use of pandas
            return _register(client, uri, checkpoint, name, metrics, aliases or [])
    except Exception as error:
        raise TrackingError(
            f"--tracking.uri {tracking_uri}: the model cannot be registered ({one_line(error)}); start the server or "
            "name another store"
        ) from error


def _register(
    client: "MlflowClient",
    uri: str,
    checkpoint: Checkpoint,
    name: str,
    metrics: Mapping[str, Any] | None,
    aliases: list[str],
) -> "ModelVersion":
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    run = _trained_run(client, checkpoint.run_id)
    own = run is None
    if run is None:
        experiment = experiment_id(client, uri, checkpoint.config["tracking"]["experiment"])
        run = client.create_run(experiment, run_name=f"register {name}")
    tags = _tags(checkpoint, checkpoint.run_id if own else run.info.run_id, run.data.tags, metrics)
    logged = client.create_logged_model(
        run.info.experiment_id, name=_logged_name(name), source_run_id=run.info.run_id, tags=tags
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            # The artifact path of a logged model is its place in the store; MLflow's own log() says it so.
            record = Model(
                artifact_path=logged.artifact_location,
                run_id=run.info.run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            )
            save(checkpoint, Path(folder) / "model", record)
            client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, checkpoint.step)])
        if metrics is not None:
            _log_metrics(client, run.info.run_id, logged.model_id, checkpoint.step, metrics)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # A server resolves the URI itself. A database is written by this process, which would look the URI up in the
        # store that MLflow's fluent functions use.
        source = logged.model_uri if uri.startswith("http") else logged.artifact_location
        registered = client.create_model_version(
            name, source, run.info.run_id, tags=tags, model_id=logged.model_id
        )
        for alias in aliases:
            client.set_registered_model_alias(name, alias, registered.version)
    except BaseException:
        if own:
            client.set_terminated(run.info.run_id, "FAILED")
        raise
    if own:
        client.set_terminated(run.info.run_id)
    return registered


def save(checkpoint: Checkpoint, folder: Path, record: Any = None) -> None:
    """Write the model as MLflow stores it: ``MLmodel``, ``data/step-*.pt``, ``code/dist_calo`` and requirements."""
    import pandas as pd
    from mlflow import pyfunc

    geometry = checkpoint.readout
    low, high = checkpoint.energies
    example = pd.DataFrame({column: [1.5, 1.6] for column in input_columns(geometry)})
    example["energy_GeV"] = [round(low + 0.25 * (high - low), 3), round(low + 0.75 * (high - low), 3)]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"step-{checkpoint.step:08d}.pt"
        content = checkpoint.to_dict()
        file.write_bytes(checkpoint_bytes({key: content[key] for key in KEPT}))
        package, code = Path(__file__).resolve().parents[1], Path(scratch) / "dist_calo"
        shutil.copytree(package, code, ignore=shutil.ignore_patterns(PACKAGED, "__pycache__"))
        pyfunc.save_model(
            path=str(folder),
            mlflow_model=record,
            loader_module="dist_calo.deployment.serving",
            data_path=str(file),
            code_paths=[str(code)],
            # The public version: a build for one platform, such as 2.13.0+cpu, is on no index.
            pip_requirements=[
                f"{package}=={version(package).split('+')[0]}" for package in ("torch", "numpy")
            ],
            signature=_signature(geometry),
            input_example=(example, {"seed": 0, "first_sample": 0}),
            metadata={
                "dist_calo_version": __version__,
                "geometry": geometry.to_dict(),
                "condition_ranges": dict(checkpoint.condition_ranges),
                "step": checkpoint.step,
            },
        )


def _signature(geometry: Geometry) -> "ModelSignature":
    import numpy as np
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    showers = TensorSpec(np.dtype(np.float32), (-1, *geometry.shape), output_name(geometry))
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.double, column) for column in input_columns(geometry)]),
        outputs=Schema([showers]),
        params=ParamSchema(
            [ParamSpec("seed", DataType.long, 0), ParamSpec("first_sample", DataType.long, 0)]
        ),
    )


def _logged_name(name: str) -> str:
    """Return the name of the logged model of a version: MLflow allows it fewer characters than the registry."""
    return re.sub(r"[/:.%\"']", "_", name)


def _trained_run(client: "MlflowClient", run_id: str | None) -> Any:
    """Return the run that trained the model, None where this store does not have it."""
    run = find_run(client, run_id) if run_id else None
    return run if run is not None and run.info.lifecycle_stage == "active" else None


def _tags(
    checkpoint: Checkpoint,
    trained_by: str | None,
    of_run: Mapping[str, str],
    metrics: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Return the tags of a version: where it comes from, and its evaluation."""
    code = describe_run()
    tags = {
        "step": checkpoint.step,
        "training_run": trained_by,
        "model": checkpoint.model_name,
        "particle": checkpoint.manifest.get("particle"),
        "data_checksum": checkpoint.manifest.get("checksum"),
        "training_commit": of_run.get("mlflow.source.git.commit"),
        "code_commit": code.get("mlflow.source.git.commit"),
        "code_changed": code.get("git.changed"),
        "dist_calo_version": __version__,
    }
    if metrics is not None:
        if metrics["score"] is not None:
            tags |= {"score": f"{metrics['score']:.6g}", "score_definition": metrics["score_definition"]}
        chosen = sorted(metrics["metrics"].items(), key=lambda item: -abs(item[1].get("sigmas", 0.0)))
        tags |= {f"metric.{_key(name)}": _said(entry) for name, entry in chosen[:MOST_TAGS]}
    return {key: str(value)[:TAG_CHARACTERS] for key, value in tags.items() if value not in (None, "")}


def _said(entry: Mapping[str, float]) -> str:
    """Return a number of an evaluation in words, such as ``0.012 ± 0.001, floor 0.011, 0.9 sigmas``."""
    text = f"{entry['value']:.4g}" if "value" in entry else "undefined"
    text += f" ± {entry['error']:.2g}" if "error" in entry else ""
    text += f", floor {entry['floor']:.4g}" if "floor" in entry else ""
    return text + (f", {entry['sigmas']:.2g} sigmas" if "sigmas" in entry else "")


def _key(name: str) -> str:
    """Return a name with the characters that MLflow allows in keys."""
    return re.sub(r"[^\w\-. /]", "_", name)[: TAG_CHARACTERS - len("evaluation/.floor")]


def _log_metrics(
    client: "MlflowClient", run_id: str, model_id: str, step: int, metrics: Mapping[str, Any]
) -> None:
    """Log the evaluation's finite numbers as metrics of the model."""
    from mlflow.entities import Metric

    values = {} if metrics["score"] is None else {"evaluation/score": metrics["score"]}
    for name, entry in metrics["metrics"].items():
        values |= {
            f"evaluation/{_key(name)}{'' if kind == 'value' else f'.{kind}'}": entry[kind]
            for kind in ("value", "floor")
            if kind in entry
        }
    now = now_ms()
    points = [
        Metric(key, value, now, step, model_id=model_id)
        for key, value in values.items()
        if math.isfinite(value)
    ]
    client.log_batch(run_id, metrics=points[:MOST_METRICS])
