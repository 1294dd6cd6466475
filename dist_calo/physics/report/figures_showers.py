"""Figures of showers: sections through the mean shower, its cells' pulls, and single showers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.geometry import VoxelGrid, Waveforms
from dist_calo.physics.figures import layered, panels, voxel_grid, waveforms
from dist_calo.physics.figures.panels import GENERATED, MEV, REFERENCE
from dist_calo.physics.metrics.evaluation import Evaluation
from dist_calo.physics.metrics.profile_metrics import cell_pulls
from dist_calo.physics.observables.examples import Examples
from dist_calo.physics.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DECADES = 5
"""Of energy, that the colours of cells span."""
PULL_BINS = np.linspace(-6.0, 6.0, 49)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Figure with its caption."""

    figure: "Figure"
    alt: str
    caption: str
    vector: bool = False


def shower_figures(evaluation: Evaluation) -> Iterator[Drawing]:
    """Draw the mean shower and single showers, as suits the read-out."""
    geometry, names, both = evaluation.geometry, _names(evaluation), " and ".join(evaluation.names)
    means = evaluation.real_part.image()[0], evaluation.fake_part.image()[0]
    if isinstance(geometry, VoxelGrid):
        yield Drawing(
            figure=sections_figure(evaluation, means),
            alt=f"Maps of the mean shower of {both} seen from the side and along the beam, their ratio and pulls.",
            caption="The mean shower, summed over y (above) and over the layers (below); the ratio where it is no mere "
            "noise; and the pull of the cell along the line of sight that differs most in statistical errors, of cells "
            "with enough showers.",
        )
    elif not isinstance(geometry, Waveforms):
        flat = means[0].ravel(), means[1].ravel()
        yield Drawing(
            figure=layered.cells_figure(geometry, flat, figures.counts_in_words(evaluation, -1), names),
            alt=f"Maps of the mean energy of each cell of {both}, layer by layer, and their ratio.",
            caption="The mean shower, layer by layer: energy of each cell, and the ratio.",
        )
    if len(_pairs(evaluation.examples).energies):
        yield examples_drawing(evaluation)
    pulls = cell_pulls(evaluation.fake_part, evaluation.real_part)
    if np.isfinite(pulls).any():
        yield Drawing(
            figure=pulls_figure(pulls),
            alt="Histogram of the pulls of the mean shower's cells beside the normal distribution.",
            caption=f"Pulls of the mean shower's cells, ({' − '.join(evaluation.names[::-1])}) / statistical error. "
            "Two samples of one distribution follow the curve; a dead cell lies far outside and is counted in the "
            "outermost bin.",
            vector=True,
        )


def examples_drawing(evaluation: Evaluation) -> Drawing:
    """Draw single showers, of which there is at least one pair, and of waveforms the mean too."""
    geometry, names, both = evaluation.geometry, _names(evaluation), " and ".join(evaluation.names)
    examples = _pairs(evaluation.examples)
    if isinstance(geometry, VoxelGrid):
        return Drawing(
            figure=voxel_grid.showers_figure(examples, names),
            alt=f"Maps of single showers of {both} seen from the side and along the beam.",
            caption="Single showers of equal incident energy, summed over y (above) and over the layers (below); "
            "all with one colour scale.",
        )
    if isinstance(geometry, Waveforms):
        means = evaluation.real_part.image()[0], evaluation.fake_part.image()[0]
        counts = figures.counts_in_words(evaluation, -1)
        return Drawing(
            figure=waveforms.means_figure(geometry, means, examples, counts, names),
            alt=f"Mean waveform of each detector, and waveforms of single events, of {both}.",
            caption="Mean waveform of each detector with the difference below, and single events of equal "
            "incident energy.",
        )
    return Drawing(
        figure=layered.showers_figure(geometry, examples, names),
        alt=f"Maps of single showers of {both}, layer by layer.",
        caption="Single showers of equal incident energy, layer by layer; all with one colour scale.",
    )


def _names(evaluation: Evaluation) -> tuple[str, str]:
    real, fake = evaluation.names
    return figures.plain(real), figures.plain(fake)


def _pairs(examples: Examples) -> Examples:
    """Return the examples that both samples have."""
    count = min(len(examples.real), len(examples.fake))
    return Examples(
        real=examples.real[:count], fake=examples.fake[:count], energies=examples.energies[:count]
    )


def pulls_figure(pulls: np.ndarray) -> "Figure":
    """Draw the histogram of pulls with the normal distribution."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="tight")
    panel = figure.subplots()
    known = pulls[np.isfinite(pulls)]
    counts, _ = np.histogram(np.clip(known, PULL_BINS[0], PULL_BINS[-1]), PULL_BINS)
    middle = 0.5 * (PULL_BINS[1:] + PULL_BINS[:-1])
    normal = np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi) * known.size * (PULL_BINS[1] - PULL_BINS[0])
    panel.stairs(counts, PULL_BINS, color=GENERATED, fill=True, alpha=0.35)
    panel.stairs(counts, PULL_BINS, color=GENERATED, label="cells")
    panel.plot(middle, normal, color=REFERENCE, linestyle="--", label="normal distribution")
    panel.set_yscale("log")
    panel.set_ylim(0.5, 6.0 * max(float(counts.max()), float(normal.max())))
    panel.set(xlabel="pull of a cell's mean energy", ylabel="cells", xlim=(PULL_BINS[0], PULL_BINS[-1]))
    panel.tick_params(which="both", direction="in", top=True, right=True)
    words = f"{known.size:,} cells\nmean {known.mean():+.2f}, RMS {np.sqrt(np.mean(known**2)):.2f}\n"
    words += f"beyond ±5: {int((np.abs(known) > 5).sum()):,}"
    panel.text(0.03, 0.95, words, transform=panel.transAxes, va="top", fontsize="small")
    panel.legend(frameon=False, loc="upper right", fontsize="small")
    return figure


def sections_figure(evaluation: Evaluation, means: tuple[np.ndarray, np.ndarray]) -> "Figure":
    """Draw the mean shower from the side and along the beam: both samples, their ratio, the largest pulls."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    geometry = evaluation.geometry
    assert isinstance(geometry, VoxelGrid)
    size = (14.2, 6.6)
    figure = Figure(figsize=size)
    edges = panels.margins(size, left=0.65, right=0.85, bottom=0.5, top=0.35)
    axes = figure.subplots(2, 4, gridspec_kw={**edges, "wspace": 0.48, "hspace": 0.28})
    pulls = cell_pulls(evaluation.fake_part, evaluation.real_part)
    titles = (*(figures.plain(name) for name in evaluation.names), "ratio", "largest pull")
    variance = _variance(evaluation)
    for row, axis in enumerate((1, 2)):
        real, fake = (mean.sum(axis=axis) * MEV for mean in means)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(real > 0, fake / real, np.nan)
            # Without the correlations of the cells: enough to tell noise.
            error = np.sqrt(variance.sum(axis=axis)) * MEV / real
        highest = max(float(real.max()), float(fake.max())) or 1.0
        norm = LogNorm(vmin=highest * 10.0**-DECADES, vmax=highest)
        half = _reach(ratio[real > highest * 1e-3] - 1.0, (0.1, 0.2, 0.5))
        ratio[~(error < half / 2.0)] = np.nan
        worst = _largest(pulls, axis)
        limit = _reach(worst, (5.0, 10.0, 20.0))
        scales: tuple[tuple[np.ndarray, Any, str, str], ...] = (
            (real, norm, "viridis", ""),
            (fake, norm, "viridis", "mean energy [MeV]"),
            (ratio, Normalize(1 - half, 1 + half), "PuOr_r", "ratio"),
            (worst, Normalize(-limit, limit), "RdBu_r", "statistical errors"),
        )
        for panel, title, (image, scale, colours, label) in zip(axes[row], titles, scales, strict=True):
            drawn = _draw_section(panel, geometry, axis, image, scale, colours)
            panel.set_title(title, fontsize="medium")
            bar = panel.inset_axes((1.03, 0.0, 0.045, 1.0))
            extend = "min" if colours == "viridis" else "both"
            figure.colorbar(drawn, cax=bar, extend=extend).ax.tick_params(labelsize="x-small")
            bar.set_ylabel(label, fontsize="small")
        axes[row, 0].set_ylabel(("x [mm]", "y [mm]")[row])
    return figure


def _variance(evaluation: Evaluation) -> np.ndarray:
    """Return the variance of the difference of the two mean showers, cell by cell."""
    parts = evaluation.real_part, evaluation.fake_part
    return np.asarray(sum(part.image()[1] / part.count(-1) for part in parts))


def _draw_section(
    panel: "Axes", geometry: VoxelGrid, axis: int, image: np.ndarray, norm: Any, colours: str
) -> Any:
    """Draw a picture summed over y (axis 1), layers right and x up, or over the layers, x right and y up."""
    half = [0.5 * cells * pitch for cells, pitch in zip(geometry.shape, geometry.cell_size, strict=True)]
    if axis == 1:
        extent, label = (-0.5, geometry.shape[2] - 0.5, -half[0], half[0]), "layer"
    else:
        image, extent, label = image.T, (-half[0], half[0], -half[1], half[1]), "x [mm]"
    panel.set_facecolor("#e8e8e8")
    panel.set_xlabel(label)
    panel.tick_params(labelsize="small")
    return panel.imshow(
        image,
        origin="lower",
        extent=extent,
        norm=norm,
        cmap=colours,
        aspect="auto",
        interpolation="nearest",
    )


def _largest(pulls: np.ndarray, axis: int) -> np.ndarray:
    """Return the pull of largest absolute value along an axis; NaN where there is none."""
    sizes = np.where(np.isfinite(pulls), np.abs(pulls), -1.0)
    place = np.expand_dims(sizes.argmax(axis=axis), axis)
    return np.asarray(np.take_along_axis(pulls, place, axis).squeeze(axis))


def _reach(values: np.ndarray, steps: tuple[float, ...]) -> float:
    """Return the smallest of these half widths that covers nearly all values, or the largest."""
    known = np.abs(values[np.isfinite(values)])
    reach = float(np.quantile(known, 0.98)) if known.size else 0.0
    return next((step for step in steps if step >= reach), steps[-1])
