"""Particles on a detector: energies and angles of a sample."""

import math
from dataclasses import dataclass

NORMAL_INCIDENCE = math.pi / 2


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Energies and angles of electrons.

    Attributes:
        energy: lowest and highest incident energy in GeV, uniform between.
        theta: lowest and highest polar angle in rad, uniform between; pi/2 is normal incidence, and the axis is tilted
            in the y-z plane, towards larger y where the angle is smaller.
    """

    energy: tuple[float, float]
    theta: tuple[float, float] = (NORMAL_INCIDENCE, NORMAL_INCIDENCE)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions of the showers; the angle only where it is not that of normal incidence."""
        tilted = self.theta != (NORMAL_INCIDENCE, NORMAL_INCIDENCE)
        return ("energy", "theta") if tilted else ("energy",)
