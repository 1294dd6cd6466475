"""Showers of a data set on all ranks, each read by one of them, and the sums of samples merged over ranks."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from dist_calo.comm.protocol import Communicator
from dist_calo.config import DataConfig
from dist_calo.data.loader import ordered_loader
from dist_calo.data.manifest import Manifest
from dist_calo.data.row_blocks import Blocks, Split, split_blocks
from dist_calo.errors import ConfigError
from dist_calo.physics.observables.energy_bins import BINNING_SHOWERS, Binning
from dist_calo.physics.observables.observer import Observer
from dist_calo.physics.observables.rows import Rows
from dist_calo.physics.observables.sample import Sample

EXAMPLES = 4
"""Single showers that are drawn."""
GENERATED_AT_ONCE = 128
"""Showers that are generated at a time for a comparison."""
_BATCH_NUMBERS = 2**24
_MOST_IN_BATCH = 1024

Batches = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Sample numbers (n,), showers (n, *shape) and conditions (n, C), again and again."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """Showers of a data set."""

    manifest: Manifest
    config: DataConfig
    split: Split = "all"
    most: int | None = None
    """The first so many showers only."""
    threshold: float = 0.0
    """Cells below this energy in GeV count as empty."""

    @cached_property
    def _blocks(self) -> Blocks:
        return split_blocks(self.manifest, self.split, self.config)

    @property
    def showers(self) -> int:
        """Number of showers."""
        there = self._blocks.samples
        return min(there, self.most or there)

    def batches(self, communicator: Communicator, most: int | None = None, spread: bool = False) -> Batches:
        """Yield this rank's showers, each of them on one rank; empty batches are left out.

        Args:
            communicator: the ranks.
            most: so many showers only.
            spread: take these from blocks spread evenly over all showers, instead of the first ones; about as many.
        """
        blocks = self._blocks
        left = min(self.showers, most or self.showers)
        if spread:
            blocks = _spread(blocks, self.showers, left)
            left = blocks.samples
        world = communicator.world
        size = min(_MOST_IN_BATCH, max(16, _BATCH_NUMBERS // self.manifest.geometry.cells)) * world.size
        with ordered_loader(
            self.manifest,
            blocks,
            global_batch_size=min(size, left),
            rank=world.rank,
            size=world.size,
            ahead=1,
        ) as loader:
            for batch in loader:
                # The samples of the batch lie in order: those after the last wanted one are at its end.
                mine = batch.slots < left
                if mine.any():
                    yield batch.ids[mine], self._cut(batch.showers[mine]), batch.conditions[mine]
                left -= batch.global_size
                if left <= 0:
                    return

    def _cut(self, showers: np.ndarray) -> np.ndarray:
        # Without a threshold negative energies stay, which are faults to be counted.
        return np.where(showers < self.threshold, np.float32(0), showers) if self.threshold else showers


def _spread(blocks: Blocks, among: int, wanted: int) -> Blocks:
    """Return blocks spread evenly over the first samples, about as many as hold the wanted number, at least one."""
    before = np.cumsum(blocks.rows) - blocks.rows
    there = np.flatnonzero(before < among)
    count = max(1, min(len(there), round(len(there) * wanted / among)))
    chosen = there[np.linspace(0, len(there) - 1, count).round().astype(int)]
    return Blocks(blocks.first_ids[chosen], blocks.rows[chosen])


def binning_of(
    reference: Files,
    observer: Observer,
    communicator: Communicator,
    edges: tuple[float, ...] | None = None,
) -> Binning:
    """Choose the bins from showers of the reference, the same on all ranks; collective.

    Raises:
        ConfigError: if no shower lies in the bins of incident energy that are asked for.
    """
    found = [
        (ids, observer.observe(showers, conditions).columns, conditions[:, 0])
        for ids, showers, conditions in reference.batches(communicator, BINNING_SHOWERS, spread=True)
    ]
    everywhere = list(itertools.chain.from_iterable(communicator.all_gather_object(found)))
    ids, columns, energies = (np.concatenate(parts) for parts in zip(*everywhere, strict=True))
    order = np.argsort(ids)
    binning = Binning.of(columns[order], energies[order], edges)
    if edges and not (binning.slot_of(energies) < binning.slots - 1).any():
        raise ConfigError(
            f"--energy-edges {edges[0]:g} to {edges[-1]:g} GeV: none of the showers, of {energies.min():g} to "
            f"{energies.max():g} GeV, lies in these bins"
        )
    return binning


def merge(sample: Sample, communicator: Communicator) -> None:
    """Make the sample of each rank that of all ranks together; collective."""
    vector = torch.from_numpy(sample.to_vector())
    communicator.all_reduce(vector)
    sample.from_vector(vector.numpy())
    parts: list[Rows] = communicator.all_gather_object(sample.rows)
    parts = [part for part in parts if len(part.groups)] or parts[:1]
    sample.rows = Rows.joined(parts).sorted()


def first_of(files: Files, communicator: Communicator, count: int = EXAMPLES) -> tuple[np.ndarray, ...]:
    """Return the first few showers as `Batches` has them, on all ranks; collective."""
    mine = next(iter(files.batches(communicator, count)), None)
    gathered = [found for found in communicator.all_gather_object(mine) if found is not None]
    return tuple(np.concatenate(parts) for parts in zip(*gathered, strict=True))
