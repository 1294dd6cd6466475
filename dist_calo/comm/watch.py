"""Each node is watched by another one, so that a node that vanishes is named soon, whatever the ranks are doing.

The first rank of a node keeps an idle connection to the first rank of the next node, and the last node's to the first:
a ring, so that a node has two connections however many there are, and nothing passes through rank 0. The kernels at
its ends keep a connection alive (TCP keep-alive). So a rank that computes, waits for a file system or has been
suspended is not taken for dead: its kernel answers. A node that has crashed, or that the network has lost, does not.
"""

import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dist_calo.comm.failure import LOSS_DELAY_S, before_leaving, leave, lose_node
from dist_calo.comm.protocol import Communicator, World
from dist_calo.errors import EXIT_FAILURE

# A connection is probed first when it was idle for two of these parts of the time allowed.
_PROBES = 6
_CONNECT_S = 5.0
_FAREWELL = b"."


@dataclass(frozen=True, kw_only=True)
class Card:
    """Where a rank can be watched. Only the first rank of a node has a port."""

    node: str
    port: int = 0
    addresses: tuple[str, ...] = ()
    token: bytes = b""
    """What the rank says to whom connects, which tells it from any other service at this address."""


class NodeWatch:
    """Watches the next node of the ring, on the first rank of each node; other ranks have nothing to do.

    Args:
        world: this process among the ranks.
        silence_s: time for which nothing is heard from a node before it is lost, in seconds.
        toward: host that the other nodes reach; tells which of this node's addresses they will reach in turn.
    """

    def __init__(self, world: World, silence_s: float, toward: str | None = None) -> None:
        self._world, self._silence_s = world, silence_s
        self._off = threading.Event()
        self._watchers: list[socket.socket] = []
        self.card = Card(node=world.node)
        if world.local_rank == 0 and world.local_size < world.size:
            listener = socket.create_server(("", 0), backlog=8)
            self.card = Card(
                node=world.node,
                port=listener.getsockname()[1],
                addresses=_addresses(world.node, toward),
                token=secrets.token_bytes(8),
            )
            threading.Thread(target=self._answer, args=(listener,), name="node-watch", daemon=True).start()
            before_leaving(self.say_farewell)

    def start(self, cards: Sequence[Card], on_loss: Callable[[str, str | None], None]) -> None:
        """Begin to watch.

        Args:
            cards: those of all ranks, in their order.
            on_loss: called on a thread of its own once the node is lost, with a text that names it. If no more is
                known than that its first rank has ended, the node's name comes second, otherwise None.
        """
        first = first_ranks(cards)
        if len(first) < 2 or self._world.rank not in first:
            return
        watched = first[(first.index(self._world.rank) + 1) % len(first)]
        name = name_node(cards, watched)
        work = (cards[watched], name, watched, on_loss)
        threading.Thread(
            target=self._watch, args=work, name=f"node-watch of rank {watched}", daemon=True
        ).start()

    def switch_off(self) -> None:
        """Take the end of other ranks for granted from now on. Connections stay open until the process ends."""
        self._off.set()

    def say_farewell(self) -> None:
        """Tell who watches this rank that it leaves with a message of its own."""
        for connection in self._watchers:
            with suppress(OSError):
                connection.send(_FAREWELL, socket.MSG_DONTWAIT)

    def _answer(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                keep_alive(connection, self._silence_s)
                with suppress(OSError):
                    connection.sendall(self.card.token)
                self._watchers.append(connection)

    def _watch(self, card: Card, name: str, rank: int, on_loss: Callable[[str, str | None], None]) -> None:
        connection = _connect(card, self._silence_s)
        if connection is None:
            print(
                f"[rank {self._world.rank} on {self._world.node}] warning: no connection to {name} "
                f"({', '.join(card.addresses)}, port {card.port}): if that node is lost, it may not be named",
                flush=True,
            )
            return
        with connection:
            try:
                ended, told = True, connection.recv(1)
            except ConnectionResetError:
                ended, told = True, b""
            except OSError:
                ended, told = False, b""
        if told or self._off.wait(LOSS_DELAY_S if ended else 0.0):
            return
        if ended:
            on_loss(
                f"rank {rank} has ended without a message: it or its {name} crashed, was killed or ran out of memory",
                card.node,
            )
        else:
            on_loss(
                f"{name} no longer answers: nothing has been heard from it for {self._silence_s:g} s", None
            )


def watch_nodes(communicator: Communicator, silence_s: float) -> NodeWatch:
    """Watch the nodes for a backend that has no way to tell all ranks; collective.

    The rank that has lost its neighbour says so and leaves, and then the launcher ends the others.
    """
    world = communicator.world
    watch = NodeWatch(world, silence_s)

    def lose(text: str, suspect: str | None) -> None:
        lose_node(text, suspect)
        leave(world, f"error: {text}", EXIT_FAILURE)

    if world.local_size < world.size:
        watch.start(communicator.all_gather_object(watch.card), lose)
    return watch


def keep_alive(connection: socket.socket, silence_s: float) -> None:
    """Have the kernel probe an idle connection, and close it with an error once it was silent for so long.

    Kernels count whole seconds: the time is rounded to a multiple of six.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # macOS has its own name for the first of them.
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    every_s = max(1, round(silence_s / _PROBES))
    for option, value in ((idle, 2 * every_s), ("TCP_KEEPINTVL", every_s), ("TCP_KEEPCNT", _PROBES - 2)):
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def first_ranks(cards: Sequence[Card]) -> list[int]:
    """The rank of each node that can be watched, in order."""
    first: dict[str, int] = {}
    for rank, card in enumerate(cards):
        if card.port:
            first.setdefault(card.node, rank)
    return sorted(first.values())


def name_node(cards: Sequence[Card], rank: int) -> str:
    """How messages call the node of a rank, such as ``node node42 (ranks 4-7)``."""
    node = cards[rank].node
    return f"node {node} ({name_ranks(other for other, card in enumerate(cards) if card.node == node)})"


def name_ranks(ranks: Iterable[int]) -> str:
    """Ranks in short, such as ``rank 3`` or ``ranks 0-3, 8``; they come in order."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1][1:] = [rank]
        else:
            runs.append([rank])
    text = ", ".join("-".join(map(str, run)) for run in runs)
    return f"{'rank' if text.isdecimal() else 'ranks'} {text}"


def _addresses(node: str, toward: str | None) -> tuple[str, ...]:
    """Names and numbers by which other nodes may reach this one, the likeliest first."""
    found: list[str] = []
    if toward is not None:
        with suppress(OSError):
            family, kind, _, _, address = socket.getaddrinfo(toward, 9, type=socket.SOCK_DGRAM)[0]
            # Nothing is sent: the kernel only chooses the interface.
            with socket.socket(family, kind) as probe:
                probe.connect(address)
                found.append(probe.getsockname()[0])
    return tuple(dict.fromkeys([*found, node, socket.gethostname()]))


def _connect(card: Card, silence_s: float) -> socket.socket | None:
    """A connection to the rank of a card, if one of its addresses leads there."""
    for address in card.addresses:
        with suppress(OSError):
            connection = socket.create_connection((address, card.port), timeout=_CONNECT_S)
            if connection.recv(len(card.token), socket.MSG_WAITALL) == card.token:
                connection.settimeout(None)
                keep_alive(connection, silence_s)
                return connection
            connection.close()
    return None
