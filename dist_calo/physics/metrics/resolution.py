"""The energy resolution of a calorimeter as a function of the incident energy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

POWERS = {"stochastic": 1, "constant": 0, "noise": 2}
"""Power of 1 / E with which the square of each term enters; the noise is asked for."""


@dataclass(frozen=True, kw_only=True)
class ResolutionFit:
    """``sigma / E = a / sqrt(E) (+) c (+) b / E``, added in quadrature (Fabjan and Gianotti, RMP 75, 1243).

    Attributes:
        terms: ``stochastic`` a in sqrt(GeV), ``constant`` c and, where it was asked for, ``noise`` b in GeV.
        errors: their statistical errors; of a term that is 0, the largest value within one standard deviation.
        chi2: of the fit.
        ndf: its degrees of freedom, at least 1.
    """

    terms: Mapping[str, float]
    errors: Mapping[str, float]
    chi2: float = 0.0
    ndf: int = 1

    def __call__(self, energy: np.ndarray) -> np.ndarray:
        """Return the resolution at incident energies in GeV."""
        square = sum(value**2 / energy ** POWERS[term] for term, value in self.terms.items())
        return np.sqrt(np.asarray(square))


def fit_resolution(
    energy: np.ndarray, resolution: np.ndarray, error: np.ndarray, noise: bool = False
) -> ResolutionFit | None:
    """Fit the terms, none of them negative, by weighted least squares of the square of the resolution.

    Args:
        energy: mean incident energy of each bin in GeV, shape (K,).
        resolution: standard deviation over mean of the response, shape (K,).
        error: its statistical error, shape (K,).
        noise: whether there is a noise term.

    Returns:
        The fit, or None where no more bins have a resolution than there are terms.

    Example:
        >>> energy = np.array([10.0, 20.0, 50.0, 100.0])
        >>> fit = fit_resolution(energy, np.sqrt(0.2**2 / energy + 0.01**2), np.full(4, 1e-4))
        >>> {term: round(value, 4) for term, value in fit.terms.items()}, fit.ndf
        ({'stochastic': 0.2, 'constant': 0.01}, 2)
    """
    from scipy.optimize import nnls

    names = list(POWERS)[: 3 if noise else 2]
    known = np.isfinite(energy) & np.isfinite(resolution) & np.isfinite(error) & (error > 0)
    known &= resolution > 0
    if known.sum() <= len(names):
        return None
    energy, square = energy[known], resolution[known] ** 2
    weight = 1.0 / (2.0 * resolution[known] * error[known])
    weighted = np.stack([energy ** -float(POWERS[name]) for name in names], axis=1) * weight[:, None]
    # Terms of similar size: the fit's accuracy is relative to the largest.
    size = np.linalg.norm(weighted, axis=0)
    squares, distance = nnls(weighted / size, square * weight)
    of_squares = np.sqrt(np.diag(np.linalg.pinv((weighted / size).T @ (weighted / size)))) / size
    values = np.sqrt(squares / size)
    with np.errstate(divide="ignore"):
        errors = np.minimum(of_squares / (2.0 * values), np.sqrt(of_squares))
    return ResolutionFit(
        terms=dict(zip(names, values.tolist(), strict=True)),
        errors=dict(zip(names, errors.tolist(), strict=True)),
        chi2=float(distance**2),
        ndf=len(energy) - len(names),
    )


def in_words(fit: ResolutionFit) -> str:
    """Return the terms with their errors and the chi-square, such as ``a = 20.1 ± 0.4 % √GeV, ...``."""
    units = {"stochastic": ("a", 100, "% √GeV"), "constant": ("c", 100, "%"), "noise": ("b", 1000, "MeV")}
    words = []
    for term, value in fit.terms.items():
        symbol, factor, unit = units[term]
        error = factor * fit.errors[term]
        digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 2
        words.append(f"{symbol} = {factor * value:.{digits}f} ± {error:.{digits}f} {unit}")
    return f"{', '.join(words)}, χ²/ndf = {fit.chi2:.1f}/{fit.ndf}"
