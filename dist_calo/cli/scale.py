"""Measure how training scales: ``dist-calo scale plan``, ``run`` and ``report``."""

import argparse
import os
import shlex
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dist_calo.cli.command_line import build_config, config_parser, one_line_parser, run_command
from dist_calo.cli.rank_runner import Job, on_ranks
from dist_calo.errors import ConfigError, MissingComponentError

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator
    from dist_calo.config import RunConfig
    from dist_calo.scaling.plan import Axes, Measurement, Plan, Point

Choice = TypeVar("Choice", bound=str)

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
    from dist_calo.scaling.plan import make_plan, write_plan

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
    config = _found_from_anywhere(build_config(parser, values))
    plan = make_plan(_axes(values), config, _measurement(values), _training_showers(config))
    # The folder is tried before MLflow has a run without a plan.
    write_plan(results, plan)
    plan = _with_parent(plan, results)
    file = write_plan(results, plan)
    for line in plan.left_out:
        print(f"left out: {line}")
    print(f"{len(plan.points)} points, {plan.measurement.repeats} repeats of each: {file}")
    if plan.parent_run:
        print(f"MLflow run {plan.parent_run} in {config.tracking.uri}")
    print(_how_to_run(plan, results))
    return 0


def _found_from_anywhere(config: "RunConfig") -> "RunConfig":
    """The settings with whole paths: tasks may start in another folder."""
    from dist_calo.tracking.store_uri import checked_uri

    uri = config.tracking.uri
    return replace(
        config,
        data=replace(config.data, path=[str(Path(path).absolute()) for path in config.data.patterns]),
        tracking=replace(config.tracking, uri=uri if uri == "none" else checked_uri(uri)),
    )


def _axes(values: argparse.Namespace) -> "Axes":
    from dist_calo.scaling.plan import BACKENDS, WIRES, Axes

    return Axes(
        nodes=_numbers("--nodes", values.nodes),
        ranks_per_node=_numbers("--ranks", values.ranks),
        threads=_numbers("--threads", values.threads),
        backends=_choices("--backends", values.backends, BACKENDS),
        wires=_choices("--wires", values.wires, WIRES),
        overlap=[word == "on" for word in _choices("--overlap", values.overlap, ("on", "off"))],
        weak_batches=[] if values.mode == "strong" else _numbers("--batch", values.batch),
        strong_batches=[] if values.mode == "weak" else _numbers("--global-batch", values.global_batch),
    )


def _measurement(values: argparse.Namespace) -> "Measurement":
    from dist_calo.scaling.plan import Measurement

    return Measurement(
        repeats=values.repeats,
        warmup_steps=values.warmup,
        steps=values.steps,
        end_to_end=not values.no_end_to_end,
    )


def _training_showers(config: "RunConfig") -> int:
    from dist_calo.data.row_blocks import split_blocks
    from dist_calo.data.shards import build_manifest

    return split_blocks(build_manifest(config.data), "train", config.data).samples


def _with_parent(plan: "Plan", results: Path) -> "Plan":
    from dist_calo.scaling.record import start_parent

    return replace(plan, parent_run=start_parent(plan, results))


def _how_to_run(plan: "Plan", results: Path) -> str:
    """The commands that measure the whole plan."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, point in enumerate(plan.points):
        groups[point.nodes].append(number)
    lines = []
    folder, report = shlex.quote(str(results)), shlex.quote(str(results / "report"))
    for nodes, numbers in groups.items():
        points = [plan.points[number] for number in numbers]
        ranks = max(point.ranks_per_node for point in points)
        threads = max(point.threads for point in points)
        lines.append(
            f"  sbatch -N {nodes} --ntasks-per-node={ranks} --cpus-per-task={threads} --array={_ranges(numbers)} "
            f"slurm/scaling.sh {folder}"
        )
    here = f"  dist-calo scale run {folder}"
    some = "" if set(groups) == {1} else "          # the points of one node"
    return (
        "on a cluster (add %1 to --array where jobs on other nodes disturb):\n"
        + "\n".join(lines)
        + f"\nor on this machine:\n{here}{some}\nthen:\n  dist-calo scale report {folder} --out {report}"
    )


def _run(arguments: Sequence[str]) -> int:
    from dist_calo.launching.environment import find_world
    from dist_calo.scaling.plan import read_plan

    options = _run_options(arguments)
    if find_world(os.environ).launcher != "none":
        return on_ranks("dist_calo.cli.scale", arguments, _read, _run_point)
    plan = read_plan(options.results)
    numbers = range(len(plan.points)) if options.point is None else [options.point]
    return _run_here(options.results, numbers, options.again)


def _run_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = one_line_parser("dist-calo scale run", "Measure one point, or all points of one node.")
    parser.add_argument("results", type=Path, help="folder of the plan")
    parser.add_argument("--point", type=int, help="number of the point (default: all, on this machine)")
    parser.add_argument("--again", action="store_true", help="measure also what is measured already")
    return parser.parse_args(list(arguments))


def _read(arguments: Sequence[str]) -> Job[argparse.Namespace]:
    from dist_calo.launching.environment import find_world
    from dist_calo.scaling.plan import read_plan
    from dist_calo.scaling.running import checked_point

    options = _run_options(arguments)
    if options.point is None:
        raise ConfigError("--point is missing: which point of the plan are these ranks to measure?")
    plan = read_plan(options.results)
    point, world = checked_point(plan, options.point), find_world(os.environ)
    if world.size != point.ranks:
        raise ConfigError(
            f"--point {options.point}: is {point.nodes} x {point.ranks_per_node} ranks, but {world.launcher} started "
            f"{world.size}; start {point.ranks}, or none to have them started here"
        )
    config = plan.run_config(options.point, options.results)
    return Job(options=options, comm=config.comm, device=config.train.device)


def _run_point(options: argparse.Namespace, communicator: "Communicator") -> int:
    from dist_calo.scaling.running import run_point

    return run_point(options.results, options.point, options.again, communicator)


def _run_here(results: Path, numbers: Sequence[int], again: bool) -> int:
    """Measure points on this machine, one after the other, each with its own ranks."""
    from dist_calo.launching.local import run_local
    from dist_calo.scaling.plan import read_plan
    from dist_calo.scaling.results import missing
    from dist_calo.scaling.running import checked_point

    plan = read_plan(results)
    for number in numbers:
        point = checked_point(plan, number)
        if not again and not missing(results, number, plan.measurement.repeats):
            print(f"point {number} is done already; --again measures it anew", flush=True)
            continue
        if point.nodes > 1:
            print(f"point {number} is for {point.nodes} nodes: sbatch it (dist-calo scale show)", flush=True)
            continue
        command = [sys.executable, "-m", "dist_calo.cli.scale", "run", str(results), "--point", str(number)]
        command += ["--again"] * again
        code = run_local(command, point.ranks) if point.backend == "torch" else _launched(command, point)
        if code:
            return code
    return 0


def _launched(command: Sequence[str], point: "Point") -> int:
    """Start ranks by the launcher of their backend and return the exit code."""
    from dist_calo.launching.local import forwarding, start

    launcher = ["horovodrun", "--gloo", "-np", str(point.ranks)]
    if point.backend == "mpi":
        as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        launcher = ["mpirun", *as_root, "--oversubscribe", "--bind-to", "none", "-np", str(point.ranks)]
    beside = Path(sys.executable).with_name(launcher[0])
    found = str(beside) if beside.exists() else shutil.which(launcher[0])
    if found is None:
        raise MissingComponentError(f"{launcher[0]} is not on PATH, and point {point.described()} needs it")
    process = start([found, *launcher[1:], *command])
    with forwarding([process]):
        return process.wait()


def _show(arguments: Sequence[str]) -> int:
    from dist_calo.scaling.plan import read_plan
    from dist_calo.scaling.running import checked_point

    parser = one_line_parser("dist-calo scale show", "Print what a batch script has to know of a point.")
    parser.add_argument("results", type=Path, help="folder of the plan")
    parser.add_argument("--point", type=int, required=True, help="number of the point")
    options = parser.parse_args(list(arguments))
    point = checked_point(read_plan(options.results), options.point)
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


def _numbers(option: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"{option} {text}: give numbers of at least 1 such as 1,2,4")
    return sorted(set(found))


def _choices(option: str, text: str, known: Sequence[Choice]) -> list[Choice]:
    words = list(dict.fromkeys(text.split(",")))
    for word in words:
        if word not in known:
            raise ConfigError(f"{option} {text}: {word or 'nothing'} is none of {', '.join(known)}")
    return [choice for word in words for choice in known if choice == word]


def _ranges(numbers: Sequence[int]) -> str:
    """Increasing numbers in SLURM's notation, such as ``0-3,8``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


if __name__ == "__main__":
    sys.exit(run_command("dist_calo.cli.scale", main, sys.argv[1:]))
