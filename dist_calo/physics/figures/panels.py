"""Panels that the figures of all read-outs share: Geant4 beside generated, their ratio, correlations.

Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.files import write_whole
from dist_calo.physics.metrics.distances import correlation_difference, relative_difference, separation
from dist_calo.physics.observables.features import FeatureSummary, rebinned
from dist_calo.physics.observables.shower_summary import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = ("Geant4", "generated")
REFERENCE = "#000000"
GENERATED = "#D55E00"
MEV = 1000.0
"""MeV in a GeV."""
RATIO_RANGE = (0.5, 1.5)


def save_png(figure: "Figure", path: Path | str) -> Path:
    """Write a figure as PNG, making its folder, and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path


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
    """Draw Geant4 as a filled histogram with its error band, the generated as points, and their ratio."""
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


def distribution(
    main: "Axes",
    ratio: "Axes",
    real: FeatureSummary,
    fake: FeatureSummary,
    column: int,
    *,
    labels: tuple[str, str] = LABELS,
    factor: float = 1.0,
    edges: np.ndarray | None = None,
    share: float | None = None,
    note: str = "",
) -> None:
    """Draw the histograms of one observable, with its separation power and the shift of its mean.

    The shift is relative unless the observable's zero is a convention; then it is in the observable's unit.

    Args:
        main: panel of the histograms.
        ratio: panel below.
        real: Geant4 showers.
        fake: generated showers.
        column: which observable.
        labels: names of the two.
        factor: from the observable's unit to that of the axis.
        edges: of the bins in the observable's unit; by default those of the separation power.
        share: as in `dist_calo.physics.metrics.distances.separation`.
        note: additional text.
    """
    if edges is None:
        edges = real.histogram(column)[1] if share is None else real.central_edges(column, share)
    pair = [shares(rebinned(*side.histogram(column, fine=True), edges)) for side in (real, fake)]
    compare(main, ratio, edges * factor, pair, labels)
    main.set_xlim(edges[0] * factor, edges[-1] * factor)
    if any_positive(pair):
        main.set_yscale("log")
        drawn = np.concatenate([side.value for side in pair])
        least, most = float(drawn[drawn > 0].min()), float(drawn.max())
        # Space above for the text.
        main.set_ylim(0.4 * least, 2.5 * most * (most / least) ** (0.5 if note else 0.35))
    else:
        main.set_ylim(0.0, 1.0)
    power = separation(fake, real, column, share)
    words = [f"separation {power:.3f}"] if np.isfinite(power) else ["no values"]
    feature = real.features[column]
    difference = fake.mean() - real.mean()
    if feature.relative:
        difference = 100 * relative_difference(fake.mean(), real.mean())
    if np.isfinite(difference[column]):
        shift = (
            f"{difference[column]:+.1f} %"
            if feature.relative
            else f"{difference[column]:+.2g} {feature.unit}"
        )
        words.append(f"mean {shift}".rstrip())
    words += [note] if note else []
    main.text(0.96, 0.95, "\n".join(words), transform=main.transAxes, ha="right", va="top", fontsize="small")


def finished(figure: "Figure", axes: np.ndarray, title: str, what: str = "showers") -> "Figure":
    """Give a figure of `panel_grid` its title, legend and axis labels, and remove its unused panels."""
    for main, ratio in zip(axes[0].flat, axes[1].flat, strict=True):
        if not main.has_data():
            main.set_visible(False)
            ratio.set_visible(False)
    for main, ratio in zip(axes[0, :, 0], axes[1, :, 0], strict=True):
        main.set_ylabel(f"share of {what}", fontsize="small")
        ratio.set_ylabel("ratio", fontsize="small")
    axes[0, 0, 0].legend(frameon=False, loc="upper left", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def counted(real: FeatureSummary, fake: FeatureSummary, what: str, labels: tuple[str, str] = LABELS) -> str:
    """Return the number of showers of each sample in words, for the title of a figure."""
    return f"{real.count:,} {labels[0]} and {fake.count:,} {labels[1]} {what}"


def correlations_figure(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray]],
    names: Sequence[str],
    axis: str,
    title: str,
    labels: tuple[str, str] = LABELS,
) -> "Figure":
    """Draw the correlation matrices of Geant4, of the generated, and their difference.

    Args:
        rows: for each kind of observable its name and the two matrices (k, k); NaN where there is no correlation.
        names: of the k observables.
        axis: what the names count, such as "layer".
        title: of the figure.
        labels: names of the two.
    """
    from matplotlib.figure import Figure

    size = (11.6, 3.5 * len(rows) + 0.5)
    figure = Figure(figsize=size)
    edges = margins(size, left=0.9, right=0.75, bottom=0.55, top=0.65)
    axes = figure.subplots(len(rows), 3, squeeze=False, gridspec_kw={**edges, "wspace": 0.42, "hspace": 0.4})
    for (name, real, fake), panels in zip(rows, axes, strict=True):
        difference = fake - real
        known = np.abs(difference[np.isfinite(difference)])
        largest = max(float(known.max(initial=0.0)), 0.05)
        mean = correlation_difference(fake, real)
        titles = (labels[0], labels[1], f"{labels[1]} - {labels[0]}, mean |difference| {mean:.3f}")
        scales = (("RdBu_r", 1.0), ("RdBu_r", 1.0), ("PuOr_r", largest))
        for panel, matrix, heading, (colours, limit) in zip(
            panels, (real, fake, difference), titles, scales, strict=True
        ):
            drawn = panel.imshow(matrix, origin="lower", cmap=colours, vmin=-limit, vmax=limit)
            panel.set_facecolor("#cccccc")
            panel.set_title(heading, fontsize="small")
            step = max(1, -(-len(names) // 15))
            panel.set_xticks(range(0, len(names), step), names[::step], fontsize="small")
            panel.set_yticks(range(0, len(names), step), names[::step], fontsize="small")
            panel.set_xlabel(axis, fontsize="small")
            bar = panel.inset_axes((1.04, 0.0, 0.05, 1.0))
            figure.colorbar(drawn, cax=bar).ax.tick_params(labelsize="x-small")
            if len(names) <= 10:
                _written(panel, matrix, limit)
        panels[0].set_ylabel(f"{name}\n{axis}", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def _written(panel: "Axes", matrix: np.ndarray, limit: float) -> None:
    """Write each value into its cell, in white where the cell is dark."""
    size = 9.0 if len(matrix) <= 5 else 5.5
    for (row, column), value in np.ndenumerate(matrix):
        # Without the sign of a rounded zero.
        text = f"{round(float(value), 2) + 0.0:.2f}" if np.isfinite(value) else "-"
        dark = np.isfinite(value) and abs(value) > 0.65 * limit
        panel.text(
            column, row, text, ha="center", va="center", fontsize=size, color="white" if dark else "black"
        )
