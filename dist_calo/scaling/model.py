"""What the cost model says of a scaling experiment: fits, their check on unseen points, forecasts, in words too."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dist_calo.scaling.cost import ALGORITHMS
from dist_calo.scaling.fit import Check, Fit, check_model, fit_model
from dist_calo.scaling.forecast import Forecast, forecast
from dist_calo.scaling.summary import Row, Series, Summary


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """The cost model of points of one backend, number of threads and overlap."""

    title: str
    rows: list[Row]
    fits: list[Fit]
    fitted_ranks: list[int]
    checks: list[Check]
    forecasts: dict[Series, tuple[list[Row], Forecast]]


def model_parts(summary: Summary) -> list[ModelPart]:
    """Fits, checks and forecasts of everything that shares a cost model."""
    groups: dict[tuple[str, int, bool], list[Row]] = defaultdict(list)
    for row in summary.rows:
        groups[row.point.backend, row.point.threads, row.point.overlap].append(row)
    parts = []
    for (backend, threads, overlap), rows in groups.items():
        if len({row.point.ranks for row in rows}) < 2:
            continue
        fits = [fit_model(rows, algorithm) for algorithm in ALGORITHMS]
        fitted, checks = check_model(rows)
        own = {key: members for key, members in summary.series.items() if members[0] in rows}
        parts.append(
            ModelPart(
                title=f"{backend}, {threads} thread{'s' * (threads > 1)} a rank, overlap {'on' if overlap else 'off'}",
                rows=rows,
                fits=fits,
                fitted_ranks=fitted,
                checks=checks,
                forecasts={
                    key: (members, forecast(members, fits))
                    for key, members in own.items()
                    if len(members) > 1
                },
            )
        )
    return parts


def sentences(summary: Summary, parts: Sequence[ModelPart]) -> list[str]:
    """What was found, a line each: the largest point of each series, the model's check, where 90 % ends."""
    lines = []
    for key, rows in summary.series.items():
        counted = [row for row in rows if row.counts]
        last = counted[-1] if counted else rows[-1]
        if last.point.ranks > rows[0].point.ranks:
            lines.append(
                f"{key.study} scaling, {key.label}: efficiency {percent(last.efficiency, last.efficiency_error)} at "
                f"{last.point.ranks} ranks, relative to {rows[0].point.ranks}"
                + ("" if last.counts else " (its ranks share cores: not a measure of scaling)")
            )
    for part in parts:
        if part.checks:
            best = min(part.checks, key=lambda check: check.misfit).algorithm
            worst = max((c for c in part.checks if c.algorithm == best), key=lambda check: abs(check.error))
            lines.append(
                f"cost model ({best}), {part.title}: fitted to {listed(part.fitted_ranks)} ranks it predicts "
                f"{1e3 * worst.predicted_s:.4g} ms a step at {worst.row.point.ranks}, measured "
                f"{1e3 * worst.row.values['step_s']:.4g} ms: {100 * worst.error:+.1f} %"
            )
        lines += [
            f"{'' if found.obstacle else 'prediction, '}{key.study} scaling, {key.label}: {found.verdict()}"
            for key, (_, found) in part.forecasts.items()
        ]
    return lines


def percent(value: float, error: float = math.nan) -> str:
    """A fraction in per cent with its error."""
    text = f"{100 * value:.1f}"
    return f"{text} %" if math.isnan(error) else f"({text} ± {100 * error:.1f}) %"


def listed(numbers: Sequence[int]) -> str:
    """Numbers in words."""
    return ", ".join(str(number) for number in numbers)
