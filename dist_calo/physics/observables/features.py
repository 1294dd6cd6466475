"""Observables as columns, one row a shower, with their histograms and correlations.

A `FeatureSummary` holds for each column its mean, a histogram fine enough to give distances, and the correlations
within a group of columns. Values that a shower does not have (the time of a channel without a pulse) are NaN and left
out; correlations are those of the showers that have both values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from dist_calo.physics.observables.sums import SumState

COARSE_BINS = 40
"""Bins of a histogram between the smallest and the largest real value, as compared and drawn."""
MARGIN_BINS = 20
"""Such bins on either side for generated values beyond; the last one also counts all values
beyond, whose distances are summed."""
FINE = 50
"""Parts of each bin, for the Wasserstein distance: an error of at most 1/2000 of the range of the real values."""
PAIR_SUMS = ("n", "x", "xx", "xy")
"""Names of the sums over pairs of features."""
ROUNDING = 1e-12
"""Variances below this part of the mean square are rounding errors."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column.

    Attributes:
        group: name of the observable, such as ``layer_energy``; columns of a group are correlated with each other.
        index: which one of the group, such as the layer.
        unit: of its values, empty if there is none.
        relative: whether its mean may be compared as a ratio; not where the zero is a convention, as for times.
    """

    group: str
    index: int = 0
    unit: str = ""
    relative: bool = True

    @property
    def name(self) -> str:
        return f"{self.group}/{self.index}"


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Smallest and largest real value of each feature, each of shape (F,), which decide the bins."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def from_extremes(cls, extremes: np.ndarray) -> "Ranges":
        """Return the ranges from `extremes`, maximised over all showers.

        Raises:
            ValueError: if no shower has been seen.
        """
        low, high = -extremes[: len(extremes) // 2], extremes[len(extremes) // 2 :].copy()
        never = ~np.isfinite(low)
        if never.all():
            raise ValueError("no shower has been seen: the ranges of the observables are not known")
        low = np.where(never, 0.0, low)
        high = np.where(never | (high <= low), low + np.maximum(np.abs(low), 1.0) * 1e-3, high)
        return cls(low=low, high=high)


def extremes(values: np.ndarray) -> np.ndarray:
    """Return minus the minimum and the maximum of each column (n, F), shape (2 F,): ranks merge them by maximum."""
    if not len(values):
        return np.full(2 * values.shape[1], -np.inf)
    finite = np.isfinite(values)
    high = np.where(finite, values, -np.inf).max(axis=0)
    low = np.where(finite, values, np.inf).min(axis=0)
    return np.concatenate([-low, high])


def columns_by_group(features: Sequence[Feature]) -> dict[str, np.ndarray]:
    """Return the columns of each group of features, in the order in which the groups first occur."""
    groups: dict[str, list[int]] = {}
    for column, feature in enumerate(features):
        groups.setdefault(feature.group, []).append(column)
    return {name: np.array(columns) for name, columns in groups.items()}


def pair_sums(values: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """Return the sums over rows that `correlations` needs, by name (`PAIR_SUMS`), each of shape (k, k).

    Args:
        values: shape (n, k), 0 where a row has no such value.
        seen: 1 where it has, else 0, shape (n, k).
    """
    found = (seen.T @ seen, values.T @ seen, (values**2).T @ seen, values.T @ values)
    return dict(zip(PAIR_SUMS, found, strict=True))


def correlations(n: np.ndarray, x: np.ndarray, xx: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each pair over the rows that have both, from `pair_sums`, shape (k, k).

    NaN where a feature does not vary or fewer than two rows have both.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        square = xx / n
        variance = square - (x / n) ** 2
        # The variance of a constant is rounding error only.
        variance[~(variance > ROUNDING * square)] = np.nan
        covariance = xy / n - (x / n) * (x.T / n)
        return np.asarray(covariance / np.sqrt(variance * variance.T))


class FeatureSummary(SumState):
    """Mergeable sums over rows of features.

    Args:
        features: the columns.
        ranges: of the real sample; both samples of a comparison use the same.
        images: further means to keep, name and shape of each.
    """

    def __init__(
        self, features: Sequence[Feature], ranges: Ranges, images: dict[str, tuple[int, ...]] | None = None
    ) -> None:
        self.features = tuple(features)
        self.ranges = ranges
        self.groups = columns_by_group(self.features)
        """Columns of each group."""
        self._images = tuple(images or {})
        width, pairs = len(self.features), {name: (len(c), len(c)) for name, c in self.groups.items()}
        super().__init__(
            {
                "count": (1,),
                "seen": (width,),
                "sum": (width,),
                "square": (width,),
                "below": (width,),
                "above": (width,),
                "histogram": (width, (COARSE_BINS + 2 * MARGIN_BINS) * FINE),
                **{f"{part} {name}": shape for name, shape in pairs.items() for part in PAIR_SUMS},
                **{f"image {name}": shape for name, shape in (images or {}).items()},
            }
        )

    @property
    def count(self) -> int:
        """Showers seen."""
        return int(self.sums["count"][0])

    def add(self, values: np.ndarray, images: dict[str, np.ndarray] | None = None) -> Self:
        """Add showers and return this summary.

        Args:
            values: shape (n, F); NaN where a shower has no such value.
            images: sums over these showers of each image.
        """
        # In units of the range about its middle, so that sums of squares lose no digits.
        middle, scale = (self.ranges.low + self.ranges.high) / 2, self.ranges.high - self.ranges.low
        seen = np.isfinite(values)
        scaled = np.where(seen, (values.astype(np.float64) - middle) / scale, 0.0)
        self.sums["count"] += len(values)
        self.sums["seen"] += seen.sum(axis=0)
        self.sums["sum"] += scaled.sum(axis=0)
        self.sums["square"] += (scaled**2).sum(axis=0)
        outermost = 0.5 + MARGIN_BINS / COARSE_BINS
        self.sums["below"] += np.maximum(-outermost - scaled, 0.0).sum(axis=0)
        self.sums["above"] += np.maximum(scaled - outermost, 0.0).sum(axis=0)
        bins = self.sums["histogram"].shape[1]
        # Clip before the conversion: values of a diverged generator overflow integers.
        place = np.clip(np.floor((scaled + 0.5) * (COARSE_BINS * FINE)) + MARGIN_BINS * FINE, 0, bins - 1)
        place = place.astype(np.int64) + bins * np.arange(values.shape[1])
        counts = np.bincount(place[seen], minlength=bins * values.shape[1])
        self.sums["histogram"] += counts.reshape(-1, bins)
        for name, columns in self.groups.items():
            parts = pair_sums(scaled[:, columns], seen[:, columns].astype(np.float64))
            for part, total in parts.items():
                self.sums[f"{part} {name}"] += total
        for name in self._images:
            self.sums[f"image {name}"] += (images or {})[name]
        return self

    def mean(self) -> np.ndarray:
        """Return the mean of each feature, shape (F,)."""
        middle, scale = (self.ranges.low + self.ranges.high) / 2, self.ranges.high - self.ranges.low
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(middle + scale * self.sums["sum"] / self.sums["seen"])

    def deviation(self) -> np.ndarray:
        """Return the standard deviation of each feature, shape (F,)."""
        scale, seen = self.ranges.high - self.ranges.low, self.sums["seen"]
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = self.sums["square"] / seen - (self.sums["sum"] / seen) ** 2
            return np.asarray(scale * np.sqrt(np.maximum(variance, 0.0)))

    def fraction(self) -> np.ndarray:
        """Return the share of the showers that have each value, shape (F,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.sums["seen"] / self.sums["count"])

    def image(self, name: str) -> np.ndarray:
        """Return the mean of an image."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.sums[f"image {name}"] / self.sums["count"])

    def excess(self, column: int) -> tuple[float, float]:
        """Return the mean distance of values below the lowest fine bin, and above the highest, over all values.

        In the unit of the feature. The fine histogram does not hold it; NaN if there is no value.
        """
        seen = float(self.sums["seen"][column])
        scale = float(self.ranges.high[column] - self.ranges.low[column])
        if not seen:
            return float("nan"), float("nan")
        return (
            float(scale * self.sums["below"][column] / seen),
            float(scale * self.sums["above"][column] / seen),
        )

    def histogram(self, column: int, fine: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the showers in each bin of a feature, shape (S,), and the edges of the bins, shape (S + 1,).

        Args:
            column: which feature.
            fine: the finest bins, with those beyond the range of the real values; else `COARSE_BINS` over that range.
        """
        low, high = float(self.ranges.low[column]), float(self.ranges.high[column])
        counts = self.sums["histogram"][column]
        if fine:
            margin = (high - low) * MARGIN_BINS / COARSE_BINS
            return counts, np.linspace(low - margin, high + margin, len(counts) + 1)
        coarse = counts.reshape(-1, FINE).sum(axis=1)
        inside = coarse[MARGIN_BINS:-MARGIN_BINS].copy()
        # The largest real value itself lies on the upper edge, and values beyond must be counted.
        inside[0] += coarse[:MARGIN_BINS].sum()
        inside[-1] += coarse[-MARGIN_BINS:].sum()
        return inside, np.linspace(low, high, COARSE_BINS + 1)

    def central_edges(self, column: int, share: float) -> np.ndarray:
        """Return edges of at most `COARSE_BINS` equal bins, made of fine ones, around this sample's central values.

        Of the Geant4 sample these are the bins for an observable with a few values far away from all others.

        Args:
            column: which feature.
            share: of the showers that lie between the outer edges, at least, and half of the others on either side.
        """
        counts, fine = self.histogram(column, fine=True)
        total = np.cumsum(counts) / max(float(counts.sum()), 1.0)
        first = int(np.searchsorted(total, (1.0 - share) / 2, side="right"))
        last = int(np.searchsorted(total, (1.0 + share) / 2 - 1e-9)) + 1
        first, last = min(first, len(counts) - 1), min(max(last, first + 1), len(counts))
        width = -(-(last - first) // COARSE_BINS)
        ends = first + width * np.arange(-(-(last - first) // width) + 1)
        return fine[ends[ends < len(fine)]]

    def correlation(self, group: str) -> np.ndarray:
        """Return Pearson's correlations of a group's features over the showers that have both, shape (k, k).

        NaN where a feature does not vary or fewer than two showers have both.
        """
        return correlations(*(self.sums[f"{part} {group}"] for part in PAIR_SUMS))


def rebinned(counts: np.ndarray, fine: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sum counts (S,) in wider bins, shape (T,); the first and the last also count all beyond them.

    Args:
        counts: in the fine bins.
        fine: edges of the fine bins, shape (S + 1,).
        edges: some of the fine edges, to rounding, shape (T + 1,).
    """
    places = np.searchsorted(fine, edges - (fine[1] - fine[0]) / 2)
    places[0], places[-1] = 0, len(counts)
    total = np.append(0.0, np.cumsum(counts))
    return np.asarray(np.diff(total[places]))
