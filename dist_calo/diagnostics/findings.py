"""What the measurements on a cluster mean: which rank or node is the odd one, and how long a step will take."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dist_calo.scaling.cost import ring_seconds

PACKAGES = ("torch", "numpy", "h5py", "mlflow", "mpi4py", "horovod")
"""Packages whose versions are told."""
_NAMED = 8


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        status: ``ok``; ``--`` for what the job can do without; ``FAIL`` for what would stop it.
        name: what was looked at.
        text: what was found, and for a failure what to do.
    """

    status: Literal["ok", "--", "FAIL"]
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:<5}{self.name:<11}{' '.join(self.text.split())}"


@dataclass(kw_only=True)
class Node:
    """What was found on one node; None is what was not measured."""

    name: str
    ranks: list[int]
    kernel: str = ""
    cores: list[int] = field(default_factory=list)
    """Physical cores that any of its ranks may use."""
    shared_cores: list[int] = field(default_factory=list)
    """Those that several of its ranks may use."""
    threads: int = 0
    """Compute threads of all its ranks."""
    memory_bytes: int = 0
    memory_free_bytes: int = 0
    gpus: list[str] = field(default_factory=list)
    step_s: float | None = None
    """Median of steps without any communication, on the slowest of its ranks."""
    scatter_s: float = 0.0
    """Standard error of that median."""
    step_mean_s: float | None = None
    """The largest mean of its ranks."""
    latency_s: float | None = None
    """To the best one of its neighbours, so that a slow node is not laid to theirs."""
    bandwidth_bytes_per_s: float | None = None
    within_latency_s: float | None = None
    within_bandwidth_bytes_per_s: float | None = None
    read_bytes_per_s: float | None = None
    read_s: float = 0.0
    clock_s: float | None = None
    """How far its clock is ahead of the first node's."""
    clock_error_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def names_of(ranks: Iterable[int], nodes: Sequence[Node]) -> str:
    """Which nodes some ranks are, or where not all ranks of a node are among them, which ranks of it."""
    among = set(ranks)
    names = []
    for node in nodes:
        odd = [rank for rank in node.ranks if rank in among]
        if odd:
            which = ", ".join(map(str, odd))
            names.append(node.name if len(odd) == len(node.ranks) else f"{node.name} (rank {which})")
    return and_more(names)


def and_more(names: Sequence[str]) -> str:
    """Names on one line, the first of them if there are many."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def odd_ones(values: Mapping[int, Any]) -> tuple[Any, dict[Any, list[int]]]:
    """What most have, the first rank where there is no majority, and who has each of the other values."""
    counts = Counter(values.values())
    most = max(counts.values())
    usual = next(value for _, value in sorted(values.items()) if counts[value] == most)
    others: dict[Any, list[int]] = {}
    for rank, value in sorted(values.items()):
        if value != usual:
            others.setdefault(value, []).append(rank)
    return usual, others


def check_versions(found: Mapping[int, Mapping[str, str]], nodes: Sequence[Node]) -> list[Check]:
    """One line of what all ranks have, and one for each version that some have another of.

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
    """These ranks, and those of their nodes that were not asked."""
    odd, silent = set(ranks), {rank for node in nodes for rank in node.ranks} - set(asked)
    return odd | {rank for node in nodes if odd & set(node.ranks) for rank in node.ranks if rank in silent}


def check_cores(nodes: Sequence[Node]) -> list[Check]:
    """Who computes with more threads than cores, and whose ranks share cores."""
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
    """Nodes that are not like the others."""
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


def check_clocks(nodes: Sequence[Node], largest_s: float = 0.1) -> list[Check]:
    """Clocks that differ so much that times in logs cannot be compared."""
    known = [node for node in nodes if node.clock_s is not None]
    if len(known) < 2:
        return []
    # Against the median: the first node's own clock may be the wrong one.
    middle = statistics.median([node.clock_s or 0.0 for node in known])
    away = {node.name: (node.clock_s or 0.0) - middle for node in known}
    wrong = [
        f"{node.name} {away[node.name]:+.3g} s"
        for node in known
        if abs(away[node.name]) > largest_s + node.clock_error_s
    ]
    if wrong:
        return [Check("--", "clocks", f"off the median: {and_more(wrong)}; have them set by NTP")]
    largest = max(abs(offset) for offset in away.values())
    error = max(node.clock_error_s for node in known)
    return [Check("ok", "clocks", f"within {largest * 1e3:.3g} ms, give or take {error * 1e3:.2g} ms")]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Time of a training step, in seconds."""

    ranks: int
    showers: int
    """Of the global batch."""
    compute_s: float
    """On the slowest rank, at most."""
    all_reduce_s: float
    """In a ring as slow as its slowest link, none of it hidden behind computing."""

    @property
    def step_s(self) -> float:
        """Computing and communication one after the other."""
        return self.compute_s + self.all_reduce_s

    def to_dict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self) | {"step_s": self.step_s, "showers_per_s": self.showers / self.step_s}


def predict(
    nodes: Sequence[Node],
    *,
    showers: int,
    measured_ranks: int,
    bytes_: float,
    collectives: float,
    links: Iterable[tuple[float, float]],
) -> Prediction | None:
    """Time of a step; None where nothing could be measured.

    Args:
        nodes: with their times of a step.
        showers: of the global batch.
        measured_ranks: that this batch was shared among when the nodes' steps were measured.
        bytes_: handed to collectives in a step.
        collectives: of a step.
        links: latency (s) and bandwidth (bytes/s) of the connections that the ring uses.
    """
    # All wait for the slowest, also for one that stalls now and then.
    steps = [max(node.step_s, node.step_mean_s or 0.0) for node in nodes if node.step_s is not None]
    links = list(links)
    ranks = sum(len(node.ranks) for node in nodes)
    if not steps or (ranks > 1 and not links):
        return None
    wait = 0.0
    if ranks > 1:
        latency, bandwidth = max(link[0] for link in links), min(link[1] for link in links)
        wait = ring_seconds(ranks, bytes_, collectives * latency, bandwidth)
    # Fewer ranks have a larger share each. An upper bound: a part of a step takes the same time whatever the share.
    more = math.ceil(showers / ranks) / math.ceil(showers / measured_ranks)
    return Prediction(ranks=ranks, showers=showers, compute_s=more * max(steps), all_reduce_s=wait)
