"""What the readers of all schemas share: finding data sets of the right shape, and reading rows from them."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.data.formats.protocol import Problem, broken_rules, rows_are_good
from dist_calo.data.formats.rows import RowReader
from dist_calo.errors import DataError

if TYPE_CHECKING:
    import h5py


def numbers(
    file: "h5py.File", name: str, wanted: str, fits: Callable[[tuple[int, ...]], bool], missing: str = ""
) -> "h5py.Dataset":
    """An array of numbers whose shape fits.

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

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        held = ", ".join(sorted(file)) or "none"
        raise DataError(f"{file.filename}: data set {missing or name} is missing; the file holds {held}")
    if found.dtype.kind not in "fiu":
        raise DataError(f"{file.filename}: data set {name} holds {found.dtype}, must hold numbers")
    if not found.shape or not fits(found.shape):
        raise DataError(f"{file.filename}: data set {name} has shape {found.shape}, must be {wanted}")
    return found


def column(file: "h5py.File", name: str, missing: str = "") -> "h5py.Dataset":
    """A number for each row: an array of shape (N, 1) or (N,); raises as `numbers` does."""
    return numbers(file, name, "(N, 1) or (N,)", lambda shape: shape[1:] in ((), (1,)), missing)


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
    """An attribute as text, None where there is none."""
    found = holder.attrs.get(name)
    if found is None:
        return None
    return found.decode() if isinstance(found, bytes) else str(found)


class FileRows:
    """Rows of an open file whose showers lie in one or more data sets and whose conditions lie in others.

    Args:
        cells: the data sets whose rows make a shower, one after the other.
        cells_factor: factor on them, to GeV.
        offset: subtracted from them before.
        shape: shape of a shower.
        columns: data sets of the conditions; of one with several columns, such as ``target``, the second counts.
        energy_factor: factor on the first condition, to GeV.
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
        energy_factor: float = 1.0,
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
        self._energy_factor = np.float32(energy_factor)
        self._signed = signed
        self.data_sets = (*self._cells, *self._columns)
        self.cells_factor = cells_factor

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
            self._place_cells(rows, showers, places)
            conditions[places] = self.conditions(start, stop)[rows - start]
        except OSError as error:
            raise DataError(
                f"{self._file_name}: rows {start} to {stop - 1} cannot be read ({error}): the file is damaged, "
                "make or copy it again"
            ) from error

    def conditions(self, start: int, stop: int) -> np.ndarray:
        found = np.empty((stop - start, len(self._columns)), dtype=np.float32)
        for number, values in enumerate(self._columns.values()):
            table = values[start:stop].reshape(stop - start, -1)
            found[:, number] = table[:, min(table.shape[1] - 1, 1)]
        if self._energy_factor != 1:
            found[:, 0] *= self._energy_factor
        return found

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
        if rows_are_good(showers, conditions, self._signed):
            return []
        columns = tuple(self._columns)
        return broken_rules(showers, conditions, first_row, self._cells, columns, self._signed)
