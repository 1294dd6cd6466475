"""Showers of the Linear Collider Detector (LCD) electromagnetic calorimeter, the data of the 3DGANs.

Data sets, N rows each:

* ``ECAL`` (N, 25, 25, 25) or (N, 51, 51, 25): energies of cells in GeV, ordered x, y, layer.
* ``energy`` (N, 1) or (N,): incident energy in GeV; or, in older files, ``target``: (N, k) or (N, 1, k) with it in
  column 1, or (N,) or (N, 1), which is nothing else.
* ``theta`` (N, 1) or (N,), optional: polar angle of the incident particle in rad, or in degrees where its attribute
  ``units`` is ``deg``.

The particle is the attribute ``particle`` or the prefix of the file's name.
"""

import math
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.data.formats.data_sets import FileRows, column, compression_of, numbers, require_equal_rows
from dist_calo.data.formats.protocol import AS_FILES_SAY, Layout, ReadOptions
from dist_calo.data.formats.units import Units, require_plausible, units_of
from dist_calo.errors import DataError
from dist_calo.geometry import Geometry, VoxelGrid

if TYPE_CHECKING:
    import h5py

SHAPES = ((25, 25, 25), (51, 51, 25))
"""Read-out windows of the LCD files, in cells."""
PREFIXES = {"EleEscan_": "e-", "GammaEscan_": "gamma", "Pi0Escan_": "pi0", "ChPiEscan_": "pi+-"}
"""Particle by the first letters of a file's name."""
RESPONSES = (2.5e-3, 5.0)
"""Sum of the cells over the incident energy of electrons, photons and neutral pions: about 0.02 in files of what the
silicon sees, 50 to 100 times that in the published ones, and 20 and more where MeV are read as GeV."""
HADRON_RESPONSES = (1e-4, 5.0)
"""The same for other or unknown particles, some of which deposit only a few MeV."""
_SHOWER_EARLY = ("e-", "e+", "gamma", "pi0")
_SPELLINGS = {
    "electron": "e-",
    "electrons": "e-",
    "ele": "e-",
    "photon": "gamma",
    "photons": "gamma",
    "chpi": "pi+-",
}


def particle_of(file: "h5py.File") -> str | None:
    """Return the particle from a file's attribute or name, None if neither has it."""
    attribute = file.attrs.get("particle")
    if attribute is not None:
        name = attribute.decode() if isinstance(attribute, bytes) else str(attribute)
        return _SPELLINGS.get(name.strip().lower(), name.strip())
    name = PurePath(file.filename).name
    return next((particle for prefix, particle in PREFIXES.items() if name.startswith(prefix)), None)


class LcdFormat:
    """Reader of LCD files."""

    name = "lcd"
    needs = "ECAL and energy (or target)"
    in_cell_unit: tuple[str, ...] = ("HCAL",)

    def recognises(self, file: "h5py.File") -> bool:
        return "ECAL" in file

    def describe(
        self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY, known: Geometry | None = None
    ) -> Layout:
        cells = numbers(file, "ECAL", "(N, 25, 25, 25) or (N, 51, 51, 25)", lambda shape: shape[1:] in SHAPES)
        columns = _condition_columns(file)
        require_equal_rows(cells, *(_column(file, name) for name in columns))
        geometry = VoxelGrid(
            shape=cells.shape[1:], conditions=("energy", "theta") if "theta" in columns else ("energy",)
        )
        if "cell_size_mm" in file.attrs:
            geometry = replace(geometry, cell_size=_cell_size(file))
        return Layout(
            rows=cells.shape[0],
            geometry=geometry,
            chunk_rows=cells.chunks[0] if cells.chunks else None,
            storage=compression_of(cells),
            particle=particle_of(file),
        )

    def check(self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY) -> None:
        rows, units = self.rows(file, options), self._units(file, options)
        responses = RESPONSES if particle_of(file) in _SHOWER_EARLY else HADRON_RESPONSES
        require_plausible(file.filename, rows, len(file["ECAL"]), units, responses=responses)

    def rows(self, file: "h5py.File", options: ReadOptions = AS_FILES_SAY) -> FileRows:
        cells = file["ECAL"]
        units = self._units(file, options)
        return FileRows(
            file,
            [cells],
            shape=cells.shape[1:],
            columns=_condition_columns(file),
            cells_factor=units.cells_factor,
            energy_unit=units.energy,
        )

    def _units(self, file: "h5py.File", options: ReadOptions) -> Units:
        return units_of(file, options, cells="GeV", energy="GeV")


def _condition_columns(file: "h5py.File") -> tuple[str, ...]:
    """Return the names of the data sets that hold the conditions."""
    energy = "energy" if "energy" in file or "target" not in file else "target"
    return (energy, "theta") if "theta" in file else (energy,)


def _cell_size(file: "h5py.File") -> tuple[float, float, float]:
    """Return the pitch of the cells in x, y and depth, in mm."""
    found = np.asarray(file.attrs["cell_size_mm"])
    if found.shape != (3,) or found.dtype.kind not in "fiu" or not (np.isfinite(found) & (found > 0)).all():
        raise DataError(
            f"{file.filename}: attribute cell_size_mm is {found.tolist()}, must be three positive numbers "
            "(x, y, depth); correct or remove it"
        )
    x, y, depth = found.tolist()
    return float(x), float(y), float(depth)


def _column(file: "h5py.File", name: str) -> "h5py.Dataset":
    """Return the values of a condition."""
    if name == "target":
        return numbers(
            file,
            name,
            "(N,), (N, k) or (N, 1, k)",
            lambda shape: math.prod(shape[1:-1]) == 1 and shape[-1] > 0,
        )
    return column(file, name, missing="energy (or target)" if name == "energy" else "")
