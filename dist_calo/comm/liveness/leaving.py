"""End of the whole job by a rank that fails: at once, with its own message, with nobody left waiting."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from dist_calo.comm.protocol import Communicator
from dist_calo.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USER, UserError, of_user
from dist_calo.launching.early_signals import launcher_died
from dist_calo.launching.environment import World
from dist_calo.launching.failure_messages import LAUNCHER_DIED, tell_job
from dist_calo.launching.rank_progress import SIGNS
from dist_calo.masking import mask

ECHO_DELAY_S = 2.0
"""Head start of a failing rank over those that fail because of it, or in the same way, in seconds."""
LOSS_DELAY_S = ECHO_DELAY_S + 2
"""Wait before a process that ended without a word is said to be lost: if it was ended because another rank has failed,
this one is about to end as well. In seconds."""

_farewells: list[Callable[[], None]] = []


class CommunicationError(Exception):
    """A collective did not complete: another rank has died, or has not answered in time."""


def rank_name(world: World) -> str:
    """Return the name of a rank in messages, such as ``rank 3 of 8 on node42``."""
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


def leave_when_asked(world: World) -> None:
    """Have SIGTERM end this rank as an error of another one does, unless somebody has a use for the signal already.

    Launchers send it when another rank has died; who leaves at once cannot say which.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        if world.rank == 0 and launcher_died():
            say(world, f"error: {LAUNCHER_DIED}")
        leave_silently(128 + number)

    with suppress(ValueError):  # signals belong to the main thread
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, end)


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
        return f"interrupted{error}"
    return "".join(traceback.format_exception(error)).rstrip()
