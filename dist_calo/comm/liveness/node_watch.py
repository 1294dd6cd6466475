"""Watch over nodes: the first ranks of a node watch its other ranks, and each node another one, whatever they compute.

On a node the signs of life tell which rank keeps the others waiting, and the operating system which one has died.

The first rank of a node keeps an idle connection to the first rank of the next node, and the last node's to the first:
a ring, so that a node has two connections however many there are, and nothing passes through rank 0. The kernels at
its ends keep a connection alive (TCP keep-alive). So a rank that computes, waits for a file system or has been
suspended is not taken for dead: its kernel answers. A node that has crashed, or that the network has lost, does not.
Only while ranks of a node wait for others does it ask the next one each second, with one byte, whether that waits too:
so a rank that is alone on its node and has been stopped, or computes without end, is found as well.
"""

import fcntl
import os
import secrets
import select
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf

from dist_calo.comm.liveness.leaving import LOSS_DELAY_S, before_leaving, leave_silently, say
from dist_calo.comm.liveness.rank_watch import LocalWatch
from dist_calo.comm.protocol import Communicator
from dist_calo.errors import EXIT_FAILURE
from dist_calo.launching.environment import World
from dist_calo.launching.failure_messages import lose_node
from dist_calo.launching.rank_progress import SIGNS, Judge, Page, open_page

# A connection is probed first when it was idle for two of these parts of the time allowed.
_PROBES = 6
_CONNECT_S = 5.0
_TICK_S = 1.0
# Ranks wait for each other all the time, but rarely so long.
_ASK_AFTER_S = 3.0
_FAREWELL, _QUESTION, _ANSWER = b".", b"?", b"!"


@dataclass(frozen=True, kw_only=True)
class Card:
    """Address at which a rank can be watched. Only the first rank of a node has a port."""

    node: str
    space: int = 0
    """Processes of a node know each other by number if this is the same: containers may have numbers of their own."""
    pid: int = 0
    port: int = 0
    addresses: tuple[str, ...] = ()
    token: bytes = b""
    """What the rank says to whom connects, which tells it from any other service at this address."""
    signs: str = ""
    """Memory for the signs of life of this node's ranks."""


class NodeWatch:
    """Watch over the ranks of this node and, on its first rank, over the next node of the ring.

    Args:
        world: this process among the ranks.
        silence_s: time for which nothing is heard from a node, or a rank makes no progress, in seconds.
        timeout_s: time after which a collective fails, in seconds.
        toward: host that the other nodes reach; tells which of this node's addresses they will reach in turn.
    """

    def __init__(
        self, world: World, silence_s: float, timeout_s: float = 600.0, toward: str | None = None
    ) -> None:
        self._world, self._silence_s = world, silence_s
        self._judge = Judge(silence_s, timeout_s)
        self._off = threading.Event()
        self._watchers: list[socket.socket] = []
        self._ranks: LocalWatch | None = None
        self._asked_at = -inf
        self._page = SIGNS.page or (
            open_page(world.local_size) if world.local_rank == 0 < world.size - 1 else None
        )
        self.card = Card(node=world.node, pid=os.getpid(), signs=self._page.path if self._page else "")
        with suppress(OSError):
            self.card = replace(self.card, space=os.stat("/proc/self/ns/pid").st_ino)
        if world.local_rank == 0 and world.local_size < world.size:
            listener = socket.create_server(("", 0), backlog=8)
            self.card = replace(
                self.card,
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
            on_loss: called on a thread of its own once a node or rank is lost, with a text that names it, which has
                been printed. If all that is known is that a rank has ended, its node comes second, otherwise None.
        """
        self._watch_ranks(cards, on_loss)
        first = first_ranks(cards)
        if len(first) < 2 or self._world.rank not in first:
            return
        watched = first[(first.index(self._world.rank) + 1) % len(first)]
        work = (cards[watched], name_node(cards, watched), watched, on_loss)
        threading.Thread(
            target=self._watch, args=work, name=f"node-watch of rank {watched}", daemon=True
        ).start()

    def switch_off(self) -> None:
        """Take the end of other nodes for granted from now on. Connections stay open until the process ends."""
        self._off.set()

    def leave(self) -> None:
        """Take the end of all other ranks for granted, once all have met for the last time."""
        if self._ranks is not None:
            self._ranks.switch_off()
        SIGNS.leave()

    def say_farewell(self) -> None:
        """Tell who watches this rank that it leaves with a message of its own."""
        for connection in self._watchers:
            with suppress(OSError):
                connection.send(_FAREWELL, socket.MSG_DONTWAIT)

    def _watch_ranks(self, cards: Sequence[Card], on_loss: Callable[[str, str | None], None]) -> None:
        here = (self.card.node, self.card.space)
        ranks = [rank for rank, card in enumerate(cards) if (card.node, card.space) == here]
        path = cards[ranks[0]].signs
        # Where memory cannot be shared nobody is watched, as on systems that are not Linux.
        with suppress(OSError, ValueError):
            page = self._page if self._page and self._page.path == path else Page(path)
            if page.size >= len(ranks):
                SIGNS.use(page, ranks.index(self._world.rank))
                self._ranks = LocalWatch(
                    self._world,
                    page,
                    ranks,
                    [cards[rank].pid for rank in ranks],
                    self._judge,
                    names_dead=not SIGNS.launcher_looks,
                    is_asked=lambda: time.monotonic() - self._asked_at < _ASK_AFTER_S,
                    on_loss=on_loss,
                )

    def _answer(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                keep_alive(connection, self._silence_s)
                with suppress(OSError):
                    connection.sendall(self.card.token)
                self._watchers.append(connection)
                threading.Thread(target=self._reply, args=(connection,), daemon=True).start()

    def _reply(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while connection.recv(1) == _QUESTION:
                self._asked_at = time.monotonic()
                connection.send(_ANSWER, socket.MSG_DONTWAIT)

    def _watch(self, card: Card, name: str, rank: int, on_loss: Callable[[str, str | None], None]) -> None:
        connection = _connect(card, self._silence_s)
        if connection is None:
            say(
                self._world,
                f"warning: no connection to {name} ({', '.join(card.addresses)}, port {card.port}): if that node is "
                "lost, it may not be named",
            )
            return
        with connection:
            try:
                ended, told = True, self._listen(connection)
            except ConnectionResetError:
                ended, told = True, b""
            except OSError:
                ended, told = False, b""
        if told == _FAREWELL or self._off.wait(LOSS_DELAY_S if ended else 0.0):
            return
        suspect, place = None, SIGNS.sign.place
        if told:
            text = (
                f"rank {rank} of {self._world.size} on {card.node} has not answered for {self._silence_s:g} s"
                f"{place}, though its node does: it is stopped, or computes without end"
            )
        elif ended:
            suspect = card.node
            text = (
                f"rank {rank} has ended without a message{place}: it or its {name} crashed, was killed or ran out of "
                "memory"
            )
        else:
            text = f"{name} no longer answers: nothing has been heard from it for {self._silence_s:g} s"
        say(self._world, f"error: {text}")
        on_loss(text, suspect)

    def _listen(self, connection: socket.socket) -> bytes:
        """Return the last word of the next node's first rank: empty if it ends without one, a question if silent."""
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        unanswered_s, looked = 0.0, time.monotonic()
        while True:
            if poll.poll(1e3 * _TICK_S):
                if (word := connection.recv(1)) != _ANSWER:
                    return word
                unanswered_s = 0.0
            now = time.monotonic()
            awake_s, looked = min(now - looked, 2 * _TICK_S), now
            if self._ranks is None or not self._ranks.waits_for_long(_ASK_AFTER_S):
                unanswered_s = 0.0
                continue
            unanswered_s += awake_s
            if unacknowledged(connection):
                # Not even the node's kernel has it: this one will say when the node has been silent for too long.
                continue
            if unanswered_s >= self._judge.limit(SIGNS.sign.usual_s):
                return _QUESTION
            with suppress(BlockingIOError):
                connection.send(_QUESTION, socket.MSG_DONTWAIT)


def watch_nodes(communicator: Communicator, silence_s: float, timeout_s: float) -> NodeWatch:
    """Watch nodes and ranks for a backend that has no way to tell all ranks; collective.

    The rank that has found another one lost says so and leaves, and then the launcher ends the others.
    """
    watch = NodeWatch(communicator.world, silence_s, timeout_s)

    def lose(text: str, suspect: str | None) -> None:
        lose_node(text, suspect)
        leave_silently(EXIT_FAILURE)

    if communicator.world.size > 1:
        watch.start(communicator.all_gather_object(watch.card), lose)
    return watch


def keep_alive(connection: socket.socket, silence_s: float) -> None:
    """Have the kernel watch a connection, idle or not, and close it with an error once it was silent for so long.

    Kernels count whole seconds: the time is rounded to a multiple of six.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Linux probes no connection on which something waits for the other side's word that it came.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1e3 * silence_s))
    # macOS has its own name for the first of them.
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    every_s = max(1, round(silence_s / _PROBES))
    for option, value in ((idle, 2 * every_s), ("TCP_KEEPINTVL", every_s), ("TCP_KEEPCNT", _PROBES - 2)):
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def unacknowledged(connection: socket.socket) -> int:
    """Return how many sent bytes the kernel at the other end has not acknowledged; 0 where it cannot be told."""
    with suppress(OSError):
        return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0


def first_ranks(cards: Sequence[Card]) -> list[int]:
    """Return the rank of each node that can be watched, in order."""
    first: dict[str, int] = {}
    for rank, card in enumerate(cards):
        if card.port:
            first.setdefault(card.node, rank)
    return sorted(first.values())


def name_node(cards: Sequence[Card], rank: int) -> str:
    """Return the name of the node of a rank in messages, such as ``node node42 (ranks 4-7)``."""
    node = cards[rank].node
    return f"node {node} ({name_ranks(other for other, card in enumerate(cards) if card.node == node)})"


def name_ranks(ranks: Iterable[int]) -> str:
    """Return ranks in short, such as ``rank 3`` or ``ranks 0-3, 8``; they come in order."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1][1:] = [rank]
        else:
            runs.append([rank])
    text = ", ".join("-".join(map(str, run)) for run in runs)
    return f"{'rank' if text.isdecimal() else 'ranks'} {text}"


def _addresses(node: str, toward: str | None) -> tuple[str, ...]:
    """Return names and numbers by which other nodes may reach this one, the likeliest first."""
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
    """Return a connection to the rank of a card, if one of its addresses leads there."""
    for address in card.addresses:
        with suppress(OSError):
            connection = socket.create_connection((address, card.port), timeout=_CONNECT_S)
            if connection.recv(len(card.token), socket.MSG_WAITALL) == card.token:
                connection.settimeout(None)
                keep_alive(connection, silence_s)
                return connection
            connection.close()
    return None
