"""The page of a scaling report: figures, tables and what to know before trusting them."""

import math
from collections.abc import Sequence

import numpy as np

from dist_calo.pages import render
from dist_calo.pages.pictures import Picture, picture
from dist_calo.scaling.fit import Fit
from dist_calo.scaling.forecast import Forecast
from dist_calo.scaling.predictions import ModelPart, listed, percent, sentences
from dist_calo.scaling.published import PUBLISHED
from dist_calo.scaling.summary import Row, Series, Summary
from dist_calo.scaling.warnings import NOT_CHECKED, notes

THROUGH = 0.005
"""Relative misfit below which a fit goes through its points."""


def report_html(name: str, summary: Summary, parts: Sequence[ModelPart]) -> str:
    """The page.

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
        notes=notes(summary, parts),
        efficiency=_efficiency_pictures(summary),
        split=_split_picture(summary),
        models={part.title: _model_pictures(part) for part in parts},
        parameters={part.title: _parameters(part) for part in parts},
        remarks={part.title: _remarks(part) for part in parts},
        energy=any(not math.isnan(row.values["energy_j_per_shower"]) for row in summary.rows),
        published=PUBLISHED,
    )


def _efficiency_pictures(summary: Summary) -> list[tuple[str, Picture]]:
    from dist_calo.scaling import figures

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
    from dist_calo.scaling import figures

    return picture(
        figures.split_figure([row for rows in summary.series.values() for row in rows]),
        "Time of a step in computing, in collectives and waiting for data, a bar for each point.",
        "Means over all ranks, medians over repeats; the mark is the step of the slowest rank with its error. In "
        "collectives: the part of communication that computing does not hide, and waiting for slower ranks; of one "
        "rank, the calls alone.",
        vector=True,
    )


def _model_pictures(part: ModelPart) -> list[Picture]:
    from dist_calo.scaling import figures

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
                    "√(2 ln p) standard deviations of a rank's step, and the fit lays it to latency.",
                    vector=True,
                )
            )
    return pictures


def _predicted(part: ModelPart) -> dict[Series, tuple[list[Row], Forecast]]:
    return {key: found for key, found in part.forecasts.items() if not found[1].obstacle}


def _remarks(part: ModelPart) -> list[str]:
    """What is to be said under the fitted parameters."""
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
        f"{key.study.capitalize()} scaling, {key.label}: {found.verdict()}."
        for key, (_, found) in part.forecasts.items()
        if found.obstacle
    ]


def _parameters(part: ModelPart) -> list[tuple[str, list[str]]]:
    """Lines of the table of parameters: a name, and the value of each algorithm."""
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
    """Three digits, without a power of ten where there are more before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def milliseconds(seconds: float, error: float = math.nan) -> str:
    """A time in ms with its error."""
    if math.isnan(seconds):
        return "–"
    text = f"{1e3 * seconds:.4g}"
    return text if math.isnan(error) else f"{text} ± {1e3 * error:.2g}"


def known(value: float, form: str = "%.3g") -> str:
    """A number, or a dash where there is none."""
    return "–" if math.isnan(value) else form % value
