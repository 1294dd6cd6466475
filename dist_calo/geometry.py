"""What a detector reads out: the shape of a shower and the quantities that it is conditioned on.

A geometry is all that models, objectives and the trainer know of a detector. Energies are GeV, angles rad,
lengths mm everywhere inside the package; readers convert.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dist_calo.errors import ConfigError

CONDITION_UNITS = {"energy": "GeV", "theta": "rad"}
"""Unit of each quantity that a shower can be conditioned on."""


@dataclass(frozen=True, kw_only=True)
class VoxelGrid:
    """A calorimeter read out as a regular grid of cells.

    Raises:
        ConfigError: if the shape is not three positive numbers or a condition is not known.
    """

    shape: tuple[int, int, int]
    """Cells in x, y and along the depth (layers)."""
    conditions: tuple[str, ...] = ("energy",)
    """Columns of a batch's conditions: ``energy`` in GeV, and ``theta`` in rad where the data have it."""
    cell_size: tuple[float, float, float] = (5.1, 5.1, 5.1)
    """Pitch of the cells in x, y and depth, in mm."""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ConfigError(
                f"geometry shape {self.shape}: a voxel grid has three positive numbers of cells (x, y, layers)"
            )
        unknown = [name for name in self.conditions if name not in CONDITION_UNITS]
        if unknown or self.conditions[:1] != ("energy",):
            raise ConfigError(
                f"geometry conditions {self.conditions}: the first is energy, others are among "
                f"{sorted(CONDITION_UNITS)}"
            )

    @property
    def cells(self) -> int:
        """Number of cells of a shower."""
        return math.prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in checkpoints and HDF5 attributes."""
        return {"kind": "voxel_grid", **asdict(self)}


Geometry = VoxelGrid
"""Every read-out that the package knows."""


def geometry_from_dict(values: Mapping[str, Any]) -> Geometry:
    """Build the geometry that ``to_dict`` described.

    Raises:
        ConfigError: if the kind is not known.
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind != "voxel_grid":
        raise ConfigError(f"geometry kind {kind!r} is not known: use 'voxel_grid'")
    return VoxelGrid(**{name: tuple(value) for name, value in fields.items()})
