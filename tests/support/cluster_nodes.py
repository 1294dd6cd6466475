"""Nodes and links as ``dist-calo doctor --cluster`` finds them."""

from collections.abc import Collection

from dist_calo.diagnostics.cluster_report import Report
from dist_calo.diagnostics.links import ring_rounds, second_rounds
from dist_calo.diagnostics.nodes import Node


def cluster(count: int = 4, ranks: int = 2) -> list[Node]:
    """Nodes that are all alike."""
    return [
        Node(
            name=f"n{number}",
            ranks=list(range(number * ranks, (number + 1) * ranks)),
            kernel=str(number),
            cores=list(range(ranks)),
            threads=ranks,
            memory_bytes=4 * 10**9,
            step_s=0.1,
            scatter_s=0.001,
            step_mean_s=0.1,
            latency_s=2e-5,
            bandwidth_bytes_per_s=1e9,
            read_bytes_per_s=5e8,
            read_s=1.0,
            clock_s=0.0,
            clock_error_s=1e-4,
        )
        for number in range(count)
    ]


def report_with_links(
    count: int, slow: Collection[int] = (), slow_link: tuple[int, int] | None = None
) -> Report:
    """The links that the doctor measures; those of slow nodes and one more are slow."""
    links = [
        {
            "ranks": [2 * a, 2 * b],
            "nodes": [f"n{a}", f"n{b}"],
            "latency_s": 2e-5,
            "bandwidth_bytes_per_s": 1e7 if {a, b} & set(slow) or (a, b) == slow_link else 1e9,
        }
        for pairs in ring_rounds(count) + second_rounds(count)
        for a, b in pairs
    ]
    report = Report(launcher="srun", backend="torch", device="cpu", nodes=cluster(count))
    report.backends["torch"] = {"all_reduce_s": {8: 1e-4}, "links": links}
    report.use_links_of("torch")
    return report
