"""Distances between histograms, correlations and means of two samples."""

import numpy as np


def separations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return ``1/2 sum_i (h_i - g_i)^2 / (h_i + g_i)`` of pairs of normalised histograms, shape (F,).

    0 for equal ones and 1 for those without overlap (Diefenbacher et al., JINST 15, P11004). Of two samples of n and m
    showers from one distribution it is about ``k/4 (1/n + 1/m)`` with k bins. NaN where a histogram is empty.

    Args:
        first: counts, shape (F, S).
        second: counts in the same bins, shape (F, S).

    Example:
        >>> separations(np.array([[1, 1, 0]]), np.array([[0, 1, 1]])).tolist()
        [0.5]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        h, g = (counts / counts.sum(axis=1, keepdims=True) for counts in (first, second))
        terms = np.where(h + g == 0, 0.0, (h - g) ** 2 / (h + g))
    return np.asarray(0.5 * terms.sum(axis=1))


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


def relative_error(value: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return ``|value - reference| / |reference|``, elementwise; NaN where the reference is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(reference == 0, np.nan, np.abs(value - reference) / np.abs(reference)))
