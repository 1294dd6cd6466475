"""Figure of single showers on a voxel grid, of two samples beside each other."""

from typing import TYPE_CHECKING

import numpy as np

from dist_calo.physics.figures.panels import MEV, margins
from dist_calo.physics.observables.examples import Examples

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def showers_figure(examples: Examples, labels: tuple[str, str], columns: int = 4) -> "Figure":
    """Draw single showers in pairs of one energy: side view (summed over y) and view along the beam (over depth).

    Args:
        examples: at least one pair of showers in GeV, of shape (X, Y, Z).
        labels: names of the two.
        columns: how many of each are shown, from the lowest to the highest energy.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    order = np.argsort(examples.energies, kind="stable")
    columns = min(columns, len(order))
    shown = order[np.linspace(0, len(order) - 1, columns).round().astype(int)]
    sides = [(labels[0], examples.real), (labels[1], examples.fake)]
    pictures = [
        [(sample[place].sum(axis=axis) * MEV, examples.energies[place]) for place in shown]
        for axis in (1, 2)
        for _, sample in sides
    ]
    highest = max(float(picture.max()) for row in pictures for picture, _ in row) or 1.0
    norm = LogNorm(vmin=highest * 1e-5, vmax=highest)
    size = (2.0 * columns + 1.6, 9.0)
    figure = Figure(figsize=size)
    edges = margins(size, left=0.6, right=1.0, bottom=0.5, top=0.3)
    axes = figure.subplots(4, columns, squeeze=False, gridspec_kw={**edges, "wspace": 0.08, "hspace": 0.42})
    for row, (pictures_of_row, panels) in enumerate(zip(pictures, axes, strict=True)):
        label, across = sides[row % 2][0], ("layer", "x [cell]")[row // 2]
        for (picture, energy), panel in zip(pictures_of_row, panels, strict=True):
            # Rows of an image run along y: the side view has x upwards, the view along the beam has y upwards.
            image = picture if row < 2 else picture.T
            # Cells are square in the transverse plane only: along the depth the number of layers sets the scale.
            drawn = panel.imshow(
                image,
                origin="lower",
                norm=norm,
                cmap="viridis",
                interpolation="nearest",
                aspect="auto" if row < 2 else "equal",
            )
            panel.set_title(f"{label}, {energy:.0f} GeV", fontsize="small")
            panel.set_facecolor("#eeeeee")
            panel.tick_params(labelsize="small", labelleft=panel is panels[0])
            panel.set_xlabel(across, fontsize="small")
        panels[0].set_ylabel(("x [cell]", "y [cell]")[row // 2])
    bar = figure.add_axes((edges["right"] + 0.2 / size[0], 0.25, 0.16 / size[0], 0.5))
    colours = figure.colorbar(drawn, cax=bar)
    colours.set_label("energy summed along the line of sight [MeV]")
    return figure
