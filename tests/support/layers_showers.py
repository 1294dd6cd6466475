"""Synthetic showers in layers for the tests of the models of layers: known energies, compound Poisson cells."""

import numpy as np

from dist_calo.config import TransformConfig
from dist_calo.geometry import CylindricalLayers, LayeredGrid
from dist_calo.transforms import Transform

GRID = LayeredGrid(layers=((2, 8), (4, 4), (3, 2)))
RINGS = CylindricalLayers(
    r_edges=((0.0, 5.0, 10.0, 30.0), (0.0,), (0.0, 10.0, 20.0), (0.0, 15.0, 30.0)), sectors=(1, 1, 4, 1)
)
"""Of its four layers the second is not read out."""
AMPLITUDES = Transform.from_config(TransformConfig(scale=1000.0, power=0.5))


def layered_showers(geometry, count=600, seed=0, chance_of_empty=0.2):
    """What models are calibrated with: showers of 2 to 50 GeV whose last layer is empty at the given chance.

    The total is 0.2 of the incident energy within 2 %; the share of each layer fluctuates and moves with the
    energy, and so does the width of a shower.
    """
    rng = np.random.default_rng(seed)
    energy = rng.uniform(2.0, 50.0, count).astype(np.float32)
    sizes = geometry.layer_cells
    read = [k for k, cells in enumerate(sizes) if cells]
    logits = np.zeros((count, len(read))) + np.array([1.0, 2.0, -1.0])[: len(read)]
    logits += 0.3 * rng.normal(size=logits.shape) + np.log(energy / 10.0)[:, None] * np.arange(len(read)) / 4
    shares = np.exp(logits)
    shares[:, -1] *= rng.uniform(size=count) >= chance_of_empty
    shares /= shares.sum(axis=1, keepdims=True)
    layers = 0.2 * energy * np.exp(0.02 * rng.normal(size=count))
    cells = np.zeros((count, geometry.cells))
    length = 3.0 * np.exp(0.3 * rng.normal(size=count))[:, None]
    for k, share in zip(read, shares.T, strict=True):
        cut = geometry.layer_slices[k]
        shape = np.exp(-np.arange(sizes[k]) / length)
        hits = rng.poisson(400.0 * (layers * share)[:, None] * shape / shape.sum(axis=1, keepdims=True))
        hits[:, 0] += (hits.sum(axis=1) == 0) & (share > 0)
        drawn = rng.gamma(np.maximum(hits, 1e-9)) * (hits > 0)
        total = drawn.sum(axis=1)
        cells[:, cut] = drawn * (layers * share / np.where(total > 0, total, 1.0))[:, None]
    showers = cells.astype(np.float32)
    return {
        "energy": energy,
        "energy_sum": showers.sum(axis=1, dtype=np.float64),
        "showers": showers,
        "network_units": AMPLITUDES.forward(showers),
    }


def layer_energies(geometry, cells):
    """Energies of all layers, (n, L), of cells (n, V)."""
    return np.stack(
        [np.asarray(cells, dtype=np.float64)[:, cut].sum(axis=1) for cut in geometry.layer_slices], 1
    )
