"""Manifest of a data set: its files, and the fingerprints that show that they have not changed.

One rank builds it (it opens every file) and broadcasts it as plain values; everything else about the
data follows from it. A sample's global id is its row's index over all files in sorted order.
"""

import glob
import hashlib
import json
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_calo.config import DataConfig
from dist_calo.data.formats import Format, Problem, ReadOptions, examine, format_named, open_file
from dist_calo.data.formats.protocol import AS_FILES_SAY
from dist_calo.data.formats.whole_files import require_not_being_written
from dist_calo.data.identity import FileIdentity, identity_of, require_unchanged
from dist_calo.documents import read_json
from dist_calo.errors import ConfigError, DataError
from dist_calo.geometry import Geometry, geometry_from_dict
from dist_calo.resources import shower_pattern

if TYPE_CHECKING:
    import h5py

_VERSION = 1
_SCAN_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class FileEntry(FileIdentity):
    """File of a data set."""

    name: str
    """Name below the folder that all files share."""
    rows: int
    chunk_rows: int | None
    """Showers of an HDF5 chunk; None where the file is not chunked."""
    sources: tuple[FileIdentity, ...] = ()
    """Other files that hold some of its data: sources of virtual data sets, and raw files."""

    @property
    def content(self) -> tuple[Any, ...]:
        """Return all that must be the same wherever the file is."""
        return self.rows, self.bytes, self.chunk_rows, self.fingerprint

    def open(self) -> "h5py.File":
        """Open the file for reading.

        Raises:
            DataError: if it has changed since it was first read, or cannot be read.
        """
        require_unchanged(self, *self.sources)
        return open_file(self.path)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Files of a data set, in sorted order."""

    format: str
    geometry: Geometry
    particle: str | None
    files: tuple[FileEntry, ...]
    options: ReadOptions = field(default_factory=ReadOptions)
    """Settings for the files."""

    @property
    def rows(self) -> int:
        """Showers in all files."""
        return sum(entry.rows for entry in self.files)

    @property
    def first_ids(self) -> np.ndarray:
        """Global id of each file's first row, then the number of all rows: int64 with shape (files + 1,)."""
        return np.cumsum([0, *(entry.rows for entry in self.files)], dtype=np.int64)

    @property
    def checksum(self) -> str:
        """SHA-256 over names, rows, sizes and fingerprints, independent of the folder.

        The settings for the files are included; a binning as its geometry, not as a path.
        """
        lines = [f"{entry.name}\t{entry.rows}\t{entry.bytes}\t{entry.fingerprint}\n" for entry in self.files]
        lines += [f"source\t{part.fingerprint}\n" for entry in self.files for part in entry.sources]
        for name in ("cell_unit", "energy_unit"):
            if (unit := getattr(self.options, name)) != getattr(AS_FILES_SAY, name):
                lines.append(f"{name}\t{unit}\n")
        if self.options.binning is not None:
            lines.append(f"geometry\t{json.dumps(self.geometry.to_dict(), sort_keys=True)}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as broadcast to the ranks, stored beside the data and logged."""
        return {
            "version": _VERSION,
            "format": self.format,
            "geometry": self.geometry.to_dict(),
            "particle": self.particle,
            "options": asdict(self.options),
            "rows": self.rows,
            "checksum": self.checksum,
            "files": [asdict(entry) for entry in self.files],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Manifest":
        """Rebuild the manifest that `to_dict` described.

        Raises:
            DataError: if the values are no manifest of this version, or do not fit their checksum.
        """
        try:
            manifest = cls(
                format=values["format"],
                geometry=geometry_from_dict(values["geometry"]),
                particle=values["particle"],
                files=tuple(_entry(**entry) for entry in values["files"]),
                options=ReadOptions(**values.get("options", {})),
            )
            version, checksum = values["version"], values["checksum"]
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise DataError(
                f"not a manifest ({error}): make it with dist-calo data validate --manifest"
            ) from error
        if version != _VERSION or checksum != manifest.checksum:
            raise DataError(
                f"a manifest of version {version} with checksum {str(checksum)[:12]}, must be version {_VERSION} "
                f"with {manifest.checksum[:12]}: make it anew with dist-calo data validate --manifest"
            )
        return manifest

    def to_json(self) -> str:
        """Return `to_dict` as readable text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def build_manifest(config: DataConfig, as_found: bool = False) -> Manifest:
    """Build the manifest of the files that ``config.path`` names.

    Opens every file and reads a few of its showers, to check their units, unless showers are taken as they are found.
    Where ``config.manifest`` names a manifest, the files must be those in it.

    Raises:
        DataError: if no file matches; if a file is truncated, lacks a data set or has one of the wrong shape;
            if geometries or particles differ between files; if energies contradict their units; if the files
            differ from the stored manifest.
        ConfigError: if the format is not known.
    """
    try:
        files = matching_files(*config.patterns)
    except DataError as error:
        raise DataError(f"data.path={error}") from error
    options = ReadOptions(
        cell_unit=config.cell_unit,
        energy_unit=config.energy_unit,
        binning=config.binning,
        as_found=as_found,
    )
    manifest = manifest_of(files, config.format, options)
    if config.manifest is not None:
        known = read_manifest(config.manifest)
        try:
            require_same_files(known, manifest)
        except DataError as error:
            raise DataError(
                f"data.manifest={config.manifest}: {error}; if that was meant, make the manifest anew with "
                "dist-calo data validate --manifest FILE --renew"
            ) from error
    return manifest


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest that ``dist-calo data validate --manifest`` wrote.

    Raises:
        DataError: if the file cannot be read or is no manifest.
    """
    remedy = "make it with dist-calo data validate --manifest FILE"
    try:
        values = read_json(path, dict[str, Any], DataError, remedy)
    except FileNotFoundError:
        raise DataError(f"the manifest {path} cannot be read: there is no such file; {remedy}") from None
    try:
        return Manifest.from_dict(values)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def matching_files(*patterns: str) -> list[str]:
    """Return the files that paths or globs name, sorted; ``**`` means any depth of folders.

    Where nothing here has the name of the recipes' showers, they are those that come with the package.

    Raises:
        DataError: if one of them names none.
    """
    found: set[str] = set()
    for pattern in patterns:
        expanded = shower_pattern(os.path.expanduser(pattern))
        if os.path.isdir(expanded):
            raise DataError(
                f"{pattern} is a folder: name the files in it, such as {pattern.rstrip('/')}/*.h5"
            )
        matches = glob.glob(_literal_where_it_exists(expanded), recursive=True)
        # A broken link is an error when it is opened.
        files = [path for path in matches if os.path.isfile(path) or not os.path.exists(path)]
        if not files:
            raise DataError(f"{pattern}: {_why_no_match(expanded, matches)}")
        found.update(files)
    return sorted(found)


def _literal_where_it_exists(pattern: str) -> str:
    """Escape the leading names of a glob that exist literally, brackets included."""
    done, left = "/" * pattern.startswith("/"), [part for part in pattern.split("/") if part]
    escaped = done
    while left and os.path.lexists(os.path.join(done, left[0])):
        done = os.path.join(done, left[0])
        escaped = os.path.join(escaped, glob.escape(left.pop(0)))
    return os.path.join(escaped, *left)


def _why_no_match(pattern: str, matches: Sequence[str]) -> str:
    if any(map(os.path.isdir, matches)):
        return f"only folders match, such as {matches[0]}: name the files in them, such as {pattern.rstrip('/')}/*.h5"
    if matches:
        return f"only {matches[0]} matches, which is no regular file: name a shower file"
    folder = os.path.dirname(pattern)
    while folder and glob.has_magic(folder) and not os.path.exists(folder):
        folder = os.path.dirname(folder)
    try:
        os.listdir(folder or ".")
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"the folder {folder} cannot be read ({error.strerror})"
    return (
        f"no such file and no file matches, looked from {os.getcwd()}; give the path of a shower file or a glob in "
        "quotes"
    )


def manifest_of(
    paths: Sequence[str], format_name: str = "auto", options: ReadOptions | None = None
) -> Manifest:
    """Build the manifest of these files; raises as `build_manifest` does."""
    options = options or ReadOptions()
    ordered = sorted(set(paths))
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in ordered])
    required = None if format_name == "auto" else format_named(format_name)
    entries: list[FileEntry] = []
    seen: dict[str, tuple[Any, str]] = {}
    known: dict[str, Geometry] = {}
    for path in ordered:
        with open_file(path) as file:
            require_not_being_written(file)
            # Binning files beside the data are searched once a folder.
            format_, layout, sources = examine(file, required, options, known.get(os.path.dirname(path)))
            known.setdefault(os.path.dirname(path), layout.geometry)
        kinds = {"format": format_.name, "geometry": layout.geometry, "particle": layout.particle}
        for kind, value in kinds.items():
            if kind == "particle" and value is None:
                continue
            first, where = seen.setdefault(kind, (value, path))
            if value != first:
                raise DataError(
                    f"{path}: its {kind} is {value} and that of {where} is {first}: "
                    "all files must have the same, train on one kind at a time"
                )
        entries.append(
            FileEntry(
                name=Path(os.path.relpath(os.path.abspath(path), folder)).as_posix(),
                rows=layout.rows,
                chunk_rows=layout.chunk_rows,
                sources=tuple(map(identity_of, sources)),
                **vars(identity_of(path)),
            )
        )
    return Manifest(
        format=seen["format"][0],
        geometry=seen["geometry"][0],
        particle=seen.get("particle", (None, ""))[0],
        files=tuple(entries),
        options=options,
    )


def require_same_files(before: Manifest, now: Manifest, known: str = "the manifest") -> None:
    """Check that a data set has the same files as before, in whatever folder, read in the same way.

    Args:
        before: as it was.
        now: as it is.
        known: what tells how it was, for messages.

    Raises:
        DataError: naming the first file that is missing, new or changed, or what differs in how they are read.
    """
    for name, option in (("cell_unit", "--cells-unit"), ("energy_unit", "--energy-unit")):
        was, told = getattr(before.options, name), getattr(now.options, name)
        if told != was:
            raise DataError(
                f"data.{name}={told}, and {known} was made with {was}: energies would change, set "
                f"data.{name}={was} ({option} {was})"
            )
    old = {entry.name: entry for entry in before.files}
    new = {entry.name: entry for entry in now.files}
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            raise DataError(f"{name} is in {known} and does not match data.path")
        if name not in old:
            raise DataError(f"{new[name].path} matches data.path and is not in {known}")
        parts = [[part.fingerprint for part in entry.sources] for entry in (old[name], new[name])]
        # Manifests of earlier versions name no sources.
        if old[name].content != new[name].content or (parts[0] and parts[0] != parts[1]):
            raise DataError(f"{new[name].path} has changed since {known} was made")
    was_read, is_read = _reading(before), _reading(now)
    for name in sorted(was_read.keys() | is_read.keys()):
        if is_read.get(name) != was_read.get(name):
            raise DataError(
                f"{name} is {reprlib.repr(is_read.get(name))}, and in {known} {reprlib.repr(was_read.get(name))}: "
                "the same files must be read alike, set data.format and data.binning as they were"
            )


def _entry(sources: Sequence[Mapping[str, Any]] = (), **values: Any) -> FileEntry:
    return FileEntry(sources=tuple(FileIdentity(**source) for source in sources), **values)


def _reading(manifest: Manifest) -> dict[str, Any]:
    """Return how a manifest's files are read, as plain values."""
    geometry = {f"geometry {name}": value for name, value in manifest.geometry.to_dict().items()}
    return {"format": manifest.format, "particle": manifest.particle, **geometry}


def scan_rows(manifest: Manifest, rank: int = 0, size: int = 1) -> None:
    """Check every row of this rank's share of the showers: about 1/size of all rows, in whole HDF5 chunks.

    Raises:
        DataError: at the first broken rule, naming file, data set, row and rule.
    """
    for entry, problem in find_problems(manifest, rank, size):
        raise DataError(f"{entry.path}: {problem}; {problem.advice}")


def find_problems(manifest: Manifest, rank: int = 0, size: int = 1) -> Iterator[tuple[FileEntry, Problem]]:
    """Yield the first bad row of each rule and file in this rank's share of the showers, file by file."""
    format_ = format_named(manifest.format)
    row_bytes = 4 * manifest.geometry.cells
    bounds = [manifest.rows * part // size for part in (rank, rank + 1)]
    for entry, first_id in zip(manifest.files, manifest.first_ids, strict=False):
        chunk = entry.chunk_rows or 1
        # Bounds move to the next chunk: two ranks never read the same one.
        start, stop = (
            min(-(-max(bound - int(first_id), 0) // chunk) * chunk, entry.rows) for bound in bounds
        )
        if start < stop:
            piece = max(1, _SCAN_BYTES // (row_bytes * chunk)) * chunk
            for problem in _file_problems(format_, manifest.options, entry, start, stop, piece):
                yield entry, problem


def _file_problems(
    format_: Format, options: ReadOptions, entry: FileEntry, start: int, stop: int, piece: int
) -> Iterator[Problem]:
    told: set[tuple[str, str]] = set()
    with entry.open() as file:
        rows = format_.rows(file, options)
        for first in range(start, stop, piece):
            showers, conditions = rows.read(first, min(first + piece, stop))
            for problem in rows.problems(showers, conditions, first):
                if (problem.data_set, problem.rule) not in told:
                    told.add((problem.data_set, problem.rule))
                    yield problem
