"""Comparison of nodes and links with each other, for nothing else says how fast they should be, or which is odd."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dist_calo.diagnostics.nodes import Check, Node, and_more, names_of


def odd_ones(values: Mapping[int, Any]) -> tuple[Any, dict[Any, list[int]]]:
    """Return the most common value, or that of the first rank, and the ranks that have each of the others."""
    counts = Counter(values.values())
    most = max(counts.values())
    usual = next(value for _, value in sorted(values.items()) if counts[value] == most)
    others: dict[Any, list[int]] = {}
    for rank, value in sorted(values.items()):
        if value != usual:
            others.setdefault(value, []).append(rank)
    return usual, others


def check_versions(found: Mapping[int, Mapping[str, str]], nodes: Sequence[Node]) -> list[Check]:
    """Return a line of the versions that all ranks share, and one for each that differs.

    Args:
        found: versions by name of each rank; a rank that did not look for one has no entry.
        nodes: where the ranks are.
    """
    same, checks = [], []
    for name in dict.fromkeys(name for versions in found.values() for name in versions):
        have = {rank: versions[name] for rank, versions in found.items() if name in versions}
        usual, others = odd_ones(have)
        if not others:
            same.append(f"{name} {usual}")
        for value, ranks in others.items():
            count = sum(version == usual for version in have.values())
            odd = names_of(_with_node(ranks, have, nodes), nodes)
            text = f"{name} is {value} on {odd}, and {usual} on {count} others: install the same everywhere"
            checks.append(Check("FAIL", "versions", text))
    return [Check("ok", "versions", f"the same everywhere: {', '.join(same) or 'nothing'}"), *checks]


def _with_node(ranks: Iterable[int], asked: Iterable[int], nodes: Sequence[Node]) -> set[int]:
    """Add to these ranks those of their nodes that were not asked."""
    odd, silent = set(ranks), {rank for node in nodes for rank in node.ranks} - set(asked)
    return odd | {rank for node in nodes if odd & set(node.ranks) for rank in node.ranks if rank in silent}


def check_cores(nodes: Sequence[Node]) -> list[Check]:
    """Report nodes with more threads than cores, and nodes whose ranks share cores."""
    checks = []
    by_kernel: dict[str, list[Node]] = {}
    for node in nodes:
        by_kernel.setdefault(node.kernel, []).append(node)
    crowded = []
    for together in by_kernel.values():
        threads = sum(node.threads for node in together)
        cores = len({core for node in together for core in node.cores})
        if threads > cores:
            names = and_more([node.name for node in together])
            on_one = " (under one kernel)" if len(together) > 1 else ""
            crowded.append(f"{names}{on_one}: {threads} on {cores}")
    if crowded:
        advice = "start fewer ranks or give them more cores"
        checks.append(Check("--", "cores", f"more threads than cores on {'; '.join(crowded)}: {advice}"))
    sharing = [node.name for node in nodes if node.shared_cores]
    if sharing:
        advice = "bind each rank to its own, with srun --cpu-bind=cores or mpirun --bind-to core"
        checks.append(Check("--", "affinity", f"ranks share cores on {and_more(sharing)}: {advice}"))
    return checks or [Check("ok", "cores", "every rank computes on its own")]


def check_hardware(nodes: Sequence[Node]) -> list[Check]:
    """Report nodes that are not like the others."""
    checks = []
    kinds: dict[str, dict[int, Any]] = {
        "cores": {i: len(node.cores) for i, node in enumerate(nodes)},
        "ranks": {i: len(node.ranks) for i, node in enumerate(nodes)},
        "GPUs": {i: ", ".join(node.gpus) or "none" for i, node in enumerate(nodes)},
        "GB of memory": {i: round(node.memory_bytes / 1e9) for i, node in enumerate(nodes)},
    }
    for kind, values in kinds.items():
        usual, others = odd_ones(values)
        for value, which in others.items():
            names = and_more([nodes[index].name for index in which])
            checks.append(Check("--", "hardware", f"{kind}: {value} on {names}, {usual} on most"))
    return checks


def check_clocks(nodes: Sequence[Node]) -> list[Check]:
    """Report clocks that differ so much that times in logs cannot be compared."""
    known = [node for node in nodes if node.clock_s is not None]
    if len(known) < 2:
        return []
    # Against the median: the first node's own clock may be the wrong one.
    middle = statistics.median([node.clock_s or 0.0 for node in known])
    away = {node.name: (node.clock_s or 0.0) - middle for node in known}
    wrong = [
        f"{node.name} {away[node.name]:+.3g} s"
        for node in known
        if abs(away[node.name]) > 0.1 + node.clock_error_s
    ]
    if wrong:
        return [Check("--", "clocks", f"off the median: {and_more(wrong)}; have them set by NTP")]
    largest = max(abs(offset) for offset in away.values())
    error = max(node.clock_error_s for node in known)
    return [Check("ok", "clocks", f"within {largest * 1e3:.3g} ms, give or take {error * 1e3:.2g} ms")]


@dataclass(frozen=True)
class _Measure:
    """A quantity that nodes are compared in.

    Attributes:
        words: what it is, as in "network latency 5x the median".
        value: of a node; None where it was not measured.
        slower: tells if the first of two values is slower than the second by more than chance, given the node that the
            comparison is about.
        high: true where high values are good.
    """

    words: str
    value: Callable[[Node], float | None]
    slower: Callable[[float, float, Node], bool]
    high: bool = False

    def compare(self, nodes: Iterable[Node]) -> "_Compared":
        there = [(node, value) for node in nodes if (value := self.value(node))]
        if not there:
            return _Compared(0.0, {}, {}, 0)
        # Of two nodes the quicker one is the rule.
        median = statistics.median_high if self.high else statistics.median_low
        usual = median([value for _, value in there])
        return _Compared(
            usual,
            {node.name: value / usual for node, value in there if self.slower(value, usual, node)},
            {node.name: value / usual for node, value in there if self.slower(usual, value, node)},
            len(there),
        )


@dataclass(frozen=True)
class _Compared:
    """The median of some nodes, and the values of those far from it relative to it."""

    usual: float
    slower: Mapping[str, float]
    quicker: Mapping[str, float]
    nodes: int


_BANDWIDTH = _Measure(
    "network bandwidth",
    lambda node: node.bandwidth_bytes_per_s,
    lambda value, other, _: value < other / 2,
    high=True,
)
_MEASURES = (
    _Measure(
        "a step takes",
        lambda node: node.step_s,
        lambda value, other, node: value > 1.15 * other + 3 * node.scatter_s,
    ),
    # A node that stalls now and then has a usual median, yet all others wait for it.
    _Measure(
        "on average a step takes", lambda node: node.step_mean_s, lambda value, other, _: value > 1.3 * other
    ),
    _BANDWIDTH,
    _Measure(
        "network latency",
        lambda node: node.latency_s,
        lambda value, other, _: value > max(3 * other, other + 1e-4),
    ),
    # What takes no time says nothing of the disk.
    _Measure(
        "reading",
        lambda node: node.read_bytes_per_s,
        lambda value, other, node: value < other / 2 and node.read_s > 0.1,
        high=True,
    ),
)


def slow_nodes(nodes: Sequence[Node]) -> dict[str, list[str]]:
    """Return the quantities in which each slow node is slower than the median of all.

    Computing: a median step above 1.15 times the median and three times its own standard error, or a mean above 1.3
    times the median of means. Network and reading: below half, if reading took 0.1 s at least; latency: three times as
    long, and 0.1 ms.
    """
    found: dict[str, list[str]] = {}
    for measure in _MEASURES:
        for name, ratio in measure.compare(nodes).slower.items():
            found.setdefault(name, []).append(f"{measure.words} {ratio:.2g}x the median")
    return found


def slow_links(nodes: Sequence[Node], links: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Find links "a-b" that are slow though neither node is: a cable, a port or an uplink.

    Its bandwidth is below half of the nodes' median, though each of its ends has a better link elsewhere.
    """
    compared = _BANDWIDTH.compare(nodes)
    fine = {node.name for node in nodes if node.bandwidth_bytes_per_s} - compared.slower.keys()
    return {
        "-".join(link["nodes"]): f"bandwidth {link['bandwidth_bytes_per_s'] / compared.usual:.2g}x the median"
        for link in links
        if len(set(link["nodes"])) == 2
        and fine.issuperset(link["nodes"])
        and link["bandwidth_bytes_per_s"] < compared.usual / 2
    }


def check_medians(nodes: Sequence[Node]) -> list[Check]:
    """Warn of medians that some nodes are much better than: most of the others may be slow without being named.

    It is so wherever fewer than half of the nodes are near a median: no more than half are on either side of it.
    """
    checks = []
    for measure in _MEASURES:
        compared = measure.compare(nodes)
        if compared.quicker:
            near = compared.nodes - len(compared.slower) - len(compared.quicker)
            least = (min if measure.high else max)(compared.quicker.values())
            text = (
                f"{and_more(list(compared.quicker))}: {measure.words} {least:.2g}x the median or better, and {near} of "
                f"{compared.nodes} nodes are near the median: if all are meant to be alike, the others are slow"
            )
            checks.append(Check("--", "median", text))
    return checks
