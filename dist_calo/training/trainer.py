"""The training loop: fetch, learn, log, validate, checkpoint, until done or asked to stop."""

import math
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch

from dist_calo.comm.protocol import Communicator
from dist_calo.config import RunConfig, TrainConfig
from dist_calo.data.ledger import Ledger
from dist_calo.data.loader import Batch, Loader
from dist_calo.errors import DataError, TrainingError
from dist_calo.launching.early_signals import launcher_died
from dist_calo.launching.failure_messages import LAUNCHER_DIED
from dist_calo.launching.rank_progress import SIGNS
from dist_calo.physics.metrics.evaluation import Evaluation
from dist_calo.physics.metrics.half_sample_bootstrap import Measured
from dist_calo.physics.metrics.metric_definitions import SCORE_DEFINITION
from dist_calo.tracking.spool import SPOOL_PREFIX
from dist_calo.tracking.tracker import NullTracker, Tracker
from dist_calo.training.checkpoint import Checkpoint, State, not_finite
from dist_calo.training.checkpoint_folder import CheckpointFolder
from dist_calo.training.learner import Learner
from dist_calo.training.preemption import StopRequest
from dist_calo.training.progress import Progress, StepTimes
from dist_calo.training.schedule import why_finished
from dist_calo.training.validation import Validator, in_words, logged_metrics, pictures


@dataclass
class TrainState:
    """Position of the run, the same on all ranks."""

    step: int = 0
    epoch: int = 0
    samples_seen: int = 0
    """Samples used in this epoch, over all ranks."""
    best_score: float | None = None
    best_step: int = 0
    best_error: float | None = None
    best_floor: float | None = None
    score_definition: int = SCORE_DEFINITION
    validations_since_best: int = 0
    train_seconds: float = 0.0
    """Time that the run had taken when this part of it began, over all parts before."""

    @classmethod
    def of(cls, checkpoint: Checkpoint | None) -> "TrainState":
        """Return where a checkpoint stands; at the start without one."""
        if checkpoint is None:
            return cls()
        state = cls(**{f.name: getattr(checkpoint, f.name) for f in fields(cls)})
        state.epoch = state.epoch or 0
        if state.score_definition != SCORE_DEFINITION:
            # A score of an earlier version says nothing beside those of this one: the next validation is the best.
            state.best_score = state.best_error = state.best_floor = None
            state.score_definition = SCORE_DEFINITION
        return state

    def why_finished(self, config: TrainConfig, *, time_over: bool = False) -> str | None:
        """Return why nothing is left to train; None if something is."""
        return why_finished(
            config,
            self.step,
            validations_since_best=self.validations_since_best,
            train_seconds=math.inf if time_over else self.train_seconds,
        )

    def note(self, score: Measured) -> bool:
        """Take note of a validation's score; return whether it is the best so far, by more than its error."""
        error = score.error if math.isfinite(score.error) else 0.0
        improved = score.value < (math.inf if self.best_score is None else self.best_score - error)
        if math.isfinite(score.value):
            self.validations_since_best += 1
        if improved:
            self.best_score, self.best_step, self.validations_since_best = score.value, self.step, 0
            self.best_error, self.best_floor = (
                value if math.isfinite(value) else None for value in (score.error, score.floor)
            )
        return improved

    @property
    def kept(self) -> str:
        """The checkpoint that a command takes which names the folder alone, in words."""
        return (
            f"the best is of step {self.best_step}"
            if self.best_step
            else f"the newest is of step {self.step}"
        )


@dataclass(frozen=True, kw_only=True)
class StoppingRules:
    """Rules of a sweep, called on all ranks; each says why to stop, the same on all ranks, or None."""

    after_validation: Callable[[int, Evaluation, bool], str | None] = lambda step, seen, last: None
    """Called with the step, what a validation saw, and whether it is the run's last one."""
    before_checkpoint: Callable[[], str | None] = lambda: None
    """Called first; where it says why to stop, no checkpoint is written."""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Showers of one rank."""

    loader: Loader
    """Batches to train on, from the position of the run on."""
    validator: Validator | None
    """Comparison of generated with held-out showers, if there are some."""


@dataclass(frozen=True, kw_only=True)
class RunLoggers:
    """Places where a run is recorded, besides its checkpoints."""

    tracker: Tracker | NullTracker
    """The record of the run; does nothing on ranks other than 0."""
    ledger: Ledger | None
    """Where consumed sample ids are written, if asked for."""
    progress: Progress
    """The user's view."""


class Trainer:
    """Training loop of one rank.

    Args:
        config: the run's settings.
        description: geometry, transform, manifest and run id as plain values, stored in checkpoints.
        learner: networks and optimizers.
        batches: this rank's showers, to train on and to compare with.
        communicator: how the ranks talk.
        loggers: record, ledger and progress.
        state: where the run stands.
        stopping: decisions of a sweep.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        description: State,
        learner: Learner,
        batches: Batches,
        communicator: Communicator,
        loggers: RunLoggers,
        state: TrainState,
        stopping: StoppingRules,
    ) -> None:
        self._config = config
        self._description = description
        self._learner = learner
        self._loader = batches.loader
        self._validator = batches.validator
        self._communicator = communicator
        self._tracker = loggers.tracker
        self._ledger = loggers.ledger
        self._progress = loggers.progress
        self._stopping = stopping
        self._folder = CheckpointFolder(config.checkpoint.dir, config.checkpoint.keep)
        self._times = StepTimes(communicator, batches.loader)
        self._is_named = False
        self.state = state
        self.stopped_by: str | None = None
        """The signal that ended the run early, after a checkpoint, or what a rule said."""
        self._began, self._seconds_before = time.monotonic(), state.train_seconds
        self.finished = state.why_finished(config.train)
        """Why nothing is left to train; None while something is."""

    def fit(self) -> None:
        """Train to the last step, or until some rank is asked to stop.

        Raises:
            TrainingError: if the gradients stay non-finite or the ranks' weights differ.
            DataError: on all ranks, if a file of the run has changed.
            CheckpointError: if a checkpoint cannot be written.
        """
        SIGNS.reached(self.state.step)
        with StopRequest(self._communicator) as stop:
            while not (self.finished or self.stopped_by):
                stop.ask(time_over=self._time_is_over())
                batch = next(self._loader)
                self._learner.learn(batch, self.state.step + 1)
                self._advance(batch)
                self.stopped_by = stop.agreed()
                self.finished = self.state.why_finished(self._config.train, time_over=stop.time_over)
                self._log(batch)
                improved = self._validate()
                self._checkpoint(now=improved or bool(self.finished or self.stopped_by))
                self._progress.show()
                self._name_run(self._tracker.run_id)
        SIGNS.begin("at the end of the run")
        self._name_run(self._tracker.run_id if self.stopped_by else self._tracker.named_run_id(), last=True)
        if self.stopped_by:
            if launcher_died():
                self._progress.say(LAUNCHER_DIED)
            self._progress.say(
                f"{self.stopped_by}: stopped after step {self.state.step}, checkpoint in {self._folder.folder}; "
                "the same command with --checkpoint.resume=auto goes on"
            )
        else:
            self._record_model()
            self._progress.ended(self.state.step)
            if self.finished and self.state.step < self._config.train.max_steps:
                self._progress.say(f"step {self.state.step} is the last one: {self.finished}")
            self._progress.say(
                f"done: checkpoints in {self._folder.folder}, {self.state.kept}; `dist-calo generate --checkpoint "
                f"{shlex.quote(str(self._folder.folder))} --out FILE` makes showers with it"
            )

    def _name_run(self, name: str | None, *, last: bool = False) -> None:
        """Say once what the store calls the run: when it has said so, or else at the end, as nothing waits for it."""
        is_sent = name is not None and not name.startswith(SPOOL_PREFIX)
        if name is not None and (is_sent or last) and not self._is_named:
            self._is_named = True
            self._progress.say(
                f"MLflow run {name} {'in' if is_sent else 'not sent yet to'} {self._config.tracking.uri}"
            )

    def _advance(self, batch: Batch) -> None:
        self.state.step += 1
        SIGNS.reached(self.state.step)
        self.state.epoch, self.state.samples_seen = batch.end.epoch, batch.end.samples_seen
        if self._ledger:
            self._ledger.write(batch.epoch, self.state.step, batch.ids)

    def _elapsed(self) -> float:
        """Return the time that the run has taken, over all resumes, by this rank's clock."""
        return self._seconds_before + time.monotonic() - self._began

    def _time_is_over(self) -> bool:
        """Return, on rank 0 alone, whether the time is over: its clock is in the checkpoint that a resume goes by."""
        limit = self._config.train.max_seconds
        return self._communicator.world.rank == 0 and limit is not None and self._elapsed() >= limit

    def _due(self, every: int) -> bool:
        return self.finished is not None or (every > 0 and self.state.step % every == 0)

    def _log(self, batch: Batch) -> None:
        self._times.count(batch.global_size)
        if not self._due(self._config.train.log_every_steps):
            return
        # The losses of this step alone, not a mean since the last line: a resumed run logs bit for bit the same.
        metrics = summed(self._learner.losses, self._communicator)
        metrics |= {
            f"{name}/learning_rate": self._learner.learning_rate(name, self.state.step)
            for name in self._learner.optimizers
        }
        metrics |= self._times.since_last()
        metrics |= {"epoch": float(self.state.epoch), "skipped_steps": float(self._learner.bad_steps)}
        self._tracker.metrics(metrics, self.state.step)
        self._progress.line(self.state.step, self.state.epoch, metrics)

    def _validate(self) -> bool:
        """Look at generated showers if it is time to; True if they are the best so far."""
        if self._validator is None or not self._due(self._config.train.validate_every_steps):
            return False
        with SIGNS.phase("in validation"):
            self._learner.share_statistics()
            with self._learner.average.applied():
                result = self._validator.run()
            self._tracker.metrics(logged_metrics(result), self.state.step)
            # Drawing imports the report's modules, which ranks that record nothing need not load.
            if self._config.tracking.log_pictures and not isinstance(self._tracker, NullTracker):
                for name, draw in pictures(result).items():
                    self._tracker.figure(draw, name, self.state.step)
        self._progress.validation(self.state.step, in_words(result))
        self._times.restart()
        improved = self.state.note(result.score)
        self.finished = self.finished or self.state.why_finished(self._config.train)
        reason = self._stopping.after_validation(self.state.step, result, self.finished is not None)
        self.stopped_by = self.stopped_by or reason
        return improved

    def _checkpoint(self, *, now: bool) -> None:
        if not (now or self._due(self._config.checkpoint.every_steps)):
            return
        if (reason := self._stopping.before_checkpoint()) is not None:
            self.stopped_by = self.stopped_by or reason
            return
        with SIGNS.phase("in a checkpoint"):
            if self._ledger:
                self._ledger.secure()
            self._learner.share_statistics()
            # All ranks come here before rank 0 saves.
            self._require_sound_ranks()
            if self._communicator.world.rank == 0:
                self._tracker.secure()
                state = self._state_dict()
                best = self.state.best_step == self.state.step
                path = self._folder.save(state, self._summary(), best=best)
                self._tracker.checkpoint(path)
            self._communicator.barrier()
        self._times.restart()

    def _record_model(self) -> None:
        if self._communicator.world.rank == 0:
            best = self._folder.best()
            assert best is not None  # the last step's is there at least
            facts = {name: self._description[name] for name in ("geometry", "transform")}
            self._tracker.model(best[0], {**facts, "step": best[1]["step"]})

    @property
    def _standing(self) -> State:
        """Where the run stands; it keeps its number in MLflow also if this part of it is not recorded."""
        run_id = self._tracker.run_id or self._description["run_id"]
        return {**vars(self.state), "train_seconds": self._elapsed(), "run_id": run_id}

    def _state_dict(self) -> State:
        state = {**self._learner.state_dict(), **self._description, **self._standing}
        return {**state, "config": self._config.to_dict()}

    def _summary(self) -> State:
        ranks = self._communicator.world.size
        return {**self._standing, "ranks": ranks, "config": self._config.to_dict()}

    def _require_sound_ranks(self) -> None:
        """Agree that all ranks have the same weights, nothing that is not finite, and the files of the start.

        Raises:
            TrainingError: on all ranks if the weights are not so.
            DataError: on all ranks if a file has changed.
        """
        change = self._loader.what_changed()
        bad = not_finite(self._learner.state_dict())
        mine = torch.tensor([self._learner.digest(), bad is not None, change is not None], dtype=torch.int64)
        low, high = mine.clone(), mine.clone()
        self._communicator.all_reduce(low, "min")
        self._communicator.all_reduce(high, "max")
        if int(high[2]):
            changes = [found for found in self._communicator.all_gather_object(change) if found]
            raise DataError(
                f"{changes[0]}; nothing is saved of the steps up to {self.state.step}: put the file back and continue "
                "from the checkpoint before with --checkpoint.resume=auto, or start a new run in another folder"
            )
        if int(high[1]):
            found = self._communicator.all_gather_object(bad)
            where = [rank for rank, name in enumerate(found) if name]
            steps = self._folder.steps()
            kept = f"continue from {self._folder.path(steps[-1])}" if steps else "begin anew"
            raise TrainingError(
                f"step {self.state.step}: {found[where[0]]} is not finite on {len(where)} of {len(found)} ranks; "
                f"nothing was saved: {kept} with a lower optimizer.learning_rate, or with optimizer.clip_norm"
            )
        if int(low[0]) != int(high[0]):
            digests = self._communicator.all_gather_object(int(mine[0]))
            common = max(set(digests), key=digests.count)
            odd = [rank for rank, value in enumerate(digests) if value != common]
            raise TrainingError(
                f"step {self.state.step}: the weights of ranks {odd[:8]} differ from the others', which averaging "
                "rules out on sound hardware; nothing was saved: continue from the last checkpoint without their nodes"
            )


def summed(losses: Mapping[str, torch.Tensor], communicator: Communicator) -> dict[str, float]:
    """Return losses over the global batch: the ranks hold sums divided by its size."""
    values = torch.stack([value.double().cpu() for value in losses.values()])
    communicator.all_reduce(values)
    return dict(zip(losses, values.tolist(), strict=True))
