"""Figures of a scaling report, with published efficiencies beside the measured ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.scaling.fit import Case, Fit, HeldOutPoint
from dist_calo.scaling.forecast import WORTHWHILE, Forecast
from dist_calo.scaling.point_summaries import PointSummary, Series, base_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all readers, and a marker each.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a7a00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SPLIT = (("compute_s", "computing", "#0072b2"), ("wait_comm_s", "in collectives", "#e69f00"))
SPLIT_DATA = ("wait_data_s", "waiting for data", "#999999")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published weak-scaling result: 3-d GANs of calorimeters, trained on many nodes."""

    label: str
    source: str
    points: tuple[tuple[int, float], ...]
    """Nodes or GPUs, and efficiency relative to the first."""


PUBLISHED = (
    Published(
        label="3DGAN, Horovod, 128 Xeon nodes",
        source="Vallecorsa et al., ISC High Performance 2018, LNCS 11203: 94 % at 128 nodes",
        points=((1, 1.0), (128, 0.94)),
    ),
    Published(
        label="3DGAN, 2-128 V100",
        source="ISC_HPC_3DGAN result tables: 94.0 % at 64 and 79.9 % at 128 GPUs, relative to 2",
        points=((2, 1.0), (64, 0.940), (128, 0.799)),
    ),
)


def _new(columns: int, height: float = 4.4) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _ranks_axis(axis: "Axes", ranks: Sequence[int]) -> None:
    """Make an axis logarithmic to base 2, with a tick at each power."""
    low, high = min(ranks), max(ranks)
    axis.set_xscale("log", base=2)
    exponents = range(int(np.floor(np.log2(low))), int(np.ceil(np.log2(high))) + 1)
    ticks = [2**exponent for exponent in exponents]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45 if len(ticks) > 9 else 0)
    axis.minorticks_off()
    axis.set_xlim(low / 1.15, high * 1.15)
    axis.set_xlabel("ranks")


def efficiency_figure(series: Mapping[Series, list[PointSummary]], study: str) -> "Figure":
    """Draw speed-up and efficiency of one kind of study; hollow points do not count."""
    figure, (left, right) = _new(2)
    chosen = {key: rows for key, rows in series.items() if key.study == study}
    ranks = sorted({row.point.ranks for rows in chosen.values() for row in rows})
    for number, (key, rows) in enumerate(chosen.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        base = base_of(rows)
        for row in rows:
            for axis, value in ((left, row.speed_up * base.point.ranks), (right, 100 * row.efficiency)):
                error = value * row.efficiency_error / row.efficiency
                axis.errorbar(
                    row.point.ranks,
                    value,
                    yerr=None if np.isnan(error) else error,
                    color=colour,
                    marker=marker,
                    markersize=7,
                    capsize=3,
                    markerfacecolor=colour if row.counts else "white",
                )
        for per_node in sorted({row.point.ranks_per_node for row in rows}):
            line = [row for row in rows if row.point.ranks_per_node == per_node or row is base]
            x = [row.point.ranks for row in line]
            left.plot(x, [row.speed_up * base.point.ranks for row in line], color=colour, alpha=0.5)
            right.plot(x, [100 * row.efficiency for row in line], color=colour, alpha=0.5)
        left.plot([], [], color=colour, marker=marker, label=key.label)
    left.plot(ranks, ranks, color="#666666", linestyle=":", label="ideal")
    if study == "weak":
        _published(right)
        right.legend(fontsize=8, frameon=False, loc="lower left")
    right.axhline(100 * WORTHWHILE, color="#666666", linewidth=0.8, linestyle="--")
    for axis in (left, right):
        _ranks_axis(axis, ranks)
    left.set_yscale("log", base=2)
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.set_ylabel("speed-up")
    right.set_ylabel("parallel efficiency / %")
    right.set_ylim(bottom=0)
    left.legend(fontsize=8, frameon=False)
    return figure


def _published(axis: "Axes") -> None:
    """Draw the published curves, as far as the axis reaches."""
    for published, style in zip(PUBLISHED, ("--", "-."), strict=True):
        ranks, values = zip(*published.points, strict=True)
        axis.plot(
            ranks,
            [100 * value for value in values],
            color="#777777",
            linestyle=style,
            marker=".",
            linewidth=1.2,
            label=published.label,
        )


def split_figure(rows: Sequence[PointSummary]) -> "Figure":
    """Draw the parts of the time of a step, a bar for each point."""
    figure, (axis,) = _new(1, height=max(2.2, 0.9 + 0.32 * len(rows)))
    places = np.arange(len(rows))
    start = np.zeros(len(rows))
    for name, label, colour in (*SPLIT, SPLIT_DATA):
        values = np.nan_to_num([1e3 * row.values[name] for row in rows])
        axis.barh(places, values, left=start, color=colour, label=label, height=0.7)
        start += values
    errors = [0.0 if np.isnan(row.step_error_s) else 1e3 * row.step_error_s for row in rows]
    steps = [1e3 * row.values["step_s"] for row in rows]
    axis.errorbar(
        steps, places, xerr=errors, fmt="|", color="black", capsize=2, label="step of the slowest rank"
    )
    axis.set_yticks(places, [_bar_label(row) for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("time of a step / ms")
    axis.legend(fontsize=8, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _bar_label(row: PointSummary) -> str:
    mark = "" if row.counts else " (cores shared)"
    return f"{row.series.label}: {row.point.nodes} x {row.point.ranks_per_node}{mark}"


def fit_figure(rows: Sequence[PointSummary], fits: Sequence[Fit], checks: Sequence[HeldOutPoint]) -> "Figure":
    """Draw the measured times of a step beside those of the fitted models, and their ratio."""
    figure, (left, right) = _new(2)
    measured = np.array([row.values["step_s"] for row in rows])
    errors = np.array([row.step_error_s for row in rows])
    places = np.arange(len(rows))
    left.errorbar(
        places, 1e3 * measured, yerr=1e3 * np.nan_to_num(errors), fmt="ko", capsize=3, label="measured"
    )
    right.axhspan(-5, 5, color="#dddddd", alpha=0.6)
    right.errorbar(places, 0 * measured, yerr=100 * np.nan_to_num(errors / measured), fmt="k.", capsize=3)
    for fit, colour, marker, shift in zip(fits, COLOURS[:2], "_x", (-0.12, 0.12), strict=True):
        predicted = fit.seconds([Case.of(row) for row in rows])
        left.plot(
            places + shift,
            1e3 * predicted,
            marker,
            color=colour,
            markersize=10,
            label=f"{fit.algorithm}, fitted",
        )
        right.plot(places + shift, 100 * (predicted / measured - 1), marker, color=colour, markersize=10)
        diamond: dict[str, Any] = {"fmt": "D", "color": colour, "markerfacecolor": "white", "capsize": 3}
        for check in (check for check in checks if check.algorithm == fit.algorithm):
            place = next(n for n, row in enumerate(rows) if row is check.row)
            band = np.array([[check.predicted_s - check.low_s], [check.high_s - check.predicted_s]]).clip(0)
            for axis, value, scale in (
                (left, 1e3 * check.predicted_s, 1e3),
                (right, 100 * check.error, 100 / check.row.values["step_s"]),
            ):
                axis.errorbar(place + 2.2 * shift, value, yerr=band * scale, **diamond)
    if checks:
        left.plot([], [], "D", color="#555555", markerfacecolor="white", label="predicted, this point unseen")
    for axis in (left, right):
        labels = [f"{row.point.nodes}x{row.point.ranks_per_node}" for row in rows]
        axis.set_xticks(places, labels, rotation=60 if len(rows) > 8 else 0, fontsize=8)
        axis.set_xlabel("nodes x ranks of the points, in the order of their numbers")
    left.set_ylim(bottom=0)
    left.set_ylabel("time of a step / ms")
    right.set_ylabel("model − measured / %")
    left.legend(fontsize=8, frameon=False)
    return figure


def forecast_figure(forecasts: Mapping[Series, tuple[Sequence[PointSummary], Forecast]]) -> "Figure":
    """Draw the efficiency to 4,096 ranks with its band, the points, and for weak studies the published curves."""
    figure, (axis,) = _new(1, height=5.2)
    for number, (key, (rows, forecast)) in enumerate(forecasts.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axis.fill_between(
            forecast.ranks, 100 * forecast.low, 100 * forecast.high, color=colour, alpha=0.18, linewidth=0
        )
        inside = forecast.ranks <= forecast.measured_to
        axis.plot(forecast.ranks, 100 * forecast.efficiency, color=colour, linestyle="--")
        axis.plot(forecast.ranks[inside], 100 * forecast.efficiency[inside], color=colour, label=key.label)
        for row in rows:
            face = colour if row.counts else "white"
            axis.plot(
                row.point.ranks,
                100 * row.efficiency,
                marker,
                color=colour,
                markerfacecolor=face,
                markersize=6,
            )
    axis.axhline(100 * WORTHWHILE, color="#666666", linewidth=0.8, linestyle="--")
    if any(key.study == "weak" for key in forecasts):
        _published(axis)
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    measured = [row.point.ranks for rows, _ in forecasts.values() for row in rows]
    _ranks_axis(axis, [*measured, *(int(forecast.ranks[-1]) for _, forecast in forecasts.values())])
    axis.set_ylim(0, 110)
    axis.set_ylabel("parallel efficiency / %")
    return figure
