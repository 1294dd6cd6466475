"""The first two ranks of a node watch all of its ranks: which has died, and which keeps the others waiting."""

import fcntl
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from dist_calo.comm.liveness.leaving import ECHO_DELAY_S, before_leaving, leave_silently, rank_name, say
from dist_calo.errors import EXIT_FAILURE
from dist_calo.launching.environment import World
from dist_calo.launching.failure_messages import ended, lose_node, tell_job
from dist_calo.launching.rank_progress import Judge, Page, Sign, Silence, process_state

WATCHERS = 2
"""Ranks of a node that look at the others: the second one for the case that the first is the one to be named."""

_TICK_S = 1.0
# Where the launcher kills all ranks, this one included, there is nothing to be said.
_PAUSE_S = 0.05
# PIDFD_GET_INFO, Linux 6.15: struct pidfd_info of 64 bytes, whose first word says what is asked for.
_GET_INFO, _INFO, _EXIT = 0xC040FF0B, struct.Struct("<Q52xi"), 8


class LocalWatch:
    """Watch over the ranks of this node, by a thread of each of the first two.

    Args:
        world: this process among the ranks.
        page: where the node's ranks leave their signs.
        ranks: of the node, in order.
        processes: numbers of their processes.
        judge: what tells who is silent.
        names_dead: whether to name ranks that end without a word; not where the launcher, one of ours, does so.
        is_asked: whether ranks of other nodes wait.
        on_loss: called once a rank is named, with the text and, if the rank has ended, this node's name, else None.
    """

    def __init__(
        self,
        world: World,
        page: Page,
        ranks: Sequence[int],
        processes: Sequence[int],
        judge: Judge,
        *,
        names_dead: bool,
        is_asked: Callable[[], bool],
        on_loss: Callable[[str, str | None], None],
    ) -> None:
        self._world, self._page, self._ranks, self._judge = world, page, ranks, judge
        self._names_dead, self._is_asked, self._on_loss = names_dead, is_asked, on_loss
        self._own = ranks.index(world.rank)
        self._off = threading.Event()
        self._naming = threading.RLock()
        self._handles: dict[int, int] = {}
        self._poll = select.poll()
        self._warned: set[tuple[int, int]] = set()
        if self._own < WATCHERS:
            self._open_handles(processes)
            before_leaving(self.look_for_dead)
            threading.Thread(target=self._watch, name="rank-watch", daemon=True).start()

    def switch_off(self) -> None:
        """Take the end of other ranks for granted from now on."""
        self._off.set()

    def waits_for_long(self, seconds: float) -> bool:
        """Tell if a rank of this node has waited for others so long."""
        return self._judge.waits_for_long(self._signs(), seconds)

    def look_for_dead(self) -> None:
        """Name a rank of this node that has ended without a word, if there is one; before this rank ends as well."""
        text = None
        with self._naming:
            signs = self._signs()
            dead = [] if self._off.is_set() or not self._names_dead else self._dead(signs)
            # Once a rank has said that it fails, others end because of it. The lowest rank left names the dead one.
            if dead and not any(sign.left == 2 for sign in signs) and self._is_first_without(dead):
                self._off.set()
                number = dead[0]
                code = _exit_code(signs[number].pid, self._handles.get(number))
                text = ended(self._name(number), code, signs[number].place)
                say(self._world, f"error: {text}")
                code = EXIT_FAILURE if code is None else 128 - code if code < 0 else code
                tell_job(self._name(number), f"error: {text}", code)
        if text is not None:
            self._on_loss(text, self._world.node)

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._off.is_set():
            ended_now = self._poll.poll(1e3 * _TICK_S)
            for handle, _ in ended_now:
                self._poll.unregister(handle)
            if self._off.wait(_PAUSE_S):
                return
            if ended_now or not self._handles:
                self.look_for_dead()
            now = time.monotonic()
            # This process may have been suspended with all others.
            awake_s, looked = min(now - looked, 2 * _TICK_S), now
            self._look_for_silent(awake_s)

    def _look_for_silent(self, awake_s: float) -> None:
        signs = self._signs()
        silent = self._judge.look(signs, process_state, awake_s, self._is_asked())
        if not self._is_first_without([found.number for found in silent]):
            return
        for found in silent:
            sign = signs[found.number]
            text = self._describe(found, sign)
            if not found.over:
                if (found.number, sign.beats) not in self._warned:
                    self._warned.add((found.number, sign.beats))
                    say(self._world, f"warning: {text}; the job ends if it makes no progress")
                continue
            if self._off.is_set():
                return
            self._off.set()
            say(self._world, f"error: {text}")
            tell_job(rank_name(self._world), f"error: {text}", EXIT_FAILURE)
            lose_node(text)
            # Launchers would wait for it for up to minutes, and name another rank: the first that leaves.
            self._page.write(found.number, replace(sign, left=2))
            if found.number != self._own:
                with suppress(OSError):
                    os.kill(sign.pid, signal.SIGKILL)
            self._on_loss(text, None)
            # Those who hear of it leave by themselves; this rank does so in any case.
            time.sleep(4 * ECHO_DELAY_S)
            leave_silently(EXIT_FAILURE)

    def _describe(self, found: Silence, sign: Sign) -> str:
        does = {
            "T": "it is stopped (SIGSTOP)",
            "D": "it waits for a device or a file system",
            "R": "it computes, and the others wait for it",
        }.get(found.state, "it waits for something, such as a file, and the others wait for it")
        return (
            f"{self._name(found.number)} (process {sign.pid}) has made no progress for {found.seconds:.0f} s"
            f"{sign.place}: {does}"
        )

    def _name(self, number: int) -> str:
        return f"rank {self._ranks[number]} of {self._world.size} on {self._world.node}"

    def _signs(self) -> list[Sign]:
        return [self._page.read(number) for number in range(len(self._ranks))]

    def _is_first_without(self, numbers: Sequence[int]) -> bool:
        return self._own == min({*range(len(self._ranks))} - {*numbers}, default=0)

    def _open_handles(self, processes: Sequence[int]) -> None:
        """Have the system tell when a rank ends, and remember how it ended."""
        for number, pid in enumerate(processes):
            if number != self._own:
                with suppress(OSError, AttributeError):
                    self._handles[number] = os.pidfd_open(pid)
                    self._poll.register(self._handles[number], select.POLLIN)

    def _dead(self, signs: Sequence[Sign]) -> list[int]:
        """Return ranks that have ended though they have not said that they leave."""
        silent = [number for number, sign in enumerate(signs) if sign.pid and not sign.left]
        return [number for number in silent if self._has_ended(number, signs[number].pid)]

    def _has_ended(self, number: int, pid: int) -> bool:
        if number in self._handles:
            poll = select.poll()
            poll.register(self._handles[number], select.POLLIN)
            return bool(poll.poll(0))
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return process_state(pid) in ("Z", "X")


def _exit_code(pid: int, handle: int | None) -> int | None:
    """Return the exit code of a process that has ended, as subprocess gives it; None if the system does not say.

    Until its launcher has asked for it any process may read it, afterwards only with a handle and a new kernel.
    """
    status = None
    with suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            words = file.read().rpartition(")")[2].split()
        if words[0] in "ZX":
            status = int(words[-1])
    if status is None and handle is not None:
        with suppress(OSError):
            answer = fcntl.ioctl(handle, _GET_INFO, _INFO.pack(_EXIT, 0))
            found, code = _INFO.unpack(answer)
            status = code if found & _EXIT else None
    return None if status is None else os.waitstatus_to_exitcode(status)
