"""An observer of made-up showers whose cells are the observables themselves: every number has a closed form."""

import numpy as np

from dist_calo.geometry import VoxelGrid
from dist_calo.physics.observables.energy_bins import Binning
from dist_calo.physics.observables.features import Feature
from dist_calo.physics.observables.observer import Observed, Profile, scored
from dist_calo.physics.observables.sample import Sample

GRID = VoxelGrid(shape=(1, 1, 3))
EDGES = (10.0, 55.0, 100.0)
MISSING = np.float32(-1e9)
"""A cell that is no observable; a cell that is no number would be a bad shower."""


class CellsObserver:
    """Three observables, the cells: ``response`` and the pair ``layer/0`` and ``layer/1``; some may be `MISSING`."""

    geometry = GRID

    def __init__(self):
        self.features = (
            Feature(group="response"),
            Feature(group="layer", index=0),
            Feature(group="layer", index=1),
        )
        self.labels = {"response": "E_vis / E_inc", "layer": "energy [GeV]"}
        self.profiles = {
            "longitudinal": Profile(edges=np.arange(4.0), axis="layer", title="mean energy [GeV]")
        }
        self.indexed_by = {"layer": "layer"}
        self.correlated = ("response/0", "layer/0", "layer/1")
        self.summary_groups = ("response", "layer")
        self.scored = scored(self.features, (), ("layer",))

    def observe(self, showers, conditions):
        cells = showers.reshape(len(showers), 3).astype(np.float64)
        cells[cells == MISSING] = np.nan
        return Observed(cells, {"longitudinal": np.nan_to_num(cells)})


def sampled(cells, binning=None, ids=None, share=1.0, energies=None, batch=997):
    """A sample of showers with these cells (n, 3), NaN where one is missing."""
    cells = np.asarray(cells, dtype=np.float32)
    energies = np.linspace(10, 100, len(cells), dtype=np.float32) if energies is None else energies
    binning = binning or Binning.of(cells.astype(np.float64), energies, EDGES)
    sample = Sample(CellsObserver(), binning, GRID.shape, share=share)
    ids = np.arange(len(cells)) if ids is None else ids
    for first in range(0, len(cells), batch):
        part = slice(first, first + batch)
        showers = np.nan_to_num(cells[part], nan=MISSING).reshape(-1, 1, 1, 3)
        sample.add(ids[part], showers, energies[part, None])
    return sample


def normal(count, seed, mean=(1.0, 5.0, -3.0), deviation=(0.1, 1.0, 2.0)):
    """Independent Gaussian cells (count, 3)."""
    return np.random.default_rng(seed).normal(mean, deviation, size=(count, 3))
