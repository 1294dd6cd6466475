"""Single showers of two samples, to be drawn beside each other."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Showers to be drawn one by one.

    Attributes:
        real: Geant4 showers, shape (n, *geometry.shape).
        fake: showers generated for the same conditions, shape (n, *geometry.shape).
        energies: their incident energies in GeV, shape (n,).
    """

    real: np.ndarray
    fake: np.ndarray
    energies: np.ndarray
