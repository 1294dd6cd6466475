"""Measurement of each shower of a read-out.

An `Observer` measures them as columns, one value a shower, and as profiles, values of each shower that are a function
of something. A validation during training, an evaluation and a benchmark have the same ones.
"""

import importlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dist_calo.geometry import Geometry, LayeredReadout, VoxelGrid, Waveforms
from dist_calo.physics.observables.features import Feature, columns_by_group

OBSERVERS: dict[str, str] = {
    "voxel_grid": "dist_calo.physics.observables.voxel_grid:VoxelObserver",
    "layers": "dist_calo.physics.observables.layered:LayerObserver",
    "cylinder": "dist_calo.physics.observables.layered:LayerObserver",
    "waveforms": "dist_calo.physics.observables.waveforms:WaveformObserver",
}
"""Module and class of the observer of each kind of read-out: ``Observer(geometry)``."""


FAULTS: dict[str, str] = {
    "energy": "an incident energy or angle that is no such number",
    "not_finite": "a cell that is NaN, infinite or absurdly large",
    "empty": "no energy in any cell",
    "negative": "a cell below 0",
    "response": "a response under half or over twice that of all of the reference",
}
"""Faults of single showers, in words; of several the first counts."""
LEFT_OUT = 2
"""Number of the faults, the first ones, that would make every sum NaN: such showers are counted and left out."""
SOUND = len(FAULTS)
LARGEST_CELL = 1e15
"""The square of a larger cell does not fit into float32 sums."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Mean over showers as a function of position, cell energy, threshold or time.

    Attributes:
        edges: of its bins, increasing, shape (W + 1,); or positions, shape (W,), if ``points``.
        points: whether values belong to positions instead of bins.
        axis: label of the horizontal axis with its unit, such as ``x [mm]``.
        title: label of the vertical axis with its unit, such as ``mean energy [GeV]``.
        log_axis: whether the horizontal axis is logarithmic.
        log_values: whether the vertical axis is logarithmic.
    """

    edges: np.ndarray
    points: bool = False
    axis: str
    title: str
    log_axis: bool = False
    log_values: bool = False

    @property
    def width(self) -> int:
        """Values of the profile, W."""
        return len(self.edges) - (not self.points)


@dataclass(frozen=True)
class Observed:
    """Observables and profiles of n showers.

    Attributes:
        columns: one value of each feature, shape (n, F), float64; NaN where a shower has no such value.
        profiles: by name, what each shower contributes to the mean, shape (n, W).
    """

    columns: np.ndarray
    profiles: dict[str, np.ndarray]


class Observer(Protocol):
    """Measurement of all observables of the showers of one read-out."""

    @property
    def geometry(self) -> Geometry:
        """The read-out."""

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns."""

    @property
    def labels(self) -> dict[str, str]:
        """Axis label of each group of features, with its unit, such as ``lateral width [mm]``."""

    @property
    def profiles(self) -> dict[str, Profile]:
        """The axes of each profile, by name."""

    @property
    def indexed_by(self) -> dict[str, str]:
        """The meaning of the index, ``layer`` or ``channel``, of each group with several features."""

    @property
    def correlated(self) -> tuple[str, ...]:
        """Names of the few features that are most informative in a correlation matrix."""

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the numbers whose mean is the score, of one size: W₁/σ and differences of correlations."""

    @property
    def summary_groups(self) -> tuple[str, ...]:
        """The groups shown first."""

    def observe(self, showers: np.ndarray, conditions: np.ndarray) -> Observed:
        """Measure showers, each independently of the others.

        Args:
            showers: in GeV, or samples in the unit of the read-out, shape (n, *geometry.shape); n may be 0.
            conditions: the columns of ``geometry.conditions``, incident energies in GeV first, shape (n, C).

        Raises:
            ValueError: if the shapes do not fit.
        """


def observer_of(geometry: Geometry) -> Observer:
    """Return the observer of a read-out."""
    module, name = OBSERVERS[geometry.kind].split(":")
    observer: Observer = getattr(importlib.import_module(module), name)(geometry)
    return observer


def scored(
    features: Sequence[Feature], unscored: Collection[str], correlated: Sequence[str]
) -> tuple[str, ...]:
    """Return `Observer.scored`: W₁/σ of each group but some, and correlations within groups of several features."""
    groups = columns_by_group(features)
    return (
        *(f"wasserstein_scaled/{group}" for group in groups if group not in unscored),
        *(f"correlation/{group}" for group in correlated if len(groups.get(group, ())) > 1),
    )


def faults_of(geometry: Geometry, showers: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """Return the index in `FAULTS` of each shower's first fault (n,), from cells and conditions, else `SOUND`."""
    cells = showers.reshape(len(showers), -1)
    low, high = cells.min(axis=1), cells.max(axis=1)
    no_numbers = ~((low >= -LARGEST_CELL) & (high <= LARGEST_CELL))
    found = {
        "energy": ~(np.isfinite(conditions).all(axis=1) & (conditions[:, 0] > 0)),
        "not_finite": no_numbers,
        "empty": (low == 0) & (high == 0) & (not geometry.signed),
        "negative": (low < 0) & (not geometry.signed),
    }
    return np.asarray(
        np.select(list(found.values()), [list(FAULTS).index(name) for name in found], default=SOUND)
    )


def cell_profiles(edges: np.ndarray) -> dict[str, Profile]:
    """Return the profiles ``spectrum`` (cells in bins of energy in GeV) and ``hits_above`` (cells above each edge)."""
    return {
        "spectrum": Profile(
            edges=edges, axis="cell energy [GeV]", title="cells per shower", log_axis=True, log_values=True
        ),
        "hits_above": Profile(
            edges=edges[:-1],
            points=True,
            axis="threshold [GeV]",
            title="cells above threshold per shower",
            log_axis=True,
            log_values=True,
        ),
    }


def check_shapes(
    geometry: VoxelGrid | LayeredReadout | Waveforms, showers: np.ndarray, conditions: np.ndarray
) -> None:
    """Check that the arrays have the shapes that `Observer.observe` takes.

    Raises:
        ValueError: if the shapes do not fit.
    """
    expected = (len(showers), *geometry.shape), (len(showers), len(geometry.conditions))
    if (showers.shape, conditions.shape) != expected:
        raise ValueError(
            f"showers {showers.shape} with conditions {conditions.shape}: expected {expected[0]} and {expected[1]}"
        )


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return ``part / whole``, elementwise; NaN where the whole is not above 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(np.where(whole > 0, part / whole, np.nan))


def mean_and_width(energies: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the energy-weighted mean position and the root of the second central moment, each of shape (...).

    NaN where there is no energy.

    Args:
        energies: shape (..., K).
        positions: shape (K,).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.asarray(energies, dtype=np.float64) @ np.stack(
            [np.ones_like(positions), positions, positions**2], axis=1
        )
        mean = ratio(sums[..., 1], sums[..., 0])
        square = ratio(sums[..., 2], sums[..., 0])
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))
