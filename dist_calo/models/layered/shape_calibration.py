"""Calibration of the sharing of a layer's energy among its cells; see `dist_calo.models.layered.cells`.

Energies are in network units squared; ``e`` is the logarithm of the incident energy, brought to [-1, 1].
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from dist_calo.models.layered.calibration import LEVELS
from dist_calo.models.layered.layout import Picture

Array = NDArray[np.float64]

SHARE_FLOOR, MODE_FLOOR = 1e-7, 3e-3
"""Shares of a layer's energy below which differences are ignored in the mean shape and its fluctuations."""
MODE_SHOWERS = 2048
"""Showers that the fluctuations of shapes are taken from at most, of high and of low energy each."""
FEW = 10.0
"""Hits that a cell's own statistics need to count as much as those of its layer."""
RATE_DEGREE = 3
"""Degree of the polynomial in the logarithm of a layer's energy that corrects its number of hits."""
PASSES = 3
"""Passes in which both kinds of fluctuations are found, each beyond the other."""


def mean_shape(shares: Array, e: Array) -> Array:
    """Return the logarithm of the mean share of each cell in its layer's energy as a line in e, shape (2, V).

    Args:
        shares: cells / energy of their layer, 0 in empty layers, shape (n, V).
        e: in [-1, 1], shape (n,).
    """
    mean = shares.mean(axis=0)
    middle = e.mean()
    # d ln f / d e of f exp(slope (e - middle)), to first order; cells that are seldom hit have no slope of their own.
    slope = (shares * (e - middle)[:, None]).mean(axis=0) / np.maximum(mean, SHARE_FLOOR) / max(e.var(), 1e-6)
    hits = (shares > 0).sum(axis=0)
    slope = np.clip(slope * hits / (hits + 5 * FEW), -3.0, 3.0)
    return np.stack([np.log(mean + SHARE_FLOOR) - slope * middle, slope])


def hit_energies(cells: Array, expected: Array, slices: tuple[slice, ...]) -> Array:
    """Return the energy of a hit in each cell (V,) for which a Poisson number of hits leaves it empty as often.

    Args:
        cells: energies, shape (n, V).
        expected: mean energies in these showers, shape (n, V).
        slices: where each layer's cells are.
    """
    empty = (cells <= 0).mean(axis=0)
    positive = cells[cells > 0]
    low = np.full(cells.shape[1], np.log(np.quantile(positive, 0.01)) - 2.0)
    high = np.full(cells.shape[1], np.log(positive.max()) + 2.0)
    for _ in range(24):
        middle = (low + high) / 2
        too_full = np.exp(-expected / np.exp(middle)).mean(axis=0) < empty
        low, high = np.where(too_full, middle, low), np.where(too_full, high, middle)
    found = (low + high) / 2
    known = len(cells) * np.minimum(empty, 1.0 - empty)
    usual = np.log(np.median(positive))
    for cut in slices:
        good = known[cut] > FEW
        layer = np.median(found[cut][good]) if good.any() else usual
        weight = known[cut] / (known[cut] + FEW)
        found[cut] = weight * found[cut] + (1 - weight) * layer
    return np.exp(found)


@dataclass(frozen=True, kw_only=True)
class Fluctuations:
    """Principal modes of the fluctuations of shapes, as changes of the log of a share; zeros beyond the rank."""

    modes: Array
    """Of what is alike at all energies, such as the point of impact, for an amount of 1, (count, V)."""
    amounts: Array
    """Quantiles of the amounts of each of these modes, of mean 0 and width 1, increasing, (count, LEVELS)."""
    products: Array
    """Changes for a^2 - 1, b^2 - 1 and a b with the first two amounts, (3, V)."""
    sampling: Array
    """Of what falls with the number of hits like h^-1/2, for h = 1, (sampling, V)."""


def fluctuations(
    shares: Array, mean: Array, hits: Array, counts: tuple[int, int], levels: Array
) -> Fluctuations:
    """Return principal modes of the fluctuations of shapes.

    They are found in the square roots of the shares, in which hits that fluctuate independently have the same width
    ``(2 h)^-1/2`` in all cells of a layer of h hits. In units of this width the covariance of cells is ``1 + S + 2 h
    M``: S of what falls with energy as hits do, for a particle of a shower makes many; M of what does not. M is found
    in the upper half of the energies, S in the lowest third, each beyond what the other makes there.

    Args:
        shares: cells / energy of their layer, shape (n, V).
        mean: theirs, in the same showers, shape (n, V).
        hits: of each cell's layer in the same showers, shape (n, V).
        counts: modes that are alike at all energies, and those that fall.
        levels: probabilities of the quantiles, shape (LEVELS,).
    """
    order = np.argsort(hits.sum(axis=1), kind="stable")
    low, high = (
        part[:: -(-len(part) // MODE_SHOWERS)]
        for part in (order[: -(-len(order) // 3)], order[len(order) // 2 :])
    )
    low_size, high_size = (np.sqrt(2.0 * np.maximum(hits[part], 1.0)) for part in (low, high))
    low_usual, usual = (np.sqrt((size**2).mean(axis=0)) for size in (low_size, high_size))
    low_roots, roots = (np.sqrt(shares[part]) - np.sqrt(mean[part]) for part in (low, high))
    middle = roots.mean(axis=0)
    low_roots, roots = low_roots - middle, roots - middle
    # The square roots of shares are not linear in the largest amounts; the products would pass for modes.
    nothing = np.zeros((0, shares.shape[1]))
    first = _modes(roots * high_size, nothing, min(2, counts[0])) * usual
    amounts = roots @ first.T
    center, width = amounts.mean(axis=0), np.maximum(amounts.std(axis=0), 1e-12)
    powers, low_powers = (_products((part @ first.T - center) / width) for part in (roots, low_roots))
    bent = np.linalg.lstsq(powers, roots, rcond=None)[0]
    roots, low_roots = roots - powers @ bent, low_roots - low_powers @ bent
    sampling = nothing
    for _ in range(PASSES):
        still = _modes(roots * high_size, sampling, counts[0]) / usual
        sampling = _modes(low_roots * low_size, still * low_usual, counts[1])
    amounts = roots @ (still * usual**2).T
    amounts = (amounts - amounts.mean(axis=0)) / np.maximum(amounts.std(axis=0), 1e-12)
    quantiles = np.maximum.accumulate(np.quantile(amounts, levels, axis=0).T, axis=1)
    # ln (r + d)^2 = 2 ln r + 2 d / r - (d / r)^2 + ...
    average = mean[high].mean(axis=0)
    to_logs = 2.0 * np.sqrt(average) / (average + MODE_FLOOR)
    modes = still * to_logs
    a, b = modes[0], modes[min(1, counts[0] - 1)]
    return Fluctuations(
        modes=modes,
        amounts=quantiles + 1e-4 * np.arange(LEVELS),
        products=bent * to_logs - 0.25 * np.stack([a * a, b * b, 2.0 * a * b]),
        sampling=sampling * to_logs / np.sqrt(2.0),
    )


def _products(amounts: Array) -> Array:
    """Return a^2 - 1, b^2 - 1 and a b of the first and last of amounts (n, 1 or 2), (n, 3)."""
    a, b = amounts[:, 0], amounts[:, -1]
    return np.stack([a * a - 1.0, b * b - 1.0, a * b], axis=1)


def _modes(values: Array, known: Array, count: int) -> Array:
    """Return principal modes (count, V) of values (n, V) whose covariance is 1 + known^T known + modes^T modes.

    The variance along the directions of one half of the values is measured in the other: in the same one it would be
    too large. Mirror images of a shower, which stand together, belong to one half.
    """
    variance, halves = np.zeros(count), np.arange(len(values)) // 8 % 2 == 0
    for half in (halves, ~halves) if len(values) > 8 else ():
        found = _directions(values[half], known, count)
        seen = ((values[~half] @ found.T) ** 2).mean(axis=0) - ((known @ found.T) ** 2).sum(axis=0) - 1.0
        variance[: len(found)] += 0.5 * seen
    found = _directions(values, known, count)
    modes = np.zeros((count, values.shape[1]))
    modes[: len(found)] = found * np.sqrt(np.maximum(variance, 0.0))[: len(found), None]
    return modes


def _directions(values: Array, known: Array, count: int) -> Array:
    """Return the first eigenvectors (count, V) of the covariance of values (n, V) less known^T known."""
    # In the space of the rows, which are fewer than the cells.
    basis, rows = np.linalg.qr(np.concatenate([values / np.sqrt(max(len(values), 1)), known]).T)
    signs = np.repeat([1.0, -1.0], [len(values), len(known)])
    return np.asarray((basis @ np.linalg.eigh((rows * signs) @ rows.T)[1][:, ::-1][:, :count]).T)


def neighbour_weights(hit: NDArray[np.bool_], expected: Array, picture: Picture) -> Array:
    """Return the weights (2,) of neighbours along rows and columns, as `Picture.correlated` takes them.

    The correlation of the normal numbers behind hits follows from that of the hits, to first order; what is left
    between cells that are further apart is not from being neighbours.

    Args:
        hit: which cells (n, N) have energy.
        expected: their mean number of hits, (n, N).
        picture: places of the cells.
    """
    p = np.clip(-np.expm1(-expected), 1e-6, 1.0 - 1e-6)
    known = (p > 0.02) & (p < 0.98)
    density = np.exp(-0.5 * ndtri(p) ** 2) / np.sqrt(2.0 * np.pi) * known
    score = ((hit - p) * density / (p * (1.0 - p))).reshape(-1, picture.rows, picture.columns)
    weight = (density**2 / (p * (1.0 - p))).reshape(score.shape)

    def correlation(axis: int, lag: int) -> float:
        size = score.shape[axis]
        if size <= lag:
            return 0.0
        near, far = np.arange(size - lag), np.arange(lag, size)
        products = (score.take(near, axis) * score.take(far, axis)).sum()
        weights = (weight.take(near, axis) * weight.take(far, axis)).sum()
        return float(products / weights) if weights > 0 else 0.0

    found = []
    for axis, size in ((1, picture.rows), (2, picture.columns)):
        rho = np.clip(correlation(axis, 1) - correlation(axis, min(3, size - 1) if size > 2 else 3), 0.0, 0.7)
        found.append((1.0 - np.sqrt(1.0 - 2.0 * rho**2)) / (2.0 * rho) if rho > 1e-6 else 0.0)
    return np.array(found)


def hit_power(cells: Array, expected: Array, hit: Array) -> float:
    """Return the p for which (energy of a hit)^(1/p) is exponential, from cells in which a single one is likely.

    Args:
        cells: energies, (n, V).
        expected: mean numbers of hits, (n, V).
        hit: mean energy of one, (V,).
    """
    single = (cells / hit)[(cells > 0) & (expected < 0.3)]
    if len(single) < 100:
        return 1.0
    quartiles = np.log(np.quantile(single, [0.25, 0.75]))
    return float(np.clip((quartiles[1] - quartiles[0]) / np.log(np.log(4.0) / np.log(4.0 / 3.0)), 0.5, 2.0))


def log_ratio(x: Array, count: Array, other_x: Array, other_count: Array) -> Array:
    """Fit the logarithm of the ratio of two mean counts as a polynomial in x, (RATE_DEGREE + 1,)."""
    edges = np.quantile(x, np.linspace(0.0, 1.0, 13))
    places, ratios, weights = [], [], []
    for low, high in itertools.pairwise(edges):
        inside, other = (x >= low) & (x <= high), (other_x >= low) & (other_x <= high)
        totals = count[inside].sum(), other_count[other].sum()
        if min(totals) >= FEW:
            places.append(x[inside].mean())
            ratios.append(np.log(count[inside].mean() / other_count[other].mean()))
            weights.append(np.sqrt(min(inside.sum(), other.sum())))
    found = np.zeros(RATE_DEGREE + 1)
    if places:
        powers = (
            np.vander(places, min(RATE_DEGREE, len(places) - 1) + 1, increasing=True)
            * np.array(weights)[:, None]
        )
        found[: powers.shape[1]] = np.linalg.lstsq(powers, np.array(ratios) * weights, rcond=1e-6)[0]
    return found


def usual_log(energies: Array) -> tuple[float, float]:
    """Return mean and width of the logarithm of those energies (n,) that are not 0."""
    logs = np.log(energies[energies > 0])
    return (float(logs.mean()), max(float(logs.std()), 1e-3)) if len(logs) else (0.0, 1.0)


def compared_hits(cells: Array, made: Array) -> tuple[Array, Array]:
    """Compare how often cells (n, V) and generated ones have energy.

    Returns:
        How well each cell is known, in [0, 1]; and the change of the logarithm of the energy of its hits after which
        a Poisson number of them would leave it empty as often as in nature; (V,) each.
    """
    hits = np.minimum((cells > 0).sum(axis=0), (made > 0).sum(axis=0))
    known = hits / (hits + 5 * FEW)
    empty, made_empty = (np.clip((sample <= 0).mean(axis=0), 1e-3, 1.0 - 1e-3) for sample in (cells, made))
    change = np.log(np.log(made_empty) / np.log(empty))
    return known, np.where(empty > 0.01, np.clip(known * change, -0.2, 0.2), 0.0)
