"""Validation of showers during training, by read-out: observables, comparison and pictures."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dist_calo.geometry import Geometry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VIEWS: dict[str, str] = {
    "voxel_grid": "dist_calo.physics.views.voxel_grid:VoxelView",
    "layers": "dist_calo.physics.views.layered:LayerView",
    "cylinder": "dist_calo.physics.views.layered:LayerView",
    "waveforms": "dist_calo.physics.views.waveforms:SignalView",
}
"""Module and class of the view of each kind of read-out: ``View(geometry)``."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Showers to be drawn one by one.

    Attributes:
        real: Geant4 showers, shape (n, *geometry.shape).
        fake: showers generated for the same conditions, shape (n, *geometry.shape).
        energies: their incident energies in GeV, shape (n,).
    """

    real: np.ndarray
    fake: np.ndarray
    energies: np.ndarray


class View(Protocol):
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


def view_of(geometry: Geometry) -> View:
    """Return the view of a read-out."""
    module, name = VIEWS[geometry.kind].split(":")
    view: View = getattr(importlib.import_module(module), name)(geometry)
    return view
