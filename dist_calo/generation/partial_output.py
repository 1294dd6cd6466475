"""The partial output of a generation: each part is a complete file, and at the end they are joined.

While ``OUT`` is made there is a folder ``OUT.parts`` beside it::

    request.json        settings of the sample, so that parts of another one are not mixed in;
                        earlier versions called it what.json
    part-0000012.h5     rows [12 P, 13 P) of OUT; under this name only once it is complete and on disk
    .part-0000013...    a part under way
    lock                the lease of the process that leads

Joining copies the HDF5 chunks of the cells as they are stored, compressed. At that time the disk holds everything
twice.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_calo.data.formats import open_file
from dist_calo.data.formats.whole_files import abandon
from dist_calo.documents import read_json
from dist_calo.errors import ConfigError, DataError
from dist_calo.files import publish, write_text, writing
from dist_calo.leases.lease import Lease

if TYPE_CHECKING:
    import h5py

CHUNK_ROWS = 32
"""Showers of an HDF5 chunk of the cells."""
_FEWEST_ROWS, _MOST_ROWS, _PARTS = 1_000, 10_000, 16_384
_SHARES = 16
_NAME = re.compile(r"part-(\d{7,})\.h5")


def part_rows(samples: int, batch_size: int) -> int:
    """Return the rows of a part: whole batches and whole HDF5 chunks, whatever the number of ranks.

    About 1,000, up to 10,000 where there would be more than 16,384 parts, and less where there would be fewer than 16;
    at least the least common multiple of the batch size and the 32 rows of a chunk.
    """
    unit = math.lcm(batch_size, CHUNK_ROWS)
    least = min(_FEWEST_ROWS, samples / _SHARES)
    return unit * max(1, round(min(max(least, samples / _PARTS), _MOST_ROWS) / unit))


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The division of the rows of a file into parts."""

    samples: int
    """Rows of the file."""
    rows: int
    """Rows of a part; the last one may have fewer."""

    @property
    def count(self) -> int:
        """Return the number of parts."""
        return -(-self.samples // self.rows)

    def part(self, number: int) -> range:
        """Return the rows of a part."""
        return range(number * self.rows, min((number + 1) * self.rows, self.samples))


class PartialOutput:
    """The folder that holds the parts of a file.

    Args:
        out: the file to make.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.parts")
        self._request = self.folder / "request.json"
        self._earlier = self.folder / "what.json"
        self._lease = Lease(self.folder / "lock")
        self._held = ExitStack()

    def path(self, number: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"part-{number:07d}.h5"

    def complete(self) -> set[int]:
        """Return the numbers of the parts that are complete."""
        return {int(match[1]) for match in map(_NAME.fullmatch, os.listdir(self.folder)) if match}

    def open(self, settings: Mapping[str, Any], *, renew: bool) -> None:
        """Begin a sample, or continue the one that another process has begun; for one process alone.

        Args:
            settings: those of the sample, plain values by the names of the options.
            renew: whether parts of another sample are dropped.

        Raises:
            ConfigError: if the folder has parts of another sample.
            DataError: if another process works on it, or the folder cannot be written.
        """
        wanted = json.loads(json.dumps(settings))
        try:
            self.folder.mkdir(exist_ok=True)
            self._take_lease()
            try:
                self._require_same(wanted)
            except ConfigError:
                if not renew:
                    raise
                self._request.unlink(missing_ok=True)
                for number in self.complete():
                    self.path(number).unlink()
            for left in self.folder.glob(".*.tmp"):
                left.unlink()
            write_text(self._request, json.dumps(wanted, indent=2) + "\n")
            self._earlier.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be written ({error.strerror}): name a file in a folder that exists and has room"
            ) from error

    def _require_same(self, wanted: dict[str, Any]) -> None:
        anew = "--force to start anew, or another --out"
        remedy = f"give the same options to continue, {anew}"
        try:
            is_earlier = self._earlier.exists() and not self._request.exists()
            file = self._earlier if is_earlier else self._request
            begun = read_json(file, dict[str, Any], ConfigError, f"give {anew}")
        except (ConfigError, FileNotFoundError) as error:
            if self.complete():
                raise ConfigError(str(error)) from None
            return
        for name in wanted | begun:
            if begun.get(name) != wanted.get(name):
                raise ConfigError(
                    f"--{name} {_shown(wanted.get(name))}: {self.folder} was begun with "
                    f"{_shown(begun.get(name))}; {remedy}"
                )

    def _take_lease(self) -> None:
        if not self._lease.wait(timeout_s=0.0):
            raise DataError(
                f"{self.folder}{self._lease.held_by}: another process is making {self.out.name}; wait for it or name "
                "another --out"
            )
        self._held.enter_context(self._lease.kept())

    def close(self) -> None:
        """Let other processes in."""
        self._held.close()

    def join(self, partition: Partition) -> Iterator[int]:
        """Join all parts into the file, and remove them; yield after each part how many showers in it are empty.

        Raises:
            DataError: if a part is missing or damaged.
            OSError: if the disk is full; the parts are kept.
        """
        import h5py

        temporary = self.folder / ".whole.tmp"
        whole = None
        try:
            with writing(self.out, "what was there before stays"):
                whole = h5py.File(temporary, "w", locking=False)
                for number in range(partition.count):
                    with open_file(self.path(number)) as part:
                        yield self._add(whole, part, partition, number)
                whole.flush()
                whole.close()
                publish(temporary, self.out)
        except BaseException:
            if whole is not None:
                abandon(whole)
            temporary.unlink(missing_ok=True)
            raise
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _add(self, whole: "h5py.File", part: "h5py.File", partition: Partition, number: int) -> int:
        rows = partition.part(number)
        attributes = dict(part.attrs)
        empty = int(attributes.pop("empty_showers", 0))
        try:
            if number == 0:
                whole.attrs.update(attributes)
                for values in part.values():
                    _like(values, whole, partition.samples).attrs.update(values.attrs)
            for name, target in whole.items():
                if len(part[name]) != len(rows):
                    raise DataError(f"{len(part[name])} rows of {name} instead of {len(rows)}")
                _copy(part[name], target, rows.start)
        except (DataError, KeyError) as error:
            raise DataError(
                f"{part.filename}: damaged ({error}): remove it and give the same command again"
            ) from error
        return empty


def _like(values: "h5py.Dataset", whole: "h5py.File", rows: int) -> "h5py.Dataset":
    """Make a data set that is stored in the same way, with another number of rows."""
    return whole.create_dataset(
        values.name.lstrip("/"),
        (rows, *values.shape[1:]),
        values.dtype,
        maxshape=values.maxshape,
        chunks=values.chunks,
        compression=values.compression,
        compression_opts=values.compression_opts,
        shuffle=values.shuffle,
    )


def _copy(source: "h5py.Dataset", target: "h5py.Dataset", first: int) -> None:
    """Copy all rows; chunks that begin at a chunk of the target are copied as they are stored.

    A part that another version of the package wrote may be stored in another way.
    """
    chunk_rows = source.chunks[0]
    ways = ((each.chunks, each.compression, each.shuffle) for each in (source, target))
    if first % chunk_rows or len(set(ways)) > 1:
        target[first : first + len(source)] = source[:]
        return
    rest = (0,) * (source.ndim - 1)
    for row in range(0, len(source), chunk_rows):
        skipped_filters, stored = source.id.read_direct_chunk((row, *rest))
        target.id.write_direct_chunk((first + row, *rest), stored, skipped_filters)


def _shown(value: Any) -> str:
    return "(none)" if value is None else str(value)
