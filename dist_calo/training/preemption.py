"""Leaving in order when the batch system asks for it.

A signal only sets a flag. The ranks agree on the flags in a collective that travels while the step computes, so a
signal that reaches one rank stops all of them together: at the end of the step that begins after it at the latest. The
end of the time that a run may take travels the same way.
"""

import signal
import time
from types import FrameType
from typing import Any

import torch

from dist_calo.comm.protocol import Communicator, Work
from dist_calo.launching import early_signals


class StopRequest:
    """Request to stop that some rank may have received.

    Use as a context manager: handlers are installed on entry and restored on exit. A second SIGINT, a second or more
    after the first, interrupts at once: for a user at a keyboard who will not wait for the end of the step. (One press
    may arrive twice, from the terminal and from the launcher.)
    """

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator
        self._received: int | None = None
        self._received_at = 0.0
        self._flag = torch.zeros(2, dtype=torch.int64)
        """Number of a signal or 0, and whether the time is over."""
        self._work: Work | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in early_signals.stop_signals():
            self._previous[number] = signal.signal(number, self._receive)
        waiting = early_signals.take()
        if waiting is not None:
            self._receive(waiting, None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self._received == signal.SIGINT and now - self._received_at > 1.0:
            raise KeyboardInterrupt
        if self._received is None:
            self._received, self._received_at = number, now

    @property
    def received(self) -> str | None:
        """Name of the signal that this rank has received, or None."""
        return None if self._received is None else signal.Signals(self._received).name

    def ask(self, *, time_over: bool = False) -> None:
        """Start to exchange the flags, at the beginning of a step."""
        self._flag[0], self._flag[1] = self._received or 0, time_over
        self._work = self._communicator.all_reduce_async(self._flag, "max")

    @property
    def time_over(self) -> bool:
        """Whether some rank had said so when the step began that was last agreed on."""
        return bool(self._flag[1])

    def agreed(self) -> str | None:
        """Name of the signal that some rank had received when the step began, the same on all ranks, or None."""
        if self._work is None:
            return None
        self._work.wait()
        self._work = None
        number = int(self._flag[0])
        return signal.Signals(number).name if number else None
