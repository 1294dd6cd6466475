"""Facts on which all ranks agree before they depend on each other: settings, code, versions, the number of ranks.

Each rank comes with facts, a text for each name. Ranks with the same facts are a party, known by a digest; where there
is more than one party, a rank of each tells its facts, and all ranks end with what differs. Ranks of the torch backend
meet at its store before they connect, as other settings (device, number of ranks) would leave them waiting for each
other. There a rank that fails on its way also leaves word. The libraries of MPI and Horovod connect first.

At 4,096 ranks: a digest and a number a rank (some 100 kB in all at rank 0), 3 kB of facts a party.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from itertools import pairwise
from typing import Any

from dist_calo.comm.liveness.leaving import CommunicationError
from dist_calo.comm.liveness.node_watch import name_ranks
from dist_calo.comm.protocol import Communicator
from dist_calo.errors import EXIT_USER, LaunchError
from dist_calo.launching.environment import World
from dist_calo.launching.meeting_point import await_listener, meeting_point

_PARTIES_SHOWN = 4
_FACTS_SHOWN = 6
_LETTERS_SHOWN = 100
_AGREED = "0"
NUMBER = "number of ranks"
"""Name of the fact that says how many ranks this one expects."""
WORD_S = 20.0
"""Time that a rank which fails before it is connected gives the others to hear of it, in seconds."""
_HEARD_S = 2.0
_POLL_S = 0.05
_POLLS_PER_S = 4096


@dataclass(frozen=True)
class Party:
    """Ranks that have the same facts."""

    ranks: Sequence[int]
    node: str
    """Of the first of them."""
    facts: Mapping[str, str]


def difference(parties: Sequence[Party]) -> str | None:
    """Say what the ranks do not agree on, with all values by rank; None for one party.

    The largest party, or that of the lowest rank, is what the others are compared with.
    """
    usual, *others = sorted(parties, key=lambda party: (-len(party.ranks), party.ranks[0]))
    if not others:
        return None
    told = []
    most = "others" if len(others) == 1 else "most ranks"
    for party in others[: _PARTIES_SHOWN - 1]:
        names = [
            name for name in {**usual.facts, **party.facts} if usual.facts.get(name) != party.facts.get(name)
        ]
        values = [
            f"{name}={_short(party.facts.get(name))}, "
            f"{_named(usual) if len(usual.ranks) == 1 else most} {_short(usual.facts.get(name))}"
            for name in names[:_FACTS_SHOWN]
        ]
        values += [f"and {len(names) - _FACTS_SHOWN} more"] * (len(names) > _FACTS_SHOWN)
        told.append(f"{_named(party)}: {'; '.join(values)}")
    told += [f"{len(others) - len(told)} more kinds of ranks"] * (len(others) > len(told))
    return f"the ranks do not agree: {' | '.join(told)}. Start all of them with the same settings, code and versions"


def _twice(parties: Sequence[Party]) -> str | None:
    """Return the message for two processes that call themselves the same rank."""
    ranks = sorted(rank for party in parties for rank in party.ranks)
    twice = next((rank for rank, following in pairwise(ranks) if rank == following), None)
    return (
        None
        if twice is None
        else f"two processes are rank {twice}: give each a number of its own (RANK), or use a launcher"
    )


def _named(party: Party) -> str:
    return f"{_short(name_ranks(party.ranks))} ({party.node})"


def _short(text: str | None) -> str:
    if not text:
        return "(not set)"
    return text if len(text) <= _LETTERS_SHOWN else f"{text[:_LETTERS_SHOWN]}..."


def _digest(facts: Mapping[str, str]) -> str:
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()


def installed(package: str) -> str:
    """Return the version of an installed package, for the facts."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(none)"


def require_agreement(communicator: Communicator, facts: Mapping[str, str]) -> None:
    """Compare facts over ranks that are connected; collective.

    Raises:
        LaunchError: on all ranks, if they do not agree.
    """
    parties: dict[str, list[int]] = {}
    for rank, digest in enumerate(communicator.all_gather_object(_digest(facts))):
        parties.setdefault(digest, []).append(rank)
    if len(parties) == 1:
        return
    world, found = communicator.world, []
    for ranks in sorted(parties.values(), key=lambda ranks: (-len(ranks), ranks[0]))[:_PARTIES_SHOWN]:
        card = (world.node, dict(facts)) if world.rank == ranks[0] else None
        found.append(Party(ranks, *communicator.broadcast_object(card, root=ranks[0])))
    raise LaunchError(difference(found))


class Door:
    """Meeting point of the ranks of the torch backend before they connect; its content is kept until then.

    Args:
        world: this process among the ranks.
        timeout_s: time to wait for the others, in seconds.
        environ: the environment's variables.

    Raises:
        LaunchError: if nothing tells where the ranks meet, or rank 0 cannot listen there.
        CommunicationError: if rank 0 does not listen there in time.
        RuntimeError: if the store does not answer.
    """

    def __init__(self, world: World, timeout_s: float, environ: Mapping[str, str] = os.environ) -> None:
        from torch._C._distributed_c10d import PrefixStore, TCPStore

        address, port = meeting_point(world, environ)
        self._world, self._timeout_s = world, timeout_s
        self._keeps = world.rank == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        limit = timedelta(seconds=timeout_s)
        # The backend's own store at the same port is, within this process, the same one.
        if not self._keeps:
            try:
                await_listener(address, port, timeout_s)
            except OSError as error:
                raise CommunicationError(
                    f"rank 0 does not answer at {address}:{port} ({error.strerror or error}): see what it says, and "
                    "whether it was started; MASTER_ADDR and MASTER_PORT must be the same on all ranks"
                ) from error
        try:
            self._server = TCPStore(
                address, port, is_master=self._keeps, wait_for_workers=False, multi_tenant=True, timeout=limit
            )
        except RuntimeError as error:
            if not self._keeps:
                raise
            raise LaunchError(
                f"{address}:{port}: rank 0 cannot listen there, another program or another rank 0 does, or it is no "
                "address of this host: set MASTER_ADDR to this host and MASTER_PORT to a free port on all ranks"
            ) from error
        # An agent's store outlives the ranks that it starts anew. Torch counts otherwise on a node that joins.
        counts = (environ.get(f"{by}_RESTART_COUNT") for by in ("DIST_CALO", "TORCHELASTIC"))
        self._store: Any = PrefixStore(f"door/{next(filter(None, counts), '')}", self._server)

    def agree(self, facts: Mapping[str, str]) -> None:
        """Wait for all ranks and compare what they come with.

        Raises:
            LaunchError: on all ranks, if they do not agree or one of them has failed on its way by its user's fault.
            CommunicationError: if one of them has failed otherwise, or does not come in time.
        """
        store, digest = self._store, _digest(facts)
        if store.add(f"count/{digest}", 1) == 1:
            store.set(f"card/{digest}", json.dumps([self._world.node, facts]))
            store.append("parties", f"{digest} ")
        store.append(f"ranks/{digest}", f"{self._world.rank} ")
        come, size = store.add("here", 1), self._world.size
        if store.get("parties").count(b" ") > 1:
            # They may not even expect equally many.
            size = min(int(party.facts.get(NUMBER, size)) for party in self._parties())
        if come >= size:
            parties = self._parties()
            self._judge(difference(parties) or _twice(parties))
        deadline = time.monotonic() + self._timeout_s
        # Not the store's own waiting, during which no signal is handled.
        while not store.check(["judgement"]):
            if time.monotonic() > deadline:
                raise CommunicationError(self._absence())
            time.sleep(max(_POLL_S, self._world.size / _POLLS_PER_S))
        judgement = store.get("judgement").decode()
        if judgement == _AGREED:
            return
        self._stay_until_heard(_HEARD_S)
        code, _, text = judgement.partition(" ")
        raise (LaunchError if int(code) == EXIT_USER else CommunicationError)(text)

    def tell(self, message: str, code: int) -> None:
        """Have the ranks that come by end with the message of this one, which has failed."""
        name = f"rank {self._world.rank} of {self._world.size} on {self._world.node}"
        self._judge(f"{name}: {message}", code)
        self._stay_until_heard(WORD_S)

    def _judge(self, text: str | None, code: int = EXIT_USER) -> None:
        self._store.compare_set("judgement", "", _AGREED if text is None else f"{code} {text}")

    def _parties(self) -> list[Party]:
        parties = []
        for digest in self._store.get("parties").decode().split():
            ranks = sorted(map(int, self._store.get(f"ranks/{digest}").decode().split()))
            parties.append(Party(ranks, *json.loads(self._store.get(f"card/{digest}"))))
        return parties

    def _stay_until_heard(self, seconds: float) -> None:
        """Keep this process until all have heard: the store ends with the process that keeps it."""
        deadline = time.monotonic() + seconds
        heard = self._store.add("heard", 1)
        while self._keeps and heard < self._world.size and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            heard = self._store.add("heard", 0)

    def _absence(self) -> str:
        here = {rank for party in self._parties() for rank in party.ranks}
        missing = [rank for rank in range(self._world.size) if rank not in here]
        return (
            f"{len(missing)} of {self._world.size} ranks have not come within comm.timeout_s: "
            f"{_short(name_ranks(missing))}; see what they say, and whether they were started with the same "
            "MASTER_ADDR, MASTER_PORT and comm.backend"
        )


def leave_word(world: World, message: str, code: int, environ: Mapping[str, str] = os.environ) -> None:
    """Tell the ranks that wait for this one, which fails before it is connected, as far as they can be reached.

    Launchers end the others as well, but not all of them, nor at once on other nodes.
    """
    with suppress(ValueError):  # signals belong to the main thread
        signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
    with suppress(RuntimeError, LaunchError, CommunicationError, ImportError):
        Door(world, WORD_S, environ).tell(message, code)
