"""Figures of showers in layers, of two samples beside each other.

Every function returns a matplotlib `Figure` of its own and touches no global state. Of many layers a few are shown,
from the first to the last.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.geometry import CylindricalLayers, LayeredGrid, LayeredReadout
from dist_calo.physics.figures import panels
from dist_calo.physics.figures.panels import MEV
from dist_calo.physics.observables.examples import Examples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

LAYERS = 6
"""Layers that are shown at most."""
ARC_PARTS = 48
"""Straight pieces that a drawn circle has at least."""
DECADES = 5
"""Of energy, that the colours of cells span."""


def spread(count: int, shown: int) -> list[int]:
    """Return at most `shown` of so many numbers, equally spaced from the first to the last."""
    return sorted({round(float(place)) for place in np.linspace(0, count - 1, min(count, shown))})


def cells_figure(
    geometry: LayeredReadout,
    cells: tuple[np.ndarray, np.ndarray],
    title: str,
    labels: tuple[str, str],
) -> "Figure":
    """Draw the mean energy of each cell in GeV of two samples (V,), layer by layer, and their ratio."""
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    numbers = _shown_layers(geometry)
    means = [side * MEV for side in cells]
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where(means[0] > 0, means[1] / means[0], np.nan)
    norm = _energies(means)
    ratio = Normalize(*panels.RATIO_RANGE)
    rows = [(labels[0], means[0], norm), (labels[1], means[1], norm), ("ratio", quotient, ratio)]
    size = (2.4 * len(numbers) + 2.0, 7.4)
    figure = Figure(figsize=size)
    edges = panels.margins(size, left=0.95, right=1.0, bottom=0.55, top=0.75)
    axes = figure.subplots(
        3, len(numbers), squeeze=False, gridspec_kw={**edges, "wspace": 0.3, "hspace": 0.15}
    )
    for (label, image, scale), line in zip(rows, axes, strict=True):
        colours = "PuOr_r" if label == "ratio" else "viridis"
        for number, panel in zip(numbers, line, strict=True):
            drawn = _draw_layer(panel, geometry, number, image[geometry.layer_slices[number]], scale, colours)
            panel.tick_params(labelsize="x-small", labelbottom=label == "ratio")
        line[0].set_ylabel(f"{label}\n{_axes_of(geometry)[1]}", fontsize="small")
        bar = line[-1].inset_axes((1.08, 0.0, 0.07, 1.0))
        extend = "both" if label == "ratio" else "min"
        figure.colorbar(drawn, cax=bar, extend=extend).ax.tick_params(labelsize="x-small")
        bar.set_ylabel("ratio" if label == "ratio" else "mean energy [MeV]", fontsize="small")
    for number, first, last in zip(numbers, axes[0], axes[2], strict=True):
        first.set_title(f"layer {number}", fontsize="small")
        last.set_xlabel(_axes_of(geometry)[0], fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def showers_figure(geometry: LayeredReadout, examples: Examples, labels: tuple[str, str]) -> "Figure":
    """Draw single showers of the reference above the others of the same energies, layer by layer.

    Raises:
        ValueError: if there is no example.
    """
    from matplotlib.figure import Figure

    if not len(examples.energies):
        raise ValueError("there is no shower to draw: expected at least one example")
    numbers = _shown_layers(geometry)
    across = max(1, LAYERS // len(numbers))
    order = np.argsort(examples.energies, kind="stable")
    order = order[spread(len(order), 4 if across > 1 else 3)]
    across = min(across, len(order))
    blocks = -(-len(order) // across)
    norm = _energies([examples.real[order] * MEV, examples.fake[order] * MEV])
    cell, gap = 1.75, 0.6
    size = (across * (cell * len(numbers) + gap) + 1.0, blocks * (2 * cell + gap) + 0.2)
    figure = Figure(figsize=size)
    edges = panels.margins(size, left=0.4, right=1.2, bottom=0.15, top=0.5)
    outer = figure.add_gridspec(blocks, across, **edges, wspace=0.09, hspace=gap / (2 * cell))
    for place, example in enumerate(order):
        inner = outer[place // across, place % across].subgridspec(2, len(numbers), wspace=0.06, hspace=0.06)
        axes = inner.subplots(squeeze=False)
        for label, showers, line in zip(labels, (examples.real, examples.fake), axes, strict=True):
            for number, panel in zip(numbers, line, strict=True):
                cells = showers[example][geometry.layer_slices[number]] * MEV
                drawn = _draw_layer(panel, geometry, number, cells, norm, "viridis")
                panel.set(xticks=[], yticks=[])
            line[0].set_ylabel(label, fontsize="small")
        for number, panel in zip(numbers, axes[0], strict=True):
            panel.set_title(f"layer {number}", fontsize="small")
        axes[0, 0].annotate(
            f"E$_{{inc}}$ = {examples.energies[example]:.3g} GeV",
            (0.0, 1.0),
            xycoords="axes fraction",
            xytext=(0, 18),
            textcoords="offset points",
            fontsize="medium",
        )
    bar = figure.add_axes((1.0 - 1.05 / size[0], 0.2, 0.16 / size[0], 0.6))
    figure.colorbar(drawn, cax=bar, extend="min").set_label("energy of a cell [MeV]")
    return figure


def _shown_layers(geometry: LayeredReadout) -> list[int]:
    read_out = [number for number, cells in enumerate(geometry.layer_cells) if cells]
    return [read_out[place] for place in spread(len(read_out), LAYERS)]


def _energies(samples: Sequence[np.ndarray]) -> "LogNorm":
    """Return a logarithmic colour scale from the highest energy down."""
    from matplotlib.colors import LogNorm

    highest = max(float(np.nanmax(sample, initial=0.0)) for sample in samples) or 1.0
    return LogNorm(vmin=highest * 10.0**-DECADES, vmax=highest)


def _draw_layer(
    panel: "Axes", geometry: LayeredReadout, number: int, cells: np.ndarray, norm: "Normalize", colours: str
) -> Any:
    """Draw the cells of one layer (V,), to scale where their sizes are known; return the image for a colour bar."""
    x, y, values = _corners(geometry, number, cells)
    panel.set_facecolor("#e8e8e8")
    panel.set_aspect("auto" if geometry.kind == "layers" and not _sizes(geometry, number) else "equal")
    return panel.pcolormesh(x, y, values, norm=norm, cmap=colours, rasterized=True)


def _corners(
    geometry: LayeredReadout, number: int, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the corners of a layer's cells in the plane, x and y (n + 1, m + 1), and their values (n, m)."""
    if isinstance(geometry, CylindricalLayers):
        r, sectors = np.asarray(geometry.r_edges[number]), geometry.sectors[number]
        # Wide sectors are drawn in parts, so that they look round.
        parts = -(-ARC_PARTS // sectors)
        alpha = np.linspace(0.0, 2 * np.pi, sectors * parts + 1)[:, None]
        return r * np.cos(alpha), r * np.sin(alpha), np.repeat(cells.reshape(sectors, -1), parts, axis=0)
    assert isinstance(geometry, LayeredGrid)
    counts = geometry.layers[number]
    sizes = _sizes(geometry, number) or (1.0, 1.0)
    y, x = ((np.arange(n + 1) - n / 2) * size for n, size in zip(counts, sizes, strict=True))
    return (*np.meshgrid(x, y), cells.reshape(counts))


def _sizes(geometry: LayeredReadout, number: int) -> tuple[float, float] | None:
    sizes = geometry.cell_sizes if isinstance(geometry, LayeredGrid) else None
    return sizes[number] if sizes else None


def _axes_of(geometry: LayeredReadout) -> tuple[str, str]:
    """Return names of the horizontal and the vertical axis."""
    if isinstance(geometry, CylindricalLayers):
        return "x [mm]", "y [mm]"
    unit = "mm" if isinstance(geometry, LayeredGrid) and geometry.cell_sizes else "cell"
    return f"φ [{unit}]", f"η [{unit}]"
