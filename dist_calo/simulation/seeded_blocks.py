"""Simulated showers in blocks whose random numbers depend on the seed and the block's number alone.

The result does not depend on the number of showers, their order, or the number of processes.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from threadpoolctl import threadpool_limits

from dist_calo.randomness import derived_seed
from dist_calo.simulation.detectors import find_detector
from dist_calo.simulation.parametrised import NORMAL_INCIDENCE, simulate
from dist_calo.simulation.signals import digitise

BLOCK = 64
"""Showers of a block: large enough for NumPy, small enough for a processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Particle, energies and angles of the beam.

    Attributes:
        energy: lowest and highest incident energy in GeV, uniform between.
        theta: lowest and highest polar angle in rad, uniform between; pi/2 is normal incidence, and the axis is tilted
            in the y-z plane, towards larger y where the angle is smaller.
    """

    energy: tuple[float, float]
    theta: tuple[float, float] = (NORMAL_INCIDENCE, NORMAL_INCIDENCE)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions of the showers; the angle only where it is not that of normal incidence."""
        tilted = self.theta != (NORMAL_INCIDENCE, NORMAL_INCIDENCE)
        return ("energy", "theta") if tilted else ("energy",)


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


def simulate_blocks(
    name: str, beam: Beam, seed: int, blocks: range, processes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of showers in order, as `simulate_block` makes them, a few of them in memory at a time.

    Args:
        name: of the detector.
        beam: energies and angles.
        seed: of the whole sample.
        blocks: numbers of the blocks.
        processes: that share the work.
    """
    if processes == 1:
        with threadpool_limits(1):
            for block in blocks:
                yield simulate_block(name, beam, seed, block)
        return
    waiting: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=threadpool_limits, initargs=(1,)
    ) as pool:
        for block in blocks:
            waiting.append(pool.submit(simulate_block, name, beam, seed, block))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
