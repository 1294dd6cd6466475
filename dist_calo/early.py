"""Signals that arrive before a rank is ready for them.

The batch system may ask a job to leave while its ranks still load libraries or read files; by default SIGUSR1 would
kill them. It is remembered from the first line of a program on, and taken up where the steps begin.
"""

import signal
from types import FrameType

_received: list[int] = []


def remember() -> None:
    """Keep a SIGUSR1 from now on for `take`, unless somebody has a use for it already."""
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, _keep)


def take() -> int | None:
    """The signal that has been remembered, once, or None."""
    number = _received[0] if _received else None
    _received.clear()
    return number


def _keep(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
