"""Conclusions from a scaling experiment: cost models, their check on unseen points, forecasts, and all in words."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dist_calo.scaling.cost import ALGORITHMS
from dist_calo.scaling.fit import Fit, HeldOutPoint, check_model, fit_model
from dist_calo.scaling.forecast import HIDDEN, Forecast, forecast, forecast_overlapped
from dist_calo.scaling.point_summaries import PointSummary, Series, Summary, base_of


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """The cost model of points of one backend, number of threads and overlap."""

    title: str
    rows: list[PointSummary]
    """Those that nothing disturbed, or all where there are no others."""
    fits: list[Fit]
    fitted_ranks: list[int]
    checks: list[HeldOutPoint]
    forecasts: dict[Series, tuple[list[PointSummary], Forecast]]


def cost_models(summary: Summary) -> list[CostModel]:
    """Fit, check and extrapolate everything that shares a cost model."""
    groups: dict[tuple[str, int, bool], list[PointSummary]] = defaultdict(list)
    for row in summary.rows:
        groups[row.point.backend, row.point.threads, row.point.overlap].append(row)
    fitted_rows = {key: [row for row in rows if not row.disturbed] or rows for key, rows in groups.items()}
    models = {
        key: [fit_model(rows, algorithm) for algorithm in ALGORITHMS]
        for key, rows in fitted_rows.items()
        if len({row.point.ranks for row in rows}) > 1
    }
    parts = []
    for (backend, threads, overlap), fits in models.items():
        rows = fitted_rows[backend, threads, overlap]
        fitted, checks = check_model(rows)
        own = [
            key
            for key in summary.series
            if (key.backend, key.threads, key.overlap) == (backend, threads, overlap)
        ]
        bare_fits = models.get((backend, threads, False), [])
        parts.append(
            CostModel(
                title=f"{backend}, {threads} thread{'s' * (threads > 1)} a rank, overlap {'on' if overlap else 'off'}",
                rows=rows,
                fits=fits,
                fitted_ranks=fitted,
                checks=checks,
                forecasts={
                    key: (summary.series[key], _forecast(summary, key, fits, bare_fits))
                    for key in own
                    if len(summary.series[key]) > 1
                },
            )
        )
    return parts


def _forecast(summary: Summary, key: Series, fits: Sequence[Fit], bare_fits: Sequence[Fit]) -> Forecast:
    """Forecast a series; with overlap this takes the same series without, unless nothing can be hidden."""
    rows = summary.series[key]
    # Gradients that fit into one bucket leave when the backward pass is over.
    payload = max(row.values["bytes_per_step"] for row in rows) * (1 if key.wire == "fp32" else 2)
    if not key.overlap or payload <= summary.plan.config.comm.bucket_mb * 2**20:
        return forecast(rows, fits)
    bare_rows = summary.series.get(replace(key, overlap=False))
    if not bare_rows or not bare_fits:
        return forecast(rows, fits, obstacle=HIDDEN)
    return forecast_overlapped(rows, fits, bare_rows, bare_fits)


def sentences(summary: Summary, parts: Sequence[CostModel]) -> list[str]:
    """Return the findings, a line each: the largest point of each series, the model's check, where 90 % ends."""
    lines = []
    for key, rows in summary.series.items():
        counted = [row for row in rows if row.counts]
        last = counted[-1] if counted else rows[-1]
        base = base_of(rows)
        if last.point.ranks > base.point.ranks:
            lines.append(
                f"{key.study} scaling, {key.label}: efficiency {percent(last.efficiency, last.efficiency_error)} at "
                f"{last.point.ranks} ranks, relative to {base.point.ranks}"
                + (
                    ""
                    if last.counts
                    else " (its ranks did not have cores to themselves: not a measure of scaling)"
                )
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
            f"{'' if found.obstacle else 'prediction, '}{key.study} scaling, {key.label}: {found.described()}"
            for key, (_, found) in part.forecasts.items()
        ]
    return lines


def percent(value: float, error: float = math.nan) -> str:
    """Write a fraction in per cent with its error."""
    text = f"{100 * value:.1f}"
    return f"{text} %" if math.isnan(error) else f"({text} ± {100 * error:.1f}) %"


def listed(numbers: Sequence[int]) -> str:
    """Write numbers as a list."""
    return ", ".join(str(number) for number in numbers)
