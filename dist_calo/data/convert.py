"""Rewriting of shower files: from older schemas, with other units and chunks, or one file for each split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from dist_calo.config import DataConfig
from dist_calo.data.extras import Extras, extras_of
from dist_calo.data.formats import ShowerWriter, format_named
from dist_calo.data.formats.protocol import EMPTY_SHOWER
from dist_calo.data.formats.schema import OWN_ATTRIBUTES
from dist_calo.data.formats.whole_files import hdf5_errors_of
from dist_calo.data.formats.writer import Compression
from dist_calo.data.manifest import FileEntry, Manifest
from dist_calo.data.row_blocks import Blocks, Split, split_blocks
from dist_calo.errors import ConfigError, DataError

SUFFIXES = (".h5", ".hdf5", ".hdf")
"""Endings of a file's name; without one, what is to be written is a folder."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """Changes to showers and to their storage."""

    cells_factor: float = 1.0
    """Factor on the energies of cells."""
    cut: float = 0.0
    """Cells below this energy become 0, in GeV."""
    least_sum: float | None = None
    """Showers whose cells sum to no more than this are left out, in GeV; None leaves out none."""
    particle: str | None = None
    """Name written to the files; by default that of the files read."""
    chunk_rows: int = 32
    compression: Compression = "gzip"
    level: int = 4
    """Effort of gzip and zstd, 1 to 9."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Rewrite":
        """Take the changes from the options of a command line, by their names."""
        names = {setting.name for setting in fields(cls)}
        return cls(**{name: value for name, value in options.items() if name in names})

    def __post_init__(self) -> None:
        for option, value in (("--chunk-rows", self.chunk_rows), ("--cells-factor", self.cells_factor)):
            if not value > 0:
                raise ConfigError(f"{option} {value}: must be above 0")
        if self.cut < 0:
            raise ConfigError(f"--cut {self.cut}: must not be negative")
        if not 1 <= self.level <= 9:
            raise ConfigError(f"--level {self.level}: levels go from 1 to 9")


@dataclass(frozen=True, kw_only=True)
class Written:
    """Content of a file that was written."""

    rows: int
    extras: tuple[str, ...]
    """Data sets carried along besides those that readers read."""
    left_out: tuple[str, ...]
    """Data sets of the files read that are not in it."""

    def described(self, path: Path) -> str:
        """Return the content and size of the file in a line for the user."""
        carried = f", with {', '.join(self.extras)}" if self.extras else ""
        left = f", without {', '.join(self.left_out)} (not a row of numbers a shower in every file)"
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        return f"{path}: {self.rows} showers{carried}{left if self.left_out else ''}, {size}"


def require_free(targets: Sequence[Path], *, force: bool) -> None:
    """Make the folder of the files to be written.

    Raises:
        ConfigError: if one of them exists and is not to be replaced.
    """
    existing = [str(path) for path in targets if path.exists()]
    if existing and not force:
        raise ConfigError(f"{', '.join(existing[:3])}: exists; name another --out or replace it with --force")
    targets[0].parent.mkdir(parents=True, exist_ok=True)


def targets_of(manifest: Manifest, out: str) -> dict[Path, Sequence[FileEntry]]:
    """Return the files to write, and for each those whose showers it gets: one file, or one of each name in a folder.

    Args:
        manifest: of the files read.
        out: a file, or a folder if it ends in a slash, is one, or has no ending of an HDF5 file.

    Raises:
        ConfigError: if two files read have the same name.
    """
    path = Path(out)
    if not (out.endswith("/") or path.is_dir() or path.suffix not in SUFFIXES):
        return {path: manifest.files}
    targets = {path / Path(entry.name).name: [entry] for entry in manifest.files}
    if len(targets) < len(manifest.files):
        raise ConfigError(f"--out {out}: two of the files read have the same name; convert them one by one")
    return dict(targets)


def convert(
    manifest: Manifest, targets: Mapping[Path, Sequence[FileEntry]], rewrite: Rewrite
) -> dict[Path, Written]:
    """Write all showers anew, into the files that `targets_of` returns.

    Data sets that go with the showers row by row are carried along.

    Returns:
        What each file written holds.

    Raises:
        DataError: at the first row that breaks a rule, before or after the change; that file is not written.
        ConfigError: if waveforms, which are no energies, are to be cut or scaled.
    """
    if manifest.geometry.signed and replace(rewrite, cells_factor=1.0, cut=0.0, least_sum=None) != rewrite:
        raise ConfigError(
            "--cells-factor, --cut and --min-sum change energies of cells, and waveforms have none: leave them out"
        )
    return {path: _write_files(manifest, files, path, rewrite) for path, files in targets.items()}


def split(manifest: Manifest, folder: Path, config: DataConfig, rewrite: Rewrite) -> dict[Path, Written]:
    """Write the showers of each split into a file of its own, by the rule that training uses.

    Data sets that go with the showers row by row are carried along.

    Returns:
        What each file written holds; a split whose fraction is 0 has none.

    Raises:
        DataError: if a split is empty though its fraction is not 0, or a row breaks a rule.
    """
    splits = {name: split_blocks(manifest, name, config) for name in SPLITS}
    written = {}
    for name, blocks in splits.items():
        if blocks.samples:
            path = folder / f"{name}.h5"
            attributes = {**_attributes(manifest, manifest.files), "split": name}
            written[path] = _write_blocks(manifest, blocks, path, rewrite, attributes)
    return written


def _attributes(manifest: Manifest, files: Sequence[FileEntry]) -> dict[str, Any]:
    """Return the attributes of origin that all of these files share, and the files' names."""
    shared: dict[str, Any] = {}
    for number, entry in enumerate(files):
        with entry.open() as file, hdf5_errors_of(file):
            found = dict(file.attrs)
        if number == 0:
            shared = found
        shared = {
            name: value
            for name, value in shared.items()
            if name in found and np.array_equal(value, found[name])
        }
    own = {**dict.fromkeys(OWN_ATTRIBUTES), "particle": manifest.particle}
    kept = {name: value for name, value in (shared | own).items() if value is not None}
    return {**kept, "converted_from": ", ".join(entry.name for entry in files)[:1000]}


def _write_files(manifest: Manifest, files: Sequence[FileEntry], path: Path, rewrite: Rewrite) -> Written:
    part = replace(manifest, files=tuple(files))
    blocks = split_blocks(part, "all", DataConfig())
    return _write_blocks(part, blocks, path, rewrite, _attributes(manifest, files))


def _write_blocks(
    manifest: Manifest, blocks: Blocks, path: Path, rewrite: Rewrite, attributes: dict[str, Any]
) -> Written:
    if any(path.exists() and path.samefile(entry.path) for entry in manifest.files):
        raise DataError(f"{path}: is one of the files to be read: name another file or folder with --out")
    particle = {"particle": rewrite.particle} if rewrite.particle else {}
    extras = extras_of(manifest, manifest.files)
    with ShowerWriter(
        path,
        manifest.geometry,
        {**attributes, **particle},
        chunk_rows=rewrite.chunk_rows,
        compression=rewrite.compression,
        level=rewrite.level,
        extras=extras.arrays,
    ) as writer:
        for showers, conditions, others in _rewritten(manifest, blocks, rewrite, extras):
            writer.append(showers, conditions, others)
        if not writer.rows:
            raise DataError(f"{path}: no shower is left to write: lower --min-sum or --cut")
    names = tuple(array.name for array in extras.arrays)
    return Written(rows=writer.rows, extras=names, left_out=extras.left_out)


def _rewritten(
    manifest: Manifest, blocks: Blocks, rewrite: Rewrite, extras: Extras
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
    files = np.searchsorted(manifest.first_ids, blocks.first_ids, side="right") - 1
    for number, entry in enumerate(manifest.files):
        mine = files == number
        starts = (blocks.first_ids[mine] - manifest.first_ids[number]).tolist()
        with entry.open() as file:
            rows = format_named(manifest.format).rows(file, manifest.options)
            for start, count in zip(starts, blocks.rows[mine].tolist(), strict=True):
                showers, conditions = rows.read(start, start + count)
                showers *= np.float32(rewrite.cells_factor)
                if rewrite.cut > 0:
                    showers[showers < rewrite.cut] = 0
                sums = showers.reshape(len(showers), -1).sum(axis=1, dtype=np.float64)
                # NaN compares as False: such a shower is kept here and refused below.
                kept = ~(sums <= rewrite.least_sum) if rewrite.least_sum is not None else slice(None)
                for problem in rows.problems(showers, conditions, start):
                    if rewrite.least_sum is None or problem.rule != EMPTY_SHOWER:
                        raise DataError(f"{entry.path}: {problem}")
                others = extras.read(file, start, start + count, rows.cells_factor * rewrite.cells_factor)
                yield showers[kept], conditions[kept], {name: values[kept] for name, values in others.items()}
