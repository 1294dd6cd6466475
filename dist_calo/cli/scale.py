"""Measure how training scales: ``dist-calo scale plan``, ``run``, ``show`` and ``report``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.cli.command_line import one_line_parser, run_command, run_verb
from dist_calo.cli.rank_runner import RankCommand, on_ranks
from dist_calo.cli.scale_plan import plan
from dist_calo.errors import ConfigError

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator

USAGE = """dist-calo scale plan|run|show|report RESULTS [options]

  plan    what is to be measured, and the commands that measure it
  run     measure: one point on the ranks of a launcher, or all points of one node here
  show    nodes, ranks a node, threads and backend of a point, for batch scripts
  report  report.html and points.csv: efficiency, time split, cost model, prediction

`dist-calo scale COMMAND --help` shows the options of each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the verbs and return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_verb("scale", USAGE, {"plan": plan, "run": _run, "show": _show, "report": _report}, given)


def _parser(verb: str, text: str) -> argparse.ArgumentParser:
    parser = one_line_parser(f"dist-calo scale {verb}", text)
    parser.add_argument("results", type=Path, help="folder of the plan")
    return parser


def _run(arguments: Sequence[str]) -> int:
    from dist_calo.launching.environment import find_world
    from dist_calo.scaling.experiment import run_here

    options = _run_options(arguments)
    if find_world(os.environ).launcher != "none":
        return on_ranks("dist_calo.cli.scale", arguments, _read, _run_point)
    return run_here(options.results, options.point, options.again)


def _run_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser("run", "Measure one point, or all points of one node.")
    parser.add_argument("--point", type=int, help="number of the point (default: all, on this machine)")
    parser.add_argument("--again", action="store_true", help="measure also what is measured already")
    return parser.parse_args(list(arguments))


def _read(arguments: Sequence[str]) -> RankCommand[argparse.Namespace]:
    from dist_calo.launching.environment import find_world
    from dist_calo.scaling.experiment import settings_of_point

    options = _run_options(arguments)
    if options.point is None:
        raise ConfigError("--point is missing: which point of the plan are these ranks to measure?")
    config = settings_of_point(options.results, options.point, find_world(os.environ))
    return RankCommand(options=options, comm=config.comm, device=config.train.device)


def _run_point(options: argparse.Namespace, communicator: "Communicator") -> int:
    from dist_calo.scaling.experiment import run_point

    return run_point(options.results, options.point, options.again, communicator)


def _show(arguments: Sequence[str]) -> int:
    from dist_calo.scaling.plan import read_plan

    parser = _parser("show", "Print what a batch script has to know of a point.")
    parser.add_argument("--point", type=int, required=True, help="number of the point")
    options = parser.parse_args(list(arguments))
    point = read_plan(options.results).point(options.point)
    print(point.nodes, point.ranks_per_node, point.threads, point.backend)
    return 0


def _report(arguments: Sequence[str]) -> int:
    from dist_calo.scaling.report import write_report

    parser = _parser("report", "Write report.html and points.csv of what is measured.")
    parser.add_argument("--out", type=Path, help="folder to write to (default: RESULTS/report)")
    options = parser.parse_args(list(arguments))
    print(*write_report(options.results, options.out or options.results / "report"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command("dist-calo scale", main, sys.argv[1:]))
