"""Run one node's part of an elastic run, started by launch/elastic.sh: ``python -m dist_calo.cli.elastic``."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dist_calo.cli.command_line import one_line_parser, run_command
from dist_calo.errors import LaunchError
from dist_calo.launching import early_signals
from dist_calo.masking import hidden_command

if TYPE_CHECKING:
    from dist_calo.launching.elastic_agent import ElasticJob

DESCRIPTION = (
    "Start this node's ranks, and start them again with those of the other nodes when nodes come or go."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this node's ranks until the run has ended and return the exit code."""
    early_signals.guard_output(of_run=True)
    given = sys.argv[1:] if arguments is None else list(arguments)
    return run_command("dist_calo.cli.elastic", _run, given)


def _run(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(list(arguments))
    host, _, port = options.meet.rpartition(":")
    if not host or not port.isdecimal():
        raise LaunchError(f"--meet {options.meet}: must be HOST:PORT")
    job = None if options.join else _read_job(options)

    from dist_calo.launching.elastic_agent import ask_for_job, run_agent

    if job is None:
        job = ask_for_job(host, int(port), wait_s=options.wait)
        os.chdir(job.folder)
    return run_agent(job, host, int(port), first=options.first, joins=options.join)


def _parser() -> argparse.ArgumentParser:
    parser = one_line_parser("python -m dist_calo.cli.elastic", DESCRIPTION)
    parser.add_argument(
        "--meet", required=True, help="HOST:PORT where the agents meet; HOST runs one of them"
    )
    parser.add_argument("--first", action="store_true", help="this is HOST, whatever it calls itself")
    parser.add_argument("--join", action="store_true", help="join a run that is under way; it tells the rest")
    parser.add_argument("--job", default="dist_calo", help="name of the run")
    parser.add_argument("--nodes", default="1:1", help="MIN:MAX, fewest and most nodes")
    parser.add_argument("--ranks-per-node", type=int, default=1)
    parser.add_argument(
        "--restarts", type=int, default=3, help="failures without a lost node that are forgiven"
    )
    parser.add_argument("--wait", type=int, default=120, help="seconds that too few nodes wait for others")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command of a rank")
    return parser


def _read_job(options: argparse.Namespace) -> "ElasticJob":
    from dist_calo.launching.elastic_agent import ElasticJob

    low, _, high = options.nodes.partition(":")
    high = high or low
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise LaunchError(f"--nodes {options.nodes}: must be MIN:MAX, at least 1, the smaller one first")
    if options.ranks_per_node < 1:
        raise LaunchError(f"--ranks-per-node {options.ranks_per_node}: must be at least 1")
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise LaunchError("the command of a rank is missing: end with -- python -m dist_calo.train ...")
    return ElasticJob(
        name=options.job,
        nodes=(int(low), int(high)),
        ranks_per_node=options.ranks_per_node,
        restarts=options.restarts,
        wait_s=options.wait,
        command=tuple(hidden_command(command)),
        folder=os.getcwd(),
    )


if __name__ == "__main__":
    sys.exit(main())
