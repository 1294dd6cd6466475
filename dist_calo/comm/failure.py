"""How a rank that fails ends the whole job: at once, with its own message, with nobody left waiting."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from dist_calo.comm.protocol import Communicator, World
from dist_calo.comm.signs import SIGNS, Page, Sign
from dist_calo.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USER, UserError, of_user
from dist_calo.masking import mask

ECHO_DELAY_S = 2.0
"""Head start of a failing rank over those that fail because of it, or in the same way, in seconds."""
LOSS_DELAY_S = ECHO_DELAY_S + 2
"""Wait before a process that ended without a word is said to be lost: if it was ended because another rank has failed,
this one is about to end as well. In seconds."""

_CRASH = ": a crash in compiled code; see the Python stack that it printed"
_REASONS = {
    signal.SIGKILL: ": perhaps out of memory (look at dmesg, or start fewer ranks a node)",
    signal.SIGBUS: ": a mapped file was cut short or its disk is full, or a crash in compiled code",
    **dict.fromkeys((signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE), _CRASH),
}
_farewells: list[Callable[[], None]] = []


class CommunicationError(Exception):
    """A collective did not complete: another rank has died, or has not answered in time."""


def rank_name(world: World) -> str:
    """How messages call a rank, such as ``rank 3 of 8 on node42``."""
    return f"rank {world.rank} of {world.size} on {world.node}"


def before_leaving(farewell: Callable[[], None]) -> None:
    """Have something done when this rank leaves because of a failure, whoever's it is; it must not wait for others."""
    _farewells.append(farewell)


def leave(world: World, message: str, code: int, stop: Callable[[int], object] = os._exit) -> None:
    """Print a message with this rank's name and leave the process without any clean-up that could wait for others.

    Args:
        world: this process among the ranks.
        message: what went wrong; every line of it is marked with the rank.
        code: exit code.
        stop: how to leave.
    """
    say(world, message)
    SIGNS.leave(told=True)
    leave_silently(code, stop)


def say(world: World, message: str) -> None:
    """Print a message with this rank's name on each line of it, whether anybody reads it or not."""
    name = rank_name(world)
    # One write, so that the lines of several ranks do not mix.
    text = "".join(f"[{name}] {line}\n" for line in message.splitlines())
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def leave_silently(code: int, stop: Callable[[int], object] = os._exit) -> None:
    """Leave the process as `leave` does, without a message."""
    for farewell in _farewells:
        with suppress(OSError):
            farewell()
    SIGNS.leave()
    stop(code)


def leave_when_asked() -> None:
    """Have SIGTERM end this rank as an error of another one does, unless somebody has a use for the signal already.

    Launchers send it when another rank has died; who leaves at once cannot say which.
    """
    with suppress(ValueError):  # signals belong to the main thread
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda number, _: leave_silently(128 + number))


def first_to_blame(codes: Mapping[int, int], page: Page | None) -> tuple[int, Sign] | None:
    """Which of some ranks that have failed at the same time said nothing, with its last sign: a killed one, if any.

    Args:
        codes: exit code of each, by its number on the node, or a signal's number, negative.
        page: where they left signs.
    """
    signs = {number: page.read(number) if page else Sign() for number in codes}
    silent = [number for number in codes if signs[number].left < 2]
    number = min(silent, key=lambda number: (codes[number] > 0, number), default=None)
    return None if number is None else (number, signs[number])


def ended(name: str, code: int | None, place: str) -> str:
    """What has become of a rank that said nothing.

    Args:
        name: of the rank, as `rank_name` gives it.
        code: its exit code, or a signal's number, negative or as shells give it; None if nobody knows.
        place: how far it had come, as `Sign.place` gives it.
    """
    if code is None:
        return f"{name} has ended without a message{place}: it crashed, was killed or ran out of memory"
    try:
        number = signal.Signals(-code if code < 0 else code - 128)
    except ValueError:
        return f"{name} has ended without a message{place}: exit code {code}"
    return f"{name} was killed by {number.name}{place}{_REASONS.get(number, '')}"


def lose_node(text: str, suspect: str | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Tell the job script which node is lost, so that it can put the job back into the queue (DIST_CALO_LOST).

    Args:
        text: for people; the first line of the file.
        suspect: the node that may still live, since all that is known is that a process of it has ended; the second
            line. The script looks whether the node still starts processes, and takes it for lost only if it does not.
        environ: the environment's variables.
    """
    if "DIST_CALO_LOST" in environ:
        # The first word counts: a node that the network has cut off takes the others for lost.
        with suppress(OSError), Path(environ["DIST_CALO_LOST"]).open("x") as file:
            file.write(f"{text}\n{suspect or ''}\n")


def tell_job(name: str, message: str, code: int, environ: Mapping[str, str] = os.environ) -> None:
    """Leave the first failure's exit code and last line where the job script looks (DIST_CALO_FAILURE).

    What a launcher returns is often the code of a rank that it has ended because another one had failed, and what its
    ranks print is followed by pages of its own.
    """
    if "DIST_CALO_FAILURE" in environ:
        line = ([""] + [text for text in message.splitlines() if text.strip()])[-1]
        with suppress(OSError), Path(environ["DIST_CALO_FAILURE"]).open("x") as file:
            file.write(f"{code}\n[{name}] {line}\n")


def leave_in_order(code: int) -> NoReturn:
    """End this process, whose record, files and communicator are closed, without taking the interpreter down.

    A thread of the collectives that wakes up meanwhile would abort the process, and a finished job would look failed.
    """
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    SIGNS.leave()
    os._exit(code)


def report_failure(error: BaseException, world: World, communicator: Communicator | None = None) -> int:
    """Say what went wrong and end the whole job; only a process without other ranks returns.

    What the user can mend is one line, anything else a traceback. An error that all ranks share, such as a bad setting,
    is shown by rank 0 alone: the others wait a moment before they speak, and the launcher has ended them by then.

    Args:
        error: what this rank failed with.
        world: this process among the ranks.
        communicator: the open communicator, or None before it is connected.

    Returns:
        The exit code, in a world of one rank.
    """
    error = of_user(error) or error
    code = EXIT_USER if isinstance(error, UserError) else EXIT_FAILURE
    if isinstance(error, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    message = mask(_message(error))
    if world.size == 1:
        print(message, file=sys.stderr, flush=True)
        SIGNS.leave(told=True)
        tell_job(rank_name(world), message, code)
        return code
    if isinstance(error, CommunicationError) or (isinstance(error, UserError) and world.rank > 0):
        # A rank that has lost another one may not know yet which node went with it.
        is_lost = isinstance(error, CommunicationError)
        _let_others_speak_first(code, LOSS_DELAY_S + 2 if is_lost else ECHO_DELAY_S)
        # Some backends have heard by now which node is lost.
        cause = getattr(communicator, "cause", None)
        if isinstance(error, CommunicationError) and cause:
            message = f"error: {cause}"
    tell_job(rank_name(world), message, code)
    if communicator is None:
        leave(world, message, code)
    else:
        communicator.abort(message, code)
    return code


def _let_others_speak_first(code: int, seconds: float) -> None:
    """Wait, ready to leave at once when the launcher asks: this rank has nothing left to save."""
    with suppress(ValueError):  # signals belong to the main thread
        signal.signal(signal.SIGTERM, lambda *_: leave_silently(code))
    time.sleep(seconds)


def _message(error: BaseException) -> str:
    if isinstance(error, UserError | CommunicationError):
        return f"error: {' '.join(str(error).split())}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "".join(traceback.format_exception(error)).rstrip()
