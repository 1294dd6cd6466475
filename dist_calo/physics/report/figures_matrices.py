"""Correlation matrices of both samples and their difference."""

from typing import TYPE_CHECKING

import numpy as np

from dist_calo.physics.figures import panels
from dist_calo.physics.metrics.evaluation import Evaluation
from dist_calo.physics.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WRITTEN = 16
"""Matrices of at most so many rows have their values written into them."""
FEW = 4
"""Rows up to which a matrix is drawn small."""
DARK = 0.6
"""Share of the largest value from which a cell needs white letters."""
LEAST_DIFFERENCE = 5.0


def correlations_figure(evaluation: Evaluation, name: str) -> "Figure":
    """Draw the correlations in per cent of a set of observables, of both samples, and their difference."""
    from matplotlib.figure import Figure

    real, fake = (100 * part.correlation(name) for part in (evaluation.real_part, evaluation.fake_part))
    labels = _labels(evaluation, name)
    long = max(map(len, labels)) > 3
    written = len(labels) <= WRITTEN
    side = 3.9 if long and written else 3.2 if len(labels) > FEW else 2.2
    left, bottom = (1.55, 1.2) if long else (0.65, 0.55)
    size = (left + 3 * side + 2.3, bottom + side + 0.4)
    figure = Figure(figsize=size)
    edges = panels.margins(size, left=left, right=0.75, bottom=bottom, top=0.35)
    axes = figure.subplots(1, 3, gridspec_kw={**edges, "wspace": 0.28})
    difference = fake - real
    known = np.abs(difference[np.isfinite(difference)])
    largest = max(float(known.max(initial=0.0)), LEAST_DIFFERENCE)
    titles = [figures.plain(title) for title in (*evaluation.names, " − ".join(evaluation.names[::-1]))]
    drawn = zip(axes, (real, fake, difference), titles, ("RdBu_r", "RdBu_r", "PuOr_r"), strict=True)
    for number, (panel, matrix, title, colours) in enumerate(drawn):
        limit = largest if number == 2 else 100.0
        image = panel.imshow(matrix, origin="lower", cmap=colours, vmin=-limit, vmax=limit)
        panel.set_facecolor("#cccccc")
        panel.set_title(title, fontsize="medium")
        step = max(1, -(-len(labels) // (WRITTEN if long else 12)))
        ticks = range(0, len(labels), step)
        panel.set_xticks(ticks, labels[::step], fontsize="small", rotation=90 if long else 0)
        panel.set_yticks(ticks, labels[::step] if number == 0 or not long else [], fontsize="small")
        panel.tick_params(length=0 if written else 3)
        if not long:
            panel.set_xlabel(evaluation.observer.indexed_by.get(name, ""))
        bar = panel.inset_axes((1.03, 0.0, 0.04, 1.0))
        colour_bar = figure.colorbar(image, cax=bar)
        colour_bar.ax.tick_params(labelsize="x-small")
        if number == 2:
            colour_bar.set_label("correlation [%]", fontsize="small")
        if written:
            _write(panel, matrix, limit)
    return figure


def _labels(evaluation: Evaluation, name: str) -> list[str]:
    features = evaluation.observer.features
    chosen = [features[column] for column in evaluation.real.sets[name]]
    if len({feature.group for feature in chosen}) == 1:
        return [str(feature.index) for feature in chosen]
    indexed = evaluation.observer.indexed_by
    return [
        feature.group.replace("_", " ") + (f" {feature.index}" if feature.group in indexed else "")
        for feature in chosen
    ]


def _write(panel: "Axes", matrix: np.ndarray, limit: float) -> None:
    size = 8.0 if len(matrix) <= 10 else 6.5
    for (row, column), value in np.ndenumerate(matrix):
        text = f"{round(float(value)) + 0:d}" if np.isfinite(value) else "–"
        dark = np.isfinite(value) and abs(value) > DARK * limit
        panel.text(
            column, row, text, ha="center", va="center", fontsize=size, color="white" if dark else "black"
        )
