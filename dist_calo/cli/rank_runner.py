"""Runner of commands on one rank or many: read the command line, start or join the ranks, run, and leave in order."""

import faulthandler
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from dist_calo.config import CommConfig
from dist_calo.diagnostics.facts import facts_of
from dist_calo.errors import EXIT_USER, ConfigError, LaunchError, UserError
from dist_calo.launching import early_signals

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from dist_calo.comm.protocol import Communicator
    from dist_calo.launching.environment import World

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class RankCommand(Generic[Options]):
    """Request of a command line."""

    options: Options
    """The checked settings of the command."""
    ranks: int = 1
    """Ranks to start here, without a launcher."""
    comm: CommConfig = field(default_factory=CommConfig)
    device: str = "cpu"
    """Device of the networks: auto, cpu or cuda."""
    must_agree: bool = True
    """Ranks with other settings, code or versions are refused."""

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise ConfigError(f"--launch {self.ranks}: must be at least 1")


def add_launch_option(parser: "ArgumentParser") -> None:
    """Add the option ``--launch N`` of a command that runs on ranks."""
    parser.add_argument("--launch", type=int, default=1, help="Start so many ranks here, without a launcher.")


def on_ranks(
    module: str,
    arguments: Sequence[str],
    read: Callable[[Sequence[str]], RankCommand[Options]],
    run: "Callable[[Options, Communicator], int]",
) -> int:
    """Run a command on all ranks and return the exit code.

    This process is one of the ranks that a launcher started, the only rank, or with ``--launch N`` the one that starts
    N ranks of the same command. An error ends all of them: one line and exit code 2 where it is the user's.

    Args:
        module: that ``python -m`` runs this command by.
        arguments: its command line.
        read: from the command line to a job.
        run: the command itself, on every rank; what it returns is the exit code.
    """
    early_signals.guard_output(of_run=True)
    early_signals.end_at_once()
    with _beginning():
        from dist_calo.comm import choose_backend, connect, leave_in_order, local_device, report_failure
        from dist_calo.launching.environment import World, find_world

    world, communicator = World(), None
    try:
        with _beginning():
            job = read(arguments)
        if job.ranks > 1:
            return _launch(module, arguments, job.ranks)
        with _beginning():
            world = find_world(os.environ)
            backend, device = choose_backend(job.comm.backend, world), local_device(job.device, world)
    except UserError as error:
        with suppress(LaunchError):
            world = find_world(os.environ)
        _tell_others(error, world)
        return report_failure(error, world)
    try:
        if world.remark:
            print(world.remark, flush=True)
        _show_crashes()
        with _beginning():
            communicator = connect(
                backend,
                world,
                timeout_s=job.comm.timeout_s,
                device=device,
                silence_s=job.comm.silence_s,
                facts=facts_of(job.options) if world.size > 1 and job.must_agree else None,
            )
        code = run(job.options, communicator)
        communicator.close()
    except (Exception, KeyboardInterrupt) as error:
        return report_failure(error, world, communicator)
    # A process that a launcher has started is a rank and nothing else.
    if world.launcher != "none":
        leave_in_order(code)
    return code


@contextmanager
def _beginning() -> Iterator[None]:
    """Say of Ctrl-C that nothing was written yet."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(" before it began: nothing was written") from None


def _show_crashes() -> None:
    """Let a crash in compiled code print the Python stack of this process, if it has a standard error."""
    if not faulthandler.is_enabled():
        with suppress(AttributeError, OSError, ValueError, RuntimeError):
            faulthandler.enable()


def _tell_others(error: UserError, world: "World") -> None:
    """Tell the ranks that would wait for this one, where only the ranks themselves can."""
    from dist_calo.comm import choose_backend
    from dist_calo.comm.agreement import leave_word
    from dist_calo.comm.liveness.leaving import before_leaving

    with suppress(UserError):
        if world.size == 1 or choose_backend("auto", world) != "torch":
            return
        tell = partial(leave_word, world, " ".join(str(error).split()), EXIT_USER)
        # Rank 0 speaks first, and the others may have the same to say.
        if world.rank == 0:
            before_leaving(tell)
        else:
            tell()


def _launch(module: str, arguments: Sequence[str], ranks: int) -> int:
    from dist_calo.launching.local import run_local, without_option

    # The last word on the command line: a configuration file may ask for ranks as well.
    rest = [*without_option(arguments, "--launch"), "--launch=1"]
    return run_local([sys.executable, "-m", module, *rest], ranks)
