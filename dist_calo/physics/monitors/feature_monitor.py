"""Common part of the views of read-outs whose showers become rows of features."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from dist_calo.geometry import LayeredReadout, Waveforms
from dist_calo.physics.observables.features import Feature, FeatureSummary, Ranges, extremes


class FeatureMonitor:
    """Part of a `dist_calo.physics.monitors.monitor.Monitor` that is the same for all read-outs.

    Args:
        geometry: the read-out.
        features: the columns of ``observe``.
        image: name of the mean shower that a summary keeps.
    """

    def __init__(self, geometry: LayeredReadout | Waveforms, features: Sequence[Feature], image: str) -> None:
        self.features = list(features)
        self.image = image
        self._shape = geometry.shape
        self._ranges: Ranges | None = None

    @property
    def settled(self) -> bool:
        return self._ranges is not None

    def observe(self, showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
        """Return the features (n, F) of showers (n, *shape) of incident energies (n,) in GeV, NaN where missing."""
        raise NotImplementedError

    def extremes(self, showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
        return extremes(self.observe(showers, energies))

    def settle(self, extremes: np.ndarray) -> None:
        self._ranges = Ranges.from_extremes(extremes)

    def summary(self) -> "ObservedShowers":
        """Return an empty summary.

        Raises:
            ValueError: if the bins are not settled.
        """
        if self._ranges is None:
            raise ValueError("the bins are not settled: look at the real showers first")
        return ObservedShowers(self, self._ranges, self._shape)


class ObservedShowers(FeatureSummary):
    """Sums over the features of showers as a monitor observes them, with the mean shower."""

    def __init__(self, monitor: FeatureMonitor, ranges: Ranges, shape: tuple[int, ...]) -> None:
        super().__init__(monitor.features, ranges, {monitor.image: shape})
        self._monitor = monitor

    def update(self, showers: np.ndarray, energies: np.ndarray) -> Self:
        """Add showers (n, *shape) of incident energies (n,) in GeV, and return this summary."""
        values = self._monitor.observe(showers, energies)
        return self.add(values, {self._monitor.image: showers.sum(axis=0, dtype=np.float64)})
