"""Common part of all readers: data sets of the right shape, and rows from them."""

import functools
import importlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.data.formats.protocol import UNITS, Problem, broken_rules, rows_are_good
from dist_calo.data.formats.rows import RowReader
from dist_calo.data.formats.whole_files import why_unreadable
from dist_calo.errors import DataError

if TYPE_CHECKING:
    import h5py

PLUGINS = {
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
}
"""Filters that the package hdf5plugin brings, by their registered numbers."""


def numbers(
    file: "h5py.File", name: str, wanted: str, fits: Callable[[tuple[int, ...]], bool], missing: str = ""
) -> "h5py.Dataset":
    """Return a data set of numbers, checked for its shape.

    Args:
        file: where it lies.
        name: its name.
        wanted: the shapes that fit, in words.
        fits: whether a shape does.
        missing: what to call it where it is missing, if not by its name.

    Raises:
        DataError: if it is missing, holds no numbers or has another shape.
    """
    import h5py

    found = named_object(file, name, missing)
    if not isinstance(found, h5py.Dataset):
        kind = "group" if isinstance(found, h5py.Group) else "data type"
        raise DataError(f"{file.filename}: {name} is a {kind}, must be a data set of numbers, {wanted}")
    if found.dtype.kind not in "fiu":
        raise DataError(f"{file.filename}: data set {name} holds {found.dtype}, must hold numbers")
    if not found.shape or not fits(found.shape):
        raise DataError(f"{file.filename}: data set {name} has shape {found.shape}, must be {wanted}")
    require_filters(found)
    return found


def named_object(file: "h5py.File", name: str, missing: str = "") -> Any:
    """Return the object of that name in a file, and tell a missing name from a broken link.

    Raises:
        DataError: if there is no such name, or a link that leads to nothing, or the object is damaged.
    """
    import h5py

    try:
        return file[name]
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        link = file.get(name, getlink=True) if name in file else None
        reason = str(error.args[0]) if error.args else str(error)
    if isinstance(link, h5py.ExternalLink):
        where = f"is a link to {link.path} in the file {link.filename}"
        raise DataError(f"{file.filename}: {name} {where}, which cannot be opened ({reason}): put it there")
    if isinstance(link, h5py.SoftLink):
        raise DataError(
            f"{file.filename}: {name} is a link to {link.path}, which the file does not hold: correct the link"
        )
    if link is not None:
        raise DataError(
            f"{file.filename}: {name} cannot be opened ({reason}): the file is damaged, copy it again"
        )
    held = ", ".join(sorted(file)) or "none"
    raise DataError(f"{file.filename}: data set {missing or name} is missing; the file holds {held}")


def column(file: "h5py.File", name: str, missing: str = "") -> "h5py.Dataset":
    """Return a data set with one number for each row, shape (N, 1) or (N,); raises as `numbers` does."""
    return numbers(file, name, "(N, 1) or (N,)", lambda shape: math.prod(shape[1:]) == 1, missing)


def require_equal_rows(first: "h5py.Dataset", *others: "h5py.Dataset") -> None:
    """Check that data sets have as many rows as the first, and that it has some.

    Raises:
        DataError: if not.
    """
    name, rows = first.name.lstrip("/"), first.shape[0]
    if rows == 0:
        raise DataError(f"{first.file.filename}: data set {name} has no rows")
    for other in others:
        if other.shape[0] != rows:
            raise DataError(
                f"{first.file.filename}: data set {other.name.lstrip('/')} has {other.shape[0]} rows and {name} has "
                f"{rows}: they must be equal"
            )


def text_attribute(holder: "h5py.File | h5py.Dataset", name: str) -> str | None:
    """Return an attribute as text, None where there is none."""
    found = holder.attrs.get(name)
    if found is None:
        return None
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)


def require_filters(data_set: "h5py.Dataset") -> None:
    """Check that HDF5 can decompress a data set; loads hdf5plugin where it is installed and may be needed.

    Raises:
        DataError: naming the filter that is missing.
    """
    import h5py

    if data_set.is_virtual:  # its sources may need any filter
        load_plugins()
    plist = data_set.id.get_create_plist()
    for place in range(plist.get_nfilters()):
        number, _, _, told = plist.get_filter(place)
        if h5py.h5z.filter_avail(number) or (load_plugins() and h5py.h5z.filter_avail(number)):
            continue
        name = PLUGINS.get(number) or told.decode(errors="replace") or "not named"
        remedy = (
            "pip install hdf5plugin, which reads it"
            if number in PLUGINS and not load_plugins()
            else "write the file anew where it can be read, as by h5repack -f GZIP=4 OLD NEW"
        )
        raise DataError(
            f"{display_name(data_set)} is stored with filter {number} ({name}), which this HDF5 lacks: {remedy}"
        )


def compression_of(data_set: "h5py.Dataset") -> str:
    """Return the name of the filter that makes a data set smaller, or none."""
    plist = data_set.id.get_create_plist()
    others = [PLUGINS.get(plist.get_filter(place)[0]) for place in range(plist.get_nfilters())]
    return next(filter(None, others), None) or data_set.compression or "none"


@functools.cache
def load_plugins() -> bool:
    """Register the filters of hdf5plugin; return False where it is not installed."""
    try:
        importlib.import_module("hdf5plugin")
    except ImportError:
        return False
    return True


def display_name(data_set: "h5py.Dataset") -> str:
    """Return the name of a data set in messages."""
    return f"{data_set.file.filename}: data set {str(data_set.name).lstrip('/')}"


class FileRows:
    """Rows of an open file whose cells and conditions are each in one or more data sets.

    Args:
        cells: the data sets whose rows make a shower, one after the other.
        cells_factor: factor on them, to GeV.
        offset: subtracted from them before.
        shape: shape of a shower.
        columns: data sets of the conditions; of one with several columns, such as ``target``, the second counts.
        energy_unit: unit of the first condition.
        signed: whether cells may be below 0.
    """

    def __init__(
        self,
        file: "h5py.File",
        cells: Sequence["h5py.Dataset"],
        *,
        shape: tuple[int, ...],
        columns: Sequence[str],
        cells_factor: float = 1.0,
        energy_unit: str = "GeV",
        offset: float = 0.0,
        signed: bool = False,
    ) -> None:
        self._file_name = file.filename
        self._readers = [RowReader(part, offset=offset, factor=cells_factor) for part in cells]
        self._row_shapes: list[tuple[int, ...]] = [part.shape[1:] for part in cells]
        ends = [0, *itertools.accumulate(math.prod(row_shape) for row_shape in self._row_shapes)]
        names = [part.name.lstrip("/") for part in cells]
        self._cells = dict(zip(names, itertools.starmap(slice, itertools.pairwise(ends)), strict=True))
        self._shape = shape
        self._columns = {name: file[name] for name in columns}
        self._signed = signed
        self.data_sets = tuple(self._cells), tuple(self._columns)
        self.cells_factor = cells_factor
        self._factors = [
            UNITS[energy_unit] if number == 0 else _angle_factor(values)
            for number, values in enumerate(self._columns.values())
        ]
        first = next(iter(self._columns.values()))
        place = f"[:, {'0, ' * (first.ndim - 2)}1]" if first.ndim > 1 and first.shape[-1] > 1 else ""
        self.energy_source = f"{columns[0]}{place} in {energy_unit}"

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
        with self._reading(start, stop):
            self._place_cells(rows, showers, places)
        conditions[places] = self.conditions(start, stop)[rows - start]

    def conditions(self, start: int, stop: int) -> np.ndarray:
        found = np.empty((stop - start, len(self._columns)), dtype=np.float32)
        with self._reading(start, stop):
            for number, values in enumerate(self._columns.values()):
                table = values[start:stop].reshape(stop - start, -1)
                found[:, number] = table[:, min(table.shape[1] - 1, 1)]
        for number, factor in enumerate(self._factors):
            if factor != 1:
                found[:, number] *= np.float32(factor)
        return found

    @contextmanager
    def _reading(self, start: int, stop: int) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self._file_name}: rows {start} to {stop - 1} cannot be read: {why_unreadable(error)}"
            ) from error

    def _place_cells(self, rows: np.ndarray, showers: np.ndarray, places: np.ndarray) -> None:
        if len(self._readers) == 1:
            self._readers[0].read(rows, showers, places)
            return
        for reader, row_shape, part in zip(
            self._readers, self._row_shapes, self._cells.values(), strict=True
        ):
            # Splitting the last axis gives a view even of a part of the rows.
            reader.read(rows, showers[:, part].reshape(-1, *row_shape), places)

    def problems(self, showers: np.ndarray, conditions: np.ndarray, first_row: int) -> list[Problem]:
        columns = tuple(self._columns)
        if rows_are_good(showers, conditions, self._signed, ("energy", *columns[1:])):
            return []
        return broken_rules(showers, conditions, first_row, self._cells, columns, self._signed)


def _angle_factor(data_set: "h5py.Dataset") -> float:
    """Return the factor to rad, from the attribute ``units``; without it, the file is in rad."""
    told = text_attribute(data_set, "units") or ""
    return math.pi / 180 if told.strip().lower().startswith("deg") else 1.0
