"""Response, profiles and cell energies of showers on a voxel grid, as validation compares them.

With ``E_xyz`` the energy of a cell, a shower's visible energy is ``E_vis = sum_xyz E_xyz``, its longitudinal profile
``E_z = sum_xy E_xyz`` and its transverse profiles ``E_x = sum_yz E_xyz`` and ``E_y = sum_xz E_xyz``. The energy
response is ``E_vis / E_inc`` and the resolution the standard deviation of the response divided by its mean, in bins of
the incident energy ``E_inc``. Statistical errors are those of means over showers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from dist_calo.physics.observables.spectrum import CellSpectrum
from dist_calo.physics.observables.sums import SumState

PROFILES = ("longitudinal", "x", "y")
BATCH = 256
"""Showers that are summed at once, which bounds the memory of the sums."""


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Bins of observables, the same for both samples of a comparison.

    Attributes:
        energy: edges of the bins of incident energy in GeV, increasing. A shower outside counts in the whole sample
            only.
        cell_energy: lowest and highest cell energy of the spectrum, in GeV.
        threshold: cells above this energy count as hit, in GeV.
    """

    energy: tuple[float, ...] = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0)
    cell_energy: tuple[float, float] = (1e-7, 1.0)
    threshold: float = 1e-5

    def __post_init__(self) -> None:
        if len(self.energy) < 2 or np.any(np.diff(self.energy) <= 0):
            raise ValueError(
                f"energy edges {self.energy}: at least two increasing energies in GeV are needed"
            )
        low, high = self.cell_energy
        if not 0 < low < high:
            raise ValueError(
                f"cell energies {self.cell_energy}: two increasing energies above 0 in GeV are needed"
            )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Means with their statistical errors (one standard deviation), arrays of one shape."""

    value: np.ndarray
    error: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Observables:
    """Observables of a sample; arrays have the K bins of incident energy first, then one entry of all showers.

    Attributes:
        bins: the bins.
        count: showers, shape (K + 1,).
        energy: mean incident energy in GeV, shape (K + 1,).
        response: mean of E_vis / E_inc, shape (K + 1,).
        resolution: standard deviation of the response divided by its mean, shape (K + 1,).
        profiles: by name (see PROFILES), mean energy in GeV of each layer, column or row, or shares of the visible
            energy if normalised, shape (K + 1, n).
        hits: mean number of cells above the threshold, shape (K + 1,).
        spectrum: mean number of cells of a shower in each bin of cell energy, shape (K + 1, S).
        spectrum_edges: edges of the bins of cell energy in GeV, shape (S + 1,).
    """

    bins: Bins
    count: np.ndarray
    energy: np.ndarray
    response: Estimate
    resolution: Estimate
    profiles: dict[str, Estimate]
    hits: Estimate
    spectrum: Estimate
    spectrum_edges: np.ndarray


class ShowerSummary(SumState):
    """Mergeable sums over showers on a voxel grid, from which the observables are computed.

    A new summary is empty; ``update`` adds showers, ``merge`` another summary, ``compute`` gives the observables.
    Because it is a `SumState`, its vector can be summed over ranks: ``summary.from_vector(all_reduced_vector)``.

    Args:
        shape: cells of a shower in x, y and along the depth.
        bins: how to bin.
    """

    def __init__(self, shape: Sequence[int], bins: Bins | None = None) -> None:
        self.shape = tuple(int(cells) for cells in shape)
        self.bins = bins or Bins()
        self._spectrum = CellSpectrum(*self.bins.cell_energy)
        self.spectrum_edges = self._spectrum.edges
        x, y, z = self.shape
        widths = {
            "response": 1,
            "longitudinal": z,
            "x": x,
            "y": y,
            "hits": 1,
            "spectrum": len(self.spectrum_edges) - 1,
        }
        slots = len(self.bins.energy)  # one for each bin, the last for showers outside of all bins
        shapes = {name: (slots, width) for name, width in widths.items()}
        squares = {f"{name} squared": shape for name, shape in shapes.items()}
        super().__init__({"count": (slots, 1), "energy": (slots, 1), **shapes, **squares})

    def update(self, showers: np.ndarray, energies: np.ndarray) -> Self:
        """Add showers and return this summary.

        Args:
            showers: cell energies in GeV, shape (B, X, Y, Z).
            energies: incident energies in GeV, shape (B,).

        Raises:
            ValueError: if the shapes do not fit each other or the grid.
        """
        if showers.shape[1:] != self.shape or energies.shape != showers.shape[:1]:
            x, y, z = self.shape
            raise ValueError(
                f"showers {showers.shape} with energies {energies.shape}: expected (B, {x}, {y}, {z}) and (B,)"
            )
        for first in range(0, len(showers), BATCH):
            self._add(showers[first : first + BATCH], energies[first : first + BATCH].astype(np.float64))
        return self

    def _add(self, showers: np.ndarray, energies: np.ndarray) -> None:
        over_x = showers.sum(axis=1)
        values = {
            "x": showers.reshape(*showers.shape[:2], -1).sum(axis=2),
            "y": over_x.sum(axis=2),
            "longitudinal": over_x.sum(axis=1),
            "hits": np.count_nonzero(showers > self.bins.threshold, axis=(1, 2, 3))[:, None],
            "spectrum": self._spectrum.counts(showers)[:, :-1],
        }
        values = {name: array.astype(np.float64) for name, array in values.items()}
        values["response"] = values["longitudinal"].sum(axis=1, keepdims=True) / energies[:, None]
        # membership[k, b] is 1 if shower b is in bin k, so that a matrix product sums each bin's showers
        membership = (np.arange(len(self.bins.energy))[:, None] == self._slots(energies)).astype(np.float64)
        self.sums["count"] += membership.sum(axis=1, keepdims=True)
        self.sums["energy"] += membership @ energies[:, None]
        for name, array in values.items():
            self.sums[name] += membership @ array
            self.sums[f"{name} squared"] += membership @ array**2

    def _slots(self, energies: np.ndarray) -> np.ndarray:
        edges = np.asarray(self.bins.energy)
        slots = np.searchsorted(edges, energies, side="right") - 1
        slots[energies == edges[-1]] = len(edges) - 2
        return np.where(slots < 0, len(edges) - 1, slots)

    def compute(self, normalised: bool = False) -> Observables:
        """Compute the observables of all showers seen so far; NaN where there are too few.

        Args:
            normalised: profiles as shares of the mean visible energy, so that each sums to 1.
        """
        count = self._summed("count")
        with np.errstate(divide="ignore", invalid="ignore"):
            response, profiles = (
                self._mean("response", count),
                {name: self._mean(name, count) for name in PROFILES},
            )
            if normalised:
                visible = profiles["longitudinal"].value.sum(axis=1, keepdims=True)
                profiles = {
                    name: Estimate(value=profile.value / visible, error=profile.error / visible)
                    for name, profile in profiles.items()
                }
            resolution = response.error * np.sqrt(count) / response.value
            # variances of the standard deviation (for a normal distribution) and of the mean, added
            resolution_error = resolution * np.sqrt(0.5 / (count - 1) + resolution**2 / count)
            energy = self._summed("energy") / count
        hits = self._mean("hits", count)
        return Observables(
            bins=self.bins,
            count=count[:, 0],
            energy=energy[:, 0],
            response=Estimate(value=response.value[:, 0], error=response.error[:, 0]),
            resolution=Estimate(value=resolution[:, 0], error=resolution_error[:, 0]),
            profiles=profiles,
            hits=Estimate(value=hits.value[:, 0], error=hits.error[:, 0]),
            spectrum=self._mean("spectrum", count),
            spectrum_edges=self.spectrum_edges,
        )

    def _summed(self, name: str) -> np.ndarray:
        """Sum over the showers of each bin of incident energy, then over all."""
        sums = self.sums[name]
        return np.concatenate([sums[:-1], sums.sum(axis=0, keepdims=True)])

    def _mean(self, name: str, count: np.ndarray) -> Estimate:
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self._summed(name) / count
            variance = (self._summed(f"{name} squared") / count - mean**2) * count / (count - 1)
            return Estimate(value=mean, error=np.sqrt(np.maximum(variance, 0.0) / count))


def profile_error(fake: ShowerSummary, real: ShowerSummary, normalised: bool = False) -> dict[str, float]:
    """Return the mean relative error of each profile: ``mean_i |fake_i - real_i| / real_i`` over the
    layers, columns or rows with energy in the real showers, over all showers.

    Args:
        fake: generated showers.
        real: Geant4 showers.
        normalised: compare shapes, each profile divided by its sum, instead of energies.
    """
    generated, reference = fake.compute(normalised).profiles, real.compute(normalised).profiles
    return {name: _relative_error(generated[name].value[-1], reference[name].value[-1]) for name in PROFILES}


def _relative_error(fake: np.ndarray, real: np.ndarray) -> float:
    seen = real > 0
    return float(np.mean(np.abs(fake[seen] - real[seen]) / real[seen])) if seen.any() else math.nan


def compared(fake: ShowerSummary, real: ShowerSummary) -> dict[str, float]:
    """Compare two samples: errors are 0 and ratios 1 where both agree.

    Names are ``profile_error/longitudinal`` (x, y), ``response_ratio``, ``resolution_ratio`` and ``hits_ratio`` of all
    showers, and ``response_ratio/10-20_GeV`` and so on for the bins of incident energy that both have showers in.
    """
    generated, reference = fake.compute(), real.compute()
    values = {f"profile_error/{name}": error for name, error in profile_error(fake, real).items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        response = generated.response.value / reference.response.value
        values["response_ratio"] = float(response[-1])
        values["resolution_ratio"] = float(generated.resolution.value[-1] / reference.resolution.value[-1])
        values["hits_ratio"] = float(generated.hits.value[-1] / reference.hits.value[-1])
    for low, high, ratio in zip(real.bins.energy, real.bins.energy[1:], response, strict=False):
        if np.isfinite(ratio):
            values[f"response_ratio/{low:g}-{high:g}_GeV"] = float(ratio)
    return values
