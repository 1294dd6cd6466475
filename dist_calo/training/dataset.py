"""The data set of a run: found by rank 0, checked by all ranks together, identified in the record."""

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dist_calo.comm.protocol import Communicator
from dist_calo.config import DataConfig
from dist_calo.data.identity import what_changed
from dist_calo.data.loader import training_loader
from dist_calo.data.manifest import Manifest, build_manifest, scan_rows
from dist_calo.data.row_blocks import split_blocks
from dist_calo.errors import DataError

_FILES_FOR_EACH = 16
_STATISTICS_BATCH = 64
_STATISTICS_SHOWERS = 8192


def shared_manifest(config: DataConfig, communicator: Communicator, as_found: bool = False) -> Manifest:
    """Return the manifest, the same on all ranks: rank 0 opens every file, each rank checks its share of the rows.

    Showers taken as they are found may break every rule but the files' own.

    Raises:
        DataError: on the rank that finds what is wrong with the files; on all ranks if one sees other files.
        ConfigError: if the format is not known.
    """
    built = build_manifest(config, as_found).to_dict() if communicator.world.rank == 0 else None
    manifest = Manifest.from_dict(communicator.broadcast_object(built))
    require_same_everywhere(manifest, communicator)
    if config.validate == "full" and config.manifest is None:
        scan_rows(manifest, communicator.world.rank, communicator.world.size)
    return manifest


def require_same_everywhere(manifest: Manifest, communicator: Communicator) -> None:
    """Check that the files are the same on all nodes, where they may be copies; collective.

    A look at each file by its name; where time or inode are others than rank 0's, the first and last MiB are read. Of
    many files the ranks of a node share the work.

    Raises:
        DataError: on all ranks, if one sees another file than rank 0.
    """
    world, entries = communicator.world, manifest.files
    if len(entries) > _FILES_FOR_EACH:
        entries = entries[world.local_rank :: world.local_size]
    change = what_changed(part for entry in entries for part in (entry, *entry.sources))
    told = communicator.all_gather_object(change and f"rank {world.rank} ({world.node}): {change}")
    if odd := next(filter(None, told), None):
        count = sum(map(bool, told))
        raise DataError(
            f"{odd}; so on {count} of {world.size} ranks: give all nodes the same files as rank 0's"
        )


def as_kept(config: DataConfig, manifest: Manifest) -> tuple[DataConfig, Manifest]:
    """Return settings and manifest as checkpoints and the record say them.

    Where the files are copies that a job has made on local disks, DIST_CALO_STAGED_FROM is the folder of the files that
    stay, of the same names.
    """
    folder = os.environ.get("DIST_CALO_STAGED_FROM")
    if not folder:
        return config, manifest

    def original(path: str) -> str:
        return os.path.join(folder, os.path.basename(path))

    files = tuple(replace(entry, path=original(entry.path)) for entry in manifest.files)
    path = [original(pattern) for pattern in config.patterns]
    return replace(config, path=path if len(path) > 1 else path[0]), replace(manifest, files=files)


def training_statistics(manifest: Manifest, config: DataConfig, numbers: int) -> dict[str, np.ndarray]:
    """Return what objectives and models are calibrated with, from some training showers of shuffled blocks.

    At most 8,192, and no more than have so many ``numbers``, of 4 bytes.

    Returns:
        ``energy`` (n,), ``energy_sum`` (n,), ``showers`` (n, ...) in GeV, or in the unit of their samples, and
        ``conditions`` (n, C).
    """
    samples = split_blocks(manifest, "train", config).samples
    batch = min(_STATISTICS_BATCH, samples)
    most = max(batch, numbers // manifest.geometry.cells)
    batches = min(samples, _STATISTICS_SHOWERS, most) // batch
    with training_loader(manifest, config, seed=0, global_batch_size=batch) as loader:
        read = [next(loader) for _ in range(batches)]
    showers = np.concatenate([part.showers for part in read])
    conditions = np.concatenate([part.conditions for part in read])
    return {
        "energy": conditions[:, 0],
        "energy_sum": showers.reshape(len(showers), -1).sum(axis=1, dtype=np.float64),
        "showers": showers,
        "conditions": conditions,
    }


def condition_ranges(manifest: Manifest, conditions: np.ndarray) -> dict[str, list[float]]:
    """Return smallest and largest value of each condition (n, C), by name."""
    bounds = zip(conditions.min(axis=0).tolist(), conditions.max(axis=0).tolist(), strict=True)
    return {name: list(pair) for name, pair in zip(manifest.geometry.conditions, bounds, strict=True)}


def identity(manifest: Manifest, config: DataConfig) -> Mapping[str, Mapping[str, object]]:
    """Return what the record of a run says of its data."""
    files = [{"name": entry.name, "rows": entry.rows, "bytes": entry.bytes} for entry in manifest.files[:100]]
    return {
        "training": {
            "name": manifest.files[0].name if len(files) == 1 else f"{len(manifest.files)} files",
            "digest": manifest.checksum[:32],
            "source": config.described,
            "rows": manifest.rows,
            "particle": manifest.particle,
            "files": files,
        }
    }
