"""Longitudinal profile of a shower's energy, and its fluctuations.

Grindhammer and Peters, hep-ex/0001020, sections 2.1 and 3: with the depth ``t`` in radiation lengths,

    dE/dt = E (beta t)^(alpha - 1) beta exp(-beta t) / Gamma(alpha),

whose maximum lies at ``T = (alpha - 1) / beta``. ``ln T`` and ``ln alpha`` are normal and correlated; their means,
widths and correlation follow ``ln y``, where ``y = E / E_c`` and ``E_c`` is the critical energy.
"""

import math
from dataclasses import dataclass

import numpy as np

NODES = np.array([0.05, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.25, 1.5, 1.8, 2.2, 2.7, 3.3])
"""Depths in units of T between which the visible fraction is interpolated."""
LEAST_ALPHA = 1.1
"""Smallest alpha: the maximum must lie inside the calorimeter."""
_OFFSET = 0.5 / math.sqrt(3.0)
"""Distance of the two points of a Gauss-Legendre quadrature from the middle of an interval of length 1."""


@dataclass(frozen=True, kw_only=True)
class Longitudinal:
    """Constants of the longitudinal profile.

    Attributes:
        critical_energy: in GeV.
        radiation_length: of the calorimeter as a whole, in mm.
        maximum: T0, T1 of the mean of ln T, ``ln(T0 + T1 ln y)``.
        alpha: A0, A1 of the mean of ln alpha, ``ln(A0 + A1 ln y)``.
        maximum_spread: S0, S1 of the standard deviation of ln T, ``1 / (S0 + S1 ln y)``.
        alpha_spread: the same of ln alpha.
        correlation: R0, R1 of the correlation of the two, ``R0 + R1 ln y``.
        visible: visible fraction relative to its mean at the depths `NODES`: as a shower ages, particles get softer,
            and deposit another fraction of their energy in the active medium.
    """

    critical_energy: float
    radiation_length: float
    maximum: tuple[float, float]
    alpha: tuple[float, float]
    maximum_spread: tuple[float, float]
    alpha_spread: tuple[float, float]
    correlation: tuple[float, float]
    visible: tuple[float, ...] = (1.0,) * len(NODES)

    def draw(self, energies: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw the shape parameters of some showers.

        Args:
            energies: incident energies in GeV, shape (n,).
            normals: independent standard normal numbers, shape (n, 2).

        Returns:
            alpha, and T in radiation lengths, each of shape (n,).
        """
        ln_y = np.log(energies / self.critical_energy)
        correlation = np.clip(_line(self.correlation, ln_y), -0.99, 0.99)
        first = normals[:, 0]
        second = correlation * first + np.sqrt(1.0 - correlation**2) * normals[:, 1]
        alpha = _line(self.alpha, ln_y) * np.exp(second / _line(self.alpha_spread, ln_y))
        maximum = _line(self.maximum, ln_y) * np.exp(first / _line(self.maximum_spread, ln_y))
        return np.maximum(alpha, LEAST_ALPHA), maximum

    def visible_shares(self, alpha: np.ndarray, maximum: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return the visible energy between consecutive depths as a share of the mean of all (n, K); see `shares`."""
        tau = 0.5 * (edges[..., 1:] + edges[..., :-1]) / self.radiation_length / maximum[:, None]
        return self.shares(alpha, maximum, edges) * np.interp(tau, NODES, self.visible)

    def shares(self, alpha: np.ndarray, maximum: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return the share of the energy between consecutive depths, shape (n, K).

        Args:
            alpha: shape (n,).
            maximum: depth T of the maximum in radiation lengths, shape (n,).
            edges: depths along the axis in mm, increasing, shape (K + 1,) or (n, K + 1).
        """
        beta = ((alpha - 1.0) / maximum)[:, None]
        scale = np.log(beta[:, 0]) * alpha - np.array([math.lgamma(value) for value in alpha])
        depth = edges / self.radiation_length
        middle, width = 0.5 * (depth[..., 1:] + depth[..., :-1]), np.diff(depth)
        density = np.zeros((len(alpha), width.shape[-1]))
        for sign in (-1.0, 1.0):
            points = middle + sign * _OFFSET * width
            density += 0.5 * np.exp((alpha[:, None] - 1.0) * np.log(points) - beta * points + scale[:, None])
        return np.asarray(density * width)


def _line(constants: tuple[float, float], ln_y: np.ndarray) -> np.ndarray:
    return constants[0] + constants[1] * ln_y
