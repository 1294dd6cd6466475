"""Figure of the waveforms of detectors side by side, of two samples.

Every function returns a matplotlib `Figure` of its own and touches no global state. Panels stand as the detectors do:
x to the right, y upwards.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.geometry import Waveforms
from dist_calo.physics.figures.panels import GENERATED, REFERENCE
from dist_calo.physics.observables.examples import Examples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 4
BASELINE = 5.0
"""Standard deviations of the noise within which samples are drawn on a linear scale, beyond on a logarithmic."""


def means_figure(
    geometry: Waveforms,
    pair: tuple[np.ndarray, np.ndarray],
    examples: Examples,
    title: str,
    labels: tuple[str, str],
) -> "Figure":
    """Draw the mean waveform of each detector with the difference below it, and the waveforms of single events.

    Args:
        geometry: the detectors.
        pair: mean event of each sample, shape (channels, samples).
        examples: single events.
        title: of the figure.
        labels: names of the two.

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
    """Draw single events of the reference above the others of the same energies, one panel an event."""
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
