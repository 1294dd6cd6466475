"""Several trainings one after the other on the same ranks, which load their libraries and meet once.

A rank takes three to six seconds of a core before its first step. Tests that look at what a run leaves behind, not at
how it starts, share that: ``train_in_a_row(commands, 2, "mpirun")`` starts this module as the program of each rank.
"""

import json
import sys
from collections.abc import Sequence

from dist_calo import train
from dist_calo.cli.rank_runner import RankCommand, on_ranks
from dist_calo.comm.protocol import Communicator
from dist_calo.config import RunConfig
from dist_calo.errors import EXIT_PREEMPTED
from tests.support.ranks import RankRun, run_ranks


def train_in_a_row(
    commands: Sequence[Sequence[str]], ranks: int, launcher: str = "local", timeout: float = 280.0
) -> RankRun:
    """Run what the commands of `tests.support.small_runs.train_command` would start; fails where one of them does.

    Args:
        commands: one a training. The ranks talk as the first one says.
        ranks: number of ranks.
        launcher: as `run_ranks` takes it.
        timeout: seconds for all of them together.
    """
    return run_ranks(row_program(commands), ranks, launcher, timeout=timeout).check()


def row_program(commands: Sequence[Sequence[str]]) -> list[str]:
    """Return what a rank runs for them: up to the end, or a run that fails; one that was stopped has ended."""
    lines = [json.dumps(own_arguments(command)) for command in commands]
    return [sys.executable, "-m", "tests.support.runs_in_a_row", *lines]


def own_arguments(command: Sequence[str]) -> list[str]:
    """Return what follows ``python -m dist_calo.train``."""
    return list(command[3:])


def _read(lines: Sequence[str]) -> RankCommand[list[RunConfig]]:
    jobs = [train._read(json.loads(line)) for line in lines]
    return RankCommand(options=[job.options for job in jobs], comm=jobs[0].comm, device=jobs[0].device)


def _run(configs: list[RunConfig], communicator: Communicator) -> int:
    code = 0
    for config in configs:
        code = train._run(config, communicator)
        sys.stdout.write(f"run ended with {code}\n")
        sys.stdout.flush()
        if code not in (0, EXIT_PREEMPTED):
            break
    return code


if __name__ == "__main__":
    sys.exit(on_ranks("tests.support.runs_in_a_row", sys.argv[1:], _read, _run))
