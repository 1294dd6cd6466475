"""Extra data sets with one row for each shower that no reader reads: copied when showers are rewritten.

Examples are the truth behind signals (``edep``, ``t0``), the energy outside the cells (``overflow``) and the impact
point of the particle (``impact``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.data.formats import format_named
from dist_calo.data.formats.data_sets import named_object
from dist_calo.data.formats.schema import StoredArray, schema_of
from dist_calo.data.formats.stored import require_stored
from dist_calo.data.formats.whole_files import hdf5_errors_of, why_unreadable
from dist_calo.data.manifest import FileEntry, Manifest
from dist_calo.errors import DataError

if TYPE_CHECKING:
    import h5py

_KINDS = "fiubS"
_LEAST_COMPRESSED = 64
"""Numbers of a row from which on it is stored in chunks like the cells, and not like a condition."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Extra data sets to copy from some files."""

    arrays: tuple[StoredArray, ...]
    in_cell_unit: frozenset[str]
    """Those that hold energies in the unit of the cells."""
    left_out: tuple[str, ...]
    """Data sets that are not read and cannot be carried along: they have no row for each shower, hold no numbers, or
    are not the same in all files."""

    def read(self, file: "h5py.File", start: int, stop: int, cells_factor: float) -> dict[str, np.ndarray]:
        """Read rows of an open file.

        Args:
            file: one of the files.
            start: its first row.
            stop: the row after the last.
            cells_factor: factor on energies in the unit of the cells.

        Raises:
            DataError: if the file is damaged.
        """
        found = {}
        for array in self.arrays:
            try:
                values = file[array.name][start:stop]
            except OSError as error:
                raise DataError(
                    f"{file.filename}: rows {start} to {stop - 1} of {array.name} cannot be read: "
                    f"{why_unreadable(error)}"
                ) from error
            if array.name in self.in_cell_unit and cells_factor != 1:
                values = values * np.float32(cells_factor)
            found[array.name] = values
        return found


@dataclass
class _Found:
    """Extra data set in some of the files."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attributes: dict[str, Any] = field(default_factory=dict)


def extras_of(manifest: Manifest, files: Sequence[FileEntry]) -> Extras:
    """Return the data sets that these files have besides those that are read, if all of them have the same."""
    format_ = format_named(manifest.format)
    own = {array.name for array in schema_of(manifest.geometry).arrays}
    shared: dict[str, _Found] = {}
    seen: dict[str, None] = {}
    for number, entry in enumerate(files):
        with entry.open() as file, hdf5_errors_of(file):
            read = own.union(*format_.rows(file, manifest.options).data_sets)
            seen |= dict.fromkeys(name for name in file if name not in read)
            found = {
                name: data_set
                for name in file
                if name not in read and (data_set := _alike(file, name, entry.rows))
            }
        if number == 0:
            shared = found
        shared = {
            name: first
            for name, first in shared.items()
            if name in found and (first.shape, first.dtype) == (found[name].shape, found[name].dtype)
        }
    in_cell_unit = frozenset(format_.in_cell_unit) & shared.keys()
    return Extras(
        arrays=tuple(_stored(name, data_set, name in in_cell_unit) for name, data_set in shared.items()),
        in_cell_unit=in_cell_unit,
        left_out=tuple(name for name in seen if name not in shared),
    )


def _alike(file: "h5py.File", name: str, rows: int) -> _Found | None:
    """Return a data set with one row for each shower, None if it is something else."""
    import h5py

    try:
        found = named_object(file, name)
    except DataError:
        return None
    if not isinstance(found, h5py.Dataset) or not found.size or found.dtype.kind not in _KINDS:
        return None
    if found.shape[:1] != (rows,):
        return None
    require_stored(found, may_be_filled=True)
    return _Found(shape=found.shape[1:], dtype=found.dtype, attributes=dict(found.attrs))


def _stored(name: str, data_set: _Found, in_cell_unit: bool) -> StoredArray:
    return StoredArray(
        name=name,
        shape=data_set.shape,
        dtype=np.dtype(np.float32) if in_cell_unit else data_set.dtype,
        cells=int(np.prod(data_set.shape)) >= _LEAST_COMPRESSED,
        attributes=data_set.attributes,
    )
