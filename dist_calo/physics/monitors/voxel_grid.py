"""Validation of showers on a voxel grid, from `dist_calo.physics.observables.shower_summary`."""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.geometry import VoxelGrid
from dist_calo.physics.observables.examples import Examples
from dist_calo.physics.observables.shower_summary import Bins, ShowerSummary, compared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENERGY_BINS = 9


class VoxelMonitor:
    """Validation of showers on a voxel grid; see `dist_calo.physics.monitors.monitor.Monitor`.

    Args:
        geometry: the grid.
        bins: how observables are binned; by default in equal bins over the incident energies of the real showers.
    """

    headlines = (
        "profile_error/longitudinal",
        "profile_error/x",
        "profile_error/y",
        "response_ratio",
        "resolution_ratio",
        "hits_ratio",
    )

    def __init__(self, geometry: VoxelGrid, bins: Bins | None = None) -> None:
        self._geometry = geometry
        self._bins = bins

    @property
    def settled(self) -> bool:
        return self._bins is not None

    def extremes(self, showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
        return np.array([-energies.min(initial=np.inf), energies.max(initial=-np.inf)], dtype=np.float64)

    def settle(self, extremes: np.ndarray) -> None:
        low, high = math.floor(-extremes[0]), math.ceil(extremes[1])
        self._bins = Bins(energy=tuple(np.linspace(low, max(high, low + 1), ENERGY_BINS + 1).tolist()))

    def summary(self) -> ShowerSummary:
        return ShowerSummary(self._geometry.shape, self._bins)

    def numbers(self, fake: ShowerSummary, real: ShowerSummary) -> dict[str, float]:
        return compared(fake, real)

    def score(self, numbers: dict[str, float]) -> float:
        """Return the mean relative error of the profiles plus that of the response."""
        profiles = [value for name, value in numbers.items() if name.startswith("profile_error/")]
        return sum(profiles) / len(profiles) + abs(numbers["response_ratio"] - 1.0)

    def pictures(
        self, real: ShowerSummary, fake: ShowerSummary, examples: Examples
    ) -> "dict[str, Callable[[], Figure]]":
        from dist_calo.physics.figures import voxel_grid

        return {
            "profiles": partial(voxel_grid.profiles_figure, real, fake),
            "response": partial(voxel_grid.response_figure, real, fake),
            "spectrum": partial(voxel_grid.spectrum_figure, real, fake),
            "showers": partial(
                voxel_grid.showers_figure, examples.real, examples.energies, examples.fake, examples.energies
            ),
        }
