"""Showers a second that the observables take on one core, and as a ratio to summing the cells alone.

python benchmarks/bench_observables.py
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from dist_calo.physics.observables import ShowerSummary

SHOWERS, REPEATS = 1024, 7


def seconds(function: Callable[[], object]) -> float:
    """Median time of several calls."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Measure on the sample's showers, repeated as often as needed."""
    path = sorted((Path(__file__).parent.parent / "data" / "sample").glob("*.h5"))[0]
    with h5py.File(path) as file:
        cells, energies = file["ECAL"][:], file["energy"][:, 0]
    cells, energies = np.resize(cells, (SHOWERS, *cells.shape[1:])), np.resize(energies, SHOWERS)
    observed = seconds(lambda: ShowerSummary(cells.shape[1:]).update(cells, energies))
    summed = seconds(lambda: cells.sum(axis=(1, 2, 3)))
    print(
        f"observables {SHOWERS / observed:.0f} showers/s, {observed / summed:.1f} times as long as summing the cells"
    )


if __name__ == "__main__":
    main()
