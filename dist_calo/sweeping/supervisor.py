"""A worker of a sweep: its ranks are started, and started anew when one has died over a trial, and train trials."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.config import RunConfig
from dist_calo.errors import EXIT_PREEMPTED, EXIT_USER
from dist_calo.launching.local import run_local
from dist_calo.launching.slurm import SWEEP_JOB, job_start
from dist_calo.sweeping.definition import Configure, Sweep

if TYPE_CHECKING:
    from dist_calo.comm.protocol import Communicator


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """A sweep that is to be run, and the folder of its study."""

    sweep: Sweep
    folder: Path
    configs: list[RunConfig]
    """Settings of some trials, with every end of every range."""


def supervise(command: Sequence[str], ranks: int, folder: Path) -> int:
    """Start the ranks of a worker, start them anew when one has died over a trial, and return the exit code."""
    from dist_calo.sweeping.claims import claims_in

    os.environ[SWEEP_JOB] = ":".join(map(str, job_start()))
    while True:
        before = claims_in(folder)
        code = run_local(command, ranks)
        # Ranks that die before they get to work would do so for ever.
        if code in (0, EXIT_USER, EXIT_PREEMPTED) or claims_in(folder) == before:
            return code
        print(
            f"dist-calo sweep: a rank ended with code {code}; the ranks start anew",
            file=sys.stderr,
            flush=True,
        )


def train_trials(run: SweepRun, communicator: "Communicator", configure: Configure) -> int:
    """Train trials on these ranks until the study has all of them, and return the exit code."""
    from dist_calo.sweeping.mlflow_record import SweepRecord
    from dist_calo.sweeping.study import Study
    from dist_calo.sweeping.worker import Worker, check_parts

    study = record = None
    if communicator.world.rank == 0:
        check_parts(run.configs)
        study = Study.join(run.folder, run.sweep, run.configs[0].train)
        record = SweepRecord.open(study, run.configs[0])
    return Worker(run.sweep, communicator, study, record, configure).work()
