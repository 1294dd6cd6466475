"""Writer of showers, by default in the schema that the reader of their geometry reads."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from dist_calo.data.formats.data_sets import load_plugins
from dist_calo.data.formats.schema import SchemaName, StoredArray, schema_of
from dist_calo.data.formats.whole_files import abandon
from dist_calo.errors import ConfigError
from dist_calo.files import publish, writing
from dist_calo.geometry import Geometry

Compression = Literal["gzip", "zstd", "lzf", "none"]
ZSTD = 32015
"""Registered number of the Zstandard filter."""


class ShowerWriter:
    """Shower file that grows by batches and appears under its name only once it is complete.

    Showers go to a temporary file beside it, which is flushed to disk and renamed when the ``with`` block
    ends, and removed when the block raises.

        with ShowerWriter("fake.h5", geometry, {"particle": "e-"}) as writer:
            writer.append(showers, conditions)

    Args:
        path: the file to make; replaced if it exists.
        geometry: shape and conditions of the showers.
        attributes: further attributes of the file: numbers, strings or arrays of them, by name.
        chunk_rows: showers of an HDF5 chunk, which is what can be read at once without reading more.
        compression: ``gzip`` (readable everywhere), ``zstd`` (as small and five times as quick to read; asks readers
            for hdf5plugin), ``lzf`` or ``none``.
        level: effort of gzip and zstd, from 1 to 9.
        extras: data sets to write besides, which `append` is given.
        schema: whose data sets to write.

    Raises:
        ConfigError: if the schema has no place for what the geometry reads out, or hdf5plugin is missing for zstd.
        OSError: if the folder does not exist or cannot be written to.
    """

    def __init__(
        self,
        path: str | Path,
        geometry: Geometry,
        attributes: Mapping[str, Any] | None = None,
        *,
        chunk_rows: int = 32,
        compression: Compression = "gzip",
        level: int = 4,
        extras: Sequence[StoredArray] = (),
        schema: SchemaName = "native",
    ) -> None:
        import h5py

        described = dict(attributes or {})
        stored = schema_of(geometry, described.get("particle"), schema)
        self.path = Path(path)
        self.rows = 0
        """Showers appended so far."""
        self._written = 0
        self._geometry = geometry
        self._chunk_rows = chunk_rows
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        if compression == "zstd" and not load_plugins():
            raise ConfigError("compression zstd needs hdf5plugin: pip install hdf5plugin, or take gzip")
        choices: dict[Compression, dict[str, Any]] = {
            "gzip": {"compression": "gzip", "compression_opts": level},
            "zstd": {"compression": ZSTD, "compression_opts": (level,)},
            "lzf": {"compression": "lzf"},
            "none": {},
        }
        filters = choices[compression]
        with self._writing():
            # No other process knows the temporary name: it needs no lock, which some file systems refuse.
            self._file = h5py.File(self._temporary, "w", locking=False)
        with self._writing():
            self.add_attributes(described | stored.attributes)
            # Bytes apart make waveforms smaller, and energies, most of which are 0, larger and slower to read.
            apart = {"shuffle": True} if filters and geometry.signed else {}
            self._arrays = [(array, self._new_data_set(array, filters | apart)) for array in stored.arrays]
            self._extras = [(array, self._new_data_set(array, filters)) for array in extras]
        self._waiting: list[list[np.ndarray]] = []
        self._waiting_rows = 0

    def _new_data_set(self, array: StoredArray, filters: dict[str, Any]) -> Any:
        made = self._file.create_dataset(
            array.name,
            (0, *array.shape),
            array.dtype,
            maxshape=(None, *array.shape),
            chunks=(self._chunk_rows if array.cells else 1024, *array.shape),
            **(filters if array.cells else {}),
        )
        made.attrs.update(array.attributes)
        return made

    def add_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes to the file."""
        for name, value in attributes.items():
            # Attributes read from a file may not be Unicode.
            text = value.encode(errors="replace").decode() if isinstance(value, str) else value
            self._file.attrs[name] = text

    def append(
        self, showers: np.ndarray, conditions: np.ndarray, extras: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Add showers.

        Args:
            showers: energies of cells in GeV, or samples above the baseline, shape (n, *geometry.shape).
            conditions: shape (n, len(geometry.conditions)), in the geometry's order.
            extras: rows of the writer's extra data sets by name, shape (n, ...) each.

        Raises:
            ValueError: if a shape differs from these.
        """
        if showers.shape[1:] != self._geometry.shape:
            raise ValueError(f"showers have shape {showers.shape}, must be (n, *{self._geometry.shape})")
        wanted = (len(showers), len(self._geometry.conditions))
        if conditions.shape != wanted:
            raise ValueError(f"conditions have shape {conditions.shape}, must be {wanted}")
        given = [(extras or {})[array.name] for array, _ in self._extras]
        for (array, _), values in zip(self._extras, given, strict=True):
            if values.shape != (len(showers), *array.shape):
                raise ValueError(
                    f"{array.name} has shape {values.shape}, must be {(len(showers), *array.shape)}"
                )
        self._waiting.append([showers, conditions, *given])
        self._waiting_rows += len(showers)
        self.rows += len(showers)
        if self._waiting_rows >= self._chunk_rows:
            self._write(self._waiting_rows - self._waiting_rows % self._chunk_rows)

    def _write(self, rows: int) -> None:
        """Write the first waiting rows: whole chunks, as each write to a chunk compresses it again."""
        with self._writing():
            self._put(rows)

    def _put(self, rows: int) -> None:
        joined = [np.concatenate(parts) for parts in zip(*self._waiting, strict=True)]
        showers, conditions, *extras = (values[:rows] for values in joined)
        stop = self._written + rows
        for array, data_set in self._arrays:
            data_set.resize(stop, axis=0)
            data_set[self._written : stop] = array.values(showers, conditions)
        for (_, data_set), values in zip(self._extras, extras, strict=True):
            data_set.resize(stop, axis=0)
            data_set[self._written : stop] = values
        self._written = stop
        rest = [values[rows:].copy() for values in joined]
        self._waiting = [rest] if len(rest[0]) else []
        self._waiting_rows -= rows

    def close(self) -> None:
        """Write the waiting rows and give the file its name.

        Raises:
            OSError: if the disk is full; nothing is left behind.
        """
        with self._writing():
            if self._waiting_rows:
                self._put(self._waiting_rows)
            # A file that cannot be flushed is still open, and can be abandoned.
            self._file.flush()
            self._file.close()
            publish(self._temporary, self.path)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Name the file in an error, and leave no temporary file behind."""
        try:
            with writing(self.path, "what was there before stays"):
                yield
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the unfinished file; an earlier file of that name stays."""
        if hasattr(self, "_file"):
            abandon(self._file)
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "ShowerWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
