"""The read-out that each model is tested on, and showers for it."""

import numpy as np

from dist_calo.geometry import Geometry, LayeredGrid, VoxelGrid, Waveforms

GRID = VoxelGrid(shape=(25, 25, 25))
ANGLED = VoxelGrid(shape=(51, 51, 25), conditions=("energy", "theta"))
LAYERS = LayeredGrid(layers=((3, 96), (12, 12), (12, 6)))
SIGNALS = Waveforms()


def geometry_of(model: str) -> Geometry:
    """The read-out for a model of this name."""
    if model.startswith("layers_"):
        return LAYERS
    if model.startswith("signals_"):
        return SIGNALS
    return ANGLED if model.endswith("angle") else GRID


def rough_showers(geometry: Geometry, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Showers that are good for nothing but their shape, in physical units, and their conditions (rows, C)."""
    source = np.random.default_rng(seed)
    energy = source.uniform(10.0, 90.0, (rows, 1))
    conditions = np.concatenate([energy, np.full((rows, len(geometry.conditions) - 1), 1.5)], axis=1)
    if isinstance(geometry, Waveforms):
        time = np.arange(geometry.samples) * geometry.sample_ns
        late = (time - 60.0 - source.normal(0.0, 1.0, (rows, geometry.channels, 1))).clip(0.0) / 5.0
        pulses = (
            energy[:, :, None]
            * source.uniform(1.0, 20.0, (rows, geometry.channels, 1))
            * late
            * np.exp(1.0 - late)
        )
        showers = pulses + source.normal(0.0, geometry.noise, pulses.shape)
    else:
        hits = source.uniform(size=(rows, *geometry.shape)) < 0.2
        showers = hits * source.exponential(size=hits.shape)
        total = showers.reshape(rows, -1).sum(axis=1).reshape(rows, *(1 for _ in geometry.shape))
        showers *= 0.02 * energy.reshape(total.shape) * source.normal(1.0, 0.05, total.shape) / total
    return showers.astype(np.float32), conditions.astype(np.float32)
