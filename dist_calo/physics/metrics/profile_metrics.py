"""Metrics of profiles, response, correlations and the mean shower of two samples, from their sums.

`dist_calo.physics.metrics.metric_definitions` says what each number means; single observables are compared in
`dist_calo.physics.metrics.observable_metrics`.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import ArrayLike

from dist_calo.physics.metrics.distances import correlation_difference
from dist_calo.physics.metrics.observable_metrics import LEAST_FOR_WIDTH
from dist_calo.physics.metrics.resolution import ResolutionFit, fit_resolution
from dist_calo.physics.observables.features import columns_by_group
from dist_calo.physics.observables.observer import LEFT_OUT
from dist_calo.physics.observables.sample import GroupSums

LEAST_FOR_FIT = 30
"""Least number of showers in a bin of incident energy for the fit of the resolution, of which it is known to 13 %."""
LEAST_IN_CELL = 50.0
"""With fewer (effective) showers in a cell its mean is not Gaussian, and the cell is not compared."""


def compared_in_slot(fake: GroupSums, real: GroupSums, slot: int) -> dict[str, float]:
    """Compare the profiles and the response in a bin of incident energy, or of all showers (the last slot).

    Empty where either sample has no shower there.
    """
    if not min(fake.count(slot), real.count(slot)):
        return {}
    return {**_profiles(fake, real, slot), **_response(fake, real, slot)}


def compared_whole(fake: GroupSums, real: GroupSums, brief: bool = False) -> dict[str, float]:
    """Compare correlations, and unless brief the mean shower and the terms of the energy resolution, of all showers.

    Empty where either sample has fewer than `LEAST_FOR_WIDTH` showers.
    """
    if min(fake.count(-1), real.count(-1)) < LEAST_FOR_WIDTH:
        return {}
    values = {
        f"correlation/{name}": correlation_difference(fake.correlation(name), real.correlation(name))
        for name in real.sample.sets
    }
    return values if brief else {**values, **_image(fake, real), **_resolution_terms(fake, real)}


def _profiles(fake: GroupSums, real: GroupSums, slot: int) -> dict[str, float]:
    values = {}
    for name in real.sample.observer.profiles:
        (f, f_error), (r, r_error) = fake.profile(name, slot), real.profile(name, slot)
        seen = r > 0
        error = np.hypot(f_error, r_error)
        known = (error > 0) & (min(fake.count(slot), real.count(slot)) >= LEAST_FOR_WIDTH)
        if seen.any():
            values[f"profile_error/{name}"] = float(np.mean(np.abs(f - r)[seen] / r[seen]))
        if known.any():
            values[f"profile_chi2/{name}"] = float(np.mean(((f - r)[known] / error[known]) ** 2))
    return values


def response_of(part: GroupSums, slot: int) -> tuple[float, float, float, float]:
    """Return mean response and resolution (standard deviation / mean) of a slot, each with its statistical error."""
    column = part.sample.response_column
    mean, deviation = float(part.mean(slot)[column]), float(part.deviation(slot)[column])
    count = float(part.in_slot("seen", slot)[column])
    if not count or not mean:
        return (math.nan,) * 4
    resolution = deviation / mean
    # Variances of the standard deviation, for a normal distribution, and of the mean, added.
    error = resolution * math.sqrt(0.5 / max(count - 1, 1) + resolution**2 / count)
    return mean, deviation / math.sqrt(count), resolution, error


def _response(fake: GroupSums, real: GroupSums, slot: int) -> dict[str, float]:
    (f_mean, _, f_resolution, _), (r_mean, _, r_resolution, _) = (
        response_of(fake, slot),
        response_of(real, slot),
    )
    pairs = {"mean": (f_mean, r_mean), "resolution": (f_resolution, r_resolution)}
    return {
        f"response/{name}": f / r - 1.0
        for name, (f, r) in pairs.items()
        if math.isfinite(f / r if r else math.nan)
    }


def fitted_resolution(part: GroupSums) -> ResolutionFit | None:
    """Fit the energy resolution over the bins of incident energy that have `LEAST_FOR_FIT` showers.

    With a noise term where the read-out has noise: cells without it cannot tell one from a constant.
    """
    slots = [slot for slot in range(part.sample.binning.slots - 1) if part.count(slot) >= LEAST_FOR_FIT]
    energy = [float(part.in_slot("energy", slot)) / part.count(slot) for slot in slots]
    responses = np.array([response_of(part, slot) for slot in slots]).reshape(-1, 4)
    noise = getattr(part.sample.observer.geometry, "noise", 0.0) > 0
    return fit_resolution(np.array(energy), responses[:, 2], responses[:, 3], noise)


def _resolution_terms(fake: GroupSums, real: GroupSums) -> dict[str, float]:
    f, r = fitted_resolution(fake), fitted_resolution(real)
    if f is None or r is None:
        return {}
    return {f"resolution_fit/{term}": value - r.terms[term] for term, value in f.terms.items()}


def _image(fake: GroupSums, real: GroupSums) -> dict[str, float]:
    """Compare the mean showers: the largest pull shows a dead cell, the chi-square a wrong region."""
    pulls = cell_pulls(fake, real)
    known = pulls[np.isfinite(pulls)]
    if not known.size:
        return {}
    return {"image/largest_pull": float(np.abs(known).max()), "image/chi2_cell": float(np.mean(known**2))}


def cell_pulls(fake: GroupSums, real: GroupSums) -> np.ndarray:
    """Return the pull of each cell of the mean shower, (generated - Geant4) / statistical error.

    NaN where too few showers of either sample left energy.
    """
    if min(fake.count(-1), real.count(-1)) < LEAST_FOR_WIDTH:
        return np.full(real.sample.shape, np.nan)
    (f, f_variance), (r, r_variance) = fake.image(), real.image()
    f_count, r_count = fake.count(-1), real.count(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Either sample counts: a cell that Geant4 never hits and the generator does is as wrong as a dead one.
        effective = np.fmax(r_count * r**2 / (r_variance + r**2), f_count * f**2 / (f_variance + f**2))
        pulls = (f - r) / np.sqrt(f_variance / f_count + r_variance / r_count)
    return np.asarray(np.where((effective > LEAST_IN_CELL) & np.isfinite(pulls), pulls, np.nan))


def score_terms(
    real: GroupSums, observables: Mapping[str, np.ndarray], whole: Mapping[str, ArrayLike]
) -> dict[str, float]:
    """Return the known ones of the numbers whose mean is the score, by name.

    Args:
        real: Geant4 showers, whose observer names the numbers.
        observables: what `compared_observables` found for all showers.
        whole: what `compared_whole` found.
    """
    observer = real.sample.observer
    distances = observables.get("mean wasserstein_scaled", ())
    numbers = {
        f"wasserstein_scaled/{group}": value
        for group, value in zip(columns_by_group(observer.features), distances, strict=False)
    }
    found = {name: float(np.float64({**numbers, **whole}.get(name, math.nan))) for name in observer.scored}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def score_of(fake: GroupSums, terms: Mapping[str, float], names: Collection[str]) -> dict[str, float]:
    """Return ``score``, the mean of these terms; empty where one is not known or there are none.

    Generated showers that had to be left out of all numbers count too: their share is added.

    Args:
        fake: generated showers.
        terms: what `score_terms` found.
        names: terms of the whole samples: halves that lack one would have the mean of others.
    """
    if not names:
        return {}
    left_out = float(fake.total("faults")[:LEFT_OUT].sum())
    mean = float(np.mean([terms.get(name, math.nan) for name in names]))
    return {"score": mean + left_out / (fake.count(-1) + left_out)} if not math.isnan(mean) else {}
