"""Training on four nodes over networks of 100 Mb/s, 1 Gb/s and 10 Gb/s, emulated on the virtual cluster of the tests.

    python benchmarks/interconnect.py --out results/interconnect        # as root, on Linux with SLURM's packages

Both directions of every node's link go through a token bucket (``tc qdisc ... tbf``). For each rate, and without any
limit, one rank a node trains with gradients in fp32 and bf16, sent during the backward pass and after it. The nodes
share the cores of one machine, so that efficiency is relative to the same four ranks on the unlimited network, never to
one rank. Beside each stands the prediction from one node and the known rate alone: four ranks compute as long as one
does times the turns that they take on the cores; a ring all-reduce of the payload comes on top, or of it what outlasts
the backward pass, two thirds of the computing (backward costs twice forward), where it is sent during that.

What is measured already is not measured again. Prints a table in Markdown; writes numbers.json and interconnect.png.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dist_calo.scaling.cost import ring_seconds
from dist_calo.scaling.plan import read_plan
from dist_calo.scaling.results import missing, read_results

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "tests" / "cluster"
RATES = {"unlimited": None, "10 Gb/s": 10e9, "1 Gb/s": 1e9, "100 Mb/s": 1e8}
NODES = 4
BACKWARD = 2 / 3
"""Share of the computing that is backward passes."""
BURST_S = 2e-4
"""Length of a burst at full speed: short against a bucket's time, at least one packet of 64 KiB."""
TRANSFER = """
import socket, sys, time
size = 4 << 20
if sys.argv[1] == "receive":
    with socket.create_server(("0.0.0.0", 9900)) as server:
        print("ready", flush=True)
        peer, _ = server.accept()
        left = size
        while left:
            left -= len(peer.recv(1 << 16))
        peer.sendall(b"x")
else:
    peer = socket.create_connection((sys.argv[2], 9900))
    began = time.perf_counter()
    peer.sendall(bytes(size))
    peer.recv(1)
    print(8 * size / (time.perf_counter() - began))
"""


class VirtualCluster:
    """The virtual nodes and their links."""

    def __init__(self, prefix: str, subnet: int) -> None:
        self.prefix, self.subnet = prefix, subnet
        self.environ = {
            **os.environ,
            "SLURM_CONF": f"/tmp/vcluster-{prefix}/slurm.conf",
            "OMP_NUM_THREADS": "1",
        }

    @contextmanager
    def running(self) -> "Iterator[VirtualCluster]":
        options = f"-p {self.prefix} -s {self.subnet} -n {NODES}".split()
        subprocess.run([CLUSTER / "up.sh", *options], check=True, capture_output=True)
        try:
            yield self
        finally:
            subprocess.run([CLUSTER / "down.sh", "-p", self.prefix], check=True, capture_output=True)

    def limit(self, rate: float | None) -> None:
        """Let every link carry so many bits a second in each direction."""
        for number in range(1, NODES + 1):
            name = f"{self.prefix}{number}"
            for tc, device in ((["tc", "-n", name], "eth0"), (["tc"], f"v-{name}")):
                if rate is None:
                    subprocess.run([*tc, "qdisc", "del", "dev", device, "root"], capture_output=True)
                    continue
                burst = max(70_000, round(rate / 8 * BURST_S))
                shape = f"rate {rate:.0f}bit burst {burst} latency 200ms".split()
                subprocess.run([*tc, "qdisc", "replace", "dev", device, "root", "tbf", *shape], check=True)

    def measured_rate(self) -> float:
        """Bits a second that 4 MiB travel with from the first node to the second."""
        command = ["ip", "netns", "exec"]
        receive = [*command, f"{self.prefix}2", sys.executable, "-c", TRANSFER, "receive"]
        with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            receiver.stdout.readline()
            send = [
                *command,
                f"{self.prefix}1",
                sys.executable,
                "-c",
                TRANSFER,
                "send",
                f"10.77.{self.subnet}.12",
            ]
            return float(subprocess.run(send, check=True, capture_output=True, text=True).stdout)

    def measure(self, results: Path, repeats: int) -> None:
        """Run the points of a plan, one after the other, each by srun."""
        for number, point in enumerate(read_plan(results).points):
            if missing(results, number, repeats):
                # Both cores for each rank: pinned to one, the ranks of all nodes would sit on the machine's first core.
                srun = f"srun --mpi=none -N {point.nodes} -n {point.ranks} --cpus-per-task=2".split()
                scale = [sys.executable, "-m", "dist_calo.scale", "run", str(results), "--point", str(number)]
                subprocess.run([*srun, *scale], check=True, env=self.environ, cwd=ROOT)


def plan(results: Path, options: argparse.Namespace, nodes: int) -> None:
    """Plan the points of one network, unless that is done."""
    if (results / "plan.yaml").exists():
        return
    points = f"--nodes={nodes} --ranks=1 --batch={options.batch} --wires=fp32,bf16 --overlap=on,off"
    measure = f"--repeats={options.repeats} --steps={options.steps} --warmup=3 --no-end-to-end"
    settings = "--config=configs/lcd_fast.yaml --comm.bucket_mb=0.1 --tracking.uri=none"
    # A few showers are enough, and quickly read by every repeat.
    settings += " --data.validate=quick --data.validation_fraction=0.05 --data.test_fraction=0.8"
    command = [sys.executable, "-m", "dist_calo", "scale", "plan", str(results)]
    words = [*points.split(), *measure.split(), *settings.split()]
    subprocess.run([*command, *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def read(results: Path) -> dict[tuple[str, bool], list[dict[str, Any]]]:
    """Repeats of each point by wire format and overlap."""
    points = enumerate(read_plan(results).points)
    return {(point.wire, point.overlap): read_results(results, number) for number, point in points}


def median(found: list[dict[str, Any]], name: str) -> float:
    return statistics.median(result[name] for result in found)


def compare(out: Path) -> list[dict[str, Any]]:
    """Efficiency of each rate, wire format and overlap, measured and predicted."""
    alone, free = read(out / "one node"), read(out / "unlimited")
    lines = []
    for name, rate in RATES.items():
        if not (out / name / "plan.yaml").exists():
            continue
        for (wire, overlap), found in read(out / name).items():
            one, base = alone[wire, overlap], free[wire, overlap]
            turns = max(1.0, found[0]["threads_per_core"])
            computing = turns * median(one, "step_s")
            ring_s = ring_seconds(NODES, median(found, "bytes_per_step"), 0.0, rate / 8) if rate else 0.0
            exposed = max(0.0, ring_s - BACKWARD * computing) if overlap else ring_s
            steps = [result["step_s"] for result in found]
            efficiency = median(base, "step_s") / median(found, "step_s")
            spread = statistics.stdev(steps) / statistics.mean(steps) if len(steps) > 1 else 0.0
            first = [result["step_s"] for result in base]
            base_spread = statistics.stdev(first) / statistics.mean(first) if len(first) > 1 else 0.0
            lines.append(
                {
                    "network": name,
                    "bits_per_s": rate,
                    "wire": wire,
                    "overlap": overlap,
                    "step_s": median(found, "step_s"),
                    "spread_s": max(steps) - min(steps),
                    "wait_comm_s": median(found, "wait_comm_s"),
                    "megabytes": 1e-6 * median(found, "bytes_per_step"),
                    "core_share": turns * median(found, "cpu_s") / median(found, "compute_s"),
                    "ring_s": ring_s,
                    "efficiency": efficiency,
                    "error": efficiency * math.hypot(spread, base_spread) / math.sqrt(len(steps)),
                    "predicted": computing / (computing + exposed),
                }
            )
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """The comparison in Markdown."""
    head = "| network | wire | overlap | step / ms | waiting / ms | ring / ms | efficiency / % | predicted / % |\n"
    rows = [
        f"| {line['network']} | {line['wire']} | {'on' if line['overlap'] else 'off'} | {1e3 * line['step_s']:.0f} "
        f"| {1e3 * line['wait_comm_s']:.0f} | {1e3 * line['ring_s']:.1f} "
        f"| {100 * line['efficiency']:.0f} ± {100 * line['error']:.0f} | {100 * line['predicted']:.0f} |"
        for line in lines
    ]
    return head + "|---|---|---|---|---|---|---|---|\n" + "\n".join(rows)


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Efficiency against the rate, measured with error bars and predicted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axis = figure.subplots()
    looks = {
        ("fp32", False): "#d55e00",
        ("fp32", True): "#0072b2",
        ("bf16", False): "#cc79a7",
        ("bf16", True): "#009e73",
    }
    places = {name: place for place, name in enumerate(reversed(RATES))}
    for number, ((wire, overlap), colour) in enumerate(looks.items()):
        chosen = [line for line in lines if (line["wire"], line["overlap"]) == (wire, overlap)]
        x = [places[line["network"]] + 0.08 * (number - 1.5) for line in chosen]
        label = f"{wire}, overlap {'on' if overlap else 'off'}"
        axis.errorbar(
            x,
            [100 * line["efficiency"] for line in chosen],
            yerr=[100 * line["error"] for line in chosen],
            fmt="o",
            color=colour,
            capsize=3,
            label=label,
        )
        axis.plot(
            x,
            [100 * line["predicted"] for line in chosen],
            "_",
            color=colour,
            markersize=14,
            markeredgewidth=2,
        )
    axis.plot([], [], "_", color="black", markersize=14, markeredgewidth=2, label="predicted from one node")
    axis.set_xticks(list(places.values()), list(places))
    axis.set_ylim(0, 120)
    axis.grid(alpha=0.3)
    axis.set_ylabel("efficiency of 4 nodes, unlimited network = 100 %")
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prefix", default="ic")
    parser.add_argument("--subnet", type=int, default=90)
    parser.add_argument("--batch", type=int, default=4, help="showers of a rank")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--networks", default=",".join(RATES), help="of them, the unlimited one always (default all)"
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    out = options.out.absolute()
    rates = {}
    with VirtualCluster(options.prefix, options.subnet).running() as cluster:
        plan(out / "one node", options, 1)
        cluster.measure(out / "one node", options.repeats)
        for name in options.networks.split(","):
            rate = RATES[name]
            plan(out / name, options, NODES)
            cluster.limit(rate)
            rates[name] = cluster.measured_rate()
            print(f"{name}: 4 MiB from node to node at {rates[name] / 1e6:.0f} Mb/s", flush=True)
            cluster.measure(out / name, options.repeats)
    lines = compare(out)
    (out / "numbers.json").write_text(json.dumps({"rates": rates, "points": lines}, indent=1) + "\n")
    draw(lines, out / "interconnect.png")
    print(table(lines))
    share = min(line["core_share"] for line in lines)
    if share < 0.85:
        print(
            f"\nOther programs took part of the cores' time: the ranks got {100 * share:.0f} % of it at worst."
        )


if __name__ == "__main__":
    main()
