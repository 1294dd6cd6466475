"""The alarm by which ranks without MPI or Horovod hear that one of them has failed."""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

from dist_calo.comm.liveness.leaving import ECHO_DELAY_S, leave
from dist_calo.errors import EXIT_FAILURE
from dist_calo.launching.environment import World
from dist_calo.launching.failure_messages import lose_node

_POLL_S = 1.0
_POLLS_PER_S = 512
_TELL_S = 2.0
_SEE_MESSAGE = "ended because another rank has failed; see its message"


def poll_interval(size: int, silence_s: float) -> float:
    """Return the seconds between looks for an alarm: one, or more, so that all ranks look 512 times a second.

    At least three times within the time after which a silent store is lost.

    Args:
        size: number of ranks.
        silence_s: that time, in seconds.
    """
    return min(max(_POLL_S, size / _POLLS_PER_S), silence_s / 3)


class Alarm:
    """Alarm that ends this rank soon after another one has failed, even outside of a collective.

    Launchers differ in patience: torchrun and srun give ranks that catch SIGTERM, as ours do to save their work, half a
    minute. A thread looks at each `poll_interval` whether a rank has raised the alarm in the store that all share. A
    second one watches the first, since TCP waits a quarter of an hour for the answer of a node that has vanished.

    Args:
        world: this process among the ranks.
        address: host of the store.
        port: port of the store.
        key: of this alarm in the store, which may outlive the ranks; the same on all of them.
        keeper: who keeps the store, for messages.
        silence_s: time after which a store that does not answer is lost, in seconds.
    """

    def __init__(
        self, world: World, address: str, port: int, key: str, keeper: str, silence_s: float
    ) -> None:
        self._world, self._key, self._keeper, self._silence_s = world, key, keeper, silence_s
        patience = timedelta(seconds=max(30.0, silence_s))
        self._store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=patience)
        self._off = threading.Event()
        self._poll_s = poll_interval(world.size, silence_s)
        self._unanswered = 0
        self._cause: str | None = None
        self._has_said = False
        self._threads = [
            threading.Thread(target=work, name="alarm", daemon=True) for work in (self._watch, self._guard)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def cause(self) -> str | None:
        """The node that is lost, as far as this rank has heard; it asks again if it knows of none."""
        if self._cause is None:
            self._try(self._listen)
        return self._cause

    def ring_for_node(self, cause: str, suspect: str | None) -> None:
        """Tell the other ranks, and the job script, that a node or rank is lost, which this rank has printed.

        Where a rank has said before that it fails, those that end are no further news.
        """
        if suspect is not None and self._heard() is not None:
            return
        self._has_said = True
        lose_node(cause, suspect)
        self.ring(cause)

    def ring(self, cause: str = "") -> None:
        """Tell the other ranks that this one has failed, or that a node is lost; the first word counts."""
        self._try(self._tell, cause)

    @staticmethod
    def _try(work: Callable[..., object], *arguments: str) -> None:
        # The store may be what is lost.
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        thread.join(_TELL_S)

    def _tell(self, cause: str) -> None:
        with suppress(RuntimeError):
            self._store.compare_set(self._key, "", cause or _SEE_MESSAGE)

    def switch_off(self) -> None:
        """Stop watching, before this rank leaves in order."""
        self._off.set()
        for thread in self._threads:
            thread.join(_TELL_S)

    def _watch(self) -> None:
        while not self._off.wait(self._poll_s):
            heard = self._listen()
            self._unanswered = 0
            # Time for this rank's own message, should it fail too, and for all to hear before rank 0 leaves.
            if heard is not None and not self._off.wait(ECHO_DELAY_S + self._poll_s):
                leave(self._world, "" if self._has_said else f"error: {heard}", EXIT_FAILURE)

    def _listen(self) -> str | None:
        heard = self._heard()
        if heard not in (None, _SEE_MESSAGE):
            self._cause = heard
        return heard

    def _heard(self) -> str | None:
        try:
            return self._store.get(self._key).decode() if self._store.check([self._key]) else None
        except RuntimeError:
            return f"{self._keeper} has ended: see its message; if there is none, its node has crashed"

    def _guard(self) -> None:
        """Count seconds in which this rank was awake: a job that is suspended and woken up has lost nobody."""
        while not self._off.wait(1.0):
            self._unanswered += 1
            # Ranks of the same node know more, and speak first.
            if self._unanswered > self._silence_s + _TELL_S:
                silence = f"nothing has been heard from it for {self._silence_s:g} s"
                self._cause = f"{self._keeper} no longer answers: {silence}"
                lose_node(self._cause)
                leave(self._world, f"error: {self._cause}", EXIT_FAILURE)
