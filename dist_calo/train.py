"""Train a generative network on calorimeter showers: ``python -m dist_calo.train``, alone or under any launcher."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dist_calo.command_line import build_config, config_parser, run_command
from dist_calo.config import RunConfig
from dist_calo.errors import EXIT_PREEMPTED, ConfigError, UserError

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator, World

DESCRIPTION = """Train a generative network on calorimeter showers.

Starts one rank, or is one of the ranks that horovodrun, mpirun, srun or torchrun started.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says and return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return run_command("dist_calo.train", _train, given)


def _train(arguments: Sequence[str]) -> int:
    from dist_calo.comm import find_world, leave_in_order, report_failure

    try:
        config, ranks = _read(arguments)
    except UserError as error:
        return report_failure(error, find_world(os.environ))
    if ranks > 1:
        return _launch(ranks, arguments)
    world = find_world(os.environ)
    communicator = None
    try:
        communicator = _connect(config, world)
        code = _run(config, communicator)
        communicator.close()
    except (Exception, KeyboardInterrupt) as error:
        return report_failure(error, world, communicator)
    if world.size > 1:
        leave_in_order(code)
    return code


def _read(arguments: Sequence[str]) -> tuple[RunConfig, int]:
    """The checked configuration, and the number of ranks to start."""
    parser = config_parser("python -m dist_calo.train", DESCRIPTION)
    parser.add_argument("--launch", type=int, default=1, help="Start so many ranks here, without a launcher.")
    values = parser.parse_args(list(arguments))
    if values.launch < 1:
        raise ConfigError(f"--launch {values.launch}: must be at least 1")
    return build_config(parser, values), values.launch


def _launch(ranks: int, arguments: Sequence[str]) -> int:
    from dist_calo.launch import run_local, without_option

    # The last word on the command line: a configuration file may ask for ranks as well.
    rest = [*without_option(arguments, "--launch"), "--launch=1"]
    return run_local([sys.executable, "-m", "dist_calo.train", *rest], ranks)


def _connect(config: RunConfig, world: "World") -> "Communicator":
    from dist_calo.comm import connect

    return connect(config.comm.backend, world, timeout_s=config.comm.timeout_s, device=config.train.device)


def _run(config: RunConfig, communicator: "Communicator") -> int:
    from dist_calo.training.setup import build_run

    with build_run(config, communicator) as trainer:
        trainer.fit()
    return EXIT_PREEMPTED if trainer.stopped_by else 0


if __name__ == "__main__":
    sys.exit(main())
