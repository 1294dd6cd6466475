"""Bins of incident energy, and of each observable from the values of Geant4 showers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINNING_SHOWERS = 10_000
"""Geant4 showers, the first of the sample, that decide the bins."""
COARSE_BINS = 40
"""Bins of an observable between ``low`` and ``high``, as compared and drawn."""
MARGIN_BINS = 20
"""Such bins on either side; the last one also counts all values beyond."""
FINE = 5
"""Parts of each bin, for the Wasserstein distance."""
CENTRAL = 0.998
"""Share of the Geant4 showers between ``low`` and ``high``: outliers would compress all others into one bin."""
MOST_ENERGY_BINS, LOG_ENERGY_BINS = 7, 6
_ROUND = (0.1, 0.15, 0.2, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
ON_LATTICE = 1e-3
"""Part of the distance of two possible values by which rounding may move one."""
FEW_ENERGIES = 20
"""Up to so many different incident energies have a bin each."""


@dataclass(frozen=True, kw_only=True)
class Binning:
    """Bins and units that both samples of a comparison share.

    Attributes:
        energy: edges of the K bins of incident energy in GeV, shape (K + 1,). A shower outside counts in the whole
            sample only.
        low: lower end of the bins of each of F observables, in each bin of incident energy and, last, for all
            showers, shape (K + 1, F).
        high: upper ends, same shape.
        centre: median of each observable, shape (F,), which replaces missing values where rows must be complete.
        scale: standard deviation of each observable, or 1 where it does not vary, shape (F,).
    """

    energy: tuple[float, ...]
    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    scale: np.ndarray

    @property
    def slots(self) -> int:
        """Bins of incident energy, and one for all showers."""
        return len(self.energy)

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each slot, such as ``10-28 GeV``; the last is ``all``."""
        bounds = zip(self.energy, self.energy[1:], strict=False)
        return (*(f"{low:.4g}-{high:.4g} GeV" for low, high in bounds), "all")

    def slot_of(self, energies: np.ndarray) -> np.ndarray:
        """Return the bin of each incident energy in GeV (n,), K for those outside."""
        slots = np.searchsorted(self.energy, energies, side="right") - 1
        slots[energies == self.energy[-1]] = len(self.energy) - 2
        return np.where(slots < 0, len(self.energy) - 1, slots)

    @classmethod
    def of(cls, columns: np.ndarray, energies: np.ndarray, edges: Sequence[float] | None = None) -> "Binning":
        """Choose the binning from some Geant4 showers.

        Args:
            columns: their observables, shape (n, F), NaN where a shower has none.
            energies: their incident energies in GeV, shape (n,).
            edges: of the bins of incident energy; by default those of `energy_edges`.

        Raises:
            ValueError: if there is no shower.
        """
        if not len(columns):
            raise ValueError("no shower has been seen: the bins of the observables are not known")
        energy = tuple(float(edge) for edge in edges or energy_edges(energies))
        draft = cls(energy=energy, low=np.empty(0), high=np.empty(0), centre=np.empty(0), scale=np.empty(0))
        slots = draft.slot_of(energies)
        places = [slots == slot for slot in range(len(energy) - 1)]
        ranges = [_ranges(columns[place]) for place in (*places, np.ones(len(columns), dtype=bool))]
        # A bin of incident energy with too few showers is binned as all are.
        ends = [
            ranges[-1] if place is not None and place.sum() < 2 else found
            for place, found in zip((*places, None), ranges, strict=True)
        ]
        centre, scale = _centre_and_scale(columns)
        return cls(
            energy=energy,
            low=np.stack([low for low, _ in ends]),
            high=np.stack([high for _, high in ends]),
            centre=centre,
            scale=scale,
        )


def energy_edges(energies: np.ndarray) -> tuple[float, ...]:
    """Choose the edges of bins of incident energy in GeV for energies (n,).

    One for each energy where there are few; of equal ratio where the energies are spread evenly in their logarithm;
    else of equal, round width.

    Example:
        >>> energy_edges(np.array([10.0, 40.0, 10.0, 40.0]))
        (5.0, 20.0, 80.0)
    """
    values = np.unique(energies.astype(np.float64))
    low, high = float(values[0]), float(values[-1])
    if low == high:
        return (0.99 * low, 1.01 * high)
    if len(values) <= FEW_ENERGIES:
        between = (values[1:] * values[:-1]) ** 0.5
        first, last = values[0] ** 2 / between[0], values[-1] ** 2 / between[-1]
        return (float(first), *between.tolist(), float(last))
    median = float(np.median(energies))
    if abs(math.log(median / math.sqrt(low * high))) < abs(math.log(median / ((low + high) / 2))):
        return tuple(np.geomspace(low, high, LOG_ENERGY_BINS + 1).tolist())
    unit = 10.0 ** math.floor(math.log10((high - low) / 2))
    steps = [unit * width for width in _ROUND]
    step = next(s for s in steps if math.ceil(high / s) - math.floor(low / s) <= MOST_ENERGY_BINS)
    # From a round number below the lowest energy, or from where the energies seem to begin.
    start = math.floor(low / unit) * unit
    bins = math.ceil((high - start) / step - 1e-9)
    return tuple(float(start + step * number) for number in range(bins + 1))


def _ranges(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.zeros(columns.shape[1]), np.ones(columns.shape[1])
    for column, values in enumerate(columns.T):
        seen = values[np.isfinite(values)]
        if not seen.size:
            continue
        first, last = np.quantile(seen, ((1 - CENTRAL) / 2, (1 + CENTRAL) / 2)).tolist()
        step = spacing(seen)
        if step is not None:
            # Bins of what is counted hold equal numbers of possible values: others would make a comb.
            width = step * max(1, math.ceil(((last - first) / step + 1) / COARSE_BINS - ON_LATTICE))
            least = float(seen.min())
            first = least + step * (math.floor((first - least) / step + ON_LATTICE) - 0.5)
            last = first + width * COARSE_BINS
        elif last <= first:
            first, last = first - 1e-3 * max(abs(first), 1.0), last + 1e-3 * max(abs(first), 1.0)
        low[column], high[column] = first, last
    return low, high


def spacing(values: np.ndarray) -> float | None:
    """Return the distance of neighbouring possible values of an observable that is counted; None of any other.

    A number of cells has 1, a share of 72 cells 1/72.

    Example:
        >>> spacing(np.tile([0.25, 0.5, 1.0], 9)), spacing(np.array([3.0, 8.0])), spacing(np.array([0.1, 0.2345]))
        (0.25, 1.0, None)
    """
    if np.all(values == np.round(values)):
        return 1.0
    distinct = np.unique(values)
    if not 1 < len(distinct) < len(values) / 2:
        return None
    step = float(np.diff(distinct).min())
    places = (distinct - distinct[0]) / step
    return step if np.abs(places - np.round(places)).max() < ON_LATTICE else None


def _centre_and_scale(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centre, scale = np.zeros(columns.shape[1]), np.ones(columns.shape[1])
    for column, values in enumerate(columns.T):
        seen = values[np.isfinite(values)]
        if seen.size:
            centre[column] = np.median(seen)
            deviation = float(seen.std())
            scale[column] = deviation if deviation > 1e-9 * max(1.0, abs(centre[column])) else 1.0
    return centre, scale
