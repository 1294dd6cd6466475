"""Summary over the repeats of each point: medians, errors, speed-up and efficiency."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_calo.config import RunConfig
from dist_calo.scaling.plan import Point, ScalingPlan, Study
from dist_calo.scaling.results import read_results

MEDIAN_ERROR = 1.2533
"""Standard error of a median, in standard errors of a mean (normal distribution, large samples)."""
BUSY = 0.85
"""Share of the cores' time below which other programs took part of it."""
SAME_QUOTA = 0.99
"""Part of the largest quota of a series below which a point had less processor time than the others."""


@dataclass(frozen=True)
class Series:
    """Points that differ in their ranks alone."""

    study: Study
    batch: int
    threads: int
    backend: str
    wire: str
    overlap: bool

    @classmethod
    def of(cls, point: Point) -> "Series":
        """Return the series of a point."""
        return cls(point.study, point.batch, point.threads, point.backend, point.wire, point.overlap)

    @property
    def label(self) -> str:
        """Return the series in a few words."""
        each = "a rank" if self.study == "weak" else "in all"
        overlap = "" if self.overlap else ", no overlap"
        threads = "" if self.threads == 1 else f", {self.threads} threads"
        return f"{self.backend} {self.wire}, {self.batch} {each}{threads}{overlap}"


@dataclass(kw_only=True)
class PointSummary:
    """A measured point. Errors are standard errors of medians over repeats; NaN where there is one repeat."""

    number: int
    point: Point
    repeats: int
    values: dict[str, float]
    """Medians over repeats, by the names of `dist_calo.scaling.measure`; NaN where the node does not tell."""
    steps_s: list[float]
    """Time of a step in each repeat."""
    computes_s: list[float]
    """Of it computing, mean over ranks; NaN where the host cannot tell it from communication (GPUs)."""
    step_error_s: float
    step_spread_s: float
    """Largest less smallest repeat."""
    throttled: bool = False
    """A quota left each thread less processor time than at another point of the series."""
    base: int = -1
    """Number of the point that speed-up and efficiency refer to."""
    speed_up: float = math.nan
    efficiency: float = math.nan
    efficiency_error: float = math.nan
    job_showers_per_s: float = math.nan
    """Of a whole job, with start-up, data check, validations and checkpoints."""
    job_efficiency: float = math.nan

    @property
    def series(self) -> Series:
        """Return the series that it is compared within."""
        return Series.of(self.point)

    @property
    def oversubscribed(self) -> bool:
        """Tell if ranks took turns on the cores: such a point does not count as scaling."""
        return self.values["threads_per_core"] > 1.001

    @property
    def core_share(self) -> float:
        """Return the share of its core's time that the worst served rank got while computing, 1 where it had all.

        A quota of processor time is all that it might have got. Where ranks take turns it is their mean. Several
        threads of a rank are not all busy all the time, and a GPU is not seen: then nothing can be said and it is 1.
        """
        if self.point.threads > 1 or math.isnan(self.values["compute_s"]):
            return 1.0
        turns = max(1.0, self.values["threads_per_core"])
        mean = self.values["cpu_s"] / self.values["compute_s"]
        got = turns * mean if self.oversubscribed else self._measured("core_share_least", mean)
        return min(1.0, got / self.thread_quota)

    @property
    def thread_quota(self) -> float:
        """Return the time of a core that a thread may use a second."""
        return self._measured("thread_quota", 1.0)

    @property
    def disturbed(self) -> bool:
        """Tell if other programs or a quota took processor time: such a time is no property of this program."""
        return self.throttled or self.core_share < BUSY

    @property
    def counts(self) -> bool:
        """Tell if its time shows how training scales: every rank had the cores that it asked for, to itself."""
        return not self.oversubscribed and not self.disturbed

    @property
    def relative_error(self) -> float:
        """Return the relative error of the step time."""
        return self.step_error_s / self.values["step_s"]

    def _measured(self, name: str, default: float) -> float:
        """Return a value that results of an earlier version lack."""
        value = self.values.get(name, math.nan)
        return default if math.isnan(value) else value


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All measurements of a plan."""

    plan: ScalingPlan
    rows: list[PointSummary]
    missing: list[int]
    """Points without any result."""
    series: dict[Series, list[PointSummary]] = field(default_factory=dict)
    """Rows by series, in order of ranks."""


def summarise(results: Path, plan: ScalingPlan) -> Summary:
    """Read all results of a plan.

    Raises:
        DataError: if a result cannot be read.
    """
    rows, missing = [], []
    for number, point in enumerate(plan.points):
        found = read_results(results, number, plan.digest(number))
        if found:
            rows.append(_row(number, point, found))
        else:
            missing.append(number)
    series: dict[Series, list[PointSummary]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.point.ranks, row.point.nodes)):
        series[row.series].append(row)
    for members in series.values():
        _compare(members, plan.config)
    return Summary(plan=plan, rows=rows, missing=missing, series=dict(series))


def base_of(rows: Sequence[PointSummary]) -> PointSummary:
    """Return the point of a series that its speed-up and efficiency refer to."""
    return next(row for row in rows if row.number == row.base)


def _row(number: int, point: Point, found: Sequence[dict[str, Any]]) -> PointSummary:
    names = [
        name for name in found[0] if all(isinstance(result.get(name), int | float | None) for result in found)
    ]
    steps = [float(result["step_s"]) for result in found]
    error = MEDIAN_ERROR * statistics.stdev(steps) / math.sqrt(len(steps)) if len(steps) > 1 else math.nan
    return PointSummary(
        number=number,
        point=point,
        repeats=len(found),
        values={name: _median([result.get(name) for result in found]) for name in names},
        steps_s=steps,
        computes_s=[
            math.nan if result["compute_s"] is None else float(result["compute_s"]) for result in found
        ],
        step_error_s=error,
        step_spread_s=max(steps) - min(steps),
    )


def _median(values: Sequence[float | None]) -> float:
    known = [float(value) for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else math.nan


def _compare(rows: list[PointSummary], config: RunConfig) -> None:
    """Set speed-up and efficiency of a series, relative to its smallest point that counts; errors are propagated."""
    quota = max(row.thread_quota for row in rows)
    for row in rows:
        row.throttled = row.thread_quota < SAME_QUOTA * quota
    base = next((row for row in rows if row.counts), rows[0])
    for row in rows:
        row.base = base.number
        row.job_showers_per_s = _job_rate(row, config)
        ranks = row.point.ranks / base.point.ranks
        rate, first = (r.point.global_batch / r.values["step_s"] for r in (row, base))
        row.speed_up = rate / first
        row.efficiency = row.speed_up / ranks
        # The base is 1 by definition; its own error is that of every other point.
        errors = [0.0] if row is base else [row.relative_error, base.relative_error]
        row.efficiency_error = row.efficiency * math.hypot(*errors)
        row.job_efficiency = row.job_showers_per_s / base.job_showers_per_s / ranks


def _job_rate(row: PointSummary, config: RunConfig) -> float:
    """Return the showers a second of a job of ``train.max_steps`` steps, from start to end of its processes."""
    steps = config.train.max_steps
    validations = math.ceil(steps / (config.train.validate_every_steps or steps))
    checkpoints = math.ceil(steps / config.checkpoint.every_steps)
    values = row.values
    once = values["startup_s"] + values["build_s"]
    # Not measured where the plan did without.
    repeated = validations * values.get("validation_s", 0.0) + checkpoints * values.get(
        "checkpoint_s", math.nan
    )
    return steps * row.point.global_batch / (once + steps * values["step_s"] + repeated)
