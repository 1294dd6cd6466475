"""Figures of observables: the histogram of each, and those of each layer or channel against its number."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.physics.figures import layered, panels
from dist_calo.physics.figures.panels import GENERATED, REFERENCE, Estimate
from dist_calo.physics.metrics.evaluation import Evaluation
from dist_calo.physics.observables.energy_bins import MARGIN_BINS
from dist_calo.physics.observables.features import columns_by_group
from dist_calo.physics.report import figures
from dist_calo.physics.report.rounding import with_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
SINGLE = 8
"""Layers or channels of a group that get a histogram each; where there are nine, all do."""
ROWS = 5
"""Groups of a few layers that share a figure, a row each."""
OUTSIDE = 0.005
"""Share of a sample beyond the usual bins from which they are drawn as well."""
LEAST_IN_BIN, MOST_MERGED = 8.0, 8
"""Showers in a bin that is drawn, on average, and most bins that are merged for it."""
PEAKED = 8.0
"""Ratio of the highest to the median filled bin from which the axis is logarithmic."""


def columns_of(evaluation: Evaluation, group: str) -> list[int]:
    """Return the columns of a group of observables."""
    return [int(column) for column in columns_by_group(evaluation.observer.features)[group]]


def single_groups(evaluation: Evaluation) -> list[str]:
    """Return the groups with one observable, which has one value a shower."""
    return [g for g in evaluation.observer.labels if len(columns_of(evaluation, g)) == 1]


def indexed_groups(evaluation: Evaluation) -> list[str]:
    """Return the groups with several observables, one for each layer or channel."""
    return [g for g in evaluation.observer.labels if len(columns_of(evaluation, g)) > 1]


def spread(count: int) -> list[int]:
    """Choose the layers or channels that get a histogram each: all of up to nine, else a few evenly spaced."""
    return list(range(count)) if count <= SINGLE + 1 else layered.spread(count, SINGLE)


def blocks(evaluation: Evaluation) -> Iterator[tuple[list[str], list[int], int]]:
    """Return the figures of single layers or channels: groups, observables, and how many stand in a row."""
    groups = indexed_groups(evaluation)
    chosen = {}
    for group in groups:
        columns = columns_of(evaluation, group)
        chosen[group] = [columns[place] for place in spread(len(columns))]
    waiting: list[str] = []
    for place, group in enumerate(groups):
        waiting.append(group)
        following = chosen[groups[place + 1]] if place + 1 < len(groups) else []
        count = len(chosen[group])
        if count > COLUMNS or len(following) != count or len(waiting) == ROWS:
            across = count if count <= COLUMNS else 3 if count % 3 == 0 else COLUMNS
            yield waiting, [column for name in waiting for column in chosen[name]], across
            waiting = []


def histograms_figure(
    evaluation: Evaluation, slot: int, columns: Sequence[int], across: int = COLUMNS
) -> "Figure":
    """Draw the histograms of some observables, with their ratios."""
    figure, pairs = figures.grid_of(len(columns), across, width=3.2, height=2.8)
    counts = [part.histograms(slot) for part in (evaluation.real_part, evaluation.fake_part)]
    features, labels = evaluation.observer.features, evaluation.observer.labels
    indexed = evaluation.observer.indexed_by
    for place, (column, (main, ratio)) in enumerate(zip(columns, pairs, strict=True)):
        feature = features[column]
        _histogram(main, ratio, evaluation, slot, column, [side[column] for side in counts])
        index = f"{indexed[feature.group]} {feature.index}: " if feature.group in indexed else ""
        ratio.set_xlabel(figures.written(index + labels[feature.group], 36), fontsize="small")
        if place % across == 0:
            main.set_ylabel("share of showers", fontsize="small")
            ratio.set_ylabel("ratio", fontsize="small")
    # One legend above all: none of the panels has room for it.
    handles = pairs[0][0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, loc="upper center", ncols=2, fontsize="medium")
    return figure


def _histogram(
    main: "Axes",
    ratio: "Axes",
    evaluation: Evaluation,
    slot: int,
    column: int,
    counts: Sequence[np.ndarray],
) -> None:
    real = evaluation.real_part
    first, last = _range(counts)
    merged = _merged(counts, first, last)
    last = first + -(-(last - first) // merged) * merged
    first, last = first - max(last - len(counts[0]), 0), min(last, len(counts[0]))
    edges = real.edges(slot, column)[first : last + 1 : merged]
    pair = [panels.shares(_cut(side, first, last).reshape(-1, merged).sum(axis=1)) for side in counts]
    names = (figures.plain(evaluation.names[0]), figures.plain(evaluation.names[1]))
    panels.compare(main, ratio, edges, pair, names, figures.span_of(pair))
    main.set_xlim(edges[0], edges[-1])
    main.ticklabel_format(axis="x", useOffset=False)
    highest = max(float(side.value.max()) for side in pair)
    filled = pair[0].value[pair[0].value > 0]
    if filled.size and highest > PEAKED * np.median(filled):
        least = float(filled.min())
        main.set_yscale("log")
        main.set_ylim(0.5 * least, highest * (highest / least) ** 0.45)
    else:
        main.set_ylim(0.0, 1.45 * (highest or 1.0))
    # Edges halfway between whole numbers: the observable counts something.
    figures.finish_ticks(main, ratio, whole=bool(np.all(edges % 1.0 == 0.5)))
    words = _words(evaluation, slot, column)
    main.text(0.96, 0.95, words, transform=main.transAxes, ha="right", va="top", fontsize="small")


def _merged(counts: Sequence[np.ndarray], first: int, last: int) -> int:
    """Return how many bins are drawn as one, so that the histogram of few showers stays smooth."""
    a_bin = min(float(side.sum()) for side in counts) / (last - first)
    return next((merged for merged in (1, 2, 4) if merged * a_bin >= LEAST_IN_BIN), MOST_MERGED)


def _range(counts: Sequence[np.ndarray]) -> tuple[int, int]:
    """Return the first and last bin to draw: the central ones that are filled, and more where a sample has tails."""
    first, last = MARGIN_BINS, len(counts[0]) - MARGIN_BINS
    for side in counts:
        share = np.cumsum(side) / max(float(side.sum()), 1.0)
        first = min(first, int(np.searchsorted(share, OUTSIDE)))
        last = max(last, int(np.searchsorted(share, 1.0 - OUTSIDE)) + 1)
    last = min(last, len(counts[0]))
    filled = np.flatnonzero(np.sum(counts, axis=0)[first:last])
    if len(filled):
        # Integers leave most fine bins empty; one bin on either side shows where they end.
        first, last = first + int(filled[0]) - 1, min(first + int(filled[-1]) + 2, len(counts[0]))
    first = max(first, 0)
    return first, last


def _cut(counts: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return the bins to draw; all beyond counts in the outer ones."""
    inside = counts[first:last].copy()
    inside[0] += counts[:first].sum()
    inside[-1] += counts[last:].sum()
    return inside


def _words(evaluation: Evaluation, slot: int, column: int) -> str:
    numbers, feature = evaluation.slots[slot], evaluation.observer.features[column]
    alone = len(columns_of(evaluation, feature.group)) == 1
    name = feature.group if alone else feature.name
    words = []
    for kind, title in (("separation", "sep."), ("wasserstein_scaled", "W$_1$/σ")):
        number = numbers.get(f"{kind}/{name}")
        if number is not None and math.isfinite(number.value):
            words.append(f"{title} {with_error(number.value, number.error)}")
    return "\n".join(words)


def indexed_figure(evaluation: Evaluation, slot: int, groups: Sequence[str]) -> "Figure":
    """Draw mean and width of the observables of each layer or channel against its number, with both ratios."""
    figure, pairs = figures.grid_of(len(groups), 2, width=5.6, height=3.6)
    observer, sides = evaluation.observer, (evaluation.real_part, evaluation.fake_part)
    for group, (main, lower) in zip(groups, pairs, strict=True):
        columns = columns_of(evaluation, group)
        index = np.array([observer.features[column].index for column in columns], dtype=np.float64)
        means, widths = [], []
        for part in sides:
            mean, width = part.mean(slot)[columns], part.deviation(slot)[columns]
            seen = np.maximum(part.in_slot("seen", slot)[columns], 2.0)
            means.append(Estimate(value=mean, error=width / np.sqrt(seen)))
            widths.append(Estimate(value=width, error=width / np.sqrt(2.0 * (seen - 1.0))))
        _means_and_widths(main, index, means, widths, evaluation.names)
        if observer.features[columns[0]].relative:
            _ratios(lower, index, means, widths)
            lower.set_ylabel("ratio", fontsize="small")
        else:
            figures.differences(lower, index, means)
            lower.set_ylabel("difference", fontsize="small")
        main.set_ylabel(figures.written(observer.labels[group], 34), fontsize="small")
        lower.set_xlabel(observer.indexed_by[group], fontsize="small")
        if len(columns) <= 12:
            lower.set_xticks(index)
        main.set_xlim(index[0] - 0.6, index[-1] + 0.6)
    pairs[0][0].legend(frameon=False, fontsize="small")
    return figure


def _means_and_widths(
    main: "Axes",
    index: np.ndarray,
    means: Sequence[Estimate],
    widths: Sequence[Estimate],
    names: tuple[str, str],
) -> None:
    (real, fake), (real_width, fake_width) = means, widths
    main.fill_between(
        index,
        real.value - real_width.value,
        real.value + real_width.value,
        color="#d0d0d0",
        linewidth=0,
        label="± standard deviation",
    )
    main.errorbar(
        index,
        real.value,
        yerr=real.error,
        color=REFERENCE,
        marker="o",
        markersize=4,
        label=figures.plain(names[0]),
    )
    for sign in (-1, 1):
        main.plot(index, fake.value + sign * fake_width.value, color=GENERATED, linestyle="--", linewidth=1.0)
    main.errorbar(
        index,
        fake.value,
        yerr=fake.error,
        color=GENERATED,
        marker="s",
        markersize=3.5,
        markerfacecolor="white",
        label=figures.plain(names[1]),
        linestyle="none",
    )


def _ratios(lower: "Axes", index: np.ndarray, means: Sequence[Estimate], widths: Sequence[Estimate]) -> None:
    """Draw the ratios of the means, filled, and of the widths, open."""
    (real, fake), (real_width, fake_width) = means, widths
    with np.errstate(divide="ignore", invalid="ignore"):
        band = real.error / np.abs(real.value)
        drawn = (
            ("mean", fake.value / real.value, fake.error / np.abs(real.value), GENERATED, "s"),
            (
                "width",
                fake_width.value / real_width.value,
                fake_width.error / real_width.value,
                "#0072B2",
                "^",
            ),
        )
    lower.fill_between(index, 1 - band, 1 + band, color=REFERENCE, alpha=0.25, linewidth=0)
    lower.axhline(1.0, color=REFERENCE, linewidth=1.0)
    reach = [0.02]
    for label, value, error, colour, marker in drawn:
        value = np.where(np.isfinite(value), value, np.nan)
        lower.errorbar(
            index,
            value,
            yerr=error,
            color=colour,
            marker=marker,
            markersize=3.5,
            linestyle="none",
            label=label,
        )
        known = np.abs(value - 1) + np.where(np.isfinite(error), error, 0.0)
        reach.append(float(np.quantile(known[np.isfinite(known)], 0.95)) if np.isfinite(known).any() else 0.0)
    half = min(1.2 * max(reach), 0.9)
    lower.set_ylim(1 - half, 1 + half)
    lower.legend(frameon=False, fontsize="x-small", ncols=2, loc="lower right", borderpad=0.1)
