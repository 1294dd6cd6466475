"""Radial profile of a shower's energy: a core and a tail whose widths grow with depth.

Grindhammer and Peters, hep-ex/0001020, section 2.2: with the distance ``r`` from the axis,

    f(r) = p 2 r Rc^2 / (r^2 + Rc^2)^2 + (1 - p) 2 r Rt^2 / (r^2 + Rt^2)^2,

so that a radius ``r`` holds the share ``r^2 / (r^2 + R^2)`` of a component. Projected on one axis, a component has the
density ``R^2 / (2 (x^2 + R^2)^(3/2))``. Core, tail and weight are functions of ``tau = t / T``, the depth in units of
that of the maximum. Unlike there, the core grows as a power of tau, which fits the samples better than a line.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Radial:
    """Constants of the radial profile.

    Attributes:
        core: C0, C1 of the core's radius in mm, ``C0 tau^C1``.
        tail: K1, K2, K3, K4 of the tail's radius in mm, ``K1 (exp(K3 (tau - K2)) + exp(K4 (tau - K2)))``.
        weight: P1, P2, P3 of the core's weight, ``P1 exp(u - exp(u))`` with ``u = (P2 - tau) / P3``.
    """

    core: tuple[float, float]
    tail: tuple[float, float, float, float]
    weight: tuple[float, float, float]

    def components(self, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return radii in mm and weights, which sum to 1, of core and tail, each of shape (*tau.shape, 2)."""
        # Outside the fitted depths the exponentials would diverge.
        tau = np.clip(tau, 0.02, 4.0)
        core = self.core[0] * tau ** self.core[1]
        k1, k2, k3, k4 = self.tail
        tail = k1 * (np.exp(k3 * (tau - k2)) + np.exp(k4 * (tau - k2)))
        p1, p2, p3 = self.weight
        u = (p2 - tau) / p3
        weight = np.clip(p1 * np.exp(u - np.exp(u)), 0.0, 1.0)
        return np.stack([core, tail], axis=-1), np.stack([weight, 1.0 - weight], axis=-1)


def containment(radius: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Return the share of a component of radius ``scale`` within ``radius``."""
    return np.asarray(radius**2 / (radius**2 + scale**2))


def column_shares(edges: np.ndarray, scale: np.ndarray | float, spread: float = 0.0) -> np.ndarray:
    """Return the share of a component between parallel planes, for an axis uniform within ``spread`` around 0.

    Args:
        edges: places of the planes in mm, shape (C + 1,).
        scale: radius of the component in mm, any shape.
        spread: width of the interval in which the axis lies, in mm.

    Returns:
        Shares, shape (*scale.shape, C).
    """
    squared = np.asarray(scale, dtype=np.float64)[..., None] ** 2
    if spread > 0:
        integral = np.sqrt((edges + spread / 2) ** 2 + squared) - np.sqrt((edges - spread / 2) ** 2 + squared)
        below = 0.5 * integral / spread
    else:
        below = 0.5 * edges / np.sqrt(edges**2 + squared)
    return np.diff(below, axis=-1)
