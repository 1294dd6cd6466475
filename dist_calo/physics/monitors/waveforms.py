"""Validation of waveforms of detectors: amplitude and time of each pulse, and their correlations.

The scores are those of Fakanov and Ratnikov: the mean over the detectors of the Wasserstein-1 distance of the
amplitudes and of the times, and the mean absolute difference of the correlation matrices of both. A channel under five
standard deviations of its noise has no time; the share of such channels is a number of its own.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.geometry import Waveforms
from dist_calo.physics.metrics.distances import compared
from dist_calo.physics.monitors.feature_monitor import FeatureMonitor, ObservedShowers
from dist_calo.physics.observables.examples import Examples
from dist_calo.physics.observables.features import Feature
from dist_calo.physics.observables.waveforms import SHARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = ("wasserstein/amplitude", "wasserstein/time", "correlation/amplitude", "correlation/time")
"""The four published numbers."""
BATCH = 256
"""Events that are measured at once, which bounds the memory of the measurement."""


class WaveformMonitor(FeatureMonitor):
    """Validation of waveforms; see `dist_calo.physics.monitors.monitor.Monitor`."""

    headlines = (*SCORES, "fraction/time")

    def __init__(self, geometry: Waveforms) -> None:
        self.geometry = geometry
        features = [
            Feature(group=group, index=channel, unit=unit, relative=group == "amplitude")
            for group, unit in (("amplitude", geometry.unit), ("time", "ns"))
            for channel in range(geometry.channels)
        ]
        super().__init__(geometry, features, "waveform")

    def observe(self, showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
        """Return the amplitudes and times of events (n, channels, samples), shape (n, 2 channels)."""
        import torch

        from dist_calo.pulses import amplitudes_and_times

        values = np.empty((len(showers), 2 * self.geometry.channels))
        for first in range(0, len(showers), BATCH):
            part = slice(first, first + BATCH)
            waveforms = torch.from_numpy(np.ascontiguousarray(showers[part]))
            measured = amplitudes_and_times(
                waveforms, sample_ns=self.geometry.sample_ns, noise=self.geometry.noise
            )
            values[part] = torch.cat(measured, dim=1).numpy()
        return values

    def numbers(self, fake: ObservedShowers, real: ObservedShowers) -> dict[str, float]:
        return compared(fake, real, detailed=("amplitude", "time"), share=SHARE)

    def score(self, numbers: dict[str, float]) -> float:
        """Return the mean separation power plus both correlation differences and the share of missing times."""
        terms = ("separation/amplitude", "separation/time", "correlation/amplitude", "correlation/time")
        values = [numbers[name] for name in (*terms, "fraction/time")]
        return sum(values) if all(math.isfinite(value) for value in values) else math.inf

    def pictures(
        self, real: ObservedShowers, fake: ObservedShowers, examples: Examples
    ) -> "dict[str, Callable[[], Figure]]":
        from dist_calo.physics.figures import waveforms

        return {
            "amplitudes": partial(waveforms.amplitudes_figure, self.geometry, real, fake),
            "times": partial(waveforms.times_figure, self.geometry, real, fake),
            "correlations": partial(waveforms.correlations_figure, real, fake),
            "waveforms": partial(waveforms.waveforms_figure, self.geometry, real, fake, examples),
        }
