"""Read-outs of detectors: the shape of a shower and the quantities that it is conditioned on.

A geometry is all that models, objectives and the trainer know of a detector. Energies are GeV, angles rad, lengths mm,
times ns everywhere inside the package; readers convert.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from dist_calo.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Quantity that a shower is conditioned on, with its possible values."""

    name: str
    """In words."""
    unit: str
    highest: float
    least: float = 0.0
    """Itself no value of energies, which are above 0."""
    least_is_allowed: bool = False
    mistaken: tuple[str, float]
    """The unit that values may have by mistake, and its size in the unit that they should have."""

    def allows(self, values: Any) -> Any:
        """Return which values, numbers or arrays, are possible: neither NaN nor infinity is."""
        above = values >= self.least if self.least_is_allowed else values > self.least
        return above & (values <= self.highest)

    @property
    def rule(self) -> str:
        """The rule for a value, in words."""
        low = (
            f"{self.least:g} to" if self.least_is_allowed else f"above {self.least:g} {self.unit} and at most"
        )
        return f"{low} {self.highest:g} {self.unit}"

    def require(self, option: str, low: float, high: float) -> None:
        """Check the bounds of a value that a user asks for.

        Args:
            option: what was given and its text, for the message.
            low: lowest value.
            high: highest value.

        Raises:
            ConfigError: if one is impossible.
        """
        if not (self.allows(low) and self.allows(high)):
            other, size = self.mistaken
            raise ConfigError(
                f"{option}: the {self.name} must be {self.rule}; 1 {other} is {size:.4g} {self.unit}"
            )


CONDITIONS = {
    "energy": Condition(name="incident energy", unit="GeV", highest=1e6, mistaken=("MeV", 1e-3)),
    "theta": Condition(
        name="polar angle",
        unit="rad",
        highest=3.1416,
        least_is_allowed=True,
        mistaken=("degree", math.pi / 180),
    ),
}
"""Conditions of showers by name."""
CONDITION_UNITS = {name: condition.unit for name, condition in CONDITIONS.items()}
_LAYERS_IN_WORDS = 6
"""Layers that a description lists one by one."""


@dataclass(frozen=True, kw_only=True)
class Readout:
    """Common part of all geometries.

    Raises:
        ConfigError: if a condition is not known or the energy is not the first.
    """

    kind: ClassVar[str]
    """Name in files and checkpoints."""
    signed: ClassVar[bool] = False
    """True if a value may be below 0: a sample with noise may, an energy may not."""
    conditions: tuple[str, ...] = ("energy",)
    """Columns of a batch's conditions: ``energy`` in GeV, and ``theta`` in rad where the data have it."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.conditions if name not in CONDITION_UNITS]
        if unknown or self.conditions[:1] != ("energy",):
            raise ConfigError(
                f"geometry conditions {self.conditions}: the first is energy, others are among "
                f"{sorted(CONDITION_UNITS)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as stored in checkpoints and HDF5 attributes."""
        return {"kind": self.kind, **asdict(self)}

    @property
    def described(self) -> str:
        """The read-out in words, such as ``25 x 25 x 25 cells``."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class VoxelGrid(Readout):
    """Calorimeter read out as a regular grid of cells.

    Raises:
        ConfigError: if the shape is not three positive numbers or a condition is not known.
    """

    kind: ClassVar[str] = "voxel_grid"
    shape: tuple[int, int, int]
    """Cells in x, y and along the depth (layers)."""
    cell_size: tuple[float, float, float] = (5.1, 5.1, 5.1)
    """Pitch of the cells in x, y and depth, in mm."""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ConfigError(
                f"geometry shape {self.shape}: a voxel grid has three positive numbers of cells (x, y, layers)"
            )
        super().__post_init__()

    @property
    def cells(self) -> int:
        """Number of cells of a shower."""
        return math.prod(self.shape)

    @property
    def described(self) -> str:
        return f"{' x '.join(map(str, self.shape))} cells"


@dataclass(frozen=True, kw_only=True)
class LayeredReadout(Readout):
    """Layers of cells; a shower is one row of the cells of all of them, layer by layer."""

    @property
    def layer_cells(self) -> tuple[int, ...]:
        """Cells of each layer; a layer that is not read out has none."""
        raise NotImplementedError

    @property
    def layer_slices(self) -> tuple[slice, ...]:
        """Slices of each layer's cells in the row of a shower."""
        ends = [0, *itertools.accumulate(self.layer_cells)]
        return tuple(slice(first, last) for first, last in itertools.pairwise(ends))

    @property
    def cells(self) -> int:
        """Number of cells of a shower."""
        return sum(self.layer_cells)

    @property
    def shape(self) -> tuple[int]:
        """Shape of the array of one shower."""
        return (self.cells,)

    @property
    def described(self) -> str:
        return f"{self.cells} cells in {sum(map(bool, self.layer_cells))} layers"


@dataclass(frozen=True, kw_only=True)
class LayeredGrid(LayeredReadout):
    """Calorimeter of layers with rectangular cells, whose size differs from layer to layer.

    Raises:
        ConfigError: if there is no layer, a layer has no cell, or the sizes do not go with the layers.
    """

    kind: ClassVar[str] = "layers"
    layers: tuple[tuple[int, int], ...]
    """Cells in eta and phi of each layer; phi is the faster index."""
    cell_sizes: tuple[tuple[float, float], ...] | None = None
    """Pitch of each layer's cells in eta and phi, in mm; None where the data do not say."""

    def __post_init__(self) -> None:
        if not self.layers or any(len(layer) != 2 or min(layer) < 1 for layer in self.layers):
            raise ConfigError(
                f"geometry layers {self.layers}: each layer has two positive numbers of cells (eta, phi)"
            )
        if self.cell_sizes is not None and (
            len(self.cell_sizes) != len(self.layers)
            or any(len(size) != 2 or not min(size) > 0 for size in self.cell_sizes)
        ):
            raise ConfigError(
                f"geometry cell_sizes {self.cell_sizes}: {len(self.layers)} layers need as many pairs of positive "
                "lengths in mm (eta, phi)"
            )
        super().__post_init__()

    @property
    def layer_cells(self) -> tuple[int, ...]:
        return tuple(eta * phi for eta, phi in self.layers)

    @property
    def described(self) -> str:
        if not 1 < len(self.layers) <= _LAYERS_IN_WORDS:
            return super().described
        *first, last = (f"{eta} x {phi}" for eta, phi in self.layers)
        return f"{len(self.layers)} layers of {', '.join(first)} and {last} cells"


@dataclass(frozen=True, kw_only=True)
class CylindricalLayers(LayeredReadout):
    """Layers cut in rings and sectors around the particle's direction, as in the CaloChallenge's binning files.

    Raises:
        ConfigError: if there is no cell, edges do not increase, or the sectors do not go with the layers.
    """

    kind: ClassVar[str] = "cylinder"
    r_edges: tuple[tuple[float, ...], ...]
    """Edges of each layer's rings in mm; a layer with fewer than two is not read out. Rings are the faster index."""
    sectors: tuple[int, ...]
    """Sectors of each layer in the azimuth alpha."""

    def __post_init__(self) -> None:
        if len(self.r_edges) != len(self.sectors) or self.cells == 0:
            raise ConfigError(
                f"geometry with {len(self.r_edges)} layers of rings and {len(self.sectors)} of sectors: there must be "
                "as many, and a cell in at least one"
            )
        for number, (edges, sectors) in enumerate(zip(self.r_edges, self.sectors, strict=True)):
            if any(low >= high for low, high in itertools.pairwise(edges)) or (
                len(edges) > 1 and sectors < 1
            ):
                raise ConfigError(
                    f"geometry layer {number} with r edges {edges} and {sectors} sectors: edges must increase and "
                    "sectors be at least 1"
                )
        super().__post_init__()

    @property
    def layer_cells(self) -> tuple[int, ...]:
        return tuple(
            max(len(edges) - 1, 0) * sectors
            for edges, sectors in zip(self.r_edges, self.sectors, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Waveforms(Readout):
    """Detectors side by side, each read out as a waveform: channels x samples, above the baseline.

    Raises:
        ConfigError: if a number is not positive.
    """

    kind: ClassVar[str] = "waveforms"
    signed: ClassVar[bool] = True
    rows: int = 3
    """Detectors in x."""
    columns: int = 3
    """Detectors in y, the faster index of the channels."""
    samples: int = 1024
    """Samples of a waveform."""
    sample_ns: float = 0.2
    """Time between two samples, in ns."""
    noise: float = 1.0
    """Standard deviation of the noise of a sample, in ``unit``."""
    unit: str = "ADC counts"
    """Unit of the samples."""

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "samples", "sample_ns", "noise"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"geometry {name} {getattr(self, name)}: waveforms need a number above 0")
        super().__post_init__()

    @property
    def channels(self) -> int:
        """Number of detectors."""
        return self.rows * self.columns

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the array of one event: channels, samples."""
        return (self.channels, self.samples)

    @property
    def cells(self) -> int:
        """Numbers of an event."""
        return self.channels * self.samples

    @property
    def described(self) -> str:
        return f"{self.channels} channels of {self.samples} samples"


Geometry = VoxelGrid | LayeredGrid | CylindricalLayers | Waveforms
"""Every read-out that the package knows."""
GEOMETRIES: dict[str, type[Geometry]] = {
    known.kind: known for known in (VoxelGrid, LayeredGrid, CylindricalLayers, Waveforms)
}
"""Read-outs by kind."""


def geometry_from_dict(values: Mapping[str, Any]) -> Geometry:
    """Build the geometry that ``to_dict`` described.

    Raises:
        ConfigError: if the kind is not known.

    Example:
        >>> grid = VoxelGrid(shape=(25, 25, 25))
        >>> geometry_from_dict(grid.to_dict()) == grid, grid.described
        (True, '25 x 25 x 25 cells')
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind not in GEOMETRIES:
        raise ConfigError(f"geometry kind {kind!r} is not known: use one of {', '.join(GEOMETRIES)}")
    return GEOMETRIES[kind](**{name: _as_tuple(value) for name, value in fields.items()})


def _as_tuple(value: Any) -> Any:
    """Turn lists, which JSON makes of tuples, back into tuples."""
    return tuple(_as_tuple(part) for part in value) if isinstance(value, list | tuple) else value
