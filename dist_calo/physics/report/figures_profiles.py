"""Figures of means: energy response and resolution against energy, and profiles."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.physics.figures import panels
from dist_calo.physics.figures.panels import GENERATED, REFERENCE, Estimate
from dist_calo.physics.metrics.evaluation import Evaluation
from dist_calo.physics.metrics.profile_metrics import fitted_resolution, response_of
from dist_calo.physics.metrics.resolution import ResolutionFit, in_words
from dist_calo.physics.observables.sample import GroupSums
from dist_calo.physics.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
CURVE_POINTS = 200


def response_figure(evaluation: Evaluation) -> "Figure":
    """Draw energy response and resolution against the incident energy, with the fits and their ratios."""
    figure, axes = panels.compared_panels(2, width=4.9, rows=(5, 2))
    sides = (evaluation.real_part, evaluation.fake_part)
    slots = range(evaluation.binning.slots - 1)
    energies = [np.array([_energy(part, slot) for slot in slots]) for part in sides]
    responses = [np.array([response_of(part, slot) for slot in slots]).T for part in sides]
    edges = np.asarray(evaluation.binning.energy)
    titles = (figures.written(evaluation.observer.labels["response"], 30), "resolution  σ / mean [%]")
    for column, (title, factor) in enumerate(zip(titles, (1.0, 100.0), strict=True)):
        main, ratio = axes[:, column]
        pair = [Estimate(value=r[2 * column] * factor, error=r[2 * column + 1] * factor) for r in responses]
        for side, energy, name, style in zip(pair, energies, evaluation.names, _STYLES, strict=True):
            across = np.abs(np.stack([energy - edges[:-1], edges[1:] - energy]))
            main.errorbar(
                energy, side.value, yerr=side.error, xerr=across, label=figures.plain(name), **style
            )
        _ratio(ratio, edges, energies[1], pair)
        if column:
            _fits(main, ratio, edges, energies, [fitted_resolution(part) for part in sides])
            main.set_ylim(bottom=0.0)
        main.set_ylabel(title)
        ratio.set_xlabel("incident energy E$_{inc}$ [GeV]")
        if figures.is_wide(edges):
            main.set_xscale("log")
        main.set_xlim(edges[0], edges[-1])
        main.margins(y=0.25)
        main.legend(frameon=False, fontsize="small", loc="best")
    axes[1, 0].set_ylabel(figures.plain(f"{evaluation.names[1]} / {evaluation.names[0]}"), fontsize="small")
    return figure


def profiles_figure(evaluation: Evaluation, slot: int) -> "Figure":
    """Draw every profile with its ratio."""
    profiles = evaluation.observer.profiles
    names = [figures.plain(name) for name in evaluation.names]
    figure, pairs = figures.grid_of(len(profiles), COLUMNS, width=4.0, height=3.6)
    sides = (evaluation.real_part, evaluation.fake_part)
    for (name, profile), (main, ratio) in zip(profiles.items(), pairs, strict=True):
        pair = [
            Estimate(value=value, error=error)
            for value, error in (part.profile(name, slot) for part in sides)
        ]
        labels = (names[0], names[1])
        if profile.points or profile.width > figures.MANY:
            edges = profile.edges
            places = edges if profile.points else 0.5 * (edges[1:] + edges[:-1])
            figures.compare_points(main, ratio, places, pair, labels)
        else:
            panels.compare(main, ratio, profile.edges, pair, labels, figures.span_of(pair))
            main.set_xlim(profile.edges[0], profile.edges[-1])
        if profile.log_axis:
            main.set_xscale("log")
        if profile.log_values and panels.any_positive(pair):
            main.set_yscale("log")
            largest = max(float(np.nanmax(side.value)) for side in pair)
            least = _least(pair[0])
            main.set_ylim(0.3 * least, 4.0 * largest)
        elif not profile.points or (pair[0].value >= 0).all():
            main.set_ylim(bottom=min(0.0, main.get_ylim()[0]))
        figures.finish_ticks(main, ratio)
        main.set_ylabel(figures.written(profile.title, 30), fontsize="small")
        ratio.set_xlabel(figures.written(profile.axis), fontsize="small")
        ratio.set_ylabel("ratio", fontsize="small")
    pairs[0][0].legend(frameon=False, fontsize="small")
    return figure


_STYLES: tuple[dict[str, Any], dict[str, Any]] = (
    {"color": REFERENCE, "marker": "o", "markersize": 5, "linestyle": "none", "elinewidth": 1.2},
    {
        "color": GENERATED,
        "marker": "s",
        "markersize": 4.5,
        "markerfacecolor": "white",
        "linestyle": "none",
        "elinewidth": 1.2,
    },
)


def _energy(part: GroupSums, slot: int) -> float:
    count = part.count(slot)
    return float(part.in_slot("energy", slot)) / count if count else math.nan


def _ratio(ratio: "Axes", edges: np.ndarray, energy: np.ndarray, pair: list[Estimate]) -> None:
    real, fake = pair
    with np.errstate(divide="ignore", invalid="ignore"):
        value, error, band = fake.value / real.value, fake.error / real.value, real.error / real.value
    for low, high, half in zip(edges, edges[1:], band, strict=False):
        ratio.fill_between([low, high], 1 - half, 1 + half, color=REFERENCE, alpha=0.25, linewidth=0)
    ratio.axhline(1.0, color=REFERENCE, linewidth=1.0)
    ratio.errorbar(energy, value, yerr=error, **_STYLES[1])
    reach = np.concatenate([np.abs(value - 1) + error, band])
    reach = reach[np.isfinite(reach)]
    half = min(max(1.15 * float(reach.max(initial=0.0)), 0.005), 0.9)
    ratio.set_ylim(1 - half, 1 + half)


def _fits(
    main: "Axes",
    ratio: "Axes",
    edges: np.ndarray,
    energies: list[np.ndarray],
    fits: list[ResolutionFit | None],
) -> None:
    """Draw the fits of both samples and write their terms."""
    least = edges[0] if edges[0] > 0 else 0.7 * float(np.nanmin(energies))
    energy = np.geomspace(least, edges[-1], CURVE_POINTS)
    curves = []
    noise = any(fit and "noise" in fit.terms for fit in fits)
    words = [r"$\sigma/E = a/\sqrt{E} \oplus c" + (r" \oplus b/E$" if noise else "$")]
    for fit, style, dashes in zip(fits, _STYLES, ("-", "--"), strict=True):
        if fit is None:
            continue
        curves.append(100 * fit(energy))
        main.plot(energy, curves[-1], color=style["color"], linestyle=dashes, linewidth=1.2)
        words.append(in_words(fit))
    if len(curves) == 2:
        ratio.plot(energy, curves[1] / curves[0], color=GENERATED, linestyle="--", linewidth=1.2)
    for line, (text, colour) in enumerate(zip(words, ("black", REFERENCE, GENERATED), strict=False)):
        height = 0.79 - 0.065 * line
        main.text(0.96, height, text, transform=main.transAxes, ha="right", color=colour, fontsize="small")


def _least(real: Estimate) -> float:
    """Return the smallest value that more than one shower contributes to."""
    well = real.value[(real.value > 0) & (real.error < 0.7 * real.value)]
    return float(well.min()) if well.size else float(real.value[real.value > 0].min(initial=1.0))
