"""How many showers a second one core observes for an evaluation, for each read-out.

    OMP_NUM_THREADS=1 python benchmarks/bench_observers.py
    OMP_NUM_THREADS=1 python benchmarks/bench_observers.py --only sample 51x51x25 --batch 256

Showers are those of the sample; of the other read-outs parametrised ones, or a fifth of all cells hit at random. Prints
the median and the range of the repeats, and the median by processor time, which other programs hardly disturb.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from dist_calo.data.formats.binning import OWN_FILES, read_binning
from dist_calo.geometry import Geometry, VoxelGrid
from dist_calo.physics.observables.observer import observer_of
from dist_calo.simulation.beam import Beam
from dist_calo.simulation.detectors import find_detector
from dist_calo.simulation.seeded_blocks import simulate_block

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample" / "EleEscan_lcd25_0.h5"
Made = tuple[Geometry, np.ndarray, np.ndarray]
"""A read-out, showers and their conditions."""


def sample() -> Made:
    with h5py.File(SAMPLE) as file:
        return VoxelGrid(shape=file["ECAL"].shape[1:]), file["ECAL"][:], file["energy"][:]


def every_cell_hit() -> Made:
    geometry, showers, energies = sample()
    return geometry, np.random.default_rng(0).exponential(1e-3, showers.shape).astype(np.float32), energies


def simulated(detector: str, beam: Beam) -> Made:
    blocks = [simulate_block(detector, beam, 0, block) for block in range(4)]
    showers, conditions = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return find_detector(detector).geometry(beam.conditions), showers, conditions


def cylinder(name: str) -> Made:
    geometry = next(read_binning(path)[0].geometry for path in OWN_FILES if path.stem == name)
    numbers = np.random.default_rng(0)
    showers = numbers.exponential(1e-3, (256, geometry.cells)) * (numbers.random((256, geometry.cells)) < 0.2)
    return geometry, showers.astype(np.float32), np.full((256, 1), 10.0)


SHOWERS: dict[str, Callable[[], Made]] = {
    "sample": sample,
    "every cell hit": every_cell_hit,
    "51x51x25": lambda: simulated("lcd51", Beam(energy=(10.0, 100.0), theta=(1.05, 2.09))),
    "layers": lambda: simulated("layers", Beam(energy=(10.0, 100.0))),
    "dataset 1": lambda: cylinder("dataset_1_photons"),
    "dataset 2": lambda: cylinder("dataset_2"),
    "dataset 3": lambda: cylinder("dataset_3"),
    "signals": lambda: simulated("signals", Beam(energy=find_detector("signals").parametrisation.energies)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Showers a second that one core observes.")
    parser.add_argument("--only", nargs="+", default=list(SHOWERS), choices=list(SHOWERS), help="these alone")
    parser.add_argument("--batch", type=int, default=512, help="showers observed at once (default 512)")
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each (default 9)")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in options.only:
        measure(name, *SHOWERS[name](), options)


def measure(
    name: str, geometry: Geometry, showers: np.ndarray, conditions: np.ndarray, options: argparse.Namespace
) -> None:
    rows = np.arange(options.batch) % len(showers)
    showers, conditions = showers[rows], conditions[rows]
    observer = observer_of(geometry)
    observer.observe(showers, conditions)
    wall, processor = [], []
    for _ in range(options.repeats):
        start = time.perf_counter(), time.process_time()
        observer.observe(showers, conditions)
        wall.append(options.batch / (time.perf_counter() - start[0]))
        processor.append(options.batch / (time.process_time() - start[1]))
    print(
        f"{name}: {statistics.median(wall):,.0f} showers/s (range {min(wall):,.0f} to {max(wall):,.0f}), by processor "
        f"time {statistics.median(processor):,.0f} ({len(observer.features)} observables, {geometry.described})",
        flush=True,
    )


if __name__ == "__main__":
    main()
