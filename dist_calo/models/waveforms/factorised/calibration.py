"""Calibration of `dist_calo.models.waveforms.factorised.model` on training showers, before the first step.

Amplitudes are in the unit of the samples, times in ns. Channels are numbered row by row over a square grid.
"""

from dataclasses import dataclass
from math import erf, sqrt

import numpy as np
from numpy.typing import NDArray

from dist_calo.models.waveforms.factorised.quantile_maps import LARGEST_SCORE, quantile_table

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

SHAPE_DEGREE, ENERGY_DEGREE = 6, 2
"""Degree of the polynomial in the impact point, and of its part that goes with the logarithm of the energy."""
SMALLEST_STEP = 1e-4


def orientations(side: int) -> Labels:
    """Return the channel at each place in the 8 orientations of a square, shape (8, side^2)."""
    grid = np.arange(side * side).reshape(side, side)
    turned = [np.rot90(image, quarter) for image in (grid, grid.T) for quarter in range(4)]
    return np.stack([image.ravel() for image in turned])


def equivalent_channels(side: int) -> list[int]:
    """Return the class of each channel: channels that some orientation exchanges are equivalent."""
    first = orientations(side).min(axis=0)
    return [sorted(set(first)).index(channel) for channel in first]


def quantum(amplitudes: Array) -> float:
    """Return the step of the digitiser, if all amplitudes are multiples of one; else 0."""
    levels = np.unique(amplitudes)
    steps = np.diff(levels)
    # The mean of the smallest steps is exact where levels such as 0.001 n in volts are rounded.
    step = float(steps[steps < 1.5 * steps.min()].mean()) if len(steps) else 0.0
    return step if step > 0 and np.allclose(levels / step, np.round(levels / step), atol=1e-3) else 0.0


def energy_knots(log_energy: Array, count: int) -> Array:
    """Return the knots at which showers are about equally frequent, from the lowest to the highest energy."""
    knots = np.quantile(log_energy, np.linspace(0.0, 1.0, count))
    return np.asarray(knots + 1e-3 * np.arange(count))


def quantile_tables(
    values: Array, covariate: Array, classes: list[int], knots: Array, *, narrow: float
) -> Array:
    """Return the quantiles of values (n, channels) at knots of their covariate (n, channels), for each class."""
    tables = []
    for kind in range(max(classes) + 1):
        members = [channel for channel, found in enumerate(classes) if found == kind]
        some = values[:, members].ravel(), covariate[:, members].ravel()
        found = np.isfinite(some[0])
        tables.append(
            quantile_table(some[0][found], some[1][found], knots, narrow=narrow, step=SMALLEST_STEP)
        )
    return np.stack(tables)


def common_offset(scores: Array, widths: Array) -> float:
    """Return the spread in ns common to all times of an event, from scores (n, channels), NaN where missing.

    Least squares of the products of two channels' scores: ``<s_i s_j> = offset^2 / (width_i width_j)``.
    """
    share = np.where(np.isfinite(scores), 1.0 / widths, 0.0)
    product = np.nan_to_num(scores) * share
    squares = share**2
    above = (product.sum(1) ** 2 - (product**2).sum(1)).sum()
    below = (squares.sum(1) ** 2 - (squares**2).sum(1)).sum()
    return float(np.sqrt(max(above, 0.0) / max(below, 1e-12)))


@dataclass(frozen=True)
class ImpactFit:
    """Dependence of the amplitudes' scores on the impact point and the energy."""

    mean: Array
    """Coefficients of the basis, shape (terms, channels)."""
    log_width: Array
    """Coefficients of the logarithm of the width, shape (terms, channels)."""
    mixing: Array
    """Lower triangular; residuals are width x mixing x normal numbers, shape (channels, channels)."""


def basis_powers() -> list[tuple[int, int, int]]:
    """Return the powers of x, y and e in each term of the polynomial."""
    plane = [(i, j) for i in range(SHAPE_DEGREE + 1) for j in range(SHAPE_DEGREE + 1 - i)]
    return [(i, j, 0) for i, j in plane] + [(i, j, 1) for i, j in plane if i + j <= ENERGY_DEGREE]


def impact_basis(x: Array, y: Array, e: Array) -> Array:
    """Return the terms for impact points and standardised log-energies of shape (n,), shape (n, terms)."""
    return np.stack([x**i * y**j * e**k for i, j, k in basis_powers()], axis=1)


def impact_point(amplitudes: Array, log_energy: Array, side: int, knots: Array) -> tuple[Array, Array]:
    """Return the impact point in the central cell, -1 to 1, as ordered by the asymmetry of the energy.

    The impact is uniform over the cell, so the rank of the asymmetry among showers of this energy is a coordinate.
    """
    grid = amplitudes.reshape(-1, side, side)
    along = [grid.sum(axis=axis) for axis in (2, 1)]
    asymmetries = [np.log(sums[:, side // 2 + 1 :].sum(1) / sums[:, : side // 2].sum(1)) for sums in along]
    pooled = np.concatenate([sign * asymmetry for asymmetry in asymmetries for sign in (1, -1)])
    table = quantile_table(pooled, np.tile(log_energy, 4), knots, narrow=0.7, step=SMALLEST_STEP)
    scores = np.linspace(-LARGEST_SCORE, LARGEST_SCORE, table.shape[1])
    x, y = (_uniform(asymmetry, log_energy, knots, table, scores) for asymmetry in asymmetries)
    return x, y


def _uniform(values: Array, covariate: Array, knots: Array, table: Array, scores: Array) -> Array:
    """Map values to -1 to 1 so that they are uniform at every covariate, symmetrised."""

    def score(numbers: Array) -> Array:
        at_knots = np.stack([np.interp(numbers, row, scores) for row in table])
        return np.array(
            [np.interp(place, knots, column) for place, column in zip(covariate, at_knots.T, strict=True)]
        )

    return np.array([erf(s / sqrt(2.0)) for s in 0.5 * (score(values) - score(-values))])


def impact_fit(scores: Array, x: Array, y: Array, e: Array, side: int) -> ImpactFit:
    """Fit by least squares over all orientations of the training showers.

    Args:
        scores: of the amplitudes, shape (n, channels).
        x: impact along the rows of channels, shape (n,).
        y: impact along the columns.
        e: standardised logarithm of the energy.
        side: rows of channels.
    """
    place = _places(side)
    inputs, outputs = [], []
    for channels in orientations(side):
        # Place k shows channel channels[k]: the coordinates turn as the channels' own places do.
        turn = place @ np.linalg.pinv(place[:, channels])
        turned = turn @ np.stack([x, y])
        inputs.append(impact_basis(turned[0], turned[1], e))
        outputs.append(scores[:, channels])
    terms, targets = np.concatenate(inputs), np.concatenate(outputs)
    normal = terms.T @ terms + 1e-6 * len(terms) * np.eye(terms.shape[1])
    mean = np.asarray(np.linalg.solve(normal, terms.T @ targets), np.float64)
    residuals = targets - terms @ mean
    # The mean of the logarithm of a squared normal number is -1.27.
    logs = 0.5 * (np.log(residuals**2 + 1e-4) + 1.27)
    log_width = np.asarray(np.linalg.solve(normal, terms.T @ logs), np.float64)
    standard = residuals / np.exp(terms @ log_width)
    covariance = standard.T @ standard / len(standard)
    mixing = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(covariance)))
    return ImpactFit(mean, log_width, np.asarray(mixing, np.float64))


def _places(side: int) -> Array:
    """Return the row and column of each channel about the middle, shape (2, side^2)."""
    rows, columns = np.indices((side, side)) - (side - 1) / 2
    return np.stack([rows.ravel(), columns.ravel()])
