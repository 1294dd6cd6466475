"""Fit of the factors of `dist_calo.models.voxels.lcd_fast.factors` to training showers, before the first step.

Each function takes a sample of n showers; the incident energy enters as ``e``, its standardised logarithm.
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from dist_calo.models.voxels.lcd_fast.calibration import Array, orientations

SHARE_FLOOR = 1e-4
"""Share of a shower's energy that is added to those of layers before the logarithm."""
RIDGE = 3.0
"""Showers whose weight a regression gives to coefficients of zero."""
BENDS = np.linspace(-3.0, 3.0, 13)
"""Normal numbers at which the map to the residuals of a layer bends."""
DEGREES = tuple((i, j) for i in range(4) for j in range(4) if 0 < i + j <= 4)
"""Degrees in x and y of the polynomials in the impact point that shapes depend on."""
PRIOR_HITS = 5.0
"""Hits in a cell whose weight its fit gives to coefficients of zero."""
NEWTON_STEPS = 6
BATCH = 512
"""Showers of which the cells are looked at together."""
TINY = 1e-12
CELL = (1.141, 0.229, 0.093, 0.912, 1.195, 0.045, -0.061, -0.335, 0.167, 0.077)
"""Constants of a cell's amplitude, of electrons in silicon, and of its chance of a hit (the last)."""
CELL_PRIOR = 300.0
"""Hits whose weight the fit of the amplitudes gives to these constants."""
CORE_MODES = 3
CELL_SHOWERS = 1024
"""Most showers whose cells are fitted."""
LEAST_HITS = 10.0
"""Layers with fewer expected hits do not tell about cells."""
LEVELS = (np.arange(60) + 0.5) / 60


def polynomials(values: Array, degree: int) -> Array:
    """Return all monomials of values (n, k) up to a degree, the constant first, shape (n, M)."""
    columns = [np.ones(len(values))]
    for power in range(1, degree + 1):
        for factors in combinations_with_replacement(range(values.shape[1]), power):
            columns.append(values[:, factors].prod(axis=1))
    return np.stack(columns, axis=1)


def longitudinal(layers: Array, energy: Array, e: Array) -> tuple[Array, dict[str, Array]]:
    """Fit the response and the layers' shares.

    Args:
        layers: energies in GeV, shape (n, Z).
        energy: incident energies in GeV, shape (n,).
        e: their standardised logarithms, shape (n,).

    Returns:
        The normal scores (n, 2) of depth and longitudinal width at given energy, the second at given depth too; and
        the buffers ``means``, ``spreads``, ``bends`` and ``correlation`` of the generator.
    """
    total = np.maximum(layers.sum(axis=1), TINY)
    shares = layers / total[:, None]
    place = np.arange(layers.shape[1])
    depth = shares @ place
    width = np.log((shares * (place - depth[:, None]) ** 2).sum(axis=1) + TINY)
    c = e[:, None]
    for factor in (depth, width):
        left = _standardised(factor[:, None], polynomials(c, 3), polynomials(c, 2))[0]
        c = np.concatenate([c, _normal_scores(left)], axis=1)
    values = np.concatenate([np.log(total / energy + TINY)[:, None], np.log(shares + SHARE_FLOOR)], axis=1)
    left, means, spreads = _standardised(values, polynomials(c, 3), polynomials(c, 1))
    scores = _normal_scores(left)
    bends = np.stack([_regression(_hinges(q), r) for q, r in zip(scores.T, left.T, strict=True)], axis=1)
    low, high = np.quantile(e, [0.05, 0.95])
    correlation = []
    for knot in (low, high):
        weights = np.exp(-0.5 * ((e - knot) / (0.7 * max(high - low, TINY))) ** 2)
        covariance = (scores * (weights / weights.sum())[:, None]).T @ scores + 1e-3 * np.eye(scores.shape[1])
        length = np.sqrt(np.diag(covariance))
        variances, directions = np.linalg.eigh(covariance / np.outer(length, length))
        correlation.append((directions * np.sqrt(np.maximum(variances, 0.0))) @ directions.T)
    # Linear in e: the value at 0 and the slope.
    slope = (correlation[1] - correlation[0]) / max(high - low, TINY)
    fitted = {
        "means": means,
        "spreads": spreads,
        "bends": bends,
        "correlation": np.stack([correlation[0] - low * slope, slope]),
    }
    return c[:, 1:], fitted


def _standardised(values: Array, means_of: Array, spreads_of: Array) -> tuple[Array, Array, Array]:
    """Regress values (n, k); return their residuals in standard deviations, and the coefficients of mean and ln sigma.

    The second are those of the greatest likelihood of normal residuals, by Fisher's scoring.
    """
    means = _regression(means_of, values)
    left = values - means_of @ means
    spreads = _regression(spreads_of, 0.5 * np.log(left**2 + 1e-3 * (left**2).mean(axis=0) + TINY))
    for _ in range(8):
        sigma = np.exp(np.clip(spreads_of @ spreads, -12.0, 5.0))
        spreads += _regression(spreads_of, 0.5 * np.minimum((left / sigma) ** 2 - 1.0, 6.0))
    return left / np.exp(np.clip(spreads_of @ spreads, -12.0, 5.0)), means, spreads


def _regression(given: Array, values: Array) -> Array:
    """Return the coefficients of values (n, ...) in the columns of ``given`` (n, M), the first of which is 1."""
    ridge = RIDGE * np.eye(given.shape[1])
    ridge[0, 0] = TINY
    return np.asarray(np.linalg.solve(given.T @ given + ridge, given.T @ values))


def _normal_scores(values: Array) -> Array:
    """Return the normal numbers of the ranks of values (n, k) in their columns."""
    import torch

    ranks = values.argsort(axis=0, kind="stable").argsort(axis=0)
    return np.asarray(torch.special.ndtri(torch.from_numpy((ranks + 0.5) / len(values))).numpy())


def _hinges(scores: Array) -> Array:
    """Return 1, the scores (n,), and what of them is above each bend: (n, 2 + bends)."""
    return np.stack([np.ones_like(scores), scores, *np.maximum(scores - BENDS[:, None], 0.0)], axis=1)


def impact(showers: NDArray[np.floating]) -> Array:
    """Return the impact point (n, 2) in the middle cell, -1 to 1, by the rank of the halves' asymmetry."""
    asymmetries = []
    for axis, other in ((1, 2), (2, 1)):
        profile = showers.sum(axis=(other, 3))
        size = showers.shape[axis]
        below, above = profile[:, : size // 2].sum(axis=1), profile[:, -(size // 2) :].sum(axis=1)
        asymmetries.append((above - below) / np.maximum(above + below, TINY))
    values = np.stack(asymmetries, axis=1)
    ranks = np.abs(values).ravel().argsort().argsort().reshape(values.shape)
    return np.sign(values) * (ranks + 0.5) / values.size


def legendre(point: Array) -> Array:
    """Return products of Legendre polynomials of points (n, 2) in the order of `DEGREES`, shape (n, M)."""
    x, y = (np.polynomial.legendre.legvander(point[:, axis], 3) for axis in (0, 1))
    return np.stack([x[:, i] * y[:, j] for i, j in DEGREES], axis=1)


def transverse(showers: NDArray[np.floating], given: Array, start: Array, hit: float) -> tuple[Array, Array]:
    """Fit the log of the layers' transverse shapes as linear in given numbers, the same in all orientations.

    A Poisson regression of the hits of each cell by Newton's method, with the energies of the layers as exposure.

    Args:
        showers: in GeV, shape (n, X, Y, Z).
        given: numbers of the shower, shape (n, M), those of `legendre` last.
        start: log of the mean shapes, (X, Y, Z), which what is found deviates from.
        hit: energy of a hit in GeV.

    Returns:
        The new log of the mean shapes (X, Y, Z), and the coefficients of the given numbers, (M, X, Y, Z).
    """
    shape = showers.shape[1:]
    exposure = (showers.sum(axis=(1, 2)) / hit).astype(np.float32)
    design = np.concatenate([np.ones((len(given), 1)), given], axis=1).astype(np.float32)
    size, (rows, columns) = design.shape[1], _sector(shape)
    base = start[rows, columns]
    found = np.zeros((size, *base.shape), dtype=np.float32)
    upper = np.triu_indices(size)
    for _ in range(NEWTON_STEPS):
        gradient, curvature = np.zeros(found.shape), np.zeros((len(upper[0]), *base.shape))
        for first in range(0, len(showers), BATCH):
            part = slice(first, first + BATCH)
            for across, down, order, sign in _images(shape, size):
                seen = (design[part] * sign)[:, order]
                mean = np.exp(np.einsum("nm,mcz->ncz", seen, found, optimize=True) + base).astype(np.float32)
                mean *= exposure[part, None, :]
                hits = showers[part, across, down] / np.float32(hit)
                gradient += np.tensordot(seen, hits - mean, (0, 0))
                curvature += np.tensordot(seen[:, upper[0]] * seen[:, upper[1]], mean, (0, 0))
        matrix = np.empty((*base.shape, size, size))
        for value, i, j in zip(curvature, *upper, strict=True):
            matrix[..., i, j] = matrix[..., j, i] = value
        matrix += PRIOR_HITS * np.eye(size)
        step = np.linalg.solve(matrix, np.moveaxis(gradient - PRIOR_HITS * found, 0, -1)[..., None])[..., 0]
        found += np.moveaxis(np.clip(step, -1.0, 1.0), -1, 0).astype(np.float32)
    whole = np.empty((size, *shape))
    for across, down, order, sign in _images(shape, size):
        whole[:, across, down] = found[order] * sign[:, None, None]
    return start + whole[0], whole[1:]


def core(shape: tuple[int, int]) -> Array:
    """Return 1 in the middle cells of a cross-section, 0 in others, shape (X, Y)."""
    inside = [np.isin(np.arange(n), ((n - 1) // 2, n // 2)) for n in shape]
    return np.outer(*inside).astype(np.float64)


def cells(
    showers: NDArray[np.floating], given: Array, template: Array, modes: Array, hit: float
) -> dict[str, Array]:
    """Fit how cells fluctuate about their expected numbers of hits.

    Args:
        showers: in GeV, shape (n, X, Y, Z).
        given: numbers of the shower, shape (n, M).
        template: log of the mean shapes, (X, Y, Z).
        modes: coefficients of the given numbers, (M, X, Y, Z).
        hit: energy of a hit in GeV.

    Returns:
        ``cell``, constants as `CELL`; ``sharing``, chances that a cell takes the hit of a neighbour along x (or y), and
        of one along both; and ``core_modes``, principal modes along z of the log of the energy in the middle.
    """
    middle = core(showers.shape[1:3]) > 0
    found, residuals, expected_core = [], [], []
    sums = np.zeros((4, 2))
    for first in range(0, min(len(showers), CELL_SHOWERS), BATCH // 4):
        part = slice(first, min(first + BATCH // 4, CELL_SHOWERS))
        energies = showers[part].astype(np.float32) / np.float32(hit)
        layers = energies.sum(axis=(1, 2)) + 1.0
        logs = np.tensordot(given[part].astype(np.float32), modes.astype(np.float32), (1, 0)) + template
        shape = np.exp(logs).astype(np.float32)
        mean = shape * (layers / shape.sum(axis=(1, 2)))[:, None, None, :]
        mean *= (layers > LEAST_HITS)[:, None, None, :]
        none = np.exp(-mean)
        struck = energies > 0
        effect = (1.0 - none) * mean * none
        sums[0] += [
            (effect * (1.0 - none - struck)).sum(dtype=np.float64),
            np.square(effect).sum(dtype=np.float64),
        ]
        chance = 1.0 - none - CELL[-1] * effect
        excess, width = struck * (mean > 0) - chance, np.sqrt(np.maximum(chance * (1.0 - chance), 0.0))
        for row, (one, other) in enumerate(_neighbours, start=1):
            sums[row] += [(values[one] * values[other]).sum(dtype=np.float64) for values in (excess, width)]
        known = struck & (mean > 3e-3)
        found.append((mean[known], np.sqrt(energies[known])))
        in_core = [values[:, middle].sum(axis=1) for values in (energies, mean)]
        expected_core.append(in_core[1])
        residuals.append(in_core[0] - in_core[1])
    dispersion, along_x, along_y, diagonal = sums[:, 0] / (sums[:, 1] + TINY)
    in_middle = np.concatenate(expected_core)
    modes_of_core = _core_modes(np.concatenate(residuals), in_middle)
    common = float(np.average((modes_of_core**2).sum(axis=0), weights=in_middle.mean(axis=0) + TINY))
    means, amplitudes = (np.concatenate(values) for values in zip(*found, strict=True))
    return {
        "cell": _amplitudes(means, amplitudes, common, dispersion),
        "sharing": _sharing((along_x + along_y) / 2, diagonal),
        "core_modes": modes_of_core,
    }


_all, _but_last, _but_first = slice(None), slice(0, -1), slice(1, None)
_neighbours = (
    ((_all, _but_last), (_all, _but_first)),
    ((_all, _all, _but_last), (_all, _all, _but_first)),
    ((_all, _but_last, _but_last), (_all, _but_first, _but_first)),
)


def _amplitudes(mean: Array, amplitude: Array, common: float, dispersion: float) -> Array:
    """Fit the constants of the amplitudes of cells that are hit, in units of a hit's, to quantiles by expected hits."""
    score = np.sqrt(-np.log(1.0 - LEVELS))
    fixed = CELL[4] / CELL[3]
    linear = [0, 1, 2, 3, 5, 6, 7, 8]
    start = np.array(CELL)[linear]
    left, right = CELL_PRIOR * np.eye(len(linear)), CELL_PRIOR * start
    place = np.floor(2.0 * np.log(mean))
    for step in np.unique(place):
        inside = place == step
        m, count = np.exp(np.log(mean[inside]).mean()), inside.sum()
        none, root = np.exp(-m), np.sqrt(m)
        columns = [
            score,
            score * (1.0 - none),
            score * root,
            np.full_like(score, max(root - fixed, 0.0)),
            score**2,
            score**3,
            score**2 * none,
            score**3 * none,
        ]
        design = np.stack(columns, axis=1)
        weight = count / len(LEVELS)
        quantiles = np.quantile(amplitude[inside], LEVELS)
        # Without what cells of different layers have in common, beside a variance of 2 m by themselves.
        quantiles = quantiles.mean() + (quantiles - quantiles.mean()) * np.sqrt(2.0 / (2.0 + common * m))
        left += weight * design.T @ design
        right += weight * design.T @ quantiles
    constants = np.array(CELL)
    constants[linear] = np.linalg.solve(left, right)
    constants[4] = fixed * constants[3]
    constants[9] = np.clip(dispersion, -0.5, 0.5)
    return constants


def _sharing(beside: float, diagonal: float) -> Array:
    """Return the chances to copy that make hits of neighbours correlate so: c (1 - 2 c) beside, d (1 - 2 c - d)."""
    beside, diagonal = (float(np.clip(value, 0.0, 0.12)) for value in (beside, diagonal))
    c = (1.0 - np.sqrt(1.0 - 8.0 * beside)) / 4.0
    return np.array([c, diagonal / (1.0 - 2.0 * c)])


def _core_modes(residuals: Array, mean: Array) -> Array:
    """Return modes (`CORE_MODES`, Z) of the relative residuals (n, Z) of energies of these means, without noise.

    The covariance of different layers is free of the independent fluctuations of cells; that of a layer with itself is
    taken from its neighbours.
    """
    weight = 1.0 / (mean + 20.0)
    covariance = (residuals * weight).T @ (residuals * weight) / ((mean * weight).T @ (mean * weight) + TINY)
    beside = np.diag(covariance, 1)
    padded = np.concatenate([beside[:1], beside, beside[-1:]])
    covariance[np.diag_indices_from(covariance)] = 1.2 * np.maximum((padded[1:] + padded[:-1]) / 2, 0.0)
    # Principal in units of the cells' own fluctuations, so that layers with few hits do not come first.
    size = np.sqrt(mean.mean(axis=0) + 1.0)
    variances, directions = np.linalg.eigh(covariance * np.outer(size, size))
    modes = np.zeros((CORE_MODES, len(covariance)))
    kept = min(CORE_MODES, len(covariance))
    modes[:kept] = (directions * np.sqrt(np.maximum(variances, 0.0))).T[::-1][:kept]
    return modes / size


def correction(real: NDArray[np.floating], made: NDArray[np.floating], hit: float) -> Array:
    """Return the log of the ratio of mean energies of cells (n, X, Y, Z), real over made, alike in all orientations.

    In cells with few hits it is drawn to 0.
    """
    means = []
    for showers in (real, made):
        layers = showers.sum(axis=(0, 1, 2), dtype=np.float64)
        hits = np.mean(orientations(showers.sum(axis=0, dtype=np.float64), (0, 1)), axis=0) / hit
        means.append((hits + PRIOR_HITS * 4) / (layers + TINY))
    return np.asarray(np.log(means[0] / means[1]))


def _sector(shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places in x and y of the cells of which the others are images."""
    x, y = shape[:2]
    rows, columns = np.meshgrid(np.arange(x // 2, x), np.arange(y // 2, y), indexing="ij")
    kept = rows <= columns if x == y else np.ones(rows.shape, dtype=bool)
    return rows[kept], columns[kept]


def _images(
    shape: tuple[int, ...], size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Yield for each orientation the places of the sector's images, and order and sign of the coefficients there."""
    x, y = shape[:2]
    rows, columns = _sector(shape)
    first = size - len(DEGREES)
    for swapped in (False, True) if x == y else (False,):
        across, down = (columns, rows) if swapped else (rows, columns)
        places = [DEGREES.index(degrees[::-1] if swapped else degrees) for degrees in DEGREES]
        order = np.array([*range(first), *(first + place for place in places)])
        for flip_x in (False, True):
            for flip_y in (False, True):
                parity = [(-1.0) ** (i * flip_x + j * flip_y) for i, j in DEGREES]
                sign = np.array([1.0] * first + parity, dtype=np.float32)
                yield x - 1 - across if flip_x else across, y - 1 - down if flip_y else down, order, sign
