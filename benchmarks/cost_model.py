"""The cost model against a point that it did not see: fitted to 1, 2 and 4 nodes, it predicts 8.

    python benchmarks/cost_model.py --out results/cost_model   # as root; SLURM, control groups 1

Eight nodes of the tests' virtual cluster, each with a fifth of a core's time, alone or beside the others, so that ranks
compute equally fast at any number of nodes; one rank a node, on networks of several rates, in weak scaling. `dist-calo
scale report` then does what it does for any experiment. What is measured already is not measured again. Prints the
report's lines for each network; the reports lie in the folders of their networks.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from virtual_cluster import RATES, ROOT, VirtualCluster

NODES = 8
SHARE = 0.2
"""Of a core's time that a node computes for: eight of them leave a fifth of two cores for SLURM and the links."""


def scale(*words: str) -> str:
    """What a verb of ``dist-calo scale`` prints."""
    command = [sys.executable, "-m", "dist_calo", "scale", *words]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prefix", default="cm")
    parser.add_argument("--subnet", type=int, default=91)
    parser.add_argument("--batch", type=int, default=2, help="showers of a rank")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", default="unlimited,1 Gb/s,100 Mb/s")
    options = parser.parse_args()
    out = options.out.absolute()
    points = f"--nodes=1,2,4,8 --ranks=1 --batch={options.batch} --overlap=off"
    measure = f"--repeats={options.repeats} --steps={options.steps} --warmup=3 --no-end-to-end"
    settings = "--config=configs/lcd_fast.yaml --tracking.uri=none"
    settings += " --data.validate=quick --data.validation_fraction=0.05 --data.test_fraction=0.8"
    with VirtualCluster(options.prefix, options.subnet, NODES, SHARE).running() as cluster:
        for name in options.networks.split(","):
            results = out / name.replace("/s", " per s")
            if not (results / "plan.yaml").exists():
                scale("plan", str(results), *points.split(), *measure.split(), *settings.split())
            cluster.limit(RATES[name])
            cluster.measure(results, options.repeats)
            print(f"{name}:\n{scale('report', str(results), '--out', str(results / 'report'))}", flush=True)


if __name__ == "__main__":
    main()
