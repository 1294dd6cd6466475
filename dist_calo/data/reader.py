"""Reader of samples of a data set by global id, directly into their places in memory."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.data.formats import ShowerRows, format_named
from dist_calo.data.formats.protocol import rows_are_good
from dist_calo.data.manifest import Manifest
from dist_calo.data.row_blocks import block_rows
from dist_calo.errors import DataError

if TYPE_CHECKING:
    import h5py

_OPEN_FILES = 16
_SPARE_ARRAYS = 2


class Reader:
    """Reader of samples, block by block, which keeps the last used files open.

    Raises, while reading:
        DataError: if a file has changed or cannot be read, or a row breaks a rule.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._format = format_named(manifest.format)
        self._first_ids = manifest.first_ids
        self._block_rows = np.array([block_rows(entry) for entry in manifest.files])
        self._open: OrderedDict[int, tuple[h5py.File, ShowerRows]] = OrderedDict()
        self._memory = _Memory()

    def read(
        self, ids: np.ndarray, stopped: Callable[[], bool] = lambda: False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read samples, the rows of each block by one contiguous read.

        Args:
            ids: global sample ids in any order, each once, shape (n,).
            stopped: asked before each block; once true the rest is left unread.

        Returns:
            Showers in GeV, or waveforms above the baseline, float32 with shape (n, *geometry.shape), and
            conditions, float32 with shape (n, C), in the order of `ids`.
        """
        geometry = self._manifest.geometry
        showers = self._memory.array((len(ids), *geometry.shape))
        conditions = np.empty((len(ids), len(geometry.conditions)), dtype=np.float32)
        places = np.argsort(ids)
        files = np.searchsorted(self._first_ids, ids[places], side="right") - 1
        rows = ids[places] - self._first_ids[files]
        blocks = rows // self._block_rows[files]
        bounds = np.flatnonzero((np.diff(files) != 0) | (np.diff(blocks) != 0)) + 1
        for first, last in zip([0, *bounds], [*bounds, len(ids)], strict=True):
            if first == last or stopped():
                return showers, conditions
            opened = self._opened(int(files[first]))
            opened.place(rows[first:last], showers, conditions, places[first:last])
        if not self._manifest.options.as_found and not rows_are_good(
            showers, conditions, geometry.signed, geometry.conditions
        ):
            self._raise_first(files, rows, showers[places], conditions[places])
        return showers, conditions

    def _raise_first(
        self, files: np.ndarray, rows: np.ndarray, showers: np.ndarray, conditions: np.ndarray
    ) -> None:
        """Raise an error for the first row that breaks a rule, if any; rows are in file order."""
        for number, (file, row) in enumerate(zip(files.tolist(), rows.tolist(), strict=True)):
            one = slice(number, number + 1)
            for problem in self._opened(file).problems(showers[one], conditions[one], row):
                path = self._manifest.files[file].path
                raise DataError(f"{path}: {problem}; {problem.advice}")

    def _opened(self, number: int) -> ShowerRows:
        if number not in self._open:
            entry = self._manifest.files[number]
            if len(self._open) == _OPEN_FILES:
                self._open.popitem(last=False)[1][0].close()
            file = entry.open()
            options = self._manifest.options
            geometry = self._manifest.geometry
            try:
                # The geometry of the manifest spares thousands of ranks a search for binning files.
                found = self._format.describe(file, options, known=geometry)
                if (found.rows, found.geometry) != (entry.rows, geometry):
                    raise DataError(f"{entry.path}: the file has changed since the manifest was made")
                self._open[number] = file, self._format.rows(file, options)
            except DataError:
                file.close()
                raise
        self._open.move_to_end(number)
        return self._open[number][1]

    def close(self) -> None:
        """Close the files; arrays that were handed out stay valid."""
        for file, _ in self._open.values():
            file.close()
        self._open.clear()


class _Memory:
    """Arrays whose memory is reused once their last view is gone.

    New memory from the system takes more time than copying showers into it.
    """

    def __init__(self) -> None:
        self._spare: deque[np.ndarray] = deque(maxlen=_SPARE_ARRAYS)

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an uninitialised float32 array."""
        size = int(np.prod(shape))
        memory = self._spare.popleft() if self._spare else np.empty(0, dtype=np.float32)
        if len(memory) < size:
            memory = np.empty(size, dtype=np.float32)
        return np.asarray(_Loan(memory, self._spare))[:size].reshape(shape)


class _Loan:
    """Owner, for NumPy, of the memory of an array; returns it when no view of the array is left."""

    def __init__(self, memory: np.ndarray, lender: "deque[np.ndarray]") -> None:
        self._memory = memory
        self._lender = lender
        self.__array_interface__: dict[str, Any] = memory.__array_interface__

    def __del__(self) -> None:
        self._lender.append(self._memory)
