"""Terms beside the real-or-fake score: percentage errors, the energy response, and the angle of a shower.

All functions return one number a sample, so that the caller decides how they are averaged.
"""

import math

import numpy as np
import torch
from torch import Tensor

TINY = 1e-7
"""Smallest denominator, far below any energy in GeV that is measured."""


def percentage_error(*, truth: Tensor, predicted: Tensor) -> Tensor:
    """Return the absolute error as a percentage of the truth, shape (B,).

    The arguments are named, for swapped ones go unnoticed: the error relative to the prediction is small for
    predictions that are far too large.
    """
    truth, predicted = truth.float(), predicted.float()
    return 100.0 * (predicted - truth).abs() / truth.abs().clamp(min=TINY)


def energy_sum(cells: Tensor) -> Tensor:
    """Return the energy in all cells (B, X, Y, Z) of a shower, shape (B,), in the unit of the cells."""
    return cells.flatten(1).sum(1, dtype=torch.float32)


def fit_response(energy: np.ndarray, total: np.ndarray, degree: int = 2) -> np.ndarray:
    """Fit the mean sum of cells as a polynomial in the incident energy, by least squares of relative deviations.

    Args:
        energy: incident energies in GeV, shape (n,).
        total: sums of cells in GeV, shape (n,); showers without any energy do not count.
        degree: of the polynomial; lowered where the data have too few different energies.

    Returns:
        Coefficients of rising powers of the energy in GeV, shape (degree + 1,), float64.

    Raises:
        ValueError: if no shower has any energy.
    """
    energy, total = np.asarray(energy, np.float64).ravel(), np.asarray(total, np.float64).ravel()
    energy, total = energy[total > 0], total[total > 0]
    if not energy.size:
        raise ValueError("the energy response cannot be fitted: no shower has any energy in its cells")
    degree = min(degree, len(np.unique(energy)) - 1)
    # An energy deposit fluctuates in proportion to its mean at most: relative deviations weigh all energies alike.
    expected = energy * np.mean(total / energy)
    unit = energy.max()
    coefficients = np.polynomial.polynomial.polyfit(energy / unit, total, degree, w=1.0 / expected)
    return np.asarray(coefficients / unit ** np.arange(degree + 1))


def polynomial(coefficients: Tensor, energy: Tensor) -> Tensor:
    """Return the value of a polynomial with coefficients of rising powers, shape (B,)."""
    value = torch.zeros_like(energy)
    for coefficient in coefficients.to(energy).flip(0):
        value = value * energy + coefficient
    return value


def measured_angle(cells: Tensor, cell_size: tuple[float, float, float]) -> Tensor:
    """Return the polar angle of a shower, measured from its cells as in Khattak et al., Eur. Phys. J. C 82, 386 (2022).

    Each layer's centroid makes a slope with the barycentre of the shower: its distance along y over that in the plane
    of x and z, with the sign flipped before the barycentre. The angle pi/2 - atan(slope) is averaged over the layers
    with energy, weighted by depth. A shower without energy counts as one at normal incidence, pi/2.

    Args:
        cells: energies, not negative, shape (B, X, Y, Z).
        cell_size: pitch in x, y and depth, in any common unit.

    Returns:
        Angles in rad, shape (B,); differentiable with respect to the cells.
    """
    cells = cells.float()
    x, y, z = (
        pitch * (torch.arange(n, device=cells.device, dtype=cells.dtype) + 0.5)
        for n, pitch in zip(cells.shape[1:], cell_size, strict=True)
    )
    layers = cells.sum((1, 2))
    total = layers.sum(1, keepdim=True)
    # Layers with next to nothing in them have huge derivatives and no say in the angle.
    hit = layers > 1e-6 * total
    safe_layers = torch.where(hit, layers, 1.0)
    safe_total = torch.where(total > 0, total, 1.0)
    along_x = (cells.sum(2) * x.unsqueeze(1)).sum(1)
    along_y = (cells.sum(1) * y.unsqueeze(1)).sum(1)
    dx = along_x / safe_layers - along_x.sum(1, keepdim=True) / safe_total
    dy = along_y / safe_layers - along_y.sum(1, keepdim=True) / safe_total
    dz = z - (layers * z).sum(1, keepdim=True) / safe_total
    in_plane = (dx.square() + dz.square()).clamp(min=TINY).sqrt()
    slope = torch.where(dz < 0, -dy, dy) / in_plane
    weight = z * hit
    angle = ((math.pi / 2 - torch.atan(slope)) * weight).sum(1) / weight.sum(1).clamp(min=TINY)
    return torch.where(total.squeeze(1) > 0, angle, math.pi / 2)
