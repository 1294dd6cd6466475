"""Check that the numbers of a data set exist in its file, or in the files that it refers to.

HDF5 gives a fill value, zero as a rule, for what was never written, for a part of a virtual data set whose source is
missing, and for the missing end of an external raw file. Such zeros look like data, so they are found before anything
is read.
"""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.data.formats.data_sets import display_name, numbers, require_filters
from dist_calo.data.formats.whole_files import open_file
from dist_calo.errors import DataError

if TYPE_CHECKING:
    import h5py

_UNLIMITED = 2**64 - 1
_BY_USER = 2
"""HDF5's number for a fill value that the file's author chose."""
_NUMBERED = re.compile(r"%(\d*)b")


def require_stored(data_set: "h5py.Dataset", *, may_be_filled: bool = False) -> list[str]:
    """Check that every row of a data set was written, and return the other files that hold some of it.

    Rows count as written once a part of them is: cells where no shower ever has energy may be left out of a file.

    Args:
        data_set: with a row for each shower.
        may_be_filled: whether rows may be left to a fill value that the file's author chose.

    Raises:
        DataError: naming the source that is missing or too short, or the first row that was never written.
    """
    check = _Check(may_be_filled)
    check.data_set(data_set)
    return list(check.sources)


class _Check:
    """Check of one data set and all its sources."""

    def __init__(self, may_be_filled: bool) -> None:
        self._may_be_filled = may_be_filled
        self._within: list[str] = []
        self.sources: dict[str, None] = {}
        """The other files, in the order found."""

    def data_set(self, data_set: "h5py.Dataset") -> None:
        label = display_name(data_set)
        require_filters(data_set)
        if label in self._within:
            raise DataError(f"{label}: is a virtual data set made of itself: make it again")
        if data_set.external:
            self._external(data_set)
            return
        if data_set.is_virtual:
            self._within.append(label)
            written = self._virtual_rows(data_set)
            self._within.pop()
            reason = "comes from no source file: make the virtual data set again, with all sources"
        elif self._may_be_filled and data_set.id.get_create_plist().fill_value_defined() == _BY_USER:
            return
        else:
            written = _written_rows(data_set)
            reason = "was never written, and HDF5 would make numbers up: complete the file or make it again"
        if not written.all():
            missing = np.flatnonzero(~written)
            raise DataError(f"{label}, row {missing[0]}: {reason} ({len(missing)} of {len(written)} rows)")

    def _external(self, data_set: "h5py.Dataset") -> None:
        """Check that raw files exist and are long enough."""
        label, left = display_name(data_set), data_set.size * data_set.dtype.itemsize
        origin = os.path.dirname(os.path.abspath(data_set.file.filename))
        prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "").replace("${ORIGIN}", origin)
        for name, offset, size in data_set.external:
            path, wanted = os.path.join(prefix, name), left if size == _UNLIMITED else min(left, size)
            try:
                there = os.stat(path).st_size
            except OSError as error:
                raise DataError(
                    f"{label}: its raw file {path} cannot be read ({error.strerror}), looked from {os.getcwd()}: "
                    "put it there, or name its folder in HDF5_EXTFILE_PREFIX"
                ) from None
            if there < offset + wanted:
                raise DataError(
                    f"{label}: its raw file {path} has {there} bytes, must have {offset + wanted}: copy it again"
                )
            self.sources[path] = None
            left -= wanted
        if left > 0:
            raise DataError(f"{label}: its raw files hold {left} bytes too few: make the file again")

    def _virtual_rows(self, data_set: "h5py.Dataset") -> np.ndarray:
        """Return which rows have a source, bool with shape (N,), after a check of all sources."""
        rows = data_set.shape[0]
        covered = np.zeros(rows, dtype=bool)
        for part in data_set.virtual_sources():
            names, space = (part.file_name, part.dset_name), part.vspace
            if any(map(_NUMBERED.search, names)):
                start, stride, _, block = (values[0] for values in space.get_regular_hyperslab())
                begins = range(start, rows, stride)
                _require_no_gap(data_set, *names, len(begins))
                for number, begin in enumerate(begins):
                    file_name, name = (_expanded(name, number) for name in names)
                    self._source(data_set, file_name, name)
                    covered[begin : begin + block] = True
                continue
            mapped = np.fromiter(_rows_of(space, rows), dtype=np.int64)
            try:
                points: int | None = space.get_select_npoints()
            except RuntimeError:  # unlimited: as far as the source goes
                points = None
            length = self._source(data_set, *names, part.src_space, points)
            covered[mapped if points is not None else mapped[:length]] = True
        return covered

    def _source(
        self,
        data_set: "h5py.Dataset",
        file_name: str,
        name: str,
        space: "h5py.h5s.SpaceID | None" = None,
        points: int | None = None,
    ) -> int:
        """Check one source of a virtual data set and return the number of its rows."""
        label = f"{display_name(data_set)}: its source"
        with ExitStack() as stack:
            file = data_set.file
            if file_name != ".":
                path = _found(data_set, file_name)
                if path is None:
                    tried = ", ".join(_places(data_set, file_name))
                    raise DataError(
                        f"{label} {file_name} is missing, looked for as {tried}: put it there, or name its "
                        "folder in HDF5_VDS_PREFIX"
                    )
                self.sources[path] = None
                try:
                    file = stack.enter_context(open_file(path))
                except DataError as error:
                    raise DataError(f"{label}: {error}") from error
            try:
                source = numbers(file, name.lstrip("/"), "an array with a row for each shower", bool)
            except DataError as error:
                raise DataError(f"{label}: {error}") from error
            if not _holds(source, space, points):
                raise DataError(
                    f"{label} {name} in {file.filename} has shape {source.shape}, less than what is taken from it: "
                    "complete it, or make the virtual data set again"
                )
            self.data_set(source)
            return int(source.shape[0])


def _holds(source: "h5py.Dataset", space: "h5py.h5s.SpaceID | None", points: int | None) -> bool:
    """Return whether a source is as large as the selection from it, of so many points if they are limited."""
    import h5py

    if space is None or space.get_select_type() == h5py.h5s.SEL_ALL:
        return points is None or points <= source.size
    try:
        _, last = space.get_select_bounds()
    except RuntimeError:  # unlimited
        return True
    return len(last) == source.ndim and all(
        end < length for end, length in zip(last, source.shape, strict=True)
    )


def _rows_of(space: "h5py.h5s.SpaceID", rows: int) -> Iterator[int]:
    """Return the rows that a selection of a virtual data set touches."""
    import h5py

    if space.get_select_type() == h5py.h5s.SEL_ALL:
        yield from range(rows)
    elif space.is_regular_hyperslab():
        start, stride, count, block = (values[0] for values in space.get_regular_hyperslab())
        for begin in itertools.islice(range(start, rows, stride), None if count == _UNLIMITED else count):
            yield from range(begin, min(begin + block, rows))
    else:
        low, high = space.get_select_bounds()
        yield from range(low[0], min(high[0] + 1, rows))


def _written_rows(data_set: "h5py.Dataset") -> np.ndarray:
    """Return which rows have storage, bool with shape (N,)."""
    rows = data_set.shape[0]
    if not data_set.size:
        return np.ones(rows, dtype=bool)
    if not data_set.chunks:
        return np.full(rows, data_set.id.get_storage_size() > 0)
    chunks = [-(-length // chunk) for length, chunk in zip(data_set.shape, data_set.chunks, strict=True)]
    if data_set.id.get_num_chunks() >= np.prod(chunks):
        return np.ones(rows, dtype=bool)
    found = np.zeros(chunks[0], dtype=bool)
    data_set.id.chunk_iter(lambda chunk: found.__setitem__(chunk.chunk_offset[0] // data_set.chunks[0], True))
    written: np.ndarray = np.repeat(found, data_set.chunks[0])[:rows]
    return written


def _places(data_set: "h5py.Dataset", file_name: str) -> list[str]:
    """Return the paths where HDF5 searches for a source file, in its order."""
    label = data_set.file.filename
    last = os.path.basename(file_name)
    name = last if os.path.isabs(file_name) else file_name
    folders = [
        *filter(None, os.environ.get("HDF5_VDS_PREFIX", "").split(":")),
        os.path.dirname(label),
        "",
        os.path.dirname(os.path.realpath(label)),
    ]
    origin = os.path.dirname(os.path.abspath(label))
    places = [os.path.join(folder.replace("${ORIGIN}", origin), name) for folder in folders]
    return list(dict.fromkeys(([file_name] if os.path.isabs(file_name) else []) + places))


def _found(data_set: "h5py.Dataset", file_name: str) -> str | None:
    """Return the path of a source file, None if it does not exist."""
    return next(filter(os.path.exists, _places(data_set, file_name)), None)


def _require_no_gap(data_set: "h5py.Dataset", file_name: str, name: str, count: int) -> None:
    """Check that no numbered source follows the first missing one, where HDF5 ends the data set."""
    if _NUMBERED.search(file_name):
        folder, pattern = os.path.split(_places(data_set, file_name)[0])
        there = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    else:
        pattern, there = name.lstrip("/"), []
        path = data_set.file.filename if file_name == "." else _found(data_set, file_name)
        if path is not None:
            with open_file(path) as file:
                there = list(file)
    form = "".join(
        r"(\d+)" if _NUMBERED.fullmatch(piece) else re.escape(piece.replace("%%", "%"))
        for piece in re.split(r"(%\d*b)", pattern)
    )
    numbers = sorted(int(match[1]) for entry in there if (match := re.fullmatch(form, entry)))
    if numbers and numbers[-1] >= count:
        raise DataError(
            f"{display_name(data_set)}: its source {_expanded(file_name, count)} "
            f"({_expanded(name, count)}) is missing, and number {numbers[-1]} is there: HDF5 would leave out all after "
            "the gap, put it there"
        )


def _expanded(pattern: str, number: int) -> str:
    """Return the name of a numbered source, as HDF5 makes it."""
    return _NUMBERED.sub(lambda match: f"{number:0{match[1] or 0}d}", pattern).replace("%%", "%")
