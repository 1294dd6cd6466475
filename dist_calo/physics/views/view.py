"""How showers of each read-out are looked at: their observables, how two samples are compared, and the pictures."""

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
    """A few showers to be drawn one by one.

    Attributes:
        real: Geant4 showers, shape (n, *geometry.shape).
        fake: showers generated for the same conditions, shape (n, *geometry.shape).
        energies: their incident energies in GeV, shape (n,).
    """

    real: np.ndarray
    fake: np.ndarray
    energies: np.ndarray


class View(Protocol):
    """How showers of one read-out are looked at."""

    @property
    def headlines(self) -> tuple[str, ...]:
        """The numbers that are shown at a glance."""

    @property
    def settled(self) -> bool:
        """Whether the bins are known, so that no look at the real showers is needed first."""

    def extremes(self, showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
        """Numbers whose maximum over all real showers decides the bins, shape (k,), float64; n may be 0."""

    def settle(self, extremes: np.ndarray) -> None:
        """Decide the bins from these maxima."""

    def summary(self) -> Any:
        """An empty `SumState` with these bins; its ``update(showers, energies)`` adds showers."""

    def numbers(self, fake: Any, real: Any) -> dict[str, float]:
        """The comparison in numbers, by name."""

    def score(self, numbers: dict[str, float]) -> float:
        """One number of the comparison, of which the best checkpoint has least."""

    def pictures(self, real: Any, fake: Any, examples: Examples) -> "dict[str, Callable[[], Figure]]":
        """Functions that draw the comparison, by name."""


def view_of(geometry: Geometry) -> View:
    """The view of a read-out."""
    module, name = VIEWS[geometry.kind].split(":")
    view: View = getattr(importlib.import_module(module), name)(geometry)
    return view
