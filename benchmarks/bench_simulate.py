"""How many parametrised showers a core makes in a second.

    python benchmarks/bench_simulate.py
    python benchmarks/bench_simulate.py --detectors lcd25 --blocks 20 --repeats 9

Prints the median and the range over the repeats, for the showers alone and, as ``to a file``, with gzip as
``dist-calo simulate`` writes them. One process, one thread; signals include the electronics.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from threadpoolctl import threadpool_limits

from dist_calo.data.formats import ShowerWriter
from dist_calo.simulation.detectors import DETECTORS, find_detector
from dist_calo.simulation.seeded_blocks import BLOCK, Beam, simulate_block


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the parametrised showers on one core.")
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), choices=list(DETECTORS))
    parser.add_argument("--blocks", type=int, default=8, help=f"blocks of {BLOCK} showers (default 8)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        for name in options.detectors:
            low, high = find_detector(name).parametrisation.energies
            beam = Beam(energy=(low, high))
            path = Path(folder) / "showers.h5"

            def simulated(name: str = name, beam: Beam = beam) -> None:
                for block in range(options.blocks):
                    simulate_block(name, beam, 0, block)

            def written(name: str = name, beam: Beam = beam, path: Path = path) -> None:
                with ShowerWriter(path, find_detector(name).geometry()) as writer:
                    for block in range(options.blocks):
                        writer.append(*simulate_block(name, beam, 0, block))

            title = f"{name}, {low:g}-{high:g} GeV"
            for what, action in (("in memory", simulated), ("to a file", written)):
                rates = measured(action, options.blocks * BLOCK, options.repeats)
                median = statistics.median(rates)
                print(f"{title:24}{what:12}{median:8.0f} showers/s ({min(rates):.0f}-{max(rates):.0f})")


def measured(action: Callable[[], None], showers: int, repeats: int) -> list[float]:
    """Showers per second of each repeat, after a warm-up."""
    action()
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        rates.append(showers / (time.perf_counter() - start))
    return rates


if __name__ == "__main__":
    main()
