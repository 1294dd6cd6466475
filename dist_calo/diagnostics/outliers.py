"""Which nodes and links are slow: they are compared with each other, for nothing else says how fast they should be."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dist_calo.diagnostics.findings import Check, Node, and_more


@dataclass(frozen=True)
class _Measure:
    """Something that nodes are compared in.

    Attributes:
        words: what it is, as in "network latency 5x the median".
        value: of a node; None where it was not measured.
        slower: whether the first of two values is slower than the second by more than chance, given the node that the
            comparison is about.
        high: whether high values are good.
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
    """What each slow node is slow in, against the median of all.

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
    """What is slow on each link "a-b" between nodes that neither a nor b explains: a cable, a port or an uplink.

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
    """Medians that some nodes are much better than, so that most of the others may be slow without being named.

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
