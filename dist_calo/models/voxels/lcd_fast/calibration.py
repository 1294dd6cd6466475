"""Calibration of `dist_calo.models.voxels.lcd_fast.model` on training showers, before the first step.

Each function takes a sample of n showers in GeV; the incident energy enters as ``e``, its standardised logarithm.
"""

import numpy as np
from numpy.typing import NDArray

from dist_calo.errors import ConfigError

Array = NDArray[np.float64]

RARE_HITS = 20
"""A cell that is hit less often than this in the sample takes the mean of its neighbourhood into its template."""
RARE_OCCUPANCY = 0.05
"""Energy in a cell with a lower chance of any is from one hit as a rule."""
LEAST_VARIANCE = 0.02
"""Variance below which combinations of observables in units of their widths are not looked at more closely."""
PROFILE_FLOOR, TRANSVERSE_FLOOR, TEMPLATE_FLOOR = 1e-4, 1e-2, 1e-7
"""Shares of a shower's energy (of a layer's, for the template) below which differences are ignored."""


def amplitude_scale(showers: NDArray[np.floating], network_units: NDArray[np.floating]) -> float:
    """Return the scale, in 1/GeV, of network units sqrt(scale E), from showers in both units.

    Raises:
        ConfigError: if the network units are not the square root of the energy but for a scale.
    """
    hit = network_units > 0
    cells, units = showers[hit].astype(np.float64), network_units[hit].astype(np.float64)
    scale = float(np.median(units**2 / cells)) if len(cells) else float("nan")
    if not np.allclose(units, np.sqrt(scale * cells), rtol=1e-3):
        raise ConfigError(
            "model.name=lcd_fast: its network units are the square root of the energy; set transform.power=0.5 and "
            "transform.log=false"
        )
    return scale


def response(energy: Array, visible: Array) -> tuple[float, float]:
    """Fit sampling fraction f and stochastic term a in sqrt(GeV): E_vis = f E (1 +- a / sqrt(E))."""
    fraction = visible.sum() / energy.sum()
    return float(fraction), float(((visible / (fraction * energy) - 1.0) * np.sqrt(energy)).std())


def longitudinal(showers: Array, e: Array, modes: int) -> tuple[Array, Array]:
    """Fit the mean log of the layers' shares as a line in e (2, Z), and its principal modes (modes, Z)."""
    layers = showers.sum(axis=(1, 2))
    logs = np.log(layers / layers.sum(axis=1, keepdims=True) + PROFILE_FLOOR)
    line = np.stack([np.ones_like(e), e], axis=1)
    mean = np.linalg.lstsq(line, logs, rcond=None)[0]
    return mean, principal_modes(logs - line @ mean, modes)


def transverse(showers: Array, modes: int) -> Array:
    """Return fluctuations of the log of the transverse shape, over all orientations (modes + 3, X, Y).

    First its principal modes, then what goes with ``a^2 - 1``, ``b^2 - 1`` and ``a b``, where a and b are the amounts
    of the first two modes, those of the impact point: a shower that is off the middle either way has less energy there.
    For these, energies and not logarithms are averaged, which cells without energy do not spoil: with
    ``s = s_0 exp(alpha a + beta (a^2 - 1))``, ``<s a> / <s> = alpha`` and
    ``<s (a^2 - 1)> / <s> = (<a^4> - 1) (alpha^2 / 2 + beta)`` to first order in beta.
    """
    shapes = showers.sum(axis=3)
    shapes = np.concatenate(orientations(shapes / shapes.sum(axis=(1, 2), keepdims=True), (1, 2)))
    shapes = shapes.reshape(len(shapes), -1)
    logs = np.log(shapes + TRANSVERSE_FLOOR)
    logs -= logs.mean(axis=0)
    principal = principal_modes(logs, modes)
    lengths = np.maximum((principal[:2] ** 2).sum(axis=1), np.finfo(np.float64).tiny)
    a, b = (logs @ principal[:2].T / lengths).T
    mean = np.maximum(shapes.mean(axis=0), np.finfo(np.float64).tiny)
    along_a, along_b, aa, bb, ab = (q @ shapes / len(q) / mean for q in (a, b, a**2 - 1.0, b**2 - 1.0, a * b))
    fourth = np.maximum([np.mean(q**2) for q in (a**2 - 1.0, b**2 - 1.0, a * b)], np.finfo(np.float64).tiny)
    curved = [
        aa / fourth[0] - along_a**2 / 2,
        bb / fourth[1] - along_b**2 / 2,
        ab / fourth[2] - along_a * along_b,
    ]
    return np.stack([along_a, along_b, *principal[2:], *curved]).reshape(-1, *showers.shape[1:3])


def template(showers: Array) -> Array:
    """Return the log of the mean transverse shape of each layer, over all orientations, shape (X, Y, Z)."""
    mean = np.mean(orientations(showers.mean(axis=0), (0, 1)), axis=0)
    often = np.mean(orientations((showers > 0).sum(axis=0).astype(np.float64), (0, 1)), axis=0) > RARE_HITS
    shape = mean / np.maximum(mean.sum(axis=(0, 1)), np.finfo(np.float64).tiny)
    padded = np.pad(shape, 1, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3)).mean(axis=(3, 4, 5))
    return np.log(np.where(often, shape, around) + TEMPLATE_FLOOR)


def hit_energy(showers: Array) -> float:
    """Return the mean energy of single hits in GeV, from the cells where few showers have energy."""
    hit = showers > 0
    rare = showers[:, hit.mean(axis=0) < RARE_OCCUPANCY]
    found = rare[rare > 0]
    return float(found.mean() if len(found) else showers[hit].mean())


def orientations(values: Array, axes: tuple[int, int]) -> list[Array]:
    """Return mirror images in the two axes, and those with the axes swapped where they are equally long."""
    x, y = axes
    turned = [values, np.swapaxes(values, x, y)] if values.shape[x] == values.shape[y] else [values]
    turned = [image for one in turned for image in (one, np.flip(one, x))]
    return [image for one in turned for image in (one, np.flip(one, y))]


def whitening(values: Array) -> Array:
    """Return the symmetric matrix (N, N) that makes values (n, N) uncorrelated, with a variance of nearly 1.

    Combinations of little variance are seen as well as others, down to `LEAST_VARIANCE`.
    """
    variances, directions = np.linalg.eigh(values.T @ values / len(values))
    return np.asarray((directions / np.sqrt(np.maximum(variances, 0.0) + LEAST_VARIANCE)) @ directions.T)


def principal_modes(residuals: Array, count: int) -> Array:
    """Return the directions of largest variance, as long as their standard deviation, shape (count, N).

    A standard normal number times each, summed, has the covariance of the residuals (n, N) but for the modes left out.
    Zeros stand for modes beyond N.
    """
    variances, directions = np.linalg.eigh(residuals.T @ residuals / len(residuals))
    modes = np.zeros((count, residuals.shape[1]))
    kept = min(count, residuals.shape[1])
    modes[:kept] = (directions * np.sqrt(np.maximum(variances, 0.0))).T[::-1][:kept]
    return modes
