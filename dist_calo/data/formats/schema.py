"""Data sets and attributes of a file of each geometry: the writer's side of the readers' schemas."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dist_calo.data.formats.binning import binning_text
from dist_calo.errors import ConfigError
from dist_calo.geometry import CylindricalLayers, Geometry, LayeredGrid, VoxelGrid, Waveforms

SchemaName = Literal["native", "calochallenge"]
"""``native`` is the schema that this package reads for the geometry, ``calochallenge`` that of the CaloChallenge."""

_NUMBER = np.dtype(np.float32)


@dataclass(frozen=True, kw_only=True)
class StoredArray:
    """Data set to write."""

    name: str
    shape: tuple[int, ...]
    """Shape of a row."""
    cells: bool
    """True if it holds showers or data of that size, which are compressed; False for conditions."""
    dtype: np.dtype[Any] = _NUMBER
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SchemaArray(StoredArray):
    """Data set of a schema."""

    values: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Its rows, shape (n, *shape), from showers and conditions as the package has them."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Data sets and attributes of a file."""

    attributes: dict[str, Any]
    arrays: tuple[SchemaArray, ...]


OWN_ATTRIBUTES = (
    "units",
    "cell_units",
    "energy_units",
    "cell_size_mm",
    "cell_sizes_mm",
    "binning",
)
"""Attributes of a file that tell how it is stored: a file that is written anew has its own."""


def schema_of(geometry: Geometry, particle: str | None = None, name: SchemaName = "native") -> Schema:
    """Return the schema in which showers of a geometry are stored.

    Args:
        geometry: shape and conditions of the showers.
        particle: for the binning of cylindrical layers.
        name: whose schema.

    Raises:
        ConfigError: if the schema has no place for what the geometry reads out.
    """
    if name == "calochallenge" and not isinstance(geometry, CylindricalLayers):
        return _calochallenge(geometry)
    match geometry:
        case VoxelGrid():
            cells = (_cells("ECAL", geometry.shape, lambda showers: showers),)
            attributes: dict[str, Any] = {"cell_size_mm": np.asarray(geometry.cell_size)}
            return Schema(
                attributes={"units": "GeV, rad, mm", **attributes}, arrays=(*cells, *_conditions(geometry))
            )
        case LayeredGrid():
            layers = tuple(
                _layer(number, shape, part)
                for number, (shape, part) in enumerate(
                    zip(geometry.layers, geometry.layer_slices, strict=True)
                )
            )
            sizes = {} if geometry.cell_sizes is None else {"cell_sizes_mm": np.asarray(geometry.cell_sizes)}
            return Schema(
                attributes={"units": "GeV, rad, mm", "cell_units": "GeV", "energy_units": "GeV", **sizes},
                arrays=(*layers, *_conditions(geometry)),
            )
        case CylindricalLayers():
            voxels = _cells("showers", geometry.shape, lambda showers: showers * np.float32(1000))
            attributes = {
                "cell_units": "MeV",
                "energy_units": "MeV",
                "binning": binning_text(geometry, particle),
            }
            return Schema(
                attributes={"units": "MeV, rad, mm", **attributes},
                arrays=(voxels, *_conditions(geometry, energy="incident_energies", factor=1000.0)),
            )
        case Waveforms():
            signals = _cells("signals", geometry.shape, lambda showers: showers)
            signals.attributes.update(
                baseline=0.0,
                noise=geometry.noise,
                sample_ns=geometry.sample_ns,
                units=geometry.unit,
                channels=f"{geometry.rows}x{geometry.columns} row-major [x, y]",
            )
            return Schema(attributes={"units": "GeV, ns"}, arrays=(signals, *_conditions(geometry)))


def _calochallenge(geometry: Geometry) -> Schema:
    """Return the schema with cells in MeV, in the order of the geometry's array, and their origin as attributes."""
    match geometry:
        case VoxelGrid():
            attributes: dict[str, Any] = {
                "shape": np.asarray(geometry.shape),
                "order": "x, y, layer: the layer is the fastest index",
                "cell_size_mm": np.asarray(geometry.cell_size),
            }
        case LayeredGrid():
            sizes = {} if geometry.cell_sizes is None else {"cell_sizes_mm": np.asarray(geometry.cell_sizes)}
            attributes = {
                "shape": np.asarray(geometry.layers),
                "order": "layer, eta, phi: layer by layer of shape (eta, phi), phi is the fastest index",
                **sizes,
            }
        case _:
            raise ConfigError(
                f"schema calochallenge: {geometry.described} are no energies of cells; take the schema native"
            )
    voxels = _cells(
        "showers", (geometry.cells,), lambda showers: showers.reshape(len(showers), -1) * np.float32(1000)
    )
    return Schema(
        attributes={"units": "MeV, rad, mm", "cell_units": "MeV", "energy_units": "MeV", **attributes},
        arrays=(voxels, *_conditions(geometry, energy="incident_energies", factor=1000.0)),
    )


def _cells(name: str, shape: tuple[int, ...], values: Callable[[np.ndarray], np.ndarray]) -> SchemaArray:
    return SchemaArray(name=name, shape=shape, values=lambda showers, _: values(showers), cells=True)


def _layer(number: int, shape: tuple[int, int], part: slice) -> SchemaArray:
    return _cells(f"layer_{number}", shape, lambda showers: showers[:, part].reshape(-1, *shape))


def _conditions(geometry: Geometry, energy: str = "energy", factor: float = 1.0) -> tuple[SchemaArray, ...]:
    """Return the conditions; the energy may have another name and unit."""

    def column(number: int, name: str) -> SchemaArray:
        scale = np.float32(factor if number == 0 else 1.0)
        return SchemaArray(
            name=energy if number == 0 else name,
            shape=(1,),
            values=lambda _, conditions: conditions[:, number : number + 1] * scale,
            cells=False,
        )

    return tuple(column(number, name) for number, name in enumerate(geometry.conditions))
