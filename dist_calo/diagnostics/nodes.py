"""Nodes of a job as they were measured, lines of a report, and the time of a step that follows from the nodes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dist_calo.scaling.cost import ring_seconds

_NAMED = 8


@dataclass(frozen=True)
class Check:
    """A line of a report.

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
    """Properties of a node; None where nothing was measured."""

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
    """To the best one of its neighbours, so that their slowness is not taken for its own."""
    bandwidth_bytes_per_s: float | None = None
    within_latency_s: float | None = None
    within_bandwidth_bytes_per_s: float | None = None
    read_bytes_per_s: float | None = None
    read_s: float = 0.0
    clock_s: float | None = None
    """Seconds by which its clock is ahead of the first node's."""
    clock_error_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def names_of(ranks: Iterable[int], nodes: Sequence[Node]) -> str:
    """Name the nodes of some ranks, and the ranks where not all of a node are among them."""
    among = set(ranks)
    names = []
    for node in nodes:
        odd = [rank for rank in node.ranks if rank in among]
        if odd:
            which = ", ".join(map(str, odd))
            names.append(node.name if len(odd) == len(node.ranks) else f"{node.name} (rank {which})")
    return and_more(names)


def and_more(names: Sequence[str]) -> str:
    """Join names on one line, the first of them if there are many."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted time of a training step, in seconds."""

    ranks: int
    showers: int
    """Of the global batch."""
    compute_s: float
    """On the slowest rank, at most."""
    all_reduce_s: float
    """In a ring as slow as its slowest link, none of it hidden behind computing."""

    @property
    def step_s(self) -> float:
        """Return the sum of computing and communication."""
        return self.compute_s + self.all_reduce_s

    def to_dict(self) -> dict[str, float]:
        """Return plain values."""
        return asdict(self) | {"step_s": self.step_s, "showers_per_s": self.showers / self.step_s}


def predict_step(
    nodes: Sequence[Node],
    *,
    showers: int,
    measured_ranks: int,
    bytes_: float,
    collectives: float,
    links: Iterable[tuple[float, float]],
) -> Prediction | None:
    """Predict the time of a step; None where nothing could be measured.

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
