"""The ``dist-calo`` command, with one verb for each thing that a user does."""

import sys
from collections.abc import Sequence
from importlib import import_module

from dist_calo import __version__
from dist_calo.cli.command_line import run_command
from dist_calo.errors import EXIT_USER
from dist_calo.launching import early_signals

GROUPS = {
    "Begin": {
        "demo": ("dist_calo.cli.demo", "train, generate and compare with Geant4, in about four minutes"),
        "init": ("dist_calo.cli.init", "write a working folder: recipes, job scripts, settings of a site"),
        "doctor": ("dist_calo.cli.doctor", "check this machine, or all nodes of a job: can it train?"),
        "horovod": ("dist_calo.cli.horovod", "build Horovod for this environment"),
    },
    "Prepare showers": {
        "data": ("dist_calo.cli.data", "inspect, validate, convert or split shower files"),
        "simulate": (
            "dist_calo.cli.simulate",
            "make showers without any network: parametrised, or by Geant4",
        ),
    },
    "Train": {
        "configs": ("dist_calo.cli.configs", "list the recipes, print one, or the schema of all settings"),
        "train": ("dist_calo.train", "train a network on showers, on one rank or many"),
        "status": (
            "dist_calo.cli.status",
            "where a run stands: steps, checkpoints, MLflow run, how to go on",
        ),
        "sweep": ("dist_calo.cli.sweep", "search for good settings: one study, any number of workers"),
        "scale": ("dist_calo.cli.scale", "measure how training scales: plan, run, report"),
        "runs": ("dist_calo.cli.runs", "send metrics that could not be sent while training"),
    },
    "Use a trained network": {
        "generate": ("dist_calo.cli.generate", "make showers"),
        "evaluate": ("dist_calo.cli.evaluate", "compare generated with Geant4 showers: metrics and a report"),
        "bench": ("dist_calo.cli.bench", "measure how fast showers are made, and how good those are"),
        "export": ("dist_calo.cli.export", "write it as ONNX or TorchScript, for Geant4 and C++"),
        "register": ("dist_calo.cli.register", "put it into MLflow's model registry"),
    },
    "For scripts": {
        "launch": ("dist_calo.cli.launch", "start local ranks of the trainer without any launcher"),
        "job": ("dist_calo.cli.job", "what a SLURM job does around its ranks; slurm/*.sh end in it"),
    },
}
"""Commands, grouped by what a user wants to do: the module of each and what it does."""
COMMANDS = {name: told for group in GROUPS.values() for name, told in group.items()}


def usage() -> str:
    """Return the text of ``dist-calo --help``."""
    groups = [
        f"{title}:\n" + "\n".join(f"  {name:<10}{text}" for name, (_, text) in group.items())
        for title, group in GROUPS.items()
    ]
    parts = [
        "usage: dist-calo COMMAND [options]",
        *groups,
        "`dist-calo COMMAND --help` shows the options of each.",
    ]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    early_signals.guard_output()
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given in (["--help"], ["-h"]):
        print(usage())
        return 0
    if given == ["--version"]:
        print(f"dist_calo {__version__}")
        return 0
    if not given:
        print(usage(), file=sys.stderr)
        return EXIT_USER
    if given[0] not in COMMANDS:
        choices = ", ".join(COMMANDS)
        print(f"dist-calo: there is no command {given[0]!r}; the commands are {choices}", file=sys.stderr)
        return EXIT_USER
    module = import_module(COMMANDS[given[0]][0])
    return run_command(f"dist-calo {given[0]}", module.main, given[1:])


if __name__ == "__main__":
    sys.exit(main())
