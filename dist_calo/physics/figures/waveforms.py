"""Figures of the waveforms of detectors side by side: generated ones beside Geant4.

Every function returns a matplotlib `Figure` of its own and touches no global state. Panels stand as the detectors do:
x to the right, y upwards.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.geometry import Waveforms
from dist_calo.physics.figures import panels
from dist_calo.physics.figures.panels import GENERATED, LABELS, REFERENCE
from dist_calo.physics.observables.examples import Examples
from dist_calo.physics.observables.features import FeatureSummary
from dist_calo.physics.observables.waveforms import SHARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG_BINS = 30
EXAMPLES = 4
BASELINE = 5.0
"""Standard deviations of the noise within which samples are drawn on a linear scale, beyond on a logarithmic."""


def amplitudes_figure(
    geometry: Waveforms, real: FeatureSummary, fake: FeatureSummary, labels: tuple[str, str] = LABELS
) -> "Figure":
    """Draw the amplitude of each detector, in bins of equal width on a logarithmic axis."""
    figure, axes = panels.panel_grid(geometry.columns, geometry.rows)
    for channel, column in enumerate(real.groups["amplitude"]):
        main, ratio = axes[(slice(None), *_place(geometry, channel))]
        edges = _logarithmic(real, int(column), 2 * geometry.noise)
        panels.distribution(main, ratio, real, fake, int(column), labels=labels, edges=edges, share=SHARE)
        if edges[0] > 0:
            ratio.set_xscale("log")
        ratio.set_xlabel(f"amplitude of detector {channel} [{geometry.unit}]", fontsize="small")
    return panels.finished(figure, axes, panels.counted(real, fake, "events", labels), "events")


def times_figure(
    geometry: Waveforms, real: FeatureSummary, fake: FeatureSummary, labels: tuple[str, str] = LABELS
) -> "Figure":
    """Draw the time of each detector where it has one; times far from all others are in the outer bins."""
    figure, axes = panels.panel_grid(geometry.columns, geometry.rows)
    for channel, column in enumerate(real.groups["time"]):
        main, ratio = axes[(slice(None), *_place(geometry, channel))]
        seen = [100 * side.fraction()[column] for side in (real, fake)]
        note = f"seen in {seen[0]:.1f} / {seen[1]:.1f} %"
        panels.distribution(main, ratio, real, fake, int(column), labels=labels, share=SHARE, note=note)
        ratio.set_xlabel(f"time of detector {channel} [ns]", fontsize="small")
    return panels.finished(figure, axes, panels.counted(real, fake, "events", labels), "events")


def correlations_figure(
    real: FeatureSummary, fake: FeatureSummary, labels: tuple[str, str] = LABELS
) -> "Figure":
    """Draw the correlations between the detectors' amplitudes, and between their times where both have one."""
    rows = [(group, real.correlation(group), fake.correlation(group)) for group in ("amplitude", "time")]
    names = [str(real.features[column].index) for column in real.groups["amplitude"]]
    return panels.correlations_figure(
        rows, names, "detector", "correlations of amplitudes and of times", labels
    )


def waveforms_figure(
    geometry: Waveforms,
    real: FeatureSummary,
    fake: FeatureSummary,
    examples: Examples,
    labels: tuple[str, str] = LABELS,
) -> "Figure":
    """Draw the mean waveform of each detector with the difference below it, and the waveforms of single events.

    Raises:
        ValueError: if there is no example.
    """
    means = real.image("waveform"), fake.image("waveform")
    return means_figure(geometry, means, examples, panels.counted(real, fake, "events", labels), labels)


def means_figure(
    geometry: Waveforms,
    pair: tuple[np.ndarray, np.ndarray],
    examples: Examples,
    title: str,
    labels: tuple[str, str] = LABELS,
) -> "Figure":
    """Draw the same as `waveforms_figure` from the two mean events, each of shape (channels, samples).

    Raises:
        ValueError: if there is no example.
    """
    from matplotlib.figure import Figure

    if not len(examples.energies):
        raise ValueError("there is no event to draw: expected at least one example")
    size = (11.0, 2.3 * geometry.columns + 6.2)
    figure = Figure(figsize=size)
    split = 5.6 / size[1]
    means = figure.add_gridspec(
        geometry.columns,
        geometry.rows,
        left=0.075,
        right=0.985,
        bottom=split,
        top=1.0 - 0.45 / size[1],
        wspace=0.24,
        hspace=0.3,
    )
    time = np.arange(geometry.samples) * geometry.sample_ns
    for channel in range(geometry.channels):
        row, column = _place(geometry, channel)
        inner = means[row, column].subgridspec(2, 1, height_ratios=(3, 1), hspace=0.08)
        main = figure.add_subplot(inner[0])
        below = figure.add_subplot(inner[1], sharex=main)
        main.fill_between(time, pair[0][channel], color="#d0d0d0", linewidth=0.0, label=labels[0])
        main.plot(time, pair[0][channel], color=REFERENCE, linewidth=0.9)
        main.plot(time, pair[1][channel], color=GENERATED, linewidth=1.2, label=labels[1])
        below.axhline(0.0, color=REFERENCE, linewidth=0.8)
        below.plot(time, pair[1][channel] - pair[0][channel], color=GENERATED, linewidth=1.0)
        main.text(
            0.97,
            0.93,
            f"detector {channel}",
            transform=main.transAxes,
            ha="right",
            va="top",
            fontsize="small",
        )
        main.tick_params(labelbottom=False)
        main.set_xlim(time[0], time[-1])
        for panel in (main, below):
            panel.tick_params(which="both", direction="in", top=True, right=True, labelsize="small")
        if column == 0:
            for panel, name in ((main, f"mean [{geometry.unit}]"), (below, "difference")):
                panel.set_ylabel(name, fontsize="small")
                panel.yaxis.set_label_coords(-0.15, 0.5)
        if row == geometry.columns - 1:
            below.set_xlabel("time [ns]", fontsize="small")
        if channel == _first(geometry):
            main.legend(frameon=False, loc="center right", fontsize="small")
    _events(figure, geometry, examples, labels, top=split - 1.0 / size[1])
    figure.suptitle(title, fontsize="medium", y=1 - 0.12 / size[1])
    return figure


def _events(
    figure: "Figure", geometry: Waveforms, examples: Examples, labels: tuple[str, str], top: float
) -> None:
    """Draw single Geant4 events above ones generated for the same energies, one panel an event."""
    order = np.argsort(examples.energies, kind="stable")[:EXAMPLES]
    height = figure.get_figheight()
    grid = figure.add_gridspec(
        2, len(order), left=0.075, right=0.985, bottom=0.5 / height, top=top, wspace=0.08, hspace=0.1
    )
    axes = grid.subplots(sharex=True, sharey=True, squeeze=False)
    time = np.arange(geometry.samples) * geometry.sample_ns
    threshold = BASELINE * geometry.noise
    highest = max(float(np.nanmax(events[order])) for events in (examples.real, examples.fake))
    decades = range(math.ceil(math.log10(2 * threshold)), math.ceil(math.log10(max(highest, threshold))) + 1)
    ticks = [0.0, *(10.0**decade for decade in decades)]
    for row, (label, events) in enumerate(zip(labels, (examples.real, examples.fake), strict=True)):
        for panel, example in zip(axes[row], order, strict=True):
            event = events[example]
            # The detector with the largest signal is emphasised; the others are thin lines behind it.
            brightest = int(np.argmax(event.max(axis=-1)))
            for channel, waveform in enumerate(event):
                if channel != brightest:
                    panel.plot(time, waveform, color="#56B4E9" if row == 0 else "#E69F00", linewidth=0.5)
            colour = REFERENCE if row == 0 else GENERATED
            panel.plot(time, event[brightest], color=colour, linewidth=1.0, label=f"detector {brightest}")
            panel.set_yscale("symlog", linthresh=threshold, linscale=0.6)
            panel.set_yticks(ticks)
            panel.set_ylim(-2 * threshold, max(4.0 * highest, 10 * threshold))
            panel.tick_params(direction="in", top=True, right=True, labelsize="small")
            panel.set_xlim(time[0], time[-1])
            panel.legend(frameon=False, loc="upper right", fontsize="x-small", handlelength=1.2)
            if row == 0:
                panel.set_title(f"E$_{{inc}}$ = {examples.energies[example]:.3g} GeV", fontsize="small")
        axes[row, 0].set_ylabel(f"{label}\n[{geometry.unit}]", fontsize="small")
    for panel in axes[1]:
        panel.set_xlabel("time [ns]", fontsize="small")


def _place(geometry: Waveforms, channel: int) -> tuple[int, int]:
    """Return the row, from the top, and column of a detector's panel."""
    x, y = divmod(channel, geometry.columns)
    return geometry.columns - 1 - y, x


def _first(geometry: Waveforms) -> int:
    """Return the detector whose panel is at the upper left."""
    return geometry.columns - 1


def _logarithmic(real: FeatureSummary, column: int, least: float) -> np.ndarray:
    """Return edges over the Geant4 values in nearly equal logarithmic steps, none narrower than `least`."""
    low, high = float(real.ranges.low[column]), float(real.ranges.high[column])
    fine = real.histogram(column, fine=True)[1]
    inside = fine[(fine > 0) & (fine >= low) & (fine <= high)]
    if len(inside) < 2:
        return real.histogram(column)[1]
    edges = [float(inside[0])]
    for wanted in np.geomspace(inside[0], inside[-1], LOG_BINS + 1)[1:]:
        edge = float(inside[np.abs(inside - wanted).argmin()])
        if edge - edges[-1] >= min(least, float(inside[-1] - inside[0])):
            edges.append(edge)
    return np.array(edges)
