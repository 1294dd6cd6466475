"""Train a generative network on calorimeter showers: ``python -m dist_calo.train``, alone or under any launcher."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dist_calo.cli.command_line import build_config, config_parser, run_command
from dist_calo.cli.rank_runner import RankCommand, add_launch_option, on_ranks
from dist_calo.config import RunConfig
from dist_calo.errors import EXIT_PREEMPTED
from dist_calo.launching import early_signals

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator

DESCRIPTION = """Train a generative network on calorimeter showers.

Starts one rank, or is one of the ranks that horovodrun, mpirun, srun or torchrun started.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says and return the exit code."""
    early_signals.remember()
    given = sys.argv[1:] if arguments is None else list(arguments)
    return run_command("dist_calo.train", lambda line: on_ranks("dist_calo.train", line, _read, _run), given)


def _read(arguments: Sequence[str]) -> RankCommand[RunConfig]:
    parser = config_parser("python -m dist_calo.train", DESCRIPTION)
    add_launch_option(parser)
    values = parser.parse_args(list(arguments))
    config = build_config(parser, values)
    return RankCommand(options=config, ranks=values.launch, comm=config.comm, device=config.train.device)


def _run(config: RunConfig, communicator: "Communicator") -> int:
    from dist_calo.launching.rank_progress import SIGNS
    from dist_calo.training.checkpoint_folder import CheckpointFolder
    from dist_calo.training.setup import build_run

    SIGNS.begin("in set-up", unit="step")
    with ExitStack() as stack:
        if communicator.world.rank == 0:
            stack.enter_context(CheckpointFolder(config.checkpoint.dir).written_alone())
        try:
            trainer = stack.enter_context(build_run(config, communicator))
            trainer.fit()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{SIGNS.sign.place}; {_what_stays(config)}") from None
    return EXIT_PREEMPTED if trainer.stopped_by else 0


def _what_stays(config: RunConfig) -> str:
    """Return what a run that was interrupted leaves, and what goes on from there."""
    from dist_calo.training.checkpoint_folder import CheckpointFolder

    folder = CheckpointFolder(config.checkpoint.dir)
    if not (steps := folder.steps()):
        return f"{folder.folder} holds no checkpoint: the same command begins anew"
    newest = folder.path(steps[-1])
    return f"{newest} is valid: the same command with --checkpoint.resume=auto goes on from there"


if __name__ == "__main__":
    sys.exit(main())
