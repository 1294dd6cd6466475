"""Validation of showers during training, by read-out: observables, comparison and pictures."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dist_calo.geometry import Geometry
from dist_calo.physics.observables.examples import Examples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MONITORS: dict[str, str] = {
    "voxel_grid": "dist_calo.physics.monitors.voxel_grid:VoxelMonitor",
    "layers": "dist_calo.physics.monitors.layered:LayerMonitor",
    "cylinder": "dist_calo.physics.monitors.layered:LayerMonitor",
    "waveforms": "dist_calo.physics.monitors.waveforms:WaveformMonitor",
}
"""Module and class of the monitor of each kind of read-out: ``Monitor(geometry)``."""


class Monitor(Protocol):
    """Observables and comparison of the showers of one read-out during training."""

    @property
    def headlines(self) -> tuple[str, ...]:
        """Names of the numbers that the log shows."""

    @property
    def settled(self) -> bool:
        """True once the bins are known and no real shower is needed to choose them."""

    def extremes(self, showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
        """Return numbers (k,), float64, whose maximum over all real showers decides the bins; n may be 0."""

    def settle(self, extremes: np.ndarray) -> None:
        """Decide the bins from these maxima."""

    def summary(self) -> Any:
        """Return an empty `SumState` with these bins; its ``update(showers, energies)`` adds showers."""

    def numbers(self, fake: Any, real: Any) -> dict[str, float]:
        """Compare two samples and return the numbers by name."""

    def score(self, numbers: dict[str, float]) -> float:
        """Return one number for the whole comparison; the best checkpoint has the lowest."""

    def pictures(self, real: Any, fake: Any, examples: Examples) -> "dict[str, Callable[[], Figure]]":
        """Return functions that draw the comparison, by name."""


def monitor_of(geometry: Geometry) -> Monitor:
    """Return the monitor of a read-out."""
    module, name = MONITORS[geometry.kind].split(":")
    monitor: Monitor = getattr(importlib.import_module(module), name)(geometry)
    return monitor
