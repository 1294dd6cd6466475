"""Ranks of this machine, started and watched without any launcher."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from dist_calo.errors import EXIT_PREEMPTED, LaunchError
from dist_calo.launching import early_signals
from dist_calo.masking import hidden_command

if TYPE_CHECKING:
    from dist_calo.launching.rank_progress import Page

GRACE_S = 8.0
"""Time that the other ranks have to leave after one has failed, in seconds; then they are killed."""

_POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_LAUNCHER_PREFIXES = ("HOROVOD_", "OMPI_", "PMI", "SLURM_", "TORCHELASTIC_", "GROUP_", "ROLE_")


def without_option(arguments: Sequence[str], name: str) -> list[str]:
    """Return the arguments without ``NAME VALUE`` and ``NAME=VALUE``."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument == name:
            skip = argument == name and not skip
        elif not argument.startswith(f"{name}="):
            kept.append(argument)
    return kept


def run_local(command: Sequence[str], n: int) -> int:
    """Run a command on N ranks of this machine and wait for all of them.

    Signals to this process are passed on to the ranks. When a rank fails the others are asked to leave and killed if
    they have not done so within GRACE_S. When this process dies, so do the ranks. A rank that leaves with
    EXIT_PREEMPTED has stopped in order, and the others are waited for.

    Args:
        command: program and arguments of every rank.
        n: number of ranks.

    Returns:
        The exit code of the first rank that failed (128 + N for signal N), or 0. It is named with its last step if it
        did not say so itself.

    Raises:
        LaunchError: if n is below 1, this process is one of several ranks, or the program does not exist.
    """
    early_signals.guard_output(of_run=True)
    if n < 1:
        raise LaunchError(f"{n} ranks: must be at least 1")
    _refuse_nesting()
    from dist_calo.launching.rank_progress import WHERE, open_page

    command = hidden_command(command)
    ranks: list[subprocess.Popen[bytes]] = []
    page = open_page(n)
    meeting = {"MASTER_PORT": str(_free_port())} | ({WHERE: page.path} if page else {})
    with forwarding(ranks) as passed_on:
        try:
            for rank in range(n):
                ranks.append(_start(command, rank, n, meeting))
            return _wait(ranks, page, passed_on)
        except OSError as error:
            raise LaunchError(f"{command[0]} cannot be started: {error.strerror}; check the name") from error
        finally:
            for process in ranks:
                process.kill()
                process.wait()


def _refuse_nesting() -> None:
    from dist_calo.launching.environment import RanksNotStartedError, find_world

    try:
        world = find_world(os.environ)
    except RanksNotStartedError:
        # A batch script of several tasks: starting the ranks from here is what its message proposes.
        return
    if world.size > 1:
        raise LaunchError(
            f"this is rank {world.rank} of {world.size} of {world.launcher} already, "
            "and each would start its own ranks: leave out --launch, or the other launcher"
        )


def _start(
    command: Sequence[str], rank: int, n: int, meeting: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER_PREFIXES)}
    tuning = {name: value for name, value in os.environ.items() if name == "SLURM_CPUS_PER_TASK"}
    own = {
        "DIST_CALO_LAUNCHER": "local",
        "RANK": str(rank),
        "WORLD_SIZE": str(n),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        # Pages of C++ about a store whose keeper has ended, which is said here in one line.
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        **meeting,
    }
    return start(command, inherited | tuning | own)


def start(command: Sequence[str], env: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a rank, or the launcher of ranks, to be used with `forwarding`; it ends when this process does."""
    # A group of its own: Ctrl-C reaches the ranks once, through this process, and not a second time from the terminal.
    return subprocess.Popen(command, env=env, process_group=0, preexec_fn=_end_with(os.getpid()))


def _end_with(parent: int) -> Callable[[], None] | None:
    """Have the kernel end a rank whose launcher has died, where it can (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _wait(ranks: Sequence["subprocess.Popen[bytes]"], page: "Page | None", passed_on: Sequence[int]) -> int:
    from dist_calo.launching.rank_progress import process_state

    code = 0
    deadline: float | None = None
    while True:
        codes = [process.poll() for process in ranks]
        failed = {rank: c for rank, c in enumerate(codes) if c not in (None, 0, EXIT_PREEMPTED)}
        if failed and deadline is None:
            code, deadline = _name_first(failed, len(ranks), page, passed_on), time.monotonic() + GRACE_S
            _tell(ranks, signal.SIGTERM)
        if None not in codes:
            break
        if deadline is not None:
            # A stopped rank cannot leave.
            over = time.monotonic() > deadline
            _tell([r for r in ranks if over or process_state(r.pid) == "T"], signal.SIGKILL)
        time.sleep(_POLL_S)
    return code or max(process.returncode for process in ranks)


def _name_first(codes: Mapping[int, int], n: int, page: "Page | None", passed_on: Sequence[int]) -> int:
    """Return the exit code of the rank that failed first, and name it unless it has said so itself."""
    from dist_calo.launching.failure_messages import ended, first_to_blame, tell_job

    found = first_to_blame(codes, page)
    rank = found[0] if found else min(codes)
    code = 128 - codes[rank] if codes[rank] < 0 else codes[rank]
    if found and code - 128 not in passed_on:
        name = f"rank {rank} of {n} on {os.environ.get('SLURMD_NODENAME') or socket.gethostname()}"
        text = f"error: {ended(name, code, found[1].place)}"
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)
        tell_job(name, text, code)
    return code


def _tell(ranks: Sequence["subprocess.Popen[bytes]"], number: int) -> None:
    for process in ranks:
        # A Popen that has been waited for sends nothing, so that no stranger with the same number is hit.
        process.send_signal(number)


@contextmanager
def forwarding(ranks: list["subprocess.Popen[bytes]"]) -> Iterator[list[int]]:
    """Pass signals on to the ranks; gives those that came."""
    passed_on: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        passed_on.append(number)
        _tell(ranks, number)

    def pause(_number: int, _frame: FrameType | None) -> None:
        """Stop the ranks with this process at Ctrl-Z; it hears nothing more until it is woken up (``fg``)."""
        _tell(ranks, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        _tell(ranks, signal.SIGCONT)

    previous: dict[int, Any] = {
        number: signal.signal(number, forward) for number in early_signals.stop_signals()
    }
    previous[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, pause)
    try:
        yield passed_on
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
