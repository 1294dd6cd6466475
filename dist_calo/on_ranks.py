"""Commands that run on one rank or many: read the command line, start or join the ranks, run, and leave in order."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from dist_calo import early
from dist_calo.config import CommConfig
from dist_calo.errors import ConfigError, LaunchError, UserError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from dist_calo.comm.protocol import Communicator

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class Job(Generic[Options]):
    """What a command line asks for."""

    options: Options
    """The checked settings of the command."""
    ranks: int = 1
    """Ranks to start here, without a launcher."""
    comm: CommConfig = field(default_factory=CommConfig)
    device: str = "cpu"
    """Where networks live: auto, cpu or cuda."""

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise ConfigError(f"--launch {self.ranks}: must be at least 1")


def add_launch_option(parser: "ArgumentParser") -> None:
    """The option ``--launch N`` of a command that runs on ranks."""
    parser.add_argument("--launch", type=int, default=1, help="Start so many ranks here, without a launcher.")


def on_ranks(
    module: str,
    arguments: Sequence[str],
    read: Callable[[Sequence[str]], Job[Options]],
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
    early.guard_output(of_run=True)
    from dist_calo.comm import World, connect, find_world, leave_in_order, report_failure

    world, communicator = World(), None
    try:
        job = read(arguments)
        if job.ranks > 1:
            return _launch(module, arguments, job.ranks)
        world = find_world(os.environ)
    except UserError as error:
        with suppress(LaunchError):
            world = find_world(os.environ)
        return report_failure(error, world)
    try:
        if world.remark:
            print(world.remark, flush=True)
        communicator = connect(
            job.comm.backend,
            world,
            timeout_s=job.comm.timeout_s,
            device=job.device,
            silence_s=job.comm.silence_s,
        )
        code = run(job.options, communicator)
        communicator.close()
    except (Exception, KeyboardInterrupt) as error:
        return report_failure(error, world, communicator)
    # A process that a launcher has started is a rank and nothing else.
    if world.launcher != "none":
        leave_in_order(code)
    return code


def _launch(module: str, arguments: Sequence[str], ranks: int) -> int:
    from dist_calo.launch import run_local, without_option

    # The last word on the command line: a configuration file may ask for ranks as well.
    rest = [*without_option(arguments, "--launch"), "--launch=1"]
    return run_local([sys.executable, "-m", module, *rest], ranks)
