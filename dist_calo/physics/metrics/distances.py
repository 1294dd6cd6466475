"""Distances between histograms, correlations and means of two samples.

An observable that Geant4 showers have and generated ones lack counts as fully wrong: ignoring it would reward a
generator that never produces it. One that Geant4 showers lack is left out; `FeatureSummary.fraction` gives the share
of generated showers that have it. A sample has an observable if at least two of its showers do.
"""

from collections.abc import Collection

import numpy as np

from dist_calo.physics.observables.features import FeatureSummary, rebinned

LEAST_SHOWERS = 2
"""Least number of showers with an observable; a sample with fewer counts as lacking it."""


def separation_power(first: np.ndarray, second: np.ndarray) -> float:
    """Return the separation power of two histograms; NaN if one is empty.

    Args:
        first: counts, shape (S,).
        second: counts in the same bins, shape (S,).

    Example:
        >>> separation_power(np.array([1, 1, 0]), np.array([0, 1, 1]))
        0.5
    """
    return float(separations(first[None], second[None])[0])


def separations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return ``1/2 sum_i (h_i - g_i)^2 / (h_i + g_i)`` of pairs of normalised histograms, shape (F,).

    0 for equal ones and 1 for those without overlap (Diefenbacher et al., JINST 15, P11004). Of two samples of n and m
    showers from one distribution it is about ``k/4 (1/n + 1/m)`` with k bins. NaN where a histogram is empty.

    Args:
        first: counts, shape (F, S).
        second: counts in the same bins, shape (F, S).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        h, g = (counts / counts.sum(axis=1, keepdims=True) for counts in (first, second))
        terms = np.where(h + g == 0, 0.0, (h - g) ** 2 / (h + g))
    return np.asarray(0.5 * terms.sum(axis=1))


def wasserstein_distance(first: np.ndarray, second: np.ndarray, edges: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of two histograms: the integral of the difference of their CDFs.

    In the unit of the edges, to about the width of a bin. NaN if a histogram is empty.

    Args:
        first: counts, shape (S,).
        second: counts in the same bins, shape (S,).
        edges: of the bins, shape (S + 1,).

    Example:
        >>> wasserstein_distance(np.array([1, 0, 0]), np.array([0, 0, 1]), edges=np.array([0.0, 1.0, 2.0, 3.0]))
        2.0
    """
    if not first.sum() or not second.sum():
        return float("nan")
    difference = np.cumsum(first) / first.sum() - np.cumsum(second) / second.sum()
    return float(np.sum(np.abs(difference) * np.diff(edges)))


def correlation_difference(fake: np.ndarray, real: np.ndarray) -> float:
    """Return the mean absolute difference of two correlation matrices (k, k), diagonal included.

    This is the score of Fakanov and Ratnikov. An element that is undefined for the generated showers, because a value
    is missing or constant, counts as a correlation of 0, on the diagonal too; one that is
    undefined for the Geant4 showers is left out. NaN if all of them are.

    Args:
        fake: correlations of the generated showers.
        real: correlations of the Geant4 showers.
    """
    known = np.isfinite(real)
    difference = np.abs(np.where(np.isfinite(fake), fake, 0.0) - real)
    return float(difference[known].mean()) if known.any() else float("nan")


def relative_difference(value: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return ``(value - reference) / |reference|``, elementwise; NaN where the reference is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(reference == 0, np.nan, (value - reference) / np.abs(reference)))


def relative_error(value: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return ``|value - reference| / |reference|``, elementwise; NaN where the reference is 0."""
    return np.abs(relative_difference(value, reference))


def separation(fake: FeatureSummary, real: FeatureSummary, column: int, share: float | None = None) -> float:
    """Return the separation power of one observable; 1 if only generated showers lack it, NaN if Geant4 does.

    Args:
        fake: generated showers.
        real: Geant4 showers.
        column: which observable.
        share: with bins over this central share of the Geant4 showers only; without it over all their values.
    """
    if _lacks(real, column):
        return float("nan")
    if _lacks(fake, column):
        return 1.0
    if share is None:
        return separation_power(fake.histogram(column)[0], real.histogram(column)[0])
    edges = real.central_edges(column, share)
    first, second = (rebinned(*side.histogram(column, fine=True), edges) for side in (fake, real))
    return separation_power(first, second)


def wasserstein(fake: FeatureSummary, real: FeatureSummary, column: int) -> float:
    """Return the Wasserstein-1 distance of one observable in its unit, accurate to about a fine bin.

    The width of the range of the Geant4 values if only the generated showers lack it, NaN if the Geant4 showers do.

    Args:
        fake: generated showers.
        real: Geant4 showers, which decided the bins and therefore have no value beyond them.
        column: which observable.
    """
    if _lacks(real, column):
        return float("nan")
    if _lacks(fake, column):
        return float(real.ranges.high[column] - real.ranges.low[column])
    counts, edges = real.histogram(column, fine=True)
    inside = wasserstein_distance(fake.histogram(column, fine=True)[0], counts, edges)
    # Beyond the bins one of the cumulative distributions is constant: the integral of the other one is its mean excess.
    return inside + sum(abs(f - r) for f, r in zip(fake.excess(column), real.excess(column), strict=True))


def compared(
    fake: FeatureSummary, real: FeatureSummary, detailed: Collection[str], share: float | None = None
) -> dict[str, float]:
    """Compare two samples; every number is 0 where both agree.

    For each group of features the means over the group: ``separation/GROUP``, ``wasserstein/GROUP`` in its unit,
    ``fraction/GROUP``, the difference of the shares of showers that have the value, and ``correlation/GROUP`` where
    there are several. For each feature of the detailed groups ``separation/NAME``, ``wasserstein/NAME`` and the
    difference of the means, ``mean_error/NAME`` relative to the Geant4 mean or, where a ratio has no
    meaning, ``mean_difference/NAME`` in their unit. NaN where the Geant4 showers have no value.

    Args:
        fake: generated showers.
        real: Geant4 showers.
        detailed: groups whose features are compared one by one.
        share: of the Geant4 showers within the bins of the separation power, as in `separation`.

    Raises:
        ValueError: if the two were binned differently.
    """
    if fake.ranges is not real.ranges:
        raise ValueError("the two samples were binned differently: use the same ranges for both")
    errors, differences = relative_error(fake.mean(), real.mean()), np.abs(fake.mean() - real.mean())
    missing = np.abs(fake.fraction() - real.fraction())
    values: dict[str, float] = {}
    for group, columns in real.groups.items():
        separations = np.array([separation(fake, real, column, share) for column in columns])
        distances = np.array([wasserstein(fake, real, column) for column in columns])
        values[f"separation/{group}"] = _mean(separations)
        values[f"wasserstein/{group}"] = _mean(distances)
        values[f"fraction/{group}"] = float(missing[columns].mean())
        if len(columns) > 1:
            pair = fake.correlation(group), real.correlation(group)
            values[f"correlation/{group}"] = correlation_difference(*pair)
        if group in detailed:
            for place, column in enumerate(columns):
                feature = real.features[column]
                name = feature.name
                values[f"separation/{name}"] = float(separations[place])
                values[f"wasserstein/{name}"] = float(distances[place])
                kind, means = ("error", errors) if feature.relative else ("difference", differences)
                values[f"mean_{kind}/{name}"] = float(means[column])
    return values


def _mean(values: np.ndarray) -> float:
    """Return the mean over the observables that Geant4 showers have."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _lacks(summary: FeatureSummary, column: int) -> bool:
    return bool(summary.sums["seen"][column] < LEAST_SHOWERS)
