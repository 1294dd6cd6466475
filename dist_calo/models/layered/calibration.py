"""Calibration of the energies of layers on training showers, before the first step.

Energies are in network units squared: those of a cell are its amplitude squared. ``e`` is the logarithm of the incident
energy, brought to [-1, 1] over the sample. Coordinates of the energies of layers are those of
`dist_calo.models.layered.energies`; -inf and inf stand for an exact 0 and an exact 1 of a share, NaN for a share of
nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_calo.errors import ConfigError

Array = NDArray[np.float64]

NODES, LEVELS, REACH = 12, 33, 2.4
"""Incident energies and normal numbers (from -REACH to REACH) at which quantiles of a coordinate are kept."""
CENTER_DEGREE, WIDTH_DEGREE, CHANCE_DEGREE = 3, 2, 3
"""Degrees in e of the polynomials of a coordinate's mean, of the logarithm of its width, and of the logit of the chance
of an exact 0 or 1."""
NEVER = -30.0
"""Logit of the chance of what is not in the sample."""


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """The distribution of one coordinate, given e."""

    center: Array
    """Polynomial in e, lowest power first."""
    log_width: Array
    """Polynomial in e."""
    chances: Array
    """Polynomials of the logits of the chances of -inf and of inf, shape (2, CHANCE_DEGREE + 1)."""
    quantiles: Array
    """Of (coordinate - center) / width at each node and level, increasing along the levels, shape (NODES, LEVELS)."""


def squared_amplitudes(model: str, statistics: Mapping[str, np.ndarray]) -> tuple[Array, Array]:
    """Return the squares of the network units (n, V) of training showers and their incident energies (n,) in GeV.

    Args:
        model: name of the model, for the message.
        statistics: ``energy``, ``showers`` and ``network_units`` as a model's ``calibrate`` gets them.

    Raises:
        ConfigError: if network units are not the square root of the energy but for a scale.
    """
    showers, units = statistics["showers"], statistics["network_units"]
    hit = units > 0
    ratios = units[hit].astype(np.float64) ** 2 / showers[hit].astype(np.float64)
    if not len(ratios) or not np.allclose(ratios, np.median(ratios), rtol=1e-2):
        raise ConfigError(
            f"model.name={model}: its network units are the square root of the energy of showers that are not all "
            "empty; set transform.power=0.5 and transform.log=false"
        )
    return units.astype(np.float64) ** 2, statistics["energy"].astype(np.float64)


def energy_range(energy: Array) -> tuple[float, float]:
    """Return the middle and half width of the logarithm of the incident energies."""
    low, high = np.log(energy).min(), np.log(energy).max()
    return float(low + high) / 2, max(float(high - low) / 2, 1e-3)


def energy_nodes(e: Array) -> Array:
    """Return strictly increasing incident energies (NODES,) in [-1, 1], denser where there are more showers."""
    even = np.linspace(0.0, 1.0, NODES)
    return (np.quantile(e, even) + 2.0 * even - 1.0) / 2


def coordinate(values: Array, e: Array, nodes: Array, levels: Array) -> Coordinate:
    """Return the distribution of one coordinate (n,), given e (n,).

    Mean and width are polynomials in e, robust against long tails. The quantiles of what remains are those of the
    nearest sixth of the showers around each node.

    Args:
        values: with -inf, inf and NaN.
        e: in [-1, 1].
        nodes: values of e, shape (NODES,).
        levels: probabilities, shape (LEVELS,).
    """
    defined = ~np.isnan(values)
    chances = [chance(values[defined] == edge, e[defined]) for edge in (-np.inf, np.inf)]
    inner = np.isfinite(values)
    if inner.sum() < LEVELS:
        mean, width = (values[inner].mean(), values[inner].std() + 1e-3) if inner.any() else (0.0, 1.0)
        return Coordinate(
            center=np.array([mean, *[0.0] * CENTER_DEGREE]),
            log_width=np.array([np.log(width), *[0.0] * WIDTH_DEGREE]),
            chances=np.stack(chances),
            quantiles=np.tile(np.linspace(-REACH, REACH, LEVELS), (NODES, 1)),
        )
    x, u = e[inner], values[inner]
    center = _robust_polynomial(x, u, CENTER_DEGREE)
    residual = u - np.vander(x, CENTER_DEGREE + 1, increasing=True) @ center
    # The mean logarithm of the absolute value of a standard normal number is -0.635.
    spread = np.log(np.abs(residual) + 1e-3 * residual.std() + 1e-12) + 0.635
    log_width = _robust_polynomial(x, spread, WIDTH_DEGREE)
    scaled = residual / np.exp(np.vander(x, WIDTH_DEGREE + 1, increasing=True) @ log_width)
    near = min(len(x), max(len(x) // 6, 3 * LEVELS))
    table = [_quantiles_near(node, x, scaled, near, levels) for node in nodes]
    return Coordinate(
        center=center, log_width=log_width, chances=np.stack(chances), quantiles=np.stack(table)
    )


def _robust_polynomial(x: Array, y: Array, degree: int) -> Array:
    """Fit a polynomial by least squares, with residuals clipped at three standard deviations (normal core)."""
    powers = np.vander(x, degree + 1, increasing=True)
    pulled: Array = y
    for _ in range(4):
        fit = np.asarray(np.linalg.lstsq(powers, pulled, rcond=None)[0], dtype=np.float64)
        residual = y - powers @ fit
        reach = 3 * 1.48 * np.median(np.abs(residual)) + 1e-12
        pulled = powers @ fit + np.clip(residual, -reach, reach)
    return fit


def _quantiles_near(node: float, x: Array, values: Array, near: int, levels: Array) -> Array:
    """Return strictly increasing quantiles of the values near a node, weighted by their distance."""
    distance = np.abs(x - node)
    chosen = np.argpartition(distance, near - 1)[:near]
    reach = distance[chosen].max() + 1e-9
    weights = (1.0 - (distance[chosen] / reach) ** 3) ** 3 + 1e-3
    order = np.argsort(values[chosen])
    weights = weights[order]
    found = np.interp(levels, (np.cumsum(weights) - weights / 2) / weights.sum(), np.sort(values[chosen]))
    return np.maximum.accumulate(found) + 1e-4 * np.arange(len(levels))


def chance(happened: NDArray[np.bool_], e: Array) -> Array:
    """Fit a logistic regression: the logit as a polynomial in e, by Newton's method with a weak prior."""
    count = int(min(happened.sum(), (~happened).sum()))
    fit = np.zeros(CHANCE_DEGREE + 1)
    if count == 0:
        fit[0] = -NEVER if len(happened) and happened.all() else NEVER
        return fit
    degree = min(CHANCE_DEGREE, count // 10)
    powers = np.vander(e, degree + 1, increasing=True)
    prior = 1e-2 * np.eye(degree + 1)
    found = np.zeros(degree + 1)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(powers @ found, NEVER, -NEVER)))
        slope = powers.T @ (happened - p) - prior @ found
        step = np.linalg.solve((powers * (p * (1 - p))[:, None]).T @ powers + prior, slope)
        found = found + np.clip(step, -2.0, 2.0)
    fit[: degree + 1] = found
    return fit
