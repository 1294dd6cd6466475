"""Latency, bandwidth and clock offsets between pairs of ranks, many disjoint pairs at the same time.

A ring takes two or three rounds whatever the number of nodes, the neighbours' neighbours two more, a tree of clocks
log2(nodes).
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from dist_calo.comm import Communicator
    from dist_calo.comm.mpi import MpiCommunicator

_PINGS = 30
_SMALL_BYTES = 1 << 16
_SECONDS = 0.2
_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Link:
    """Speed of the connection of two ranks, both sending at the same time as in a ring all-reduce."""

    latency_s: float
    bandwidth_bytes_per_s: float
    """Of one direction."""


class Pairs(Protocol):
    """Messages between two ranks, beside the collectives of a `Communicator`."""

    def send(self, tensor: torch.Tensor, rank: int) -> None:
        """Send a tensor and wait until it may be overwritten."""

    def receive(self, tensor: torch.Tensor, rank: int) -> None:
        """Wait for a tensor."""

    def exchange(self, mine: torch.Tensor, theirs: torch.Tensor, rank: int) -> None:
        """Send and receive at the same time."""


class TorchPairs:
    """Pairs of ranks of torch.distributed's default process group."""

    def send(self, tensor: torch.Tensor, rank: int) -> None:
        """Send a tensor and wait until it may be overwritten."""
        torch.distributed.send(tensor, rank)

    def receive(self, tensor: torch.Tensor, rank: int) -> None:
        """Wait for a tensor."""
        torch.distributed.recv(tensor, rank)

    def exchange(self, mine: torch.Tensor, theirs: torch.Tensor, rank: int) -> None:
        """Send and receive at the same time."""
        import torch.distributed as dist

        if not mine.is_cuda:
            # Gloo takes ten times as long over a batch of the two.
            for work in dist.isend(mine, rank), dist.irecv(theirs, rank):
                assert work is not None
                work.wait()
            return
        both = [dist.P2POp(dist.isend, mine, rank), dist.P2POp(dist.irecv, theirs, rank)]
        for work in dist.batch_isend_irecv(both):
            work.wait()
        torch.cuda.synchronize()


class MpiPairs:
    """Pairs of ranks of MPI; tensors in host memory.

    Args:
        communicator: waits for requests, within its time limit.
    """

    def __init__(self, communicator: "MpiCommunicator") -> None:
        from mpi4py import MPI

        self._communicator, self._mpi = communicator, MPI

    def send(self, tensor: torch.Tensor, rank: int) -> None:
        """Send a tensor and wait until it may be overwritten."""
        self._wait(self._mpi.COMM_WORLD.Isend(self._buffer(tensor), rank))

    def receive(self, tensor: torch.Tensor, rank: int) -> None:
        """Wait for a tensor."""
        self._wait(self._mpi.COMM_WORLD.Irecv(self._buffer(tensor), rank))

    def exchange(self, mine: torch.Tensor, theirs: torch.Tensor, rank: int) -> None:
        """Send and receive at the same time."""
        world = self._mpi.COMM_WORLD
        requests = world.Irecv(self._buffer(theirs), rank), world.Isend(self._buffer(mine), rank)
        for request in requests:
            self._wait(request)

    def _wait(self, request: object) -> None:
        self._communicator.wait_for(request, "a message between two ranks")  # type: ignore[arg-type]

    def _buffer(self, tensor: torch.Tensor) -> list[object]:
        return [tensor.view(torch.uint8).numpy(), self._mpi.BYTE]


PAIRS: Mapping[str, "Callable[[MpiCommunicator], Pairs]"] = {
    "torch": lambda _: TorchPairs(),
    "mpi": MpiPairs,
}
"""Messages between two ranks by backend; Horovod has collectives only."""


def ring_rounds(nodes: int) -> list[list[tuple[int, int]]]:
    """Return the neighbours in a ring in rounds of disjoint pairs: 1 for 2 nodes, 2 or 3 for even or odd numbers."""
    edges = [(node, (node + 1) % nodes) for node in range(nodes if nodes > 2 else nodes - 1)]
    rounds = [edges[0 : nodes - 1 : 2], edges[1 : nodes - 1 : 2], edges[nodes - 1 :]]
    if nodes % 2 == 0 and nodes > 2:
        rounds = [rounds[0], rounds[1] + rounds[2]]
    return [pairs for pairs in rounds if pairs]


def second_rounds(nodes: int) -> list[list[tuple[int, int]]]:
    """Return the neighbours' neighbours along a line, in at most two rounds of disjoint pairs; none up to 3 nodes.

    In a ring every link may touch a slow node though half of the nodes are fine; these links tell them apart.
    """
    pairs = [(node, node + 2) for node in range(nodes - 2 if nodes > 3 else 0)]
    rounds = [[pair for pair in pairs if pair[0] % 4 in firsts] for firsts in ((0, 1), (2, 3))]
    return [pairs for pairs in rounds if pairs]


def tree_rounds(nodes: int) -> list[list[tuple[int, int]]]:
    """Return pairs of parent and child of a binomial tree with root 0, in rounds of disjoint pairs."""
    rounds = []
    known = 1
    while known < nodes:
        rounds.append([(node - known, node) for node in range(known, min(2 * known, nodes))])
        known *= 2
    return rounds


def neighbours_within(nodes: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Return disjoint pairs of ranks on the same node, given the ranks of each node."""
    return [pair for ranks in nodes for pair in zip(ranks[::2], ranks[1::2], strict=False)]


def measure_link(pairs: Pairs, partner: int, largest_bytes: int, device: torch.device) -> Link:
    """Measure latency and bandwidth to a partner that measures the same at the same time.

    A slow link is measured with less than ``largest_bytes``, so that it takes a second at most.
    """

    def seconds(bytes_: int) -> float:
        mine = torch.zeros(bytes_, dtype=torch.uint8, device=device)
        theirs = torch.empty_like(mine)
        began = time.perf_counter()
        pairs.exchange(mine, theirs, partner)
        return time.perf_counter() - began

    seconds(_SMALL_BYTES)
    pings = [seconds(8) for _ in range(_PINGS)]
    mine = torch.tensor([seconds(_SMALL_BYTES)], dtype=torch.float64, device=device)
    theirs = torch.empty_like(mine)
    # Both have to take the same size.
    pairs.exchange(mine, theirs, partner)
    rate = _SMALL_BYTES / max(float(mine), float(theirs))
    bytes_ = int(min(max(_SMALL_BYTES, _SECONDS * rate), max(largest_bytes, _SMALL_BYTES)))
    seconds(bytes_)
    best = min(seconds(bytes_) for _ in range(_REPEATS))
    on_the_way = max(best - min(pings), best / 2)
    return Link(latency_s=statistics.median(pings), bandwidth_bytes_per_s=bytes_ / on_the_way)


def measure_clock(pairs: Pairs, partner: int, parent: bool) -> tuple[float, float] | None:
    """Measure by how much the child's clock is ahead of the parent's, and the error of that, in seconds.

    The quickest of some round trips: the answer was given at its middle, give or take half of it (Cristian,
    Distributed Computing 3 (1989) 146). Only the parent learns it.
    """
    stamp = torch.zeros(1, dtype=torch.float64)
    trips = []
    for _ in range(_PINGS):
        if parent:
            sent = time.time()
            pairs.send(stamp, partner)
            pairs.receive(stamp, partner)
            trips.append((sent, float(stamp), time.time()))
        else:
            pairs.receive(stamp, partner)
            stamp[0] = time.time()
            pairs.send(stamp, partner)
    return offset_of(trips) if parent else None


def offset_of(trips: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Return the offset and its error of round trips (sent, answered by the other's clock, received), in seconds."""
    sent, answered, received = min(trips, key=lambda trip: trip[2] - trip[0])
    return answered - (sent + received) / 2, (received - sent) / 2


def along_tree(steps: Mapping[int, tuple[float, float]], nodes: int) -> list[tuple[float, float]]:
    """Return each node's offset to node 0 and its error, from those of each child to its parent in `tree_rounds`."""
    found = {0: (0.0, 0.0)}
    for pairs in tree_rounds(nodes):
        for parent, child in pairs:
            found[child] = (found[parent][0] + steps[child][0], found[parent][1] + steps[child][1])
    return [found[node] for node in range(nodes)]


def time_all_reduce(communicator: "Communicator", bytes_: int, device: torch.device) -> float:
    """Time an all-reduce over all ranks on the slowest of them, in seconds: the median of up to 20 in a second."""
    tensor = torch.zeros(max(1, bytes_ // 4), device=device)

    def seconds() -> float:
        began = time.perf_counter()
        communicator.all_reduce(tensor)
        if tensor.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    communicator.barrier()
    first = _largest(communicator, seconds())
    repeats = min(20, max(2, round(1.0 / first)))
    return _largest(communicator, statistics.median([seconds() for _ in range(repeats)]))


def _largest(communicator: "Communicator", value: float) -> float:
    tensor = torch.tensor([value], dtype=torch.float64)
    communicator.all_reduce(tensor, "max")
    return float(tensor)
