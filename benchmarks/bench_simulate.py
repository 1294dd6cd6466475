"""How many showers a core makes in a second, parametrised or by Geant4.

    python benchmarks/bench_simulate.py
    python benchmarks/bench_simulate.py --detectors lcd25 --blocks 20 --repeats 9
    python benchmarks/bench_simulate.py --geant4 100

Prints the median and the range over the repeats, for the showers alone and, as ``to a file``, with gzip as
``dist-calo simulate`` writes them. One process, one thread; signals include the electronics. ``--geant4 N`` takes the
processor time of N showers of each detector instead.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from threadpoolctl import threadpool_limits

from dist_calo.data.formats import ShowerWriter
from dist_calo.simulation.beam import Beam
from dist_calo.simulation.detectors import DETECTORS, find_detector
from dist_calo.simulation.geant4.process import Geant4Process
from dist_calo.simulation.seeded_blocks import BLOCK, simulate_block


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the parametrised showers on one core.")
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), choices=list(DETECTORS))
    parser.add_argument("--blocks", type=int, default=8, help=f"blocks of {BLOCK} showers (default 8)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--geant4", type=int, metavar="N", help="measure N showers of Geant4 instead")
    options = parser.parse_args()
    if options.geant4:
        for name in options.detectors:
            print(f"{name:24}Geant4 {by_geant4(name, options.geant4)}")
        return
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


def by_geant4(name: str, showers: int) -> str:
    """Rate and mean energy of Geant4's showers, by processor time."""
    low, high = find_detector(name).parametrisation.energies
    with Geant4Process(find_detector(name), Beam(energy=(low, high)), seed=0) as process:
        events = list(process.simulate(range(showers)))
    rate = showers / sum(event.seconds for event in events)
    mean = sum(event.primary.energy for event in events) / showers
    return f"{rate:.2f} showers/s, {low:g}-{high:g} GeV, {mean:.3g} on average"


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
