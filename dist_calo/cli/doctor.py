"""Check this machine before a job is queued: ``dist-calo doctor [SETTINGS]``, alone or under a launcher."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_calo.cli.command_line import build_config, config_parser, run_command
from dist_calo.cli.rank_runner import RankCommand, add_launch_option, on_ranks
from dist_calo.config import RunConfig
from dist_calo.diagnostics.machine import CONNECT_SECONDS, check_machine
from dist_calo.errors import EXIT_FAILURE, ConfigError

if TYPE_CHECKING:
    from dist_calo.comm import Communicator

DESCRIPTION = """Check whether the trainer would run here, with the settings given.

Start it as the job would be started (mpirun -np 2 dist-calo doctor) to check that the ranks find each other. Lines
marked FAIL say what to do; the exit code is then 1. With --cluster all nodes of a job are measured and compared
(srun -N 4 --ntasks-per-node=2 dist-calo doctor --cluster): what differs, which one is slow, and how long a training
step will take.
"""
CLUSTER_SECONDS = 300.0
"""Longest time of a collective while the nodes are measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is found and return the exit code: 1 if the job would fail."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--cluster" in given:
        return on_ranks("dist_calo.cli.doctor", given, _read_cluster, _run_cluster)
    parser = _parser()
    values = parser.parse_args(given)
    if values.json or values.launch != 1:
        raise ConfigError("--json and --launch belong to --cluster: give that too, or leave them out")
    return check_machine(build_config(parser, values))


def _parser() -> Any:
    parser = config_parser("dist-calo doctor", DESCRIPTION)
    parser.add_argument(
        "--cluster", action="store_true", help="Measure all nodes of this job and compare them."
    )
    parser.add_argument("--json", help="With --cluster: a file for all that was measured.")
    add_launch_option(parser)
    return parser


@dataclass(frozen=True)
class _ClusterOptions:
    """Settings of ``--cluster``."""

    config: RunConfig
    json: Path | None
    store: object = field(compare=False)
    """Kept open while the ranks connect."""


def _read_cluster(arguments: Sequence[str]) -> RankCommand[_ClusterOptions]:
    from dist_calo.diagnostics.missing_ranks import await_ranks
    from dist_calo.launching.environment import find_world

    parser = _parser()
    values = parser.parse_args(list(arguments))
    config = build_config(parser, values)
    json = Path(values.json) if values.json else None
    if json is not None and not (json.absolute().parent.is_dir() and not json.is_dir()):
        raise ConfigError(f"--json {json}: name a file in a folder that is there")
    store = await_ranks(find_world(os.environ), min(CONNECT_SECONDS, config.comm.timeout_s))
    comm = replace(config.comm, timeout_s=min(CLUSTER_SECONDS, config.comm.timeout_s))
    options = _ClusterOptions(config, json, store)
    return RankCommand(
        options=options, ranks=values.launch, comm=comm, device=config.train.device, must_agree=False
    )


def _run_cluster(options: _ClusterOptions, communicator: "Communicator") -> int:
    from dist_calo.diagnostics.cluster_check import check_cluster

    report = check_cluster(options.config, communicator, CONNECT_SECONDS)
    if communicator.world.rank == 0:
        print(report.text(), flush=True)
        if options.json is not None:
            report.write(options.json)
    # One rank's exit code is that of the job, and launchers have a line for each that is not 0.
    return EXIT_FAILURE if report.failed and communicator.world.rank == 0 else 0


if __name__ == "__main__":
    sys.exit(run_command("dist-calo doctor", main, sys.argv[1:]))
