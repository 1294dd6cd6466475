"""Messages about a rank that has ended, to people and to the batch job."""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dist_calo.launching.rank_progress import Page, Sign

LAUNCHER_DIED = "the launcher of the ranks (--launch) has died, perhaps killed: its ranks end"
_CRASH = ": a crash in compiled code; see the Python stack that it printed"
_REASONS = {
    signal.SIGKILL: ": perhaps out of memory (look at dmesg, or start fewer ranks a node)",
    signal.SIGBUS: ": a mapped file was cut short or its disk is full, or a crash in compiled code",
    **dict.fromkeys((signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE), _CRASH),
}


def first_to_blame(codes: Mapping[int, int], page: Page | None) -> tuple[int, Sign] | None:
    """Return the rank that failed without a message, with its last sign: a killed one, if any.

    A rank that has left because of another one, or in order, is not to blame for its exit code; for a signal it is.

    Args:
        codes: exit code of each, by its number on the node, or a signal's number, negative.
        page: where they left signs.
    """
    signs = {number: page.read(number) if page else Sign() for number in codes}
    silent = [n for n, code in codes.items() if signs[n].left == 0 or (signs[n].left == 1 and _signal(code))]
    number = min(silent, key=lambda number: (codes[number] > 0, number), default=None)
    return None if number is None else (number, signs[number])


def ended(name: str, code: int | None, place: str) -> str:
    """Return what has become of a rank that said nothing.

    Args:
        name: of the rank, as `rank_name` gives it.
        code: its exit code, or a signal's number, negative or as shells give it; None if nobody knows.
        place: how far it had come, as `Sign.place` gives it.
    """
    if code is None:
        return f"{name} has ended without a message{place}: it crashed, was killed or ran out of memory"
    if (number := _signal(code)) is None:
        return f"{name} has ended without a message{place}: exit code {code}"
    return f"{name} was killed by {number.name}{place}{_REASONS.get(number, '')}"


def _signal(code: int) -> signal.Signals | None:
    """Return the signal that an exit code tells of, negative or 128 + N; None if it tells of none."""
    with suppress(ValueError):
        return signal.Signals(-code if code < 0 else code - 128)
    return None


def lose_node(text: str, suspect: str | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Tell the batch job which node is lost, so that it can put the job back into the queue (DIST_CALO_LOST).

    Args:
        text: for people; the first line of the file.
        suspect: the node that may still live, since all that is known is that a process of it has ended; the second
            line. The job looks whether the node still starts processes, and takes it for lost only if it does not.
        environ: the environment's variables.
    """
    if "DIST_CALO_LOST" in environ:
        # The first word counts: a node that the network has cut off takes the others for lost.
        with suppress(OSError), Path(environ["DIST_CALO_LOST"]).open("x") as file:
            file.write(f"{text}\n{suspect or ''}\n")


def tell_job(name: str, message: str, code: int, environ: Mapping[str, str] = os.environ) -> None:
    """Leave the first failure's exit code and last line where the batch job looks (DIST_CALO_FAILURE).

    What a launcher returns is often the code of a rank that it has ended because another one had failed, and what its
    ranks print is followed by pages of its own.
    """
    if "DIST_CALO_FAILURE" in environ:
        line = ([""] + [text for text in message.splitlines() if text.strip()])[-1]
        with suppress(OSError), Path(environ["DIST_CALO_FAILURE"]).open("x") as file:
            file.write(f"{code}\n[{name}] {line}\n")
