"""Rows of a data set, read from the file directly into their places in memory.

HDF5 fills one contiguous range of rows; a shuffled batch then takes a second copy, which costs nearly as
much as the read itself. Here h5py only says where a chunk lies in the file, and each row goes from there
(or from the decompressed chunk) to its place in its batch. That works for float32 chunks of whole rows,
without compression or with gzip, which is what the package writes; all else (other filters, number formats
or chunks) goes through h5py.
"""

import os
import sys
import zlib
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import h5py

_NUMBER = np.dtype("<f4")
_MOST_PIECES = 1024
"""Places that one system call may fill."""

Storage = Literal["plain", "gzip", "other"]


class RowReader:
    """Reader of rows of one data set of an open file.

    Args:
        data_set: numbers with shape (N, ...).
        offset: subtracted from each number.
        factor: multiplies each number after that.
    """

    def __init__(self, data_set: "h5py.Dataset", *, offset: float = 0.0, factor: float = 1.0) -> None:
        self._data_set = data_set
        self._offset = np.float32(offset)
        self._factor = np.float32(factor)
        self._row_shape: tuple[int, ...] = data_set.shape[1:]
        self._row_bytes = _NUMBER.itemsize * int(np.prod(self._row_shape))
        self.storage, self._shuffled = _storage(data_set)
        self._file = data_set.file.id.get_vfd_handle() if self.storage != "other" else -1
        self._chunk_rows: int = data_set.chunks[0] if data_set.chunks else data_set.shape[0]

    def read(self, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """Read rows into ``out[places]``.

        Args:
            rows: the rows, ascending, shape (n,).
            out: float32 with shape (m, ...), of which each ``out[place]`` is contiguous.
            places: where in `out` each row goes, shape (n,).

        Raises:
            OSError: if the file is damaged.
        """
        self._read_stored(rows, out, places)
        # Row by row: an index of many rows would copy them.
        if self._offset:
            for place in places:
                out[place] -= self._offset
        if self._factor != 1:
            for place in places:
                out[place] *= self._factor

    def _read_stored(self, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        if self.storage == "other":
            self._read_by_h5py(rows, out, places)
            return
        chunks = rows // self._chunk_rows
        bounds = np.flatnonzero(np.diff(chunks)) + 1
        for first, last in zip([0, *bounds], [*bounds, len(rows)], strict=True):
            self._read_chunk(int(chunks[first]) * self._chunk_rows, rows[first:last], out, places[first:last])

    def _read_chunk(self, start: int, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """Read rows of the chunk that begins with row `start`."""
        if self._data_set.chunks:
            info = self._data_set.id.get_chunk_info_by_coord((start, *(0 for _ in self._row_shape)))
            offset, size, skipped_filters = info.byte_offset, info.size, info.filter_mask
        else:
            offset, size, skipped_filters = self._data_set.id.get_offset(), 0, 0
        if offset is None or skipped_filters:
            self._read_by_h5py(rows, out, places)
        elif self.storage == "plain":
            self._fill(offset, rows - start, out, places)
        else:
            self._decompress(os.pread(self._file, size, offset), rows - start, out, places)

    def _fill(self, offset: int, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        bounds = np.flatnonzero(np.diff(rows) != 1) + 1
        for first, last in zip([0, *bounds], [*bounds, len(rows)], strict=True):
            for part in range(first, last, _MOST_PIECES):
                pieces = [out[place] for place in places[part : min(part + _MOST_PIECES, last)]]
                read = os.preadv(self._file, pieces, offset + int(rows[part]) * self._row_bytes)
                if read != len(pieces) * self._row_bytes:
                    raise OSError(f"{read} bytes instead of {len(pieces) * self._row_bytes}")

    def _decompress(self, packed: bytes, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        size = self._chunk_rows * self._row_bytes
        try:
            unpacked = zlib.decompress(packed, bufsize=size)
        except zlib.error as error:
            raise OSError(f"gzip: {error}") from error
        if len(unpacked) != size:
            raise OSError(f"gzip: a chunk of {len(unpacked)} bytes instead of {size}")
        if not self._shuffled:
            chunk = np.frombuffer(unpacked, _NUMBER).reshape(self._chunk_rows, *self._row_shape)
            for row, place in zip(rows, places, strict=True):
                out[place] = chunk[row]
            return
        # HDF5's shuffle filter stores the first bytes of all numbers, then the second bytes, and so on.
        planes = np.frombuffer(unpacked, np.uint8).reshape(_NUMBER.itemsize, self._chunk_rows, -1)
        for row, place in zip(rows, places, strict=True):
            numbers = out[place].reshape(-1).view(np.uint8).reshape(-1, _NUMBER.itemsize)
            for byte, plane in enumerate(planes):
                numbers[:, byte] = plane[row]

    def _read_by_h5py(self, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        start, stop = int(rows[0]), int(rows[-1]) + 1
        # HDF5 converts numbers piece by piece: the rows are never held in two formats at once.
        found = self._data_set.astype(np.float32)[start:stop]
        # Rows without gaps need no selection, which would copy them once more.
        out[places] = found if len(found) == len(rows) else found[rows - start]


def _storage(data_set: "h5py.Dataset") -> tuple[Storage, bool]:
    """Return the storage of a data set, and whether its bytes are shuffled."""
    import h5py

    file = data_set.file
    if (
        sys.byteorder != "little"
        or data_set.dtype != _NUMBER
        or file.driver != "sec2"
        or file.userblock_size
        or data_set.external
        or data_set.is_virtual
    ):
        return "other", False
    if not data_set.chunks:
        return ("plain" if data_set.id.get_offset() is not None else "other"), False
    plist = data_set.id.get_create_plist()
    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    if data_set.chunks[1:] != data_set.shape[1:]:
        return "other", False
    if not filters:
        return "plain", False
    shuffled = filters == [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]
    return ("gzip" if shuffled or filters == [h5py.h5z.FILTER_DEFLATE] else "other"), shuffled
