"""Showers of the Linear Collider Detector (LCD) electromagnetic calorimeter, the data of the 3DGANs.

Data sets, N rows each:

* ``ECAL`` (N, 25, 25, 25) or (N, 51, 51, 25): energies of cells in GeV, ordered x, y, layer.
* ``energy`` (N, 1) or (N,): incident energy in GeV; or, in older files, ``target`` (N, >= 2) with it in
  column 1.
* ``theta`` (N, 1) or (N,), optional: polar angle of the incident particle in rad.

The particle is the attribute ``particle`` or the prefix of the file's name.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.data.formats.protocol import Layout, Problem, broken_rules, rows_are_good
from dist_calo.data.formats.rows import RowReader
from dist_calo.errors import DataError
from dist_calo.geometry import VoxelGrid

if TYPE_CHECKING:
    import h5py

SHAPES = ((25, 25, 25), (51, 51, 25))
"""Read-out windows of the LCD files, in cells."""
PREFIXES = {"EleEscan_": "e-", "GammaEscan_": "gamma", "Pi0Escan_": "pi0", "ChPiEscan_": "pi+-"}
"""Particle told by the first letters of a file's name."""
_SPELLINGS = {
    "electron": "e-",
    "electrons": "e-",
    "ele": "e-",
    "photon": "gamma",
    "photons": "gamma",
    "chpi": "pi+-",
}


def particle_of(file: "h5py.File") -> str | None:
    """The particle that a file's attribute or name tells, None if neither does."""
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

    def recognises(self, file: "h5py.File") -> bool:
        return "ECAL" in file

    def describe(self, file: "h5py.File") -> Layout:
        cells = _data_set(
            file, "ECAL", "(N, 25, 25, 25) or (N, 51, 51, 25)", lambda shape: shape[1:] in SHAPES
        )
        if cells.shape[0] == 0:
            raise DataError(f"{file.filename}: data set ECAL has no rows")
        columns = _condition_columns(file)
        for name in columns:
            if name == "target":
                values = _data_set(
                    file, name, "(N, 2) or wider", lambda shape: len(shape) == 2 and shape[1] >= 2
                )
            else:
                values = _data_set(file, name, "(N, 1) or (N,)", lambda shape: shape[1:] in ((), (1,)))
            if values.shape[0] != cells.shape[0]:
                raise DataError(
                    f"{file.filename}: data set {name} has {values.shape[0]} rows and ECAL has "
                    f"{cells.shape[0]}: they must be equal"
                )
        geometry = VoxelGrid(
            shape=cells.shape[1:], conditions=("energy", "theta") if "theta" in columns else ("energy",)
        )
        if "cell_size_mm" in file.attrs:
            geometry = replace(geometry, cell_size=_cell_size(file))
        return Layout(
            rows=cells.shape[0],
            geometry=geometry,
            chunk_rows=cells.chunks[0] if cells.chunks else None,
            storage=cells.compression or "none",
            particle=particle_of(file),
        )

    def rows(self, file: "h5py.File") -> "LcdRows":
        return LcdRows(file)


class LcdRows:
    """Rows of an open LCD file."""

    def __init__(self, file: "h5py.File") -> None:
        self._name = file.filename
        self._cells = RowReader(file["ECAL"])
        self._shape: tuple[int, ...] = file["ECAL"].shape[1:]
        self._columns = {name: file[name] for name in _condition_columns(file)}

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        showers = np.empty((stop - start, *self._shape), dtype=np.float32)
        conditions = np.empty((stop - start, len(self._columns)), dtype=np.float32)
        self.place(np.arange(start, stop), showers, conditions, np.arange(stop - start))
        return showers, conditions

    def place(
        self, rows: np.ndarray, showers: np.ndarray, conditions: np.ndarray, places: np.ndarray
    ) -> None:
        if not len(rows):
            return
        start, stop = int(rows[0]), int(rows[-1]) + 1
        try:
            self._cells.read(rows, showers, places)
            for column, (name, values) in enumerate(self._columns.items()):
                found = values[start:stop, 1] if name == "target" else values[start:stop].reshape(-1)
                conditions[places, column] = found[rows - start]
        except OSError as error:
            raise DataError(
                f"{self._name}: rows {start} to {stop - 1} cannot be read ({error}): the file is damaged, "
                "make or copy it again"
            ) from error

    def problems(self, showers: np.ndarray, conditions: np.ndarray, first_row: int) -> list[Problem]:
        if rows_are_good(showers, conditions):
            return []
        return broken_rules(showers, conditions, first_row, "ECAL", tuple(self._columns))


def _condition_columns(file: "h5py.File") -> tuple[str, ...]:
    """Names of the data sets that hold the conditions."""
    energy = "energy" if "energy" in file or "target" not in file else "target"
    return (energy, "theta") if "theta" in file else (energy,)


def _cell_size(file: "h5py.File") -> tuple[float, float, float]:
    """Pitch of the cells in x, y and depth, in mm."""
    found = np.asarray(file.attrs["cell_size_mm"])
    if found.shape != (3,) or found.dtype.kind not in "fiu" or not (np.isfinite(found) & (found > 0)).all():
        raise DataError(
            f"{file.filename}: attribute cell_size_mm is {found.tolist()}, must be three positive numbers "
            "(x, y, depth); correct or remove it"
        )
    x, y, depth = found.tolist()
    return float(x), float(y), float(depth)


def _data_set(
    file: "h5py.File", name: str, wanted: str, fits: Callable[[tuple[int, ...]], bool]
) -> "h5py.Dataset":
    """An array of numbers whose shape fits."""
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        held = ", ".join(sorted(file)) or "none"
        missing = "energy (or target)" if name == "energy" else name
        raise DataError(f"{file.filename}: data set {missing} is missing; the file holds {held}")
    if found.dtype.kind not in "fiu":
        raise DataError(f"{file.filename}: data set {name} holds {found.dtype}, must hold numbers")
    if not found.shape or not fits(found.shape):
        raise DataError(f"{file.filename}: data set {name} has shape {found.shape}, must be {wanted}")
    return found
