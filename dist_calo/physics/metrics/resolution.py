"""The energy resolution of a calorimeter as a function of the incident energy."""

from dataclasses import dataclass

import numpy as np

TERMS = ("stochastic", "noise", "constant")


@dataclass(frozen=True, kw_only=True)
class ResolutionFit:
    """``sigma / E = a / sqrt(E) (+) b / E (+) c``, added in quadrature (Fabjan and Gianotti, RMP 75, 1243).

    Attributes:
        stochastic: a, in sqrt(GeV).
        noise: b, in GeV.
        constant: c.
    """

    stochastic: float
    noise: float
    constant: float

    def __call__(self, energy: np.ndarray) -> np.ndarray:
        """Return the resolution at incident energies in GeV."""
        return np.asarray(np.sqrt(self.stochastic**2 / energy + self.noise**2 / energy**2 + self.constant**2))


def fit_resolution(energy: np.ndarray, resolution: np.ndarray, error: np.ndarray) -> ResolutionFit | None:
    """Fit the three terms, none of them negative, by weighted least squares of the square of the resolution.

    Args:
        energy: mean incident energy of each bin in GeV, shape (K,).
        resolution: standard deviation over mean of the response, shape (K,).
        error: its statistical error, shape (K,).

    Returns:
        The fit, or None with fewer than three bins that have a resolution.

    Example:
        >>> energy = np.array([10.0, 20.0, 50.0, 100.0])
        >>> fit = fit_resolution(energy, np.sqrt(0.2**2 / energy + 0.01**2), np.full(4, 1e-4))
        >>> round(fit.stochastic, 4), round(fit.constant, 4)
        (0.2, 0.01)
    """
    from scipy.optimize import nnls

    known = (
        np.isfinite(energy) & np.isfinite(resolution) & np.isfinite(error) & (error > 0) & (resolution > 0)
    )
    if known.sum() < len(TERMS):
        return None
    energy, square = energy[known], resolution[known] ** 2
    weight = 1.0 / (2.0 * resolution[known] * error[known])
    design = np.stack([1.0 / energy, 1.0 / energy**2, np.ones_like(energy)], axis=1)
    # Terms of similar size: the fit's accuracy is relative to the largest.
    size = np.linalg.norm(design * weight[:, None], axis=0)
    terms = np.sqrt(nnls(design * weight[:, None] / size, square * weight)[0] / size)
    return ResolutionFit(**dict(zip(TERMS, terms.tolist(), strict=True)))
