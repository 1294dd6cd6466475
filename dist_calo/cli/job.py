"""A batch job around its ranks: ``dist-calo job train|sweep|scale|run``, which the scripts in ``slurm/`` end in."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dist_calo.cli.command_line import run_verb
from dist_calo.errors import EXIT_PREEMPTED, EXIT_USER, ConfigError, DataError, LaunchError
from dist_calo.launching import early_signals, slurm
from dist_calo.launching.job import run_job, setting
from dist_calo.resources import recipes

USAGE = """dist-calo job VERB

In a SLURM job, in the folder of the checkout; it stages data, starts ranks on all nodes, passes SLURM's signals on to
them, puts the job back into the queue when its time is up or a node is lost, and says how it has ended.
  train [--NAME=VALUE ...]      train in the folder runs/NUMBER, named after the job
  sweep SWEEP.yaml [OPTIONS]    be a worker of dist-calo sweep run
  scale RESULTS [OPTIONS]       measure the point of a scaling plan that has the number of this task of the job array
  run MODULE [ARGUMENTS]        run a module on all ranks
Variables choose the rest (slurm/site.env.example): LAUNCHER MPI STAGE DATA TRACKING_URI REQUEUE PROGRESS RANKS_PER_NODE

For the scripts in launch/:
  place                         print where the ranks of this job go, as variables of the shell
  meet NUMBER                   print where the nodes of another job meet, as HOST:PORT"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code.

    Raises:
        ConfigError: if there is no such verb.
        LaunchError: if this is no batch job, or not the folder of the checkout.
    """
    early_signals.guard_output(of_run=True)
    given = sys.argv[1:] if arguments is None else arguments
    verbs = {"train": _train, "sweep": _sweep, "scale": _scale, "run": _run, "place": _place, "meet": _meet}
    return run_verb("job", USAGE, verbs, given)


def _train(arguments: list[str]) -> int:
    return run_job("dist_calo.train", [*slurm.training_settings(), *arguments], files_to_stage)


def _sweep(arguments: list[str]) -> int:
    separator = [] if "--" in arguments else ["--"]
    line = [*arguments, *separator, *slurm.site_settings()]
    os.environ.pop("STAGE", None)  # all tasks of a study read the same files
    # A second start during which no worker wrote a checkpoint (step-*.pt) below this folder is not followed by a third.
    sweeps = recipes("configs/sweeps")
    files = [f"sweeps/{Path(word).stem}" for word in line if Path(word).is_file() or word in sweeps]
    os.environ["PROGRESS"] = setting("study", line) or next(iter(files), "")
    return run_job("dist_calo.cli.sweep", ["run", *line], files_to_stage)


def _scale(arguments: list[str]) -> int:
    from dist_calo.scaling.experiment import prepare_job

    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    if not task.isdecimal() or not arguments:
        raise LaunchError(
            "usage: sbatch -N NODES --array=POINTS slurm/scaling.sh RESULTS (dist-calo scale plan prints it)"
        )
    prepare_job(Path(arguments[0]), int(task))
    line = ["run", arguments[0], "--point", task, *arguments[1:]]
    return run_job("dist_calo.cli.scale", line, files_to_stage)


def _run(arguments: list[str]) -> int:
    if not arguments:
        raise ConfigError("job run: the module is missing: dist-calo job run dist_calo.train ...")
    return run_job(arguments[0], arguments[1:], files_to_stage)


def files_to_stage(pattern: str) -> list[str]:
    """Return the files of a glob that nodes need on their local disks; none if they cannot be staged."""
    from dist_calo.data import staging

    try:
        return staging.files_to_stage(pattern)
    except DataError as error:
        print(f"data: not staged: {error}", file=sys.stderr, flush=True)
        return []


def _place(_: list[str]) -> int:
    try:
        place = slurm.find_allocation(os.environ)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return EXIT_USER
    for name, value in place.as_variables().items():
        print(f"{name}={shlex.quote(value)}")
    return 0


def _meet(arguments: list[str]) -> int:
    job = arguments[0] if arguments else ""
    place, state = slurm.where_to_join(job)
    if place:
        print(place)
        return 0
    print(f"job {job}, which this one is to join, does not run: it is {state}", file=sys.stderr)
    # It comes back, and so does this one.
    return EXIT_PREEMPTED if state in slurm.COMES_BACK else EXIT_USER
