"""Made-up showers in layers for tests."""

import numpy as np

from dist_calo.geometry import LayeredGrid, LayeredReadout

GRID = LayeredGrid(layers=((2, 3), (2, 2)), cell_sizes=((10.0, 4.0), (10.0, 6.0)))


def made_up(geometry: LayeredReadout, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Showers (n, V) in GeV whose cells fluctuate, about a third of them dark, and their incident energies in GeV."""
    numbers = np.random.default_rng(seed)
    energies = numbers.uniform(10.0, 50.0, count)
    cells = numbers.gamma(2.0, 0.5, (count, geometry.cells)) * (numbers.random((count, geometry.cells)) < 0.7)
    return (cells * energies[:, None] / geometry.cells / 5).astype(np.float32), energies


def two_samples(
    geometry: LayeredReadout, count: int = 400
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Two samples of one distribution."""
    return made_up(geometry, count, 0), made_up(geometry, count, 1)
