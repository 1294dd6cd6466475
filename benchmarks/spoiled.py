"""Which numbers of an evaluation see which fault: samples spoiled in a known way against an independent good one.

    python benchmarks/spoiled.py --showers 6000

Prints for each fault by how many sigmas the score is above its floor, and the numbers of all showers that are farthest
from theirs. The showers are parametrised ones
(`dist-calo simulate`), so that any number of them can be had.
"""

import argparse
import math

import numpy as np

from dist_calo.geometry import VoxelGrid
from dist_calo.physics.metrics.evaluation import measured_sums, sigmas_above_floor
from dist_calo.physics.metrics.half_sample_bootstrap import Measured
from dist_calo.physics.metrics.multivariate_metrics import measured_frechet, measured_rows
from dist_calo.physics.observables.energy_bins import Binning
from dist_calo.physics.observables.observer import observer_of
from dist_calo.physics.observables.sample import Sample
from dist_calo.physics.observables.spectrum import core_slice
from dist_calo.simulation.detectors import find_detector
from dist_calo.simulation.parametrised import simulate

GRID = VoxelGrid(shape=(25, 25, 25))
ENERGIES = (40.0, 60.0)
"""In GeV, uniform."""
BATCH = 512
SHARE = 0.5
"""Of the showers whose rows are kept."""


def simulated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Showers of `ENERGIES`, shape (count, 25, 25, 25), and their conditions (count, 1)."""
    detector, numbers = find_detector("lcd25"), np.random.default_rng(seed)
    energies = numbers.uniform(*ENERGIES, count).astype(np.float32)
    parts = [
        simulate(detector, detector.parametrisation, some, np.full(len(some), math.pi / 2), numbers)
        for some in np.array_split(energies, max(1, count // 200))
    ]
    return np.concatenate(parts), energies[:, None]


def reference_of(showers: np.ndarray, conditions: np.ndarray) -> Sample:
    """The sample of good showers, which decides the bins."""
    observer = observer_of(GRID)
    columns = observer.observe(showers, conditions).columns
    binning = Binning.of(columns, conditions[:, 0], ENERGIES)
    return filled(Sample(observer, binning, GRID.shape, SHARE), showers, conditions)


def filled(sample: Sample, showers: np.ndarray, conditions: np.ndarray) -> Sample:
    """A sample with these showers."""
    for first in range(0, len(showers), BATCH):
        part = slice(first, first + BATCH)
        sample.add(np.arange(len(showers))[part], showers[part], conditions[part])
    return sample


def numbers_of(reference: Sample, showers: np.ndarray, conditions: np.ndarray) -> dict[str, Measured]:
    """All numbers of showers against the reference."""
    fake = filled(Sample(reference.observer, reference.binning, GRID.shape, SHARE), showers, conditions)
    slots, whole = measured_sums(reference, fake)
    return {**slots[-1], **whole, **measured_frechet(reference, fake), **measured_rows(reference, fake)}


def scaled(showers: np.ndarray, conditions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All energies 2 % too high."""
    return showers * np.float32(1.02), conditions


def shifted(showers: np.ndarray, conditions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All showers a tenth of a layer deeper: a tenth of each layer's energy goes to the next one."""
    deeper = 0.9 * showers
    deeper[..., 1:] += 0.1 * showers[..., :-1]
    return deeper.astype(np.float32), conditions


def with_a_dead_cell(showers: np.ndarray, conditions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One cell beside the axis, at the shower maximum, is dead."""
    dead = showers.copy()
    dead[:, 13, 12, 7] = 0.0
    return dead, conditions


def with_shuffled_layers(showers: np.ndarray, conditions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each layer is that of another shower of nearly the same energy: layers are right, but do not go together."""
    order = np.argsort(conditions[:, 0])
    ordered, mixed = showers[order], np.empty_like(showers)
    for layer in range(showers.shape[-1]):
        mixed[order, ..., layer] = np.roll(ordered[..., layer], layer, axis=0)
    return mixed, conditions


def collapsed(showers: np.ndarray, conditions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One shower in ten, again and again, for the energies of its neighbours."""
    order = np.argsort(conditions[:, 0])
    source = order[(np.arange(len(order)) // 10) * 10]
    again = np.empty_like(showers)
    scale = conditions[order, 0] / conditions[source, 0]
    again[order] = showers[source] * scale[:, None, None, None].astype(np.float32)
    return again, conditions


def with_wide_cores(showers: np.ndarray, conditions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The core is too wide: 1 % of the visible energy has moved from its columns to those beside it."""
    core = np.zeros(GRID.shape[:2], dtype=np.float32)
    core[core_slice(GRID.shape[0]), core_slice(GRID.shape[1])] = 1.0
    ring = np.zeros_like(core)
    ring[10:15, 10:15] = 1.0
    ring -= core
    inside = (showers * core[:, :, None]).sum(axis=(1, 2))[:, None, None]  # of each layer
    beside = (showers * ring[:, :, None]).sum(axis=(1, 2))[:, None, None]
    moved = 0.01 * showers.sum(axis=(1, 2))[:, None, None]
    moved = np.where((inside > moved) & (beside > 0), moved, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        less, more = np.nan_to_num(moved / inside), np.where(moved > 0, moved / beside, 0.0)
    return (showers * (1.0 - less * core[:, :, None] + more * ring[:, :, None])).astype(
        np.float32
    ), conditions


FAULTS = {
    "none": lambda showers, conditions: (showers, conditions),
    "energies 2 % too high": scaled,
    "a tenth of a layer deeper": shifted,
    "core too wide by 1 %": with_wide_cores,
    "one dead cell": with_a_dead_cell,
    "layers of different showers": with_shuffled_layers,
    "one shower in ten, repeated": collapsed,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--showers", type=int, default=6000, help="of each sample (default 6000)")
    parser.add_argument("--shown", type=int, default=5, help="numbers shown for each fault (default 5)")
    options = parser.parse_args()
    reference = reference_of(*simulated(options.showers, seed=0))
    good = simulated(options.showers, seed=1)
    print("| fault | score, in sigmas | numbers farthest from their floor, in sigmas |\n|---|---|---|")
    for name, spoil in FAULTS.items():
        found = numbers_of(reference, *spoil(*good))
        numbers = {n: m for n, m in found.items() if n.count("/") == 1}
        far = sorted(numbers.items(), key=lambda item: -sigmas_above_floor(*item))[: options.shown]
        print(
            f"| {name} | {sigmas_above_floor('score', found['score']):.1f} | "
            + ", ".join(f"`{n}` {sigmas_above_floor(n, m):.1f}" for n, m in far)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
