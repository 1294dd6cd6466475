"""Panels that the figures of all read-outs share: two samples beside each other, and their ratio.

Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = "#000000"
GENERATED = "#D55E00"
MEV = 1000.0
"""MeV in a GeV."""
RATIO_RANGE = (0.5, 1.5)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Means with their statistical errors (one standard deviation), arrays of one shape."""

    value: np.ndarray
    error: np.ndarray


def margins(
    size: tuple[float, float], *, left: float, right: float, bottom: float, top: float
) -> dict[str, float]:
    """Convert margins in inches to the fractions of a figure of this size (width, height) that matplotlib expects."""
    width, height = size
    return {
        "left": left / width,
        "right": 1.0 - right / width,
        "bottom": bottom / height,
        "top": 1.0 - top / height,
    }


def compared_panels(columns: int, width: float, rows: Sequence[int] = (3, 1)) -> "tuple[Figure, np.ndarray]":
    """Return a figure with two panels one above the other in each column, and the panels, shape (2, columns).

    Args:
        columns: how many.
        width: of each column, in inches.
        rows: relative heights of the two.
    """
    from matplotlib.figure import Figure

    size = (width * columns, 4.8)
    figure = Figure(figsize=size)
    # Fixed margins: a layout that measures every label takes longer than the drawing.
    edges = margins(size, left=0.75, right=0.15, bottom=0.55, top=0.35)
    spaces = {"wspace": 0.75 / (width - 0.75), "hspace": 0.06}
    axes = figure.subplots(
        2, columns, sharex="col", squeeze=False, height_ratios=rows, gridspec_kw={**edges, **spaces}
    )
    for panel in axes.ravel():
        panel.tick_params(which="both", direction="in", top=True, right=True)
        panel.minorticks_on()
    return figure, axes


def panel_grid(
    rows: int, columns: int, width: float = 3.3, height: float = 2.9
) -> "tuple[Figure, np.ndarray]":
    """Return a figure with a grid of panels, each with a ratio panel below, shape (2, rows, columns).

    Args:
        rows: how many.
        columns: how many.
        width: of a column, in inches.
        height: of a row, in inches.
    """
    from matplotlib.figure import Figure

    size = (width * columns + 0.2, height * rows + 0.5)
    figure = Figure(figsize=size)
    edges = margins(size, left=0.7, right=0.12, bottom=0.5, top=0.5)
    spaces = {"wspace": 0.7 / (width - 0.7), "hspace": 0.6 / (height - 0.6)}
    grid = figure.add_gridspec(rows, columns, **edges, **spaces)
    axes = np.empty((2, rows, columns), dtype=object)
    for row in range(rows):
        for column in range(columns):
            pair = grid[row, column].subgridspec(2, 1, height_ratios=(3, 1), hspace=0.08)
            main = figure.add_subplot(pair[0])
            ratio = figure.add_subplot(pair[1], sharex=main)
            main.tick_params(labelbottom=False)
            # No minor ticks but those of logarithmic axes: drawing them would take most of the time.
            for panel in (main, ratio):
                panel.tick_params(which="both", direction="in", top=True, right=True, labelsize="small")
            axes[:, row, column] = main, ratio
    return figure, axes


def compare(
    main: "Axes",
    ratio: "Axes",
    edges: np.ndarray,
    pair: Sequence[Estimate],
    labels: tuple[str, str],
    span: tuple[float, float] = RATIO_RANGE,
) -> None:
    """Draw the reference as a filled histogram with its error band, the other as points, and their ratio."""
    reference, generated = pair
    middle = 0.5 * (edges[1:] + edges[:-1])
    band: dict[str, Any] = {"step": "post", "linewidth": 0.0, "color": REFERENCE}
    main.stairs(reference.value, edges, fill=True, color="#d0d0d0", label=labels[0])
    main.stairs(reference.value, edges, color=REFERENCE, linewidth=1.0)
    points: dict[str, Any] = {
        "color": GENERATED,
        "marker": "o",
        "markersize": 3.5,
        "linestyle": "none",
        "elinewidth": 1.2,
    }
    main.errorbar(middle, generated.value, yerr=generated.error, label=labels[1], **points)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, error = generated.value / reference.value, generated.error / reference.value
        uncertain = reference.error / reference.value
    padded = np.append(uncertain, uncertain[-1:])
    ratio.fill_between(edges, 1.0 - padded, 1.0 + padded, alpha=0.25, **band)
    ratio.axhline(1.0, color=REFERENCE, linewidth=1.0)
    low, high = span
    outside = np.where(value > high, high, np.where(value < low, low, np.nan))
    # Single events in a tail are not significant.
    apart = np.abs(generated.value - reference.value) > np.hypot(generated.error, reference.error)
    outside[~apart] = np.nan
    inside = np.isfinite(value) & ~np.isfinite(outside)
    ratio.errorbar(middle, np.where(inside, value, np.nan), yerr=np.where(inside, error, np.nan), **points)
    # Ratios outside the span are marked at the edge by an arrow.
    for edge, marker in ((high, "^"), (low, "v")):
        ratio.plot(
            middle,
            np.where(outside == edge, edge, np.nan),
            marker,
            color=GENERATED,
            clip_on=False,
            markersize=5,
        )
    # No labels at the edges: those of the panel above end there.
    ratio.set(ylim=(low, high), yticks=(1.0 + 0.8 * (low - 1.0), 1.0, 1.0 + 0.8 * (high - 1.0)))


def any_positive(pair: Sequence[Estimate]) -> bool:
    """Return whether any value is positive, so that a logarithmic scale has something to show."""
    return any(bool(np.any(side.value > 0)) for side in pair)


def shares(counts: np.ndarray) -> Estimate:
    """Normalise a histogram (S,) to unit sum, with its Poisson errors; zeros if it is empty."""
    total = max(float(counts.sum()), 1.0)
    return Estimate(value=counts / total, error=np.sqrt(counts) / total)
