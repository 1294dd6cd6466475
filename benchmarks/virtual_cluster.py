"""The virtual cluster of the tests as a place to measure on: nodes of equal speed, and links of a known rate.

The nodes are namespaces of this machine. A quota of processor time (control groups) makes a node as fast beside seven
others as it is alone, as long as the shares of all of them fit into the machine.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_calo.scaling.plan import read_plan
from dist_calo.scaling.results import missing

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "tests" / "cluster"
RATES = {"unlimited": None, "10 Gb/s": 10e9, "1 Gb/s": 1e9, "100 Mb/s": 1e8}
"""Bits a second of the networks that can be emulated."""
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


def command_line(description: str | None, networks: str, **defaults: str | int) -> argparse.ArgumentParser:
    """Options of a measurement on the cluster.

    Args:
        description: of the program.
        networks: names from `RATES`, separated by commas.
        defaults: of prefix, subnet, batch, steps and repeats.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prefix", help="name of a node without its number")
    parser.add_argument("--subnet", type=int, help="third number of the nodes' addresses")
    parser.add_argument("--batch", type=int, help="showers of a rank")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument(
        "--networks",
        default=networks.split(","),
        type=_rates,
        help=f"some of {','.join(RATES)} (default {networks})",
    )
    parser.set_defaults(**defaults)
    return parser


def _rates(given: str) -> list[str]:
    names = given.split(",")
    if unknown := set(names) - set(RATES):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {','.join(RATES)}")
    return names


def scale(*words: str) -> str:
    """What a verb of ``dist-calo scale`` prints."""
    command = [sys.executable, "-m", "dist_calo", "scale", *words]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def plan(results: Path, options: argparse.Namespace, *words: str) -> None:
    """ScalingPlan the points of one network, one rank a node, unless that is done."""
    if (results / "plan.yaml").exists():
        return
    points = f"--ranks=1 --batch={options.batch}"
    measure = f"--repeats={options.repeats} --steps={options.steps} --warmup=3 --no-end-to-end"
    # A few showers are enough, and quickly read by every repeat.
    settings = "--config=configs/lcd_fast.yaml --tracking.uri=none"
    settings += " --data.validate=quick --data.validation_fraction=0.05 --data.test_fraction=0.8"
    scale("plan", str(results), *points.split(), *measure.split(), *settings.split(), *words)


class VirtualCluster:
    """Virtual nodes, each with a share of a core's time of its own, and the links between them.

    Args:
        prefix: name of a node without its number.
        subnet: third number of the nodes' addresses.
        nodes: how many.
        share: of a core's time that a node computes for; the sum has to leave some of the machine for the rest of it.
    """

    def __init__(self, prefix: str, subnet: int, nodes: int, share: float) -> None:
        self.prefix, self.subnet, self.nodes, self.share = prefix, subnet, nodes, share
        self.environ = {
            **os.environ,
            "SLURM_CONF": f"/tmp/vcluster-{prefix}/slurm.conf",
            "OMP_NUM_THREADS": "1",
        }

    @contextmanager
    def running(self) -> "Iterator[VirtualCluster]":
        options = f"-p {self.prefix} -s {self.subnet} -n {self.nodes} -q {self.share}".split()
        try:
            subprocess.run([CLUSTER / "up.sh", *options], check=True, stdout=subprocess.DEVNULL)
            yield self
        finally:
            subprocess.run([CLUSTER / "down.sh", "-p", self.prefix], check=True, capture_output=True)

    def limit(self, rate: float | None) -> None:
        """Let every link carry so many bits a second in each direction."""
        for number in range(1, self.nodes + 1):
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
                scale = [
                    sys.executable,
                    "-m",
                    "dist_calo.cli.scale",
                    "run",
                    str(results),
                    "--point",
                    str(number),
                ]
                subprocess.run([*srun, *scale], check=True, env=self.environ, cwd=ROOT)
