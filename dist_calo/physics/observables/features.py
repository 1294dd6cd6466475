"""Observables as columns, one row a shower, and their correlations.

Values that a shower does not have (the time of a channel without a pulse) are NaN and left out; correlations are those
of the showers that have both values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
