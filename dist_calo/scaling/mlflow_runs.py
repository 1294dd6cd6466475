"""MLflow runs of a scaling experiment: one parent run, and below it one run for each point, its repeats as steps."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dist_calo.errors import TrackingError
from dist_calo.scaling.plan import PLAN_FILE, ScalingPlan
from dist_calo.tracking.provenance import describe_run
from dist_calo.tracking.tracker import Tracker, make_tracker
from dist_calo.values import flattened

PARENT_TAG = "mlflow.parentRunId"
FIRST_ANSWER_S = 300.0
"""Time for a store that is made now, on a slow file system, in seconds; one that does not answer is told at once."""


def start_parent(plan: ScalingPlan, results: Path) -> str | None:
    """Make the parent run, once and before any task starts, and return its name; None without tracking.

    Raises:
        TrackingError: if the store does not answer.
    """
    tracking = replace(plan.config.tracking, spool=str(results / "spool"), system_metrics=False)
    name = tracking.run_name or f"scaling {results.name}"
    tracker = make_tracker(replace(tracking, run_name=name))
    if not isinstance(tracker, Tracker):
        return None
    measurement = {f"measure.{key}": value for key, value in asdict(plan.measurement).items()}
    parameters = {**dict(flattened(plan.config.to_dict())), **measurement, "points": len(plan.points)}
    tracker.start(parameters, {**describe_run(), "dist_calo.kind": "scaling"})
    run_id = tracker.named_run_id(FIRST_ANSWER_S)
    tracker.finish("FINISHED")
    if run_id.startswith("spool-"):
        raise TrackingError(
            f"tracking.uri={tracking.uri}: does not answer, and the points' runs need their parent; start the server, "
            "or plan with --tracking.uri=none"
        )
    return run_id


class PointRecord:
    """The MLflow run of a point; does nothing without a parent run and on ranks other than 0.

    What a store that is away does not take stays in the spool of the results folder, for ``dist-calo runs sync``.

    Args:
        plan: the experiment.
        number: of the point.
        results: the folder.
        run_id: the point's run, where some repeats are recorded already.
        rank: of this process.
    """

    def __init__(self, plan: ScalingPlan, number: int, results: Path, run_id: str | None, rank: int) -> None:
        tracking = plan.config.tracking
        if plan.parent_run is None:
            tracking = replace(tracking, uri="none")
        name = f"point {number}: {plan.points[number].described()}"
        tracking = replace(tracking, spool=str(results / "spool"), run_name=name, system_metrics=False)
        self._tracker = make_tracker(tracking, run_id, rank=rank)
        facts = {**describe_run(), PARENT_TAG: plan.parent_run, "dist_calo.kind": "scaling point"}
        point = plan.points[number]
        derived = {"number": number, "ranks": point.ranks, "global_batch": point.global_batch}
        parameters = {f"point.{key}": value for key, value in {**asdict(point), **derived}.items()}
        self._tracker.start(parameters, facts)

    def repeat(self, repeat: int, values: Mapping[str, Any]) -> None:
        """Record a measurement."""
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "repeat"
        }
        self._tracker.metrics(numbers, repeat)

    def run_id(self) -> str | None:
        """Return the id of the run, which a later attempt at this point continues."""
        return self._tracker.run_id

    def close(self, *, complete: bool) -> None:
        """End the run."""
        self._tracker.finish("FINISHED" if complete else "KILLED", timeout_s=30.0)


def add_report(plan: ScalingPlan, results: Path, files: list[Path], metrics: Mapping[str, float]) -> None:
    """Put the plan, the report and its main numbers into the parent run."""
    if plan.parent_run is None:
        return
    tracking = replace(plan.config.tracking, spool=str(results / "spool"), system_metrics=False)
    tracker = make_tracker(tracking, plan.parent_run)
    tracker.start({})
    for file in [results / PLAN_FILE, *files]:
        tracker.artifact(file, "scaling")
    tracker.metrics(metrics, 0)
    tracker.finish("FINISHED")
