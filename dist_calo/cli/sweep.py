"""Hyper-parameter search: ``dist-calo sweep run|show|plot``; any number of workers on any nodes join one study."""

import os
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.cli.command_line import (
    build_config,
    config_parser,
    one_line_parser,
    run_command,
    run_verb,
)
from dist_calo.cli.rank_runner import RankCommand, on_ranks
from dist_calo.config import RunConfig
from dist_calo.errors import ConfigError
from dist_calo.resources import recipe
from dist_calo.sweeping.definition import read_sweep
from dist_calo.sweeping.supervisor import SweepRun, supervise, train_trials

if TYPE_CHECKING:
    import argparse

USAGE = """dist-calo sweep VERB

  run SWEEP.yaml [--study FOLDER] [--trials N] [--launch N] [-- --NAME=VALUE ...]
             train trials until the study has all of them; the same command again goes on, and any number of these
             commands on any nodes share the work. What follows -- are settings of the trainer, for all trials.
  show FOLDER
             the trials of a study, the best one, and the command that trains it in full
  plot FOLDER --out FILE.png|svg|pdf
             parallel coordinates, the history and the importance of each setting"""
_parser = cache(partial(config_parser, "dist-calo sweep", ""))


def main(given: Sequence[str]) -> int:
    """Run a verb and return the exit code."""
    return run_verb("sweep", USAGE, {"run": _run, "show": _show, "plot": _plot}, given)


def _run(line: list[str]) -> int:
    """Act as one of the ranks, or start them."""
    from dist_calo.launching.environment import RanksNotStartedError, find_world

    ranks = _parsed(line)[0].launch
    try:
        world = find_world(os.environ)
        if world.size > 1 or os.environ.get("DIST_CALO_LAUNCHER") == "local":
            return on_ranks("dist_calo.cli.sweep", line, _read, partial(train_trials, configure=_configure))
    except RanksNotStartedError:
        # A batch script of several tasks whose ranks are to be started from here.
        if ranks is None:
            raise
    command = [sys.executable, "-m", "dist_calo.cli.sweep", "run", *line]
    return supervise(command, ranks or 1, _read(line).options.folder)


def _file(name: str) -> Path:
    return Path(recipe(name, "configs/sweeps"))


def _parsed(line: list[str]) -> "tuple[argparse.Namespace, list[str]]":
    end = line.index("--") if "--" in line else len(line)
    parser = one_line_parser("dist-calo sweep run", "Train the trials of a sweep.")
    parser.add_argument("sweep", type=_file, help="YAML file, or the name of one in configs/sweeps/")
    parser.add_argument("--study", type=Path, help="folder that all workers share; by default sweeps/NAME")
    parser.add_argument("--trials", type=int, help="trials of the study, in place of the file's")
    parser.add_argument("--launch", type=int, help="train each trial on so many ranks, started here")
    return parser.parse_args(line[:end]), line[end + 1 :]


def _read(line: Sequence[str]) -> RankCommand[SweepRun]:
    options, overrides = _parsed(list(line[1:] if line[:1] == ["run"] else line))
    sweep = read_sweep(options.sweep, trials=options.trials, overrides=overrides)
    configs = sweep.check(_configure)
    run = SweepRun(sweep=sweep, folder=options.study or Path("sweeps") / options.sweep.stem, configs=configs)
    return RankCommand(options=run, comm=configs[0].comm, device=configs[0].train.device)


def _configure(arguments: Sequence[str]) -> RunConfig:
    return build_config(_parser(), _parser().parse_args(list(arguments)))


def _show(line: list[str]) -> int:
    from dist_calo.sweeping.study import Study
    from dist_calo.sweeping.table import summary, table

    parser = one_line_parser("dist-calo sweep show", "The trials of a study.")
    parser.add_argument("study", type=Path)
    study = Study.read(parser.parse_args(line).study)
    print(f"{table(study)}\n\n{summary(study)}")
    return 0


def _plot(line: list[str]) -> int:
    from dist_calo.sweeping.picture import FORMATS, draw
    from dist_calo.sweeping.study import Study

    parser = one_line_parser("dist-calo sweep plot", "A picture of a study.")
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(line)
    if options.out.suffix not in FORMATS:
        raise ConfigError(f"--out {options.out}: must end in {', '.join(FORMATS)}")
    if not draw(Study.read(options.study), options.out):
        raise ConfigError(f"{options.study}: no trial has a value yet; there is nothing to draw")
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command("dist-calo sweep", main, sys.argv[1:]))
