"""Report of a scaling experiment: one HTML page that needs no network, and a table for other programs."""

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dist_calo.errors import DataError
from dist_calo.files import write_text
from dist_calo.pages import render
from dist_calo.pages.pictures import Picture, picture
from dist_calo.scaling import figures
from dist_calo.scaling.conclusions import CostModel, cost_models, listed, percent, sentences
from dist_calo.scaling.fit import Fit
from dist_calo.scaling.forecast import Forecast
from dist_calo.scaling.mlflow_runs import add_report
from dist_calo.scaling.plan import read_plan
from dist_calo.scaling.point_summaries import PointSummary, Series, Summary, summarise
from dist_calo.scaling.warnings import NOT_CHECKED, explained, one_line

THROUGH = 0.005
"""Relative misfit below which a fit goes through its points."""


def write_report(results: Path, out: Path) -> list[str]:
    """Write report.html and points.csv, put both into the parent run, and return lines that sum up what they say.

    Raises:
        ConfigError: if there is no plan, or the folder cannot be written.
        DataError: if nothing is measured yet, or a result cannot be read.
    """
    plan = read_plan(results)
    summary = summarise(results, plan)
    if not summary.rows:
        command = f"dist-calo scale run {shlex.quote(str(results))}"
        raise DataError(f"{results}: holds no results yet; measure them: {command}")
    parts = cost_models(summary)
    page, table = out / "report.html", out / "points.csv"
    out.mkdir(parents=True, exist_ok=True)
    write_text(page, report_html(results.name, summary, parts))
    write_text(table, points_csv(summary.rows))
    lines = [*sentences(summary, parts), one_line(summary, parts)]
    add_report(plan, results, [page, table], _headlines(summary, parts))
    return [*lines, str(page), str(table)]


def points_csv(rows: Sequence[PointSummary]) -> str:
    """Return all numbers of all points, a line each; empty where a node does not tell."""
    columns = ["speed_up", "efficiency", "efficiency_error", "job_showers_per_s", "job_efficiency"]
    judged = ["oversubscribed", "core_share", "throttled", "counts"]
    lines: list[dict[str, Any]] = []
    for row in rows:
        measured = {
            name: value for name, value in row.values.items() if name not in ("nodes", "repeat", "threads")
        }
        lines.append(
            {"number": row.number, **asdict(row.point), "repeats": row.repeats}
            | measured
            | {"step_error_s": row.step_error_s, "step_spread_s": row.step_spread_s, "base": row.base}
            | {name: getattr(row, name) for name in columns + judged}
        )
    written = io.StringIO()
    writer = csv.DictWriter(written, list(dict.fromkeys(name for line in lines for name in line)), restval="")
    writer.writeheader()
    for line in lines:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in line.items()})
    return written.getvalue()


def _headlines(summary: Summary, parts: Sequence[CostModel]) -> Mapping[str, float]:
    """Return the numbers for the parent run."""
    found = {f"efficiency/point_{row.number}": row.efficiency for row in summary.rows}
    for part in parts:
        for fit in part.fits:
            found[f"model/{fit.algorithm}/misfit"] = fit.misfit
        for check in part.checks:
            found[f"model/{check.algorithm}/error_at_{check.row.point.ranks}_ranks"] = check.error
    return {name: value for name, value in found.items() if math.isfinite(value)}


def report_html(name: str, summary: Summary, parts: Sequence[CostModel]) -> str:
    """Return the page.

    Args:
        name: of the experiment.
        summary: what was measured.
        parts: what the model says.
    """
    return render(
        "dist_calo.scaling",
        {"ms": milliseconds, "percent": percent, "known": known},
        name=name,
        summary=summary,
        parts=parts,
        sentences=sentences(summary, parts),
        notes=explained(summary, parts),
        efficiency=_efficiency_pictures(summary),
        split=_split_picture(summary),
        models={part.title: _model_pictures(part) for part in parts},
        parameters={part.title: _parameters(part) for part in parts},
        remarks={part.title: _remarks(part) for part in parts},
        energy=any(not math.isnan(row.values["energy_j_per_shower"]) for row in summary.rows),
        published=figures.PUBLISHED,
    )


def _efficiency_pictures(summary: Summary) -> list[tuple[str, Picture]]:
    held = {"weak": "the batch of a rank is fixed", "strong": "the global batch is fixed"}
    return [
        (
            f"{study.capitalize()} scaling",
            picture(
                figures.efficiency_figure(summary.series, study),
                f"Speed-up and parallel efficiency of {study} scaling against the number of ranks.",
                f"Speed-up and parallel efficiency where {text}, relative to the smallest point of each series "
                "that counts. Hollow: ranks shared their cores with each other or with other programs, or had a "
                "smaller quota: no measure of scaling.",
                vector=True,
            ),
        )
        for study, text in held.items()
        if any(key.study == study for key in summary.series)
    ]


def _split_picture(summary: Summary) -> Picture:
    return picture(
        figures.split_figure([row for rows in summary.series.values() for row in rows]),
        "Time of a step in computing, in collectives and waiting for data, a bar for each point.",
        "Means over all ranks, medians over repeats; the mark is the step of the slowest rank with its error. In "
        "collectives: the part of communication that computing does not hide, and waiting for slower ranks; of one "
        "rank, the calls alone.",
        vector=True,
    )


def _model_pictures(part: CostModel) -> list[Picture]:
    seen = listed(part.fitted_ranks)
    unseen = f" Diamonds: predicted from {seen} ranks alone." if part.checks else ""
    disturbed = any(row.disturbed for row in part.rows)
    which = "all points, each of which was disturbed" if disturbed else "all points that nothing disturbed"
    pictures = [
        picture(
            figures.fit_figure(part.rows, part.fits, part.checks),
            "Measured and modelled time of a step for each point, and their relative difference.",
            f"The model fitted to {which}, by ring and by tree.{unseen}",
            vector=True,
        )
    ]
    for study in ("weak", "strong"):
        chosen = {key: found for key, found in _predicted(part).items() if key.study == study}
        if chosen:
            pictures.append(
                picture(
                    figures.forecast_figure(chosen),
                    f"Predicted efficiency of {study} scaling to 4,096 ranks with its uncertainty.",
                    f"Predicted efficiency of {study} scaling, each rank with cores of its own; the line by the "
                    "algorithm that fits best (dashed beyond the measured ranks), the band over both and all resampled "
                    "fits (one standard deviation); with overlap, where a bucket may leave during the backward pass, "
                    "from nothing hidden to what fits behind a backward pass. Not in it: slower nodes, contention of a "
                    "larger network, shared files, steps that scatter: all wait for the slowest of p ranks, by about "
                    "√(2 ln p) standard deviations of a rank's step, which the fit counts as latency.",
                    vector=True,
                )
            )
    return pictures


def _predicted(part: CostModel) -> dict[Series, tuple[list[PointSummary], Forecast]]:
    return {key: found for key, found in part.forecasts.items() if not found[1].obstacle}


def _remarks(part: CostModel) -> list[str]:
    """Return remarks on the fitted parameters."""
    remarks, least = [], min(fit.misfit for fit in part.fits)
    if part.fits[0].freedom <= 0:
        remarks.append(
            "There are no more points than parameters: the fit goes through them and proves nothing."
            if least < THROUGH
            else f"There are no more points than parameters, and still the model misses them by {percent(least)} (root "
            "mean square)."
        )
    if not part.checks:
        remarks.append(NOT_CHECKED)
    return remarks + [
        f"{key.study.capitalize()} scaling, {key.label}: {found.described()}."
        for key, (_, found) in part.forecasts.items()
        if found.obstacle
    ]


def _parameters(part: CostModel) -> list[tuple[str, list[str]]]:
    """Return the table of parameters: a name, and the value of each algorithm."""
    names = (
        ("base of a step / ms", 0, 1e3),
        ("computing / ms a shower", 1, 1e3),
        ("latency within a node / µs", 2, 1e6),
        ("bandwidth within a node / MB/s", 3, None),
        ("latency between nodes / µs", 4, 1e6),
        ("bandwidth between nodes / MB/s", 5, None),
    )
    lines = [(title, [_parameter(fit, index, factor) for fit in part.fits]) for title, index, factor in names]
    shares = {row.point.global_batch / row.point.ranks for row in part.rows}
    if len(shares) == 1:
        # With the same share everywhere nothing tells computing from the base: their sum alone is known.
        factors = np.array([1e3, 1e3 * shares.pop()])
        sums = [(fit.parameters[:2] @ factors, (fit.samples[:, :2] @ factors).std()) for fit in part.fits]
        both = [f"{_digits(value)} ± {_digits(error)}" for value, error in sums]
        lines[:2] = [("base and computing of a step / ms", both)]
    lines.append(("root mean square of model − measured", [f"{100 * fit.misfit:.1f} %" for fit in part.fits]))
    return lines


def _parameter(fit: Fit, index: int, factor: float | None) -> str:
    value, error = float(fit.parameters[index]), float(fit.errors()[index])
    if any(index in pair for pair in fit.inseparable):
        return "cannot be told apart from the other of the two"
    if not value and not error:
        return "–"
    if factor is not None:
        return f"{_digits(factor * value)} ± {_digits(factor * error)}"
    # A bandwidth is the inverse of what is fitted: no time a byte is an unlimited bandwidth.
    slow = _digits(1e-6 / (value + error))
    return f"{_digits(1e-6 / value)} (at least {slow})" if value else f"at least {slow}"


def _digits(number: float) -> str:
    """Write three digits, without a power of ten where there are more before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def milliseconds(seconds: float, error: float = math.nan) -> str:
    """Write a time in ms with its error."""
    if math.isnan(seconds):
        return "–"
    text = f"{1e3 * seconds:.4g}"
    return text if math.isnan(error) else f"{text} ± {1e3 * error:.2g}"


def known(value: float, form: str = "%.3g") -> str:
    """Write a number, or a dash where there is none."""
    return "–" if math.isnan(value) else form % value
