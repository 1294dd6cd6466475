"""How many showers a second one core adds to the sums of the observables.

    OMP_NUM_THREADS=1 python benchmarks/bench_observables.py

The showers are those of the sample and, as the hardest case, showers in which every cell is hit. Prints the median
and the range of the repeats.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import h5py
import numpy as np

from dist_calo.physics.observables.shower_summary import ShowerSummary

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample" / "EleEscan_lcd25_0.h5"


def main() -> None:
    parser = argparse.ArgumentParser(description="Showers a second that one core sums.")
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each kind (default 9)")
    parser.add_argument(
        "--rounds", type=int, default=4, help="passes of 500 showers a measurement (default 4)"
    )
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with h5py.File(SAMPLE) as file:
        showers, energies = file["ECAL"][:], file["energy"][:, 0]
    measure("sample", showers, energies, options)
    filled = np.random.default_rng(0).exponential(1e-3, showers.shape).astype(np.float32)
    measure("every cell hit", filled, energies, options)


def measure(name: str, showers: np.ndarray, energies: np.ndarray, options: argparse.Namespace) -> None:
    summary = ShowerSummary(showers.shape[1:]).update(showers, energies)
    rates = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        for _ in range(options.rounds):
            summary.update(showers, energies)
        rates.append(options.rounds * len(showers) / (time.perf_counter() - start))
    print(
        f"{name}: {statistics.median(rates):,.0f} showers/s (range {min(rates):,.0f} to {max(rates):,.0f}, "
        f"{options.repeats} repeats, {'x'.join(map(str, showers.shape[1:]))} cells)"
    )


if __name__ == "__main__":
    main()
