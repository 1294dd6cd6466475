"""Training on four nodes over networks of 100 Mb/s, 1 Gb/s and 10 Gb/s, emulated on the virtual cluster of the tests.

    python benchmarks/interconnect.py --out results/interconnect   # as root; SLURM, control groups 1

Both directions of every node's link go through a token bucket (``tc qdisc ... tbf``). For each rate, and without any
limit, one rank a node trains with gradients in fp32 and bf16, sent during the backward pass and after it. A node has
two fifths of a core's time, alone or beside others, so that efficiency is relative to one node. Beside each stands the
prediction from one node and the known rate alone: four ranks compute as long as one does; a ring all-reduce of the
payload comes on top, or of it what outlasts the backward pass, two thirds of the computing (backward costs twice
forward), where it is sent during that.

What is measured already is not measured again. Prints a table in Markdown; writes numbers.json and interconnect.png.
"""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from virtual_cluster import RATES, VirtualCluster, command_line, plan

from dist_calo.scaling.cost import ring_seconds
from dist_calo.scaling.fit import BACKWARD
from dist_calo.scaling.plan import read_plan
from dist_calo.scaling.results import read_results

NODES = 4
SHARE = 0.4
"""Of a core's time that a node computes for: four of them leave a fifth of two cores for SLURM and the links."""


def read(results: Path) -> dict[tuple[str, bool], list[dict[str, Any]]]:
    """Repeats of each point by wire format and overlap."""
    points = enumerate(read_plan(results).points)
    return {(point.wire, point.overlap): read_results(results, number) for number, point in points}


def median(found: list[dict[str, Any]], name: str) -> float:
    return statistics.median(result[name] for result in found)


def compare(out: Path) -> list[dict[str, Any]]:
    """Efficiency of each rate, wire format and overlap, measured and predicted."""
    alone = read(out / "one node")
    lines = []
    for name, rate in RATES.items():
        if not (out / name / "plan.yaml").exists():
            continue
        for (wire, overlap), found in read(out / name).items():
            one = alone[wire, overlap]
            computing = median(one, "step_s")
            ring_s = ring_seconds(NODES, median(found, "bytes_per_step"), 0.0, rate / 8) if rate else 0.0
            exposed = max(0.0, ring_s - BACKWARD * computing) if overlap else ring_s
            steps = [result["step_s"] for result in found]
            efficiency = computing / median(found, "step_s")
            spread = statistics.stdev(steps) / statistics.mean(steps) if len(steps) > 1 else 0.0
            first = [result["step_s"] for result in one]
            one_spread = statistics.stdev(first) / statistics.mean(first) if len(first) > 1 else 0.0
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
                    "core_share": median(found, "cpu_s") / median(found, "compute_s") / SHARE,
                    "ring_s": ring_s,
                    "efficiency": efficiency,
                    "error": efficiency * math.hypot(spread, one_spread) / math.sqrt(len(steps)),
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
    axis.set_ylabel("efficiency of 4 nodes, one node = 100 %")
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = command_line(__doc__, ",".join(RATES), prefix="ic", subnet=90, batch=4, steps=20, repeats=5)
    options = parser.parse_args()
    out = options.out.absolute()
    points = ("--wires=fp32,bf16", "--overlap=on,off", "--comm.bucket_mb=0.1")
    rates = {}
    with VirtualCluster(options.prefix, options.subnet, NODES, SHARE).running() as cluster:
        plan(out / "one node", options, "--nodes=1", *points)
        cluster.measure(out / "one node", options.repeats)
        for name in options.networks:
            rate = RATES[name]
            plan(out / name, options, f"--nodes={NODES}", *points)
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
