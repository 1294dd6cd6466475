"""Metrics of each observable of two samples, from their sums; `metric_definitions` gives their meaning.

An observable that Geant4 showers have and generated ones lack counts as fully wrong; one that Geant4 lacks is left out.
"""

import math
from collections.abc import Mapping

import numpy as np

from dist_calo.physics.metrics.distances import relative_error, separations
from dist_calo.physics.metrics.half_sample_bootstrap import Measured, MeasuredArray
from dist_calo.physics.observables.features import columns_by_group
from dist_calo.physics.observables.observer import Observer
from dist_calo.physics.observables.sample import GroupSums

SIZES = {"shift": "shifts", "width": "widths"}
"""Signed metrics, and the names of the mean absolute value over several of them."""
LEAST_FOR_WIDTH = 10
"""Least number of Geant4 showers for a standard deviation, and of both samples for correlations and pulls."""
ONE_BY_ONE = ("separation", "wasserstein_scaled", "shift", "width")
"""Metrics that are given for each layer or channel of a group as well."""


def compared_observables(fake: GroupSums, real: GroupSums, slot: int) -> dict[str, np.ndarray]:
    """Compare each observable, shape (F,) a metric, in a bin of incident energy or of all showers (last slot).

    For a kind called ``separation`` there is ``each separation`` and its mean over every group, ``mean separation`` of
    shape (groups,); means of signed metrics are of absolute values. NaN where Geant4 has no value. Empty where
    either sample has no shower.
    """
    if not min(fake.count(slot), real.count(slot)):
        return {}
    each = _numbers(fake, real, slot)
    groups = columns_by_group(real.sample.observer.features).values()
    number = np.empty(sum(map(len, groups)), dtype=np.int64)
    for place, columns in enumerate(groups):
        number[columns] = place
    means = {kind: _means(np.abs(v) if kind in SIZES else v, number) for kind, v in each.items()}
    return {
        **{f"each {kind}": values for kind, values in each.items()},
        **{f"mean {kind}": values for kind, values in means.items()},
    }


def named(observer: Observer, numbers: Mapping[str, MeasuredArray]) -> dict[str, Measured]:
    """Return metrics by names such as ``separation/depth`` and ``shift/layer_width/3``."""
    groups = columns_by_group(observer.features)
    values: dict[str, Measured] = {}
    for key, array in numbers.items():
        what, kind = key.split(" ")
        for number, (group, columns) in enumerate(groups.items()):
            if what == "mean" and len(columns) > 1:
                values[f"{SIZES.get(kind, kind)}/{group}"] = array[number]
            elif what == "each" and len(columns) == 1:
                values[f"{kind}/{group}"] = array[columns[0]]
            elif what == "each" and kind in ONE_BY_ONE:
                values |= {f"{kind}/{observer.features[column].name}": array[column] for column in columns}
    return {name: number for name, number in values.items() if math.isfinite(number.value)}


def _means(values: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return the mean over each group of the values that are known."""
    known = np.isfinite(values)
    count = np.bincount(number[known], minlength=number.max() + 1)
    total = np.bincount(number[known], values[known], minlength=number.max() + 1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _numbers(fake: GroupSums, real: GroupSums, slot: int) -> dict[str, np.ndarray]:
    lacking, wrong = (part.in_slot("seen", slot) == 0 for part in (real, fake))
    h, g = fake.histograms(slot), real.histograms(slot)
    mean, deviation = real.mean(slot), real.deviation(slot)
    wasserstein = _wasserstein(fake, real, slot)
    varies = deviation > 1e-9 * np.maximum(1.0, np.abs(mean))
    varies &= real.in_slot("seen", slot) >= LEAST_FOR_WIDTH
    unit = np.where(varies, deviation, np.nan)
    error = relative_error(fake.mean(slot), mean)
    relative = np.array([feature.relative for feature in real.sample.observer.features])
    each = {
        "separation": np.where(wrong, 1.0, separations(h, g)),
        "chi2_ndf": chi_squares(h, g),
        "wasserstein": wasserstein,
        "wasserstein_scaled": wasserstein / unit,
        "shift": (fake.mean(slot) - mean) / unit,
        "width": fake.deviation(slot) / unit - 1.0,
        "relative_error": np.where(relative, error, np.nan),
        "missing": np.abs(fake.fraction(slot) - real.fraction(slot)),
    }
    return {kind: np.where(lacking, np.nan, values) for kind, values in each.items()}


def chi_squares(h: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return the chi-square per degree of freedom of pairs of histograms (F, S) of any totals (F,).

    ``sum_i (sqrt(N/M) g_i - sqrt(M/N) h_i)^2 / (h_i + g_i)`` with M = sum h and N = sum g, over the number of bins that
    either fills, less one (Gagunashvili, PoS(ACAT)060, 2007). NaN with fewer than two such bins.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt(g.sum(axis=1, keepdims=True) / h.sum(axis=1, keepdims=True))
        seen = h + g > 0
        terms = np.where(seen, (ratio * h - g / ratio) ** 2 / (h + g), 0.0)
        freedom = seen.sum(axis=1) - 1
        return np.asarray(np.where(freedom > 0, terms.sum(axis=1) / np.maximum(freedom, 1), np.nan))


def _wasserstein(fake: GroupSums, real: GroupSums, slot: int) -> np.ndarray:
    """Return the Wasserstein-1 distances in the observables' units, shape (F,)."""
    whole = real.is_whole(slot)  # histograms in bins of incident energy are coarse
    h, g = fake.histograms(slot, fine=whole), real.histograms(slot, fine=whole)
    binning = real.sample.binning
    size = (binning.high[slot] - binning.low[slot]) * 2.0 / h.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.cumsum(h, axis=1) / h.sum(axis=1, keepdims=True)
        second = np.cumsum(g, axis=1) / g.sum(axis=1, keepdims=True)
        distance = np.abs(first - second).sum(axis=1) * size
        # Beyond the bins one cumulative distribution is constant: the integral of the other is its mean excess.
        for first, second in zip(fake.excess(slot), real.excess(slot), strict=True):
            distance += np.abs(first / fake.in_slot("seen", slot) - second / real.in_slot("seen", slot))
    full = binning.high[slot] - binning.low[slot]
    return np.asarray(np.where(fake.in_slot("seen", slot) == 0, full, distance))
