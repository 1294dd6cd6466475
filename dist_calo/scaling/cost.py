"""Cost of a training step: computing a rank's share of the batch, then agreeing on the gradients.

    t(step) = base + share * seconds a sample + all-reduce

With latency a (the time of an empty message), bandwidth b and n bytes on p ranks an all-reduce takes

    ring:  2 (p - 1) a + 2 (p - 1)/p * n/b     (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69 (2009) 117:
                                                sends the fewest bytes that an all-reduce can)
    tree:  2 ceil(log2 p) (a + n/b)            (reduce to one rank and broadcast, binomial trees: Thakur, Rabenseifner
                                                and Gropp, Int. J. High Perform. Comput. Appl. 19 (2005) 49)

A collective inside the forward pass, such as the sums of a batch norm, costs its latency and hardly any bytes.
"""

import math
from collections.abc import Callable


def ring_messages(ranks: int) -> tuple[float, float]:
    """Return the messages one after the other in a ring all-reduce, and how often the payload passes a rank's link.

    Raises:
        ValueError: if there is no rank.

    Example:
        >>> ring_messages(4)
        (6.0, 1.5)
    """
    _require_ranks(ranks)
    return 2.0 * (ranks - 1), 2.0 * (ranks - 1) / ranks


def tree_messages(ranks: int) -> tuple[float, float]:
    """Return the messages one after the other in a tree all-reduce, and how often the payload passes the busiest link.

    Raises:
        ValueError: if there is no rank.

    Example:
        >>> tree_messages(8)
        (6.0, 6.0)
    """
    _require_ranks(ranks)
    depth = 2.0 * math.ceil(math.log2(ranks))
    return depth, depth


ALGORITHMS: dict[str, Callable[[int], tuple[float, float]]] = {"ring": ring_messages, "tree": tree_messages}
"""Cost of an all-reduce by its algorithm: numbers of latencies and of payloads on the network."""


def ring_seconds(ranks: int, bytes_: float, latency_s: float, bandwidth_bytes_per_s: float) -> float:
    """Return the time of a ring all-reduce, in seconds; 0 on one rank.

    Args:
        ranks: ranks that take part.
        bytes_: payload of each rank.
        latency_s: time of an empty message between two ranks.
        bandwidth_bytes_per_s: of one direction of a rank's link.

    Raises:
        ValueError: if there is no rank.

    Example:
        >>> round(ring_seconds(4, bytes_=8e6, latency_s=1e-5, bandwidth_bytes_per_s=1e9), 5)
        0.01206
    """
    return all_reduce_seconds("ring", ranks, bytes_, latency_s, bandwidth_bytes_per_s)


def all_reduce_seconds(
    algorithm: str, ranks: int, bytes_: float, latency_s: float, bandwidth_bytes_per_s: float
) -> float:
    """Return the time of an all-reduce by the algorithm's name, in seconds, with the arguments of `ring_seconds`."""
    messages, payloads = ALGORITHMS[algorithm](ranks)
    return messages * latency_s + payloads * bytes_ / bandwidth_bytes_per_s


def _require_ranks(ranks: int) -> None:
    if ranks < 1:
        raise ValueError(f"{ranks} ranks: an all-reduce has at least one")
