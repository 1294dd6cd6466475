"""Training curves."""

from typing import TYPE_CHECKING

import numpy as np

from dist_calo.physics.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
POINTS = 250
"""Of a curve; a longer one is drawn as means of so many parts with a band from their least to their largest value."""
MOST_CURVES = 48


def history_figure(history: dict[str, list[tuple[float, float]]]) -> "Figure | None":
    """Draw every training curve in its own panel; None if there is none."""
    from matplotlib.figure import Figure

    curves = {name: np.asarray(points, dtype=np.float64) for name, points in history.items() if len(points)}
    names = sorted(curves)[:MOST_CURVES]
    if not names:
        return None
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.0 * rows + 0.3), layout="tight")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel, name in zip(axes.flat, names, strict=False):
        steps, values = curves[name].T
        _draw(panel, steps, values)
        panel.set_title(figures.plain(name), fontsize="small")
        panel.tick_params(which="both", direction="in", top=True, right=True, labelsize="small")
        if figures.is_wide(values):
            panel.set_yscale("log")
    for panel in axes.flat[len(names) :]:
        panel.set_visible(False)
    for panel in axes.flat[max(len(names) - columns, 0) : len(names)]:
        panel.set_xlabel("step", fontsize="small")
    return figure


def _draw(panel: "Axes", steps: np.ndarray, values: np.ndarray) -> None:
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    if len(steps) > POINTS:
        bounds = np.linspace(0, len(steps), POINTS + 1).astype(int)[:-1]
        count = np.diff(np.append(bounds, len(steps)))
        least, most = np.minimum.reduceat(values, bounds), np.maximum.reduceat(values, bounds)
        steps = np.add.reduceat(steps, bounds) / count
        values = np.add.reduceat(values, bounds) / count
        panel.fill_between(steps, least, most, color="#0072B2", alpha=0.25, linewidth=0)
    panel.plot(
        steps, values, color="#0072B2", linewidth=1.1, marker="o" if len(steps) <= 30 else "", markersize=3
    )
