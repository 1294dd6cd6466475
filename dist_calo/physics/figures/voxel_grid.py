"""Figures of generated showers beside Geant4 ones.

Every function returns a matplotlib `Figure` of its own and touches no global state, so that figures can be drawn on any
thread. Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.physics.figures.panels import (
    GENERATED,
    LABELS,
    MEV,
    REFERENCE,
    any_positive,
    compare,
    compared_panels,
    margins,
)
from dist_calo.physics.figures.panels import save_png as save_png
from dist_calo.physics.observables.shower_summary import Estimate, Observables, ShowerSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def profiles_figure(
    real: ShowerSummary,
    fake: ShowerSummary,
    labels: tuple[str, str] = LABELS,
    cell_size: tuple[float, float, float] | None = None,
) -> "Figure":
    """Draw the mean longitudinal and transverse profiles of all showers, with the ratio below each.

    Args:
        real: Geant4 showers.
        fake: generated showers.
        labels: names of the two in the legend.
        cell_size: pitch of the cells in x, y and depth in mm; without it transverse positions are counted in cells.
    """
    reference, generated = real.compute(), fake.compute()
    figure, axes = compared_panels(3, width=4.4)
    unit = "cell" if cell_size is None else "mm"
    titles = {"longitudinal": "layer", "x": f"x from the centre [{unit}]", "y": f"y from the centre [{unit}]"}
    for column, (name, title) in enumerate(titles.items()):
        main, ratio = axes[:, column]
        cells = reference.profiles[name].value.shape[1]
        pitch = 1.0 if cell_size is None else cell_size["xy".find(name)]
        edges = (
            np.arange(cells + 1) - 0.5
            if name == "longitudinal"
            else (np.arange(cells + 1) - cells / 2) * pitch
        )
        pair = [_in(MEV, _overall(side.profiles[name])) for side in (reference, generated)]
        compare(main, ratio, edges, pair, labels)
        if name != "longitudinal" and any_positive(pair):
            main.set_yscale("log")
        of = {"longitudinal": "layer", "x": "column", "y": "row"}[name]
        main.set_ylabel(f"mean energy of a {of} [MeV]")
        ratio.set_xlabel(title)
    axes[1, 0].set_ylabel(f"{labels[1]} / {labels[0]}", fontsize="small")
    axes[0, 0].legend(frameon=False)
    figure.suptitle(_counts(reference, generated, labels), fontsize="medium")
    return figure


def response_figure(real: ShowerSummary, fake: ShowerSummary, labels: tuple[str, str] = LABELS) -> "Figure":
    """Draw the energy response and resolution against incident energy."""
    reference, generated = real.compute(), fake.compute()
    figure, axes = compared_panels(1, width=6.4, rows=(3, 2))
    response, resolution = axes[:, 0]
    edges = np.asarray(reference.bins.energy)
    for side, label, colour, marker in zip(
        (reference, generated), labels, (REFERENCE, GENERATED), ("o", "s"), strict=True
    ):
        energy = side.energy[:-1]
        across = np.abs(np.stack([energy - edges[:-1], edges[1:] - energy]))
        style: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": 4.5,
            "linestyle": "none",
            "elinewidth": 1.2,
        }
        if marker == "s":
            style["markerfacecolor"] = "white"
        for panel, estimate in ((response, side.response), (resolution, side.resolution)):
            shown = _in(100.0, Estimate(value=estimate.value[:-1], error=estimate.error[:-1]))
            panel.errorbar(energy, shown.value, yerr=shown.error, xerr=across, label=label, **style)
    response.set_ylabel("response  E$_{vis}$ / E$_{inc}$ [%]")
    resolution.set_ylabel("resolution  σ / mean [%]")
    resolution.set_xlabel("incident energy E$_{inc}$ [GeV]")
    resolution.set_ylim(bottom=0.0)
    _keep_range(response, reference.response.value[:-1] * 100.0, 0.05)
    response.legend(frameon=False)
    figure.suptitle(_counts(reference, generated, labels), fontsize="medium")
    return figure


def spectrum_figure(real: ShowerSummary, fake: ShowerSummary, labels: tuple[str, str] = LABELS) -> "Figure":
    """Draw the mean number of cells of a shower in bins of their energy, with the ratio below."""
    reference, generated = real.compute(), fake.compute()
    figure, axes = compared_panels(1, width=6.4)
    main, ratio = axes[:, 0]
    edges = reference.spectrum_edges * MEV
    decades = np.log10(edges[1:] / edges[:-1])
    pair = [_in(1.0 / decades, _overall(side.spectrum)) for side in (reference, generated)]
    compare(main, ratio, edges, pair, labels)
    main.set(xscale="log", ylabel="cells of a shower per decade of energy")
    if any_positive(pair):
        main.set_yscale("log")
    ratio.set_xlabel("energy of a cell [MeV]")
    ratio.set_ylabel(f"{labels[1]} / {labels[0]}", fontsize="small")
    main.legend(frameon=False)
    figure.suptitle(_counts(reference, generated, labels), fontsize="medium")
    return figure


def showers_figure(
    real: np.ndarray,
    real_energies: np.ndarray,
    fake: np.ndarray,
    fake_energies: np.ndarray,
    columns: int = 4,
    labels: tuple[str, str] = LABELS,
) -> "Figure":
    """Draw single showers at similar energies: side view (summed over y) and view along the beam (over depth).

    Args:
        real: Geant4 showers in GeV, shape (N, X, Y, Z).
        real_energies: their incident energies in GeV, shape (N,).
        fake: generated showers in GeV, shape (M, X, Y, Z).
        fake_energies: their incident energies in GeV, shape (M,).
        columns: how many of each are shown, from the lowest to the highest energy.
        labels: names of the two.

    Raises:
        ValueError: if there are no showers, or not one energy for each shower.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    sides = [(labels[0], real, real_energies), (labels[1], fake, fake_energies)]
    for label, sample, energies in sides:
        if sample.ndim != 4 or not len(sample) or energies.shape != sample.shape[:1]:
            raise ValueError(
                f"{label} showers {sample.shape} with energies {energies.shape}: expected (N, X, Y, Z) and (N,), N > 0"
            )
    shown = matching_showers(real_energies, fake_energies, columns)
    columns = len(shown)
    pictures = [
        [(sample[pair[side]].sum(axis=axis) * MEV, energies[pair[side]]) for pair in shown]
        for axis in (1, 2)
        for side, (_, sample, energies) in enumerate(sides)
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


def matching_showers(
    real_energies: np.ndarray, fake_energies: np.ndarray, count: int
) -> list[tuple[int, int]]:
    """Return pairs (real, fake) of shower numbers of nearly the same energy, from the lowest to the highest.

    A generated shower is used once; there are fewer pairs than asked for if there are fewer showers.
    """
    count = min(count, len(real_energies), len(fake_energies))
    order = np.argsort(real_energies, kind="stable")
    distance = np.array(fake_energies, dtype=np.float64)
    pairs = []
    for real in order[np.linspace(0, len(order) - 1, count).round().astype(int)]:
        fake = int(np.nanargmin(np.abs(distance - real_energies[real])))
        distance[fake] = np.nan
        pairs.append((int(real), fake))
    return pairs


def _overall(estimate: Estimate) -> Estimate:
    return Estimate(value=estimate.value[-1], error=estimate.error[-1])


def _in(factor: float | np.ndarray, estimate: Estimate) -> Estimate:
    return Estimate(value=estimate.value * factor, error=estimate.error * factor)


def _keep_range(axes: "Axes", values: np.ndarray, margin: float) -> None:
    """Keep at least this relative margin around the values, so that statistical noise does not look like a trend."""
    known = values[np.isfinite(values)]
    if known.size:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, known.min() * (1.0 - margin)), max(high, known.max() * (1.0 + margin)))


def _counts(reference: Observables, generated: Observables, labels: tuple[str, str]) -> str:
    pairs = zip((reference, generated), labels, strict=True)
    return " and ".join(f"{int(side.count[-1]):,} {label}" for side, label in pairs) + " showers"
