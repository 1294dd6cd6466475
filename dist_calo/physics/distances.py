"""How far apart two samples of observables are."""

from collections.abc import Collection

import numpy as np

from dist_calo.physics.features import FeatureSummary, rebinned


def separation_power(first: np.ndarray, second: np.ndarray) -> float:
    """``1/2 sum_i (h_i - g_i)^2 / (h_i + g_i)`` of two histograms brought to unit area.

    0 for equal ones and 1 for those without overlap (Diefenbacher et al., JINST 15, P11004). Of two samples of n and m
    showers from one distribution it is about ``k/4 (1/n + 1/m)`` with k bins. NaN if a histogram is empty.

    Args:
        first: counts, shape (S,).
        second: counts in the same bins, shape (S,).
    """
    if not first.sum() or not second.sum():
        return float("nan")
    h, g = first / first.sum(), second / second.sum()
    seen = h + g > 0
    return float(0.5 * np.sum((h - g)[seen] ** 2 / (h + g)[seen]))


def wasserstein(first: np.ndarray, second: np.ndarray, edges: np.ndarray) -> float:
    """Wasserstein-1 distance of two histograms, the integral of the difference of their cumulative distributions.

    In the unit of the edges, to about the width of a bin. NaN if a histogram is empty.

    Args:
        first: counts, shape (S,).
        second: counts in the same bins, shape (S,).
        edges: of the bins, shape (S + 1,).
    """
    if not first.sum() or not second.sum():
        return float("nan")
    difference = np.cumsum(first) / first.sum() - np.cumsum(second) / second.sum()
    return float(np.sum(np.abs(difference) * np.diff(edges)))


def correlation_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of two correlation matrices (k, k) over all elements, diagonal included.

    That is how Fakanov and Ratnikov score signals. Elements that either matrix leaves open are left out.
    """
    difference = np.abs(first - second)
    known = np.isfinite(difference)
    return float(difference[known].mean()) if known.any() else float("nan")


def relative_difference(value: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """``(value - reference) / |reference|``, elementwise; NaN where the reference is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(reference == 0, np.nan, (value - reference) / np.abs(reference)))


def relative_error(value: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """``|value - reference| / |reference|``, elementwise; NaN where the reference is 0."""
    return np.abs(relative_difference(value, reference))


def separation(fake: FeatureSummary, real: FeatureSummary, column: int, share: float | None = None) -> float:
    """Separation power of one observable.

    Args:
        fake: generated showers.
        real: Geant4 showers.
        column: which observable.
        share: with bins over this central share of the Geant4 showers only; without it over all their values.
    """
    if share is None:
        return separation_power(fake.histogram(column)[0], real.histogram(column)[0])
    edges = real.central_edges(column, share)
    first, second = (rebinned(*side.histogram(column, fine=True), edges) for side in (fake, real))
    return separation_power(first, second)


def compared(
    fake: FeatureSummary, real: FeatureSummary, detailed: Collection[str], share: float | None = None
) -> dict[str, float]:
    """Two samples in numbers, all of them 0 where both agree.

    For each group of features the means over the group: ``separation/GROUP``, ``wasserstein/GROUP`` in its unit,
    ``fraction/GROUP``, the difference of the shares of showers that have the value, and ``correlation/GROUP`` where
    there are several. For each feature of the detailed groups ``separation/NAME``, ``wasserstein/NAME`` and
    ``mean_error/NAME``, which is relative.

    Args:
        fake: generated showers.
        real: Geant4 showers.
        detailed: groups whose features are told one by one.
        share: of the Geant4 showers over which the bins of the separation power reach, as `separation` takes it.

    Raises:
        ValueError: if the two were binned differently.
    """
    if fake.ranges is not real.ranges:
        raise ValueError("the two samples were binned differently: use the same ranges for both")
    errors = relative_error(fake.mean(), real.mean())
    missing = np.abs(fake.fraction() - real.fraction())
    values: dict[str, float] = {}
    for group, columns in real.groups.items():
        separations = np.array([separation(fake, real, column, share) for column in columns])
        fine = [
            (fake.histogram(column, fine=True)[0], *real.histogram(column, fine=True)) for column in columns
        ]
        distances = np.array([wasserstein(*histograms) for histograms in fine])
        values[f"separation/{group}"] = _mean(separations)
        values[f"wasserstein/{group}"] = _mean(distances)
        values[f"fraction/{group}"] = float(missing[columns].mean())
        if len(columns) > 1:
            pair = fake.correlation(group), real.correlation(group)
            values[f"correlation/{group}"] = correlation_difference(*pair)
        if group in detailed:
            for place, column in enumerate(columns):
                name = real.features[column].name
                values[f"separation/{name}"] = float(separations[place])
                values[f"wasserstein/{name}"] = float(distances[place])
                values[f"mean_error/{name}"] = float(errors[column])
    return values


def _mean(values: np.ndarray) -> float:
    """Mean of those that are known."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
