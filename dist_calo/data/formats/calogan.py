"""Showers in layers of rectangular cells, the schema of CaloGAN's files.

Data sets, N rows each:

* ``layer_0``, ``layer_1``, ... (N, eta, phi): energies of the cells of each layer, any number of layers.
* ``energy`` (N, 1) or (N,): incident energy in GeV.
* ``theta`` (N, 1) or (N,), optional: polar angle of the incident particle in rad, or in degrees where its attribute
  ``units`` is ``deg``.
* others, such as ``overflow`` (N, layers), the energy beside the cells, are not read.

The unit of the cells is in the attribute ``cell_units`` or ``units`` (such as ``GeV, mm``). CaloGAN's own files
are in MeV without such an attribute, so MeV is the default. The attribute ``cell_sizes_mm`` (layers, 2) gives the
pitch of the cells in eta and phi.
"""

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.data.formats.data_sets import FileRows, column, compression_of, numbers, require_equal_rows
from dist_calo.data.formats.lcd import particle_of
from dist_calo.data.formats.protocol import AS_FILES_SAY, Layout, ReadOptions
from dist_calo.data.formats.units import Units, require_plausible, units_of
from dist_calo.errors import DataError
from dist_calo.geometry import Geometry, LayeredGrid

if TYPE_CHECKING:
    import h5py

_LAYER = re.compile(r"layer_(\d+)")


class LayersFormat:
    """Reader of files with a data set for each layer."""

    name = "layers"
    needs = "layer_0, layer_1, ... and energy"
    in_cell_unit: tuple[str, ...] = ("overflow",)

    def recognises(self, file: "h5py.File") -> bool:
        return any(_LAYER.fullmatch(name) for name in file)

    def describe(
        self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY, known: Geometry | None = None
    ) -> Layout:
        layers = _layers(file)
        conditions = _conditions(file)
        require_equal_rows(*layers, *(column(file, name) for name in conditions))
        self._units(file, options)
        chunks = [layer.chunks[0] for layer in layers if layer.chunks]
        return Layout(
            rows=layers[0].shape[0],
            geometry=LayeredGrid(
                layers=tuple(layer.shape[1:] for layer in layers),
                cell_sizes=_cell_sizes(file, len(layers)),
                conditions=conditions,
            ),
            chunk_rows=max(chunks) if chunks else None,
            storage=compression_of(layers[0]),
            particle=particle_of(file),
        )

    def check(self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY) -> None:
        rows, units = self.rows(file, options), self._units(file, options)
        require_plausible(file.filename, rows, len(file["layer_0"]), units)

    def rows(self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY) -> FileRows:
        layers = _layers(file)
        units = self._units(file, options)
        return FileRows(
            file,
            layers,
            shape=(sum(math.prod(layer.shape[1:]) for layer in layers),),
            columns=_conditions(file),
            cells_factor=units.cells_factor,
            energy_unit=units.energy,
        )

    def _units(self, file: "h5py.File", options: ReadOptions) -> Units:
        return units_of(file, options, cells="MeV", energy="GeV")


def _layers(file: "h5py.File") -> list["h5py.Dataset"]:
    """Return the layers in their order; none may be missing between the first and the last."""
    found = [int(match[1]) for name in file if (match := _LAYER.fullmatch(name))]
    return [
        numbers(file, f"layer_{layer}", "(N, eta, phi)", lambda shape: len(shape) == 3 and min(shape[1:]) > 0)
        for layer in range(max(found, default=0) + 1)
    ]


def _conditions(file: "h5py.File") -> tuple[str, ...]:
    return ("energy", "theta") if "theta" in file else ("energy",)


def _cell_sizes(file: "h5py.File", layers: int) -> tuple[tuple[float, float], ...] | None:
    """Return the pitch of each layer's cells in eta and phi, in mm."""
    if "cell_sizes_mm" not in file.attrs:
        return None
    found = np.asarray(file.attrs["cell_sizes_mm"])
    if (
        found.shape != (layers, 2)
        or found.dtype.kind not in "fiu"
        or not (np.isfinite(found) & (found > 0)).all()
    ):
        raise DataError(
            f"{file.filename}: attribute cell_sizes_mm is {found.tolist()}, must be {layers} pairs of positive numbers "
            "(eta, phi); correct or remove it"
        )
    return tuple((float(eta), float(phi)) for eta, phi in found)
