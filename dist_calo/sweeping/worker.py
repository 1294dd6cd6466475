"""Training trials one after the other, on all ranks of a worker.

Trials are trained in this process: PyTorch and MLflow are loaded, and the ranks connected, once for all of them. A
trial that cannot be trained is recorded as failed and the next one begins. An error that ends a rank ends all ranks of
the worker; the next worker finds the trial without an owner, and the reason that the rank has noted.
"""

import difflib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch

from dist_calo.comm import CommunicationError
from dist_calo.comm.protocol import Communicator
from dist_calo.config import RunConfig
from dist_calo.errors import EXIT_PREEMPTED, ConfigError, TrainingError, UserError
from dist_calo.launching.rank_progress import SIGNS
from dist_calo.leases.signs_of_life import Beat
from dist_calo.models import check_model
from dist_calo.objectives import OBJECTIVES
from dist_calo.physics.metrics.evaluation import Evaluation
from dist_calo.sweeping.claims import Claims, Task
from dist_calo.sweeping.definition import Configure, Sweep
from dist_calo.sweeping.mlflow_record import SweepRecord
from dist_calo.sweeping.study import Study
from dist_calo.sweeping.table import summary, trial_line
from dist_calo.sweeping.trial_folder import note_failure
from dist_calo.sweeping.trial_results import PRUNED, TAKEN, Results
from dist_calo.tracking.spool import HeldError
from dist_calo.training.preemption import StopRequest
from dist_calo.training.setup import build_run
from dist_calo.training.trainer import StoppingRules


class ObjectiveError(ConfigError):
    """A sweep that asks for a number that validations do not have."""


class WorkerError(UserError):
    """A fault of the node or its file systems; other trials would fail here as well."""


class TrialError(Exception):
    """A failure of a trial on one rank, which can only be told to the others by the end of all ranks."""


@dataclass(frozen=True)
class Assignment:
    """The trial that all ranks are to train."""

    task: Task
    config: RunConfig
    run_id: str
    tags: Mapping[str, str]


class Worker:
    """One worker of a study, on one of its ranks.

    Args:
        sweep: what is varied.
        communicator: how the ranks of the worker talk.
        study: the study, on rank 0; None on others.
        record: the sweep's record in MLflow, on rank 0; None on others.
        configure: reads a trainer's command line.
    """

    def __init__(
        self,
        sweep: Sweep,
        communicator: Communicator,
        study: Study | None,
        record: SweepRecord | None,
        configure: Configure,
    ) -> None:
        self._sweep = sweep
        self._communicator = communicator
        self._study = study
        if study is not None:
            self._claims = Claims(study)
            self._results = Results(study)
        self._record = record
        self._configure = configure

    def work(self) -> int:
        """Train trials until none is left, or until asked to stop, and return the exit code.

        Raises:
            UserError: if the data, the checkpoints or the tracking store are at fault, not the trial's settings.
        """
        has_trained = False
        with StopRequest(self._communicator) as stop:
            while True:
                stop.ask()
                if stop.agreed():
                    return EXIT_PREEMPTED
                assignment: Assignment | None = self._communicator.broadcast_object(self._assign(stop))
                if assignment is None:
                    break
                has_trained = True
                if not self._train(assignment, stop):
                    return EXIT_PREEMPTED
        if self._record is not None:
            self._record.close()
        if self._study is not None and not (has_trained or stop.received):
            print(f"no trial is left to train\n{summary(self._study)}", flush=True)
        return EXIT_PREEMPTED if stop.received else 0

    def _assign(self, stop: StopRequest) -> Assignment | None:
        """Return the next trial that can be begun, on rank 0; trials whose settings are refused fail here."""
        if self._study is None or self._record is None:
            return None
        while (task := self._claims.next(lambda: stop.received is not None)) is not None:
            try:
                config = self._settings(task)
            except ConfigError as error:
                self._failed(task, error)
                continue
            words = "  ".join(f"{name}={value}" for name, value in task.chosen.items())
            print(f"trial {task.number}{' goes on' if task.resumed else ''}: {words}", flush=True)
            return Assignment(task, config, self._record.run_id(task.number), self._record.tags(task))
        return None

    def _settings(self, task: Task) -> RunConfig:
        config = self._configure(self._sweep.arguments(task.chosen))
        folder = task.folder
        ledger = None if config.data.ledger is None else str(folder / "ledger")
        assert self._study is not None
        return replace(
            config,
            data=replace(config.data, ledger=ledger),
            checkpoint=replace(config.checkpoint, dir=str(folder / "checkpoints"), resume="auto"),
            tracking=replace(
                config.tracking,
                run_name=self._study.run_name(task.number),
                spool=str(self._study.folder / "spool"),
            ),
        )

    def _train(self, assignment: Assignment, stop: StopRequest) -> bool:
        """Train one trial; return False if the worker has to stop."""
        SIGNS.begin("in set-up", unit="step")
        task, config = assignment.task, assignment.config
        beat = None if self._study is None else task.owner.beat(task.folder, self._sweep.abandoned_after_s)
        try:
            with (
                beat or nullcontext(),
                build_run(
                    config,
                    self._communicator,
                    run_id=assignment.run_id,
                    tags=assignment.tags,
                    stopping=StoppingRules(
                        after_validation=partial(self._judge, assignment),
                        before_checkpoint=lambda: self._taken(beat),
                    ),
                ) as trainer,
            ):
                # A signal may have come while the run was put together.
                stop.ask()
                trainer.stopped_by = stop.agreed()
                trainer.fit()
        except TrainingError as error:
            # All ranks agree on these.
            self._failed(task, error)
            return True
        except Exception as error:
            self._leave(task, error)
            return True
        return self._ended(task, trainer.stopped_by, done=trainer.finished is not None)

    def _leave(self, task: Task, error: Exception) -> None:
        """Return if the next trial may begin after this error; otherwise raise.

        Raises:
            Exception: the error, where it is not the trial's own or ends the other ranks.
        """
        environment = isinstance(error, UserError) and (
            isinstance(error, ObjectiveError) or not isinstance(error, ConfigError)
        )
        if isinstance(error, CommunicationError):
            raise error
        if isinstance(error, HeldError) and self._study is not None and self._communicator.world.size == 1:
            # Its worker was halted or slow, and lives. No other ranks wait: the next trial may begin.
            print(f"trial {task.number} is set aside: {error}", flush=True)
            self._claims.release(task)
            return
        if environment or isinstance(error, OSError):
            if self._study is not None:
                self._claims.release(task)
            if isinstance(error, OSError):
                raise WorkerError(
                    f"this worker ends and leaves trial {task.number} to others: {error}"
                ) from error
            raise error
        rank = self._communicator.world.rank
        if self._communicator.world.size == 1 and not torch.cuda.is_initialized():
            # No other ranks that wait, and no GPU that may be left unusable: the next trial begins from nothing.
            self._failed(task, error)
            return
        if task.owner.holds(task.folder):
            note_failure(task.folder, f"rank {rank}: {_reason(error)}")
        raise TrialError(f"trial {task.number}: {_reason(error)}") from error

    def _judge(self, assignment: Assignment, step: int, seen: Evaluation, last: bool) -> str | None:
        """Return why to stop the trial after a validation, or None; the same on all ranks."""
        value = _value(self._sweep.objective, seen)
        reason = None
        if self._study is not None:
            reason = self._results.report(assignment.task, step, value, last=last)
        reason = self._communicator.broadcast_object(reason)
        return None if reason is None else str(reason)

    def _taken(self, beat: Beat | None) -> str | None:
        """Return why not to write to the trial's folder any more, or None; the same on all ranks."""
        return TAKEN if self._communicator.broadcast_object(beat is not None and beat.is_lost()) else None

    def _ended(self, task: Task, stopped_by: str | None, *, done: bool) -> bool:
        """Record how training ended without an error; return False if the worker has been asked to stop."""
        signalled = stopped_by not in (None, PRUNED, TAKEN)
        if self._study is not None:
            if stopped_by == TAKEN:
                self._tell(task, ours=False)
            elif stopped_by == PRUNED:
                self._tell(task, ours=self._results.prune(task))
            elif done:
                self._tell(task, ours=self._results.complete(task))
            else:
                self._claims.release(task)
        return not signalled

    def _failed(self, task: Task, error: Exception) -> None:
        if self._study is not None:
            self._tell(task, ours=self._results.fail(task, _reason(error)))

    def _tell(self, task: Task, *, ours: bool) -> None:
        assert self._study is not None
        assert self._record is not None
        if not ours:
            print(f"trial {task.number}: {TAKEN}", flush=True)
            return
        print(trial_line(self._study, task.number), flush=True)
        self._record.catch_up()


def check_parts(configs: Sequence[RunConfig]) -> None:
    """Check models and objectives by name, before all trials fail of the same misspelling.

    Raises:
        ConfigError: if a model, an option of it or an objective is not known.
    """
    for config in configs:
        check_model(config.model)
        if config.objective.name not in OBJECTIVES:
            raise ConfigError(
                f"objective.name={config.objective.name}: there is no such objective; choose from "
                f"{', '.join(sorted(OBJECTIVES))}"
            )


def _value(objective: str, seen: Evaluation) -> float:
    """Return the objective of a sweep after a validation, maybe not finite.

    Raises:
        ObjectiveError: if validations have no such number.
    """
    numbers = {"score": seen.score, **seen.numbers}
    name = objective.removeprefix("validation/")
    if name not in numbers:
        nearest = difflib.get_close_matches(name, list(numbers), n=1, cutoff=0.0)[0]
        raise ObjectiveError(
            f"objective={objective}: validations have no such number; the nearest is validation/{nearest}"
        )
    return numbers[name].value


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if isinstance(error, UserError) else f"{type(error).__name__}: {text}")[:500]
