"""Simulated showers in blocks whose random numbers depend on the seed and the block's number alone.

The result does not depend on the number of showers, their order, or the number of ranks.
"""

import numpy as np

from dist_calo.randomness import derived_seed
from dist_calo.simulation.beam import Beam
from dist_calo.simulation.detectors import find_detector
from dist_calo.simulation.parametrised import simulate
from dist_calo.simulation.signals import digitise

BLOCK = 64
"""Showers of a block: large enough for NumPy, small enough for a processor's cache."""


def simulate_block(name: str, beam: Beam, seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate the showers of one block.

    Args:
        name: of the detector.
        beam: energies and angles.
        seed: of the whole sample.
        block: number of the block.

    Returns:
        Showers as the detector's geometry has them, float32 with shape (BLOCK, *geometry.shape), and conditions,
        float32 with shape (BLOCK, C).

    Raises:
        ConfigError: if there is no such detector.
    """
    detector = find_detector(name)
    numbers = np.random.Generator(np.random.SFC64(derived_seed(seed, "simulate", name, block)))
    uniform = numbers.random((BLOCK, 2))
    low, high = np.array([beam.energy, beam.theta]).T
    conditions = (low + (high - low) * uniform).astype(np.float32)
    energies, theta = conditions.T.astype(np.float64)
    showers = simulate(detector, detector.parametrisation, energies, theta, numbers)
    if detector.chain is not None:
        made = digitise(showers, detector.chain, seed, first_event=block * BLOCK)
        showers = (made.signals - detector.chain.baseline_counts).astype(np.float32)
    return showers, conditions[:, : len(beam.conditions)]
