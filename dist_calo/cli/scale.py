"""Measure how training scales: ``dist-calo scale plan``, ``run`` and ``report``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.cli.command_line import (
    build_config,
    config_parser,
    one_line_parser,
    parse_choices,
    parse_numbers,
    run_command,
)
from dist_calo.cli.rank_runner import RankCommand, on_ranks
from dist_calo.errors import ConfigError

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator
    from dist_calo.scaling.plan import Axes

DESCRIPTION = """Cross nodes, ranks, threads, backends, wire formats and batches into a plan in the folder RESULTS.

Lists are separated by commas. All settings of the trainer may be given as well, as to dist-calo train.
"""
USAGE = """usage: dist-calo scale plan|run|show|report RESULTS [options]

  plan    what is to be measured, and the commands that measure it
  run     measure: one point on the ranks of a launcher, or all points of one node here
  show    nodes, ranks a node, threads and backend of a point, for batch scripts
  report  report.html and points.csv: efficiency, time split, cost model, prediction

`dist-calo scale COMMAND --help` shows the options of each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands and return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    commands = {"plan": _plan, "run": _run, "show": _show, "report": _report}
    if given[:1] in (["--help"], ["-h"]):
        print(USAGE)
        return 0
    if not given or given[0] not in commands:
        said = f"{given[0]}: there is no such command" if given else "the command is missing"
        raise ConfigError(f"{said}; choose from {', '.join(commands)}")
    return commands[given[0]](given[1:])


def _plan(arguments: Sequence[str]) -> int:
    from dist_calo.scaling.experiment import plan_experiment
    from dist_calo.scaling.plan import PLAN_FILE, Measurement, commands

    parser = config_parser("dist-calo scale plan", DESCRIPTION)
    add = parser.add_argument
    add("results", help="folder to make, on a file system that all nodes share")
    add(
        "--mode",
        choices=("weak", "strong", "both"),
        default="weak",
        help="what stays the same",
    )
    add("--nodes", default="1", help="numbers of nodes, such as 1,2,4")
    add("--ranks", default="1,2", help="ranks on each node")
    add("--threads", default="1", help="compute threads of a rank")
    add("--backends", default="torch", help="of torch,mpi,horovod (default torch)")
    add("--wires", default="fp32", help="of fp32,bf16,fp16")
    add("--overlap", default="on,off", help="of on,off; a prediction needs off (default on,off)")
    add("--batch", default="16", help="showers of a rank in weak studies")
    add("--global-batch", default="64", help="showers of all ranks in strong studies")
    add("--repeats", type=int, default=3, help="of each point")
    add("--warmup", type=int, default=5, help="steps before the clock starts")
    add("--steps", type=int, default=32, help="steps that are measured")
    add(
        "--no-end-to-end", action="store_true", help="do without a validation and a checkpoint in each repeat"
    )
    values = parser.parse_args(list(arguments))
    results = Path(values.results)
    config = build_config(parser, values)
    measurement = Measurement(
        repeats=values.repeats,
        warmup_steps=values.warmup,
        steps=values.steps,
        end_to_end=not values.no_end_to_end,
    )
    plan = plan_experiment(results, _axes(values), config, measurement)
    for line in plan.left_out:
        print(f"left out: {line}")
    print(f"{len(plan.points)} points, {plan.measurement.repeats} repeats of each: {results / PLAN_FILE}")
    if plan.parent_run:
        print(f"MLflow run {plan.parent_run} in {plan.config.tracking.uri}")
    print(commands(plan, results))
    return 0


def _axes(values: argparse.Namespace) -> "Axes":
    from dist_calo.scaling.plan import BACKENDS, WIRES, Axes

    def numbers(option: str) -> list[int]:
        return sorted(parse_numbers(option, getattr(values, option[2:].replace("-", "_"))))

    return Axes(
        nodes=numbers("--nodes"),
        ranks_per_node=numbers("--ranks"),
        threads=numbers("--threads"),
        backends=parse_choices("--backends", values.backends, BACKENDS),
        wires=parse_choices("--wires", values.wires, WIRES),
        overlap=[word == "on" for word in parse_choices("--overlap", values.overlap, ("on", "off"))],
        weak_batches=[] if values.mode == "strong" else numbers("--batch"),
        strong_batches=[] if values.mode == "weak" else numbers("--global-batch"),
    )


def _run(arguments: Sequence[str]) -> int:
    from dist_calo.launching.environment import find_world
    from dist_calo.scaling.experiment import run_here

    options = _run_options(arguments)
    if find_world(os.environ).launcher != "none":
        return on_ranks("dist_calo.cli.scale", arguments, _read, _run_point)
    return run_here(options.results, options.point, options.again)


def _run_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = one_line_parser("dist-calo scale run", "Measure one point, or all points of one node.")
    parser.add_argument("results", type=Path, help="folder of the plan")
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

    parser = one_line_parser("dist-calo scale show", "Print what a batch script has to know of a point.")
    parser.add_argument("results", type=Path, help="folder of the plan")
    parser.add_argument("--point", type=int, required=True, help="number of the point")
    options = parser.parse_args(list(arguments))
    point = read_plan(options.results).point(options.point)
    print(point.nodes, point.ranks_per_node, point.threads, point.backend)
    return 0


def _report(arguments: Sequence[str]) -> int:
    parser = one_line_parser(
        "dist-calo scale report", "Write report.html and points.csv of what is measured."
    )
    parser.add_argument("results", type=Path, help="folder of the plan")
    parser.add_argument("--out", type=Path, help="folder to write to (default: RESULTS/report)")
    options = parser.parse_args(list(arguments))
    from dist_calo.scaling.report import write_report

    for line in write_report(options.results, options.out or options.results / "report"):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(run_command("dist-calo scale", main, sys.argv[1:]))
