"""Signals that come before a program is ready for them, and output that cannot be written.

The batch system may ask a job to leave while its ranks still load libraries or read files; by default SIGUSR1 would
kill them. It is remembered from the first line of a program on, and taken up where the steps begin.

A command never depends on who reads its output: the reader may end, the terminal be closed, the disk under a log be
full. What cannot be written is left out, and the command goes on.
"""

import errno
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dist_calo.masking import mask

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
"""Signals that ask a run to leave in order."""
PATIENCE_S = 10.0
"""Time that a run waits for a reader of its output that lives and does not read, in seconds."""

_ENDS = (signal.SIGTERM, signal.SIGHUP)
_PARENT = os.getppid()
_received: list[int] = []


def remember() -> None:
    """Keep a SIGUSR1 from now on for `take`, unless somebody has a use for it already."""
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, _keep)


def take() -> int | None:
    """Return the signal that has been remembered, once, or None."""
    number = _received[0] if _received else None
    _received.clear()
    return number


def stop_signals() -> list[signal.Signals]:
    """Return those of STOP_SIGNALS that this program heeds: not a SIGHUP that ``nohup`` has it ignore."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (ignored and number == signal.SIGHUP)]


def launcher_died() -> bool:
    """Tell if our launcher that started this rank has died; the system sends its ranks SIGTERM then."""
    return os.environ.get("DIST_CALO_LAUNCHER") == "local" and os.getppid() != _PARENT


@contextmanager
def tidy_end() -> Iterator[None]:
    """Have SIGTERM and a closed terminal end a command like an error, which removes what is half written.

    An exception that comes within a callback is dropped by Python, that of Ctrl-C too: then its signal comes again.
    """

    def repeat(dropped: Any) -> None:
        error = dropped.exc_value
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else getattr(error, "number", None)
        if number is None:
            report(dropped)
        else:
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    report, sys.unraisablehook = sys.unraisablehook, repeat
    ends = [number for number in _ENDS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ends:
        signal.signal(number, _end)
    try:
        yield
    finally:
        sys.unraisablehook = report
        for number in ends:
            signal.signal(number, signal.SIG_DFL)


def end_at_once() -> None:
    """End `tidy_end`: a rank may wait for others, and hear of nothing meanwhile."""
    for number in _ENDS:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


def guard_output(*, of_run: bool = False) -> None:
    """Have standard output and error take everything from now on, wherever they lead; streams of others are left alone.

    An output that was closed at the start leads to the null device: else the next file that is opened would have its
    number, and what a library prints would be written into it.

    Args:
        of_run: whether this is a run that must go on. It says once that it has no reader, and lets lines go that have
            waited for PATIENCE_S; other commands wait for as long as a pager shows one page.
    """
    _Output.of_run |= of_run
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(sys.stderr, 2)


def _guarded(stream: Any, number: int) -> io.TextIOWrapper:
    """Return a text stream like the interpreter's own, which may be None, onto this file descriptor."""
    if stream is not None:
        stream.flush()
    raw = _Output(number)
    unbuffered = getattr(stream, "write_through", False)
    return _Masked(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=unbuffered,
    )


class _Masked(io.TextIOWrapper):
    """Text on its way out, without passwords and tokens."""

    def write(self, text: str) -> int:
        """Write the text as `mask` leaves it; the number of characters given."""
        super().write(mask(text))
        return len(text)


class _Output(io.FileIO):
    """A standard stream below its buffers: takes everything, and drops what the system refuses."""

    of_run = False
    streams: "dict[int, _Output]" = {}  # noqa: RUF012

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self._poll = select.poll()
        self._poll.register(number, select.POLLOUT)
        self._told = False
        self._missed = 0
        self.streams[number] = self

    def write(self, data: Any) -> int:
        """Write all of it, or drop what cannot be written; the number of bytes given."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self._takes_more():
                # A pipe that takes more takes this much without a wait.
                rest = rest[super().write(rest[: select.PIPE_BUF]) or 0 :]
        except OSError as error:
            self._tell(error)
        else:
            self._missed += bytes(rest).count(b"\n")
        return size

    def _takes_more(self) -> bool:
        """Wait until a write would not wait; False if a run has waited for long enough."""
        wait_ms = None if not self.of_run else 0 if self._missed else 1000 * PATIENCE_S
        if not self._poll.poll(wait_ms):
            self._missed = self._missed or 1
            return False
        if self._missed:
            note = f"\n[{self._missed} lines are missing here, which nobody read in {PATIENCE_S:g} s]\n"
            self._missed = 0
            super().write(note.encode())
        return True

    def _tell(self, error: OSError) -> None:
        """Say on the other stream, once, that this one fails; a reader that has seen enough of a list is no news."""
        if self._told or (error.errno == errno.EPIPE and not self.of_run):
            return
        self._told = True
        number = self.fileno()
        name = {1: "output", 2: "error"}[number]
        if other := self.streams.get(3 - number):
            # Below the buffers: the other stream may be writing just now, and fail of this very thing.
            other.write(f"dist_calo: standard {name}: {error.strerror}; going on without it\n".encode())


class _Ended(SystemExit):
    """A signal that ends a command."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def _end(number: int, _frame: FrameType | None) -> None:
    raise _Ended(number)


def _keep(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
