"""Record in MLflow of the run that trained a model and of its evaluation, and a summary of that in lines."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_calo.config import TrackingConfig
from dist_calo.masking import mask
from dist_calo.physics.metrics.evaluation import AT_FLOOR, Evaluation
from dist_calo.tracking.records import now_ms
from dist_calo.tracking.server import address_of
from dist_calo.tracking.store import experiment_id, find_run, one_line, open_store
from dist_calo.tracking.store_uri import checked_uri, sqlite_file
from dist_calo.training.checkpoint import Checkpoint

CURVES = (r".*/total", r"validation/score", r"validation/[^/]+(/[a-z_]+)?", r"throughput/showers_per_s")
"""Names of the metrics that are drawn as training curves, the more telling first: losses, then the validation's."""
MOST_CURVES = 12
MOST_POINTS = 2000
"""Points of a curve: more than a figure is wide in pixels."""
SHOWN = 5
MOSTLY_BAD = 0.5
"""Share of bad showers from which it says nothing how many numbers are near their floors."""
FOLDER = "evaluation"
"""Folder of a run's artifacts, and beginning of the names of its metrics."""


class EvaluationRecord:
    """One evaluation in an MLflow store: that of the run that trained the model, or a run of its own.

    Args:
        uri: the tracking store, or ``none``.
        run_id: the run that trained the model; None if it is not known.

    Raises:
        TrackingError: if no store can have this URI.
    """

    def __init__(self, uri: str, run_id: str | None) -> None:
        self.uri = uri
        self.problem: str | None = None
        """Why the store cannot be used, in one line; what is asked of it then does nothing."""
        self._client: Any = None
        self._run: Any = None
        if uri == "none":
            return
        if run_id is not None and uri.startswith("sqlite:") and not sqlite_file(uri).exists():
            self.problem = f"{uri} does not exist here: name the store of run {run_id} with --tracking.uri"
            return
        checked = checked_uri(uri)
        try:
            client = open_store(address_of(checked))
            client.search_experiments(max_results=1)
            self._run = None if run_id is None else find_run(client, run_id)
        except Exception as error:
            self.problem = f"{uri}: {one_line(error)}"
            return
        if run_id is not None and self._run is None:
            advice = "send it with dist-calo runs sync, or name its store with --tracking.uri"
            self.problem = f"{uri} has no run {run_id}: {advice}"
            return
        self._client = client

    @property
    def run_id(self) -> str | None:
        """The run that holds the evaluation, once it is known."""
        return None if self._run is None else self._run.info.run_id

    def facts(self) -> dict[str, str]:
        """Return ranks, machine and cost as the run that trained the model has noted them."""
        if self._run is None:
            return {}
        tags, info = self._run.data.tags, self._run.info
        told = {
            "MLflow run": f"{info.run_name} ({info.run_id})",
            "git commit": tags.get("mlflow.source.git.commit", ""),
            "command": tags.get("dist_calo.command", ""),
            "host": tags.get("host", ""),
            "ranks": tags.get("ranks", ""),
            "threads a rank": tags.get("threads", ""),
            "launcher": tags.get("launcher", ""),
            "device": tags.get("device", ""),
        }
        if info.end_time:
            hours = (info.end_time - info.start_time) / 3.6e6
            told["wall time"] = f"{hours:.2f} h from first start to end"
            cores = _number(tags.get("ranks")) * _number(tags.get("threads"))
            if math.isfinite(cores):
                told["core hours"] = f"{hours * cores:.2f}"
        return {name: mask(value) for name, value in told.items() if value}

    def history(self) -> dict[str, list[tuple[float, float]]]:
        """Return training curves by name."""
        if self._client is None or self._run is None:
            return {}
        names = sorted(self._run.data.metrics)
        chosen: list[str] = []
        for pattern in CURVES:
            chosen += [name for name in names if re.fullmatch(pattern, name) and name not in chosen]
        curves: dict[str, list[tuple[float, float]]] = {}
        for name in chosen[:MOST_CURVES]:
            try:
                points = self._client.get_metric_history(self._run.info.run_id, name)
            except Exception as error:
                self.problem = f"{self.uri}: {one_line(error)}"
                return curves
            values = sorted({int(point.step): float(point.value) for point in points}.items())
            stride = -(-len(values) // MOST_POINTS)
            curves[name] = [(float(step), value) for step, value in values[::stride]]
        return curves

    def log(self, evaluation: Evaluation, files: Sequence[Path], step: int, tags: Mapping[str, str]) -> None:
        """Log the numbers of all showers and the files; a store that refuses costs nothing but `problem`.

        Args:
            evaluation: what was found.
            files: to be kept as artifacts.
            step: training step of the weights.
            tags: of the run, if it is one of its own.
        """
        if self._client is None:
            return
        from mlflow.entities import Metric

        try:
            own = self._run is None
            run = self._run
            if run is None:
                experiment = experiment_id(self._client, self.uri, TrackingConfig().experiment)
                run = self._client.create_run(experiment, run_name="evaluation", tags=dict(tags))
            now = run.info.start_time if own else now_ms()
            metrics = [Metric(key, value, now, step) for key, value in logged_numbers(evaluation).items()]
            self._client.log_batch(run.info.run_id, metrics=metrics)
            for file in files:
                self._client.log_artifact(run.info.run_id, str(file), FOLDER)
            if own:
                self._client.set_terminated(run.info.run_id)
            self._run = run
        except Exception as error:
            self.problem = f"{self.uri}: {one_line(error)}"


def logged_numbers(evaluation: Evaluation) -> dict[str, float]:
    """Return as metrics the score, the share of bad showers and all numbers but single layers or channels."""
    return {f"{FOLDER}/{name}": value for name, value in evaluation.values().items()}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def describe_model(checkpoint: Checkpoint, source: str) -> dict[str, dict[str, str]]:
    """Describe a checkpoint: the model, its data and its training, by section and line."""
    config, manifest = checkpoint.config, checkpoint.manifest
    options = ", ".join(f"{name}={value}" for name, value in config["model"]["options"].items())
    sections: dict[str, dict[str, Any]] = {
        "Model": {
            "checkpoint": source,
            "model": checkpoint.model_name + (f" ({options})" if options else ""),
            "training step": f"{checkpoint.step:,}",
            "epoch": checkpoint.epoch,
            "MLflow run": checkpoint.run_id,
        },
        "Training data": {
            "files": config["data"]["path"],
            "particle": manifest.get("particle"),
            "showers": f"{sum(entry['rows'] for entry in manifest['files']):,}",
            "held out": f"{config['data']['validation_fraction']:g} for validation, "
            f"{config['data']['test_fraction']:g} for test",
            "transform": ", ".join(f"{name}={value}" for name, value in config["transform"].items()),
        },
        "Training": {
            "objective": config["objective"]["name"],
            "optimizer": f"{config['optimizer']['name']}, learning rate {config['optimizer']['learning_rate']:g}",
            "global batch size": config["train"]["global_batch_size"],
            "seed": config["train"]["seed"],
            "precision": config["train"]["precision"],
        },
    }
    return {
        section: {name: str(value) for name, value in lines.items() if value not in (None, "")}
        for section, lines in sections.items()
    }


def require_store(uri: str) -> None:
    """Check a tracking store's URI before hours of work.

    Raises:
        TrackingError: if no store can have it.
    """
    if uri != "none":
        checked_uri(uri)


def summary_lines(evaluation: Evaluation) -> Iterator[str]:
    """Yield warnings, the score and its largest parts, and the numbers that are farthest from their floor."""
    if evaluation.bad_in_words:
        yield evaluation.bad_in_words
    yield from (f"note: {note}" for note in evaluation.notes)
    for what in ("score", "errors"):
        if what in evaluation.absent:
            yield f"{what} unknown: {evaluation.absent[what]}"
    score, judged = evaluation.score, evaluation.judged
    if math.isfinite(score.value):
        known = f" +- {score.error:.2g}, floor {score.floor:.3g}, {score.sigmas:+.1f} sigmas"
        yield f"score {score.value:.4g}{known if math.isfinite(score.error) else ''}; the largest of its parts:"
        for name, value in list(evaluation.score_terms.items())[:SHOWN]:
            yield f"  {name:<36}{value:>11.4g}"
    if not judged:
        return
    if evaluation.bad_share < MOSTLY_BAD:
        yield (
            f"{evaluation.at_floor} of {len(judged)} numbers are within {AT_FLOOR:g} sigmas of their floor; "
            "farthest away:"
        )
    else:
        yield "farthest from their floor:"
    for name in list(judged)[:SHOWN]:
        number = evaluation.numbers[name]
        yield (
            f"  {name:<36}{number.value:>11.4g} +- {number.error:<9.2g} floor {number.floor:<10.4g}"
            f"{number.sigmas:>+7.1f} sigmas"
        )
