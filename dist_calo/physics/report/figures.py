"""Helpers of the report's figures: comparisons of points, differences, grids, ticks and labels.

Figures are matplotlib `Figure` objects of their own: no global state is touched.
"""

import math
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.physics.figures import panels
from dist_calo.physics.figures.panels import GENERATED, REFERENCE, Estimate
from dist_calo.physics.metrics.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPANS = (0.1, 0.2, 0.5)
"""Half widths that the ratio's axis may have."""
WITHIN = 0.9
"""Share of the well measured ratios that must lie inside."""
WELL = 0.5
"""Relative error up to which a ratio decides about its axis, in half widths."""
MANY = 50
"""Points above which a curve is drawn as a line with a band."""
MOST_DECADES = 10
"""Most decades of a logarithmic axis with small ticks."""
LOG_FROM = 10.0
"""Ratio of the largest and the smallest value from which an axis is logarithmic."""


def span_of(pair: Sequence[Estimate]) -> tuple[float, float]:
    """Return the span of the ratio axis that shows nearly all well-measured ratios."""
    real, fake = pair
    with np.errstate(divide="ignore", invalid="ignore"):
        value, error = fake.value / real.value, np.hypot(fake.error, real.error) / np.abs(real.value)
    for half in SPANS:
        well = np.isfinite(value) & (error < WELL * half)
        if (
            well.sum() > 0.5 * np.isfinite(value).sum()
            and np.mean(np.abs(value[well] - 1.0) < half) >= WITHIN
        ):
            return 1.0 - half, 1.0 + half
    return panels.RATIO_RANGE


def compare_points(
    main: "Axes", ratio: "Axes", places: np.ndarray, pair: Sequence[Estimate], labels: tuple[str, str]
) -> None:
    """Draw values at positions: points with error bars, or lines with bands where there are many, and their ratio."""
    real, fake = pair
    many = len(places) > MANY
    for side, label, colour, marker in zip(pair, labels, (REFERENCE, GENERATED), ("o", "s"), strict=True):
        if many:
            main.plot(places, side.value, color=colour, linewidth=1.2, label=label)
            main.fill_between(
                places,
                side.value - side.error,
                side.value + side.error,
                color=colour,
                alpha=0.25,
                linewidth=0,
            )
        else:
            main.errorbar(
                places,
                side.value,
                yerr=side.error,
                label=label,
                color=colour,
                marker=marker,
                markersize=4.0 if marker == "o" else 3.5,
                markerfacecolor=colour if marker == "o" else "white",
                linewidth=0.8,
                elinewidth=1.2,
            )
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(real.value != 0, np.abs(real.value), np.nan)
        value, error, band = fake.value / real.value, fake.error / size, real.error / size
    low, high = span_of(pair)
    # Around zero a ratio is dominated by noise.
    value = np.where(np.hypot(error, band) < high - low, value, np.nan)
    ratio.fill_between(places, 1.0 - band, 1.0 + band, color=REFERENCE, alpha=0.25, linewidth=0)
    ratio.axhline(1.0, color=REFERENCE, linewidth=1.0)
    if many:
        ratio.plot(places, value, color=GENERATED, linewidth=1.0)
    else:
        ratio.errorbar(
            places,
            value,
            yerr=error,
            color=GENERATED,
            marker="s",
            markersize=3.5,
            elinewidth=1.2,
            linewidth=0,
        )
    ratio.set(ylim=(low, high), yticks=(1.0 + 0.8 * (low - 1.0), 1.0, 1.0 + 0.8 * (high - 1.0)))


def differences(lower: "Axes", places: np.ndarray, pair: Sequence[Estimate], colour: str = GENERATED) -> None:
    """Draw the second minus the first sample at positions, where a ratio has no meaning."""
    real, fake = pair
    lower.fill_between(places, -real.error, real.error, color=REFERENCE, alpha=0.25, linewidth=0)
    lower.axhline(0.0, color=REFERENCE, linewidth=1.0)
    lower.errorbar(
        places,
        fake.value - real.value,
        yerr=fake.error,
        color=colour,
        marker="s",
        markersize=3.5,
        elinewidth=1.2,
        linestyle="none",
    )


def grid_of(
    count: int, columns: int, width: float = 3.3, height: float = 2.9
) -> "tuple[Figure, list[tuple[Axes, Axes]]]":
    """Return a figure with so many pairs of panels, in rows, and the pairs."""
    columns = min(columns, count)
    figure, axes = panels.panel_grid(-(-count // columns), columns, width, height)
    pairs = list(zip(axes[0].flat, axes[1].flat, strict=True))
    for main, ratio in pairs[count:]:
        main.set_visible(False)
        ratio.set_visible(False)
    return figure, pairs[:count]


def finish_ticks(*axes: "Axes", whole: bool = False) -> None:
    """Set few ticks, and draw small logarithmic ones as one line: one by one they take most of the time.

    Call it when the limits are settled.

    Args:
        axes: panels one above the other.
        whole: whether the horizontal axis has integer values.
    """
    from matplotlib.lines import Line2D
    from matplotlib.markers import MarkerStyle
    from matplotlib.ticker import MaxNLocator, NullLocator

    for panel in axes:
        for name, axis in (("x", panel.xaxis), ("y", panel.yaxis)):
            if axis.get_scale() != "log":
                if name == "x":
                    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole))
                continue
            axis.set_minor_locator(NullLocator())
            low, high = sorted(axis.get_view_interval())
            decades = np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)))
            if len(decades) > MOST_DECADES:
                continue
            places = (10.0 ** decades[:, None] * np.arange(2, 10)).ravel()
            places = places[(places > low) & (places < high)]
            # Up from the lower edge and down from the upper one, or right and left.
            for edge, marker in zip((0.0, 1.0), (2, 3) if name == "x" else (1, 0), strict=True):
                at_edge = np.full(len(places), edge)
                line = Line2D(
                    *((places, at_edge) if name == "x" else (at_edge, places)),
                    marker=MarkerStyle(marker),
                    markersize=2.5,
                    markeredgewidth=0.6,
                    color="black",
                    linestyle="none",
                    transform=panel.get_xaxis_transform() if name == "x" else panel.get_yaxis_transform(),
                )
                panel.add_artist(line)


def written(label: str, width: int = 40) -> str:
    """Return a label with ``E_vis`` as a symbol with an index, in two lines if it is longer than the width."""
    text = plain(label)
    if len(text) > width:
        text = "\n".join(textwrap.wrap(text, -(-len(text) // 2) + 6))
    return re.sub(r"\b([A-Za-z])_(\w+)", r"$\1_{\\mathrm{\2}}$", text)


def counts_in_words(evaluation: Evaluation, slot: int) -> str:
    """Return the numbers of showers, such as ``2,920 Geant4, 2,920 generated``."""
    sides = zip((evaluation.real_part, evaluation.fake_part), evaluation.names, strict=True)
    return ", ".join(f"{part.count(slot):,.0f} {name}" for part, name in sides)


def is_wide(values: np.ndarray) -> bool:
    """Return whether values are positive and span so much that they need a logarithmic axis."""
    known = values[np.isfinite(values)]
    return bool(known.size and known.min() > 0 and known.max() / known.min() > LOG_FROM)


def plain(text: str) -> str:
    """Return text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
