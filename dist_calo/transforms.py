"""Transforms between the energy of a cell in GeV and the units of a network.

    y = log(1 + (scale x)^power)        x = y^-1: ((exp(y) - 1)^(1/power)) / scale

Cells below the threshold become 0 first; all else is exactly invertible. Plain arithmetic on NumPy arrays and
torch tensors alike; the way back is differentiable everywhere (its gradient is 0 in cells without energy
where the power is not 1).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np

from dist_calo.config import TransformConfig
from dist_calo.errors import CheckpointError

Array = TypeVar("Array")
"""A NumPy array or a torch tensor of floating-point numbers."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Transform of `TransformConfig`, stored with the networks that were trained with it.

    Example:
        >>> transform = Transform(threshold=0.001, scale=100.0, power=0.5)
        >>> units = transform.forward(np.array([0.0005, 0.01, 0.04]))
        >>> units.tolist(), transform.inverse(units).tolist()
        ([0.0, 1.0, 2.0], [0.0, 0.01, 0.04])
    """

    threshold: float = 0.0
    """GeV."""
    scale: float = 1.0
    """1/GeV."""
    power: float = 1.0
    log: bool = False

    @classmethod
    def from_config(cls, config: TransformConfig) -> "Transform":
        return cls.from_dict(asdict(config))

    def forward(self, cells: Array) -> Array:
        """Convert energies in GeV, of any shape, to network units; negative ones give 0 where the power is not 1."""
        x: Any = cells
        xp = _namespace(x)
        if self.threshold > 0:
            x = xp.where(x < self.threshold, xp.zeros_like(x), x)
        if self.scale != 1:
            x = x * self.scale
        x = _power(xp, x, self.power)
        return xp.log1p(x) if self.log else x

    def inverse(self, values: Array) -> Array:
        """Convert network units, of any shape, to energies in GeV; values below 0 give 0 where the power is not 1."""
        x: Any = values
        xp = _namespace(x)
        if self.log:
            x = xp.expm1(x)
        x = _power(xp, x, 1 / self.power)
        return x / self.scale if self.scale != 1 else x

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as stored in checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Transform":
        """Rebuild the transform that `to_dict` described.

        Raises:
            CheckpointError: if the values are not those of a transform of this version.
        """
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise CheckpointError(
                f"a transform with {sorted(values)}: this version has {sorted(known)}; "
                "use the version that wrote it"
            )
        return cls(**values)


def _namespace(x: Any) -> Any:
    """Return the module whose functions work on `x`."""
    if isinstance(x, np.ndarray | np.generic):
        return np
    import torch

    return torch


def _power(xp: Any, x: Any, exponent: float) -> Any:
    """Return x to the exponent where x is above 0, else 0; with a finite gradient everywhere."""
    if exponent == 1:
        return x
    above = x > 0
    # Both branches of where() are differentiated, so the power must not see the cells without energy.
    return xp.where(above, xp.where(above, x, xp.ones_like(x)) ** exponent, xp.zeros_like(x))
