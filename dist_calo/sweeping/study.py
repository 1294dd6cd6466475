"""A study: the trials of a sweep in one folder of a shared file system, which any number of workers join.

    sweep.json     what is varied, how many trials there are to be
    journal.log    Optuna's journal of all trials
    trials/0007/   checkpoints of a trial, and whose it is
    spool/         what MLflow has not taken yet

A trial that is begun belongs to its worker. If the worker dies, another one takes the trial over and goes on from its
checkpoint, so that the study ends with exactly as many trials as it was to have.
"""

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from dist_calo.config import TrainConfig
from dist_calo.errors import ConfigError
from dist_calo.files import read_bytes
from dist_calo.leases.short_lock import locked
from dist_calo.leases.signs_of_life import Process, last_beat
from dist_calo.sweeping.claim import Claim, is_locked
from dist_calo.sweeping.definition import Sweep
from dist_calo.sweeping.journal import Journal, load_optuna
from dist_calo.sweeping.space import Value
from dist_calo.sweeping.stored import store, stored_sweep

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

NAME = "sweep"
ATTEMPTS = 3
"""How often a trial whose worker dies is begun without getting further, before it counts as failed."""
POLL_S = 0.5
HELD_S = 40.0
"""How long a worker with nothing else to do waits for a trial whose silent owner still holds a lock, in seconds."""
PRUNED = "pruned"
TAKEN = "taken over by another worker"


@dataclass(frozen=True)
class Task:
    """A trial that this worker owns."""

    number: int
    chosen: dict[str, Value]
    folder: Path
    resumed: bool
    owner: Claim
    """This worker."""


class Study:
    """The study in a folder, opened by `Study.join` or `Study.read`."""

    def __init__(self, folder: Path, sweep: Sweep, uid: str, train: TrainConfig | None = None) -> None:
        optuna = load_optuna()
        self.folder = folder
        self.sweep = sweep
        self.uid = uid
        """Tells this study from all others, in MLflow too."""
        self._states = optuna.trial.TrialState
        self._journal = Journal(folder / "journal.log")
        self._storage = self._journal.storage()
        if train is not None:
            self._make(optuna)
        pruner = self._pruner(train) if train else None
        try:
            self.optuna = optuna.load_study(study_name=NAME, storage=self._storage, pruner=pruner)
        except KeyError:
            raise ConfigError(f"{folder}/journal.log: holds no study; name another folder") from None
        self._id = self._storage.get_study_id_from_name(NAME)
        self._here = Process.here()
        self._beats: dict[int, float] = {}
        self._held_until: dict[int, float] = {}

    @classmethod
    def join(cls, folder: Path, sweep: Sweep, train: TrainConfig) -> "Study":
        """The study in this folder, made if there is none, and made longer if this sweep asks for more trials.

        Args:
            folder: where the study lives.
            sweep: what it varies.
            train: the training loop of its trials.

        Raises:
            ConfigError: if the folder holds another sweep, or cannot be written.
        """
        try:
            uid = store(folder, sweep)
        except OSError as error:
            raise ConfigError(
                f"--study {folder}: {error.strerror}; name a folder that can be written"
            ) from error
        return cls(folder, sweep, uid, train)

    @classmethod
    def read(cls, folder: Path) -> "Study":
        """The study in a folder; nothing is written.

        Raises:
            ConfigError: if there is none.
        """
        if not (folder / "journal.log").exists():
            raise ConfigError(
                f"{folder}: holds no study; dist-calo sweep run SWEEP.yaml --study FOLDER makes one"
            )
        return cls(folder, *stored_sweep(folder))

    def _make(self, optuna: Any) -> None:
        """The study in the journal, and every combination of a grid in its queue, also where a worker died halfway."""
        with locked(self.folder / "study.lock"):
            names = [study.study_name for study in self._storage.get_all_studies()]
            if NAME not in names and any(self.folder.glob("trials/*/owner.json")):
                raise ConfigError(
                    f"{self.folder}/journal.log: holds no study, and there are trials of one: put it back, or name "
                    "another folder with --study"
                )
            if NAME not in names:
                optuna.create_study(storage=self._storage, study_name=NAME, direction=self.sweep.direction)
            if self.sweep.sampler == "grid":
                combinations = self.sweep.parameters.grid()
                Random(self.sweep.seed).shuffle(combinations)
                study = optuna.load_study(study_name=NAME, storage=self._storage)
                left = combinations[len(study.get_trials(deepcopy=False)) :]
                # Optuna remembers the trial that it wrote last, so there has to be one.
                for chosen in left[:1]:
                    study.enqueue_trial(chosen)
                with self._journal.together():
                    for chosen in left[1:]:
                        study.enqueue_trial(chosen)

    @property
    def trials(self) -> "list[FrozenTrial]":
        """All trials that were begun, by number."""
        return [
            trial for trial in self.optuna.get_trials(deepcopy=False) if trial.state != self._states.WAITING
        ]

    @property
    def finished(self) -> "list[FrozenTrial]":
        """Those that are complete, pruned or failed."""
        return [trial for trial in self.trials if trial.state.is_finished()]

    @property
    def best(self) -> "FrozenTrial | None":
        """The best complete trial."""
        complete = [trial for trial in self.finished if trial.state == self._states.COMPLETE]
        sign = 1.0 if self.sweep.direction == "minimize" else -1.0
        return min(complete, key=lambda trial: sign * float(trial.value or 0.0), default=None)

    @property
    def is_complete(self) -> bool:
        """Whether all trials of the sweep are finished."""
        self._reread()
        return len(self.finished) >= self.sweep.total

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its checkpoints."""
        return self.folder / "trials" / f"{number:04d}"

    def run_name(self, number: int) -> str:
        """What a trial's run is called."""
        return f"{self.folder.name}-{number:04d}"

    def reason(self, number: int) -> str | None:
        """Why a trial failed."""
        return self._trial(number).user_attrs.get("reason")

    def next(self, stop: Callable[[], bool] = lambda: False) -> Task | None:
        """A trial to work on: one whose worker died, or a new one; None if there is nothing left to do.

        Waits until it is known of each trial that others work on whether they are alive.

        Args:
            stop: asked now and then; True ends the waiting.
        """
        self._beats, self._held_until = {}, {}
        while not stop():
            with locked(self.folder / "study.lock"):
                self._reread()
                task, unsure = self._orphan()
                if task is None and len(self.trials) < self.sweep.total:
                    task = self._new()
            if task is not None or not unsure:
                return task
            time.sleep(POLL_S)
        return None

    def report(self, task: Task, step: int, value: float, *, last: bool) -> str | None:
        """Tell what a validation gave; why to stop the trial, or None. One that has come to its end is not pruned."""
        if not task.owner.holds(task.folder):
            return TAKEN
        if not math.isfinite(value):
            return None
        trial_id = self._trial_id(task.number)
        self._storage.set_trial_intermediate_value(trial_id, step, value)
        return (
            PRUNED if not last and self.optuna.pruner.prune(self.optuna, self._trial(task.number)) else None
        )

    def complete(self, task: Task) -> bool:
        """The trial has trained to its end: its value is the best that a validation gave.

        Returns:
            Whether the trial is still ours; else nothing is said of it, here and in `prune`, `fail` and `release`.
        """
        values = self._trial(task.number).intermediate_values.values()
        if not values:
            return self.fail(task, f"no validation gave a finite {self.sweep.objective}")
        best = min(values) if self.sweep.direction == "minimize" else max(values)
        return self._if_ours(task, lambda: self._finish(task.number, self._states.COMPLETE, best))

    def prune(self, task: Task) -> bool:
        """The trial was stopped early."""
        return self._if_ours(task, lambda: self._finish(task.number, self._states.PRUNED))

    def fail(self, task: Task, reason: str) -> bool:
        """The trial cannot be trained."""
        return self._if_ours(task, lambda: self._give_up(task.number, reason))

    def release(self, task: Task) -> bool:
        """Leave the trial to whoever comes next."""
        left = replace(task.owner, released=True, attempt=task.owner.attempt - 1)
        return self._if_ours(task, lambda: left.write(task.folder))

    def _if_ours(self, task: Task, say: Callable[[], None]) -> bool:
        # Trials are taken over under this lock.
        with locked(self.folder / "study.lock"):
            ours = task.owner.holds(task.folder)
            if ours:
                say()
        return ours

    def _reread(self) -> None:
        """Follow the workers that joined after this one and made the study longer."""
        known, _ = stored_sweep(self.folder)
        self.sweep = replace(self.sweep, trials=known.trials, abandoned_after_s=known.abandoned_after_s)

    def _orphan(self) -> tuple[Task | None, bool]:
        """A running trial whose worker died, now ours; and whether there are some of which it is not known."""
        unsure = False
        for trial in self.trials:
            if trial.state != self._states.RUNNING:
                continue
            folder = self.trial_folder(trial.number)
            owner = Claim.of(folder)
            if owner is not None and not owner.is_known_dead(self._here):
                stamp, silence = last_beat(folder / "beat", self.folder)
                if silence <= self.sweep.abandoned_after_s:
                    # A beat since we first looked: somebody is at work.
                    unsure |= stamp == self._beats.setdefault(trial.number, stamp)
                    continue
            if self._is_held(trial.number):
                # Halted or slow, not dead: other trials come first.
                now = time.monotonic()
                unsure |= now < self._held_until.setdefault(trial.number, now + HELD_S)
                continue
            task = self._claimed(trial, owner)
            if task is not None:
                return task, False
        return None, unsure

    def _is_held(self, number: int) -> bool:
        """Whether a process that gives no other sign of life holds the trial, or writes its run."""
        from dist_calo.tracking.spool import Spool

        if is_locked(self.trial_folder(number)):
            return True
        with suppress(FileNotFoundError):  # sent meanwhile
            spools = [
                spool
                for spool in Spool.all(self.folder / "spool")
                if spool.identity.run_name == self.run_name(number)
            ]
            return any(spool.lock.is_busy() for spool in spools)
        return False

    def _claimed(self, trial: "FrozenTrial", owner: Claim | None) -> Task | None:
        """Take the trial over; None if it is no use."""
        folder = self.trial_folder(trial.number)
        noted = noted_failure(folder)
        step = _newest_step(folder)
        attempt = 1 if owner is None or step > owner.step else owner.attempt + 1
        if noted is not None or attempt > ATTEMPTS:
            lost = f"its worker died {ATTEMPTS} times at step {step}, the last time on {owner.host if owner else '?'}"
            self._give_up(trial.number, noted or lost)
            return None
        claim = Claim.make(folder, attempt=attempt, step=step)
        # Its worker may have died before all settings were chosen; those that were are given again.
        self.optuna.sampler = self._sampler(trial.number)
        again = load_optuna().trial.Trial(self.optuna, self._trial_id(trial.number))
        chosen = self.sweep.parameters.suggested(again)
        return Task(trial.number, chosen, folder, resumed=owner is not None, owner=claim)

    def _new(self) -> Task | None:
        """A new trial; called under the lock, so that the number is known before settings are chosen."""
        number = len(self.trials)
        folder = self.trial_folder(number)
        # The owner comes first: a trial without one would have to be left to its fate or be taken at once.
        claim = Claim.make(folder)
        self.optuna.sampler = self._sampler(number)
        trial = self.optuna.ask()
        if trial.number != number:
            # Halted for so long that another worker took the lock as abandoned, and this number.
            if claim.holds(folder):
                replace(claim, released=True, attempt=claim.attempt - 1).write(folder)
            return self._claimed(self._trial(trial.number), None)
        return Task(trial.number, self.sweep.parameters.suggested(trial), folder, resumed=False, owner=claim)

    def _finish(self, number: int, state: Any, value: float | None = None) -> None:
        self.optuna.tell(number, value, state=state, skip_if_finished=True)

    def _give_up(self, number: int, reason: str) -> None:
        trial_id = self._trial_id(number)
        self._storage.set_trial_user_attr(trial_id, "reason", reason)
        self._finish(number, self._states.FAIL)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _trial(self, number: int) -> "FrozenTrial":
        return self.optuna.get_trials(deepcopy=False)[number]

    def _sampler(self, number: int) -> Any:
        """A sampler of this trial alone, so that workers who ask at the same time choose different settings."""
        samplers = load_optuna().samplers
        seed = Random(f"{self.sweep.seed} {number}").getrandbits(31)
        if self.sweep.sampler == "tpe":
            return samplers.TPESampler(seed=seed, constant_liar=True)
        return samplers.RandomSampler(seed=seed)

    def _pruner(self, train: TrainConfig) -> Any:
        pruners = load_optuna().pruners
        if self.sweep.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=5)
        if self.sweep.pruner == "hyperband":
            return pruners.HyperbandPruner(train.validate_every_steps, train.max_steps, reduction_factor=3)
        return pruners.NopPruner()


def note_failure(folder: Path, reason: str) -> None:
    """Leave word why a trial ends the ranks that work on it; the first word counts."""
    with suppress(OSError):
        handle = os.open(folder / "failure", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        with os.fdopen(handle, "w") as file:
            file.write(reason)


def noted_failure(folder: Path) -> str | None:
    """What `note_failure` left."""
    try:
        return read_bytes(folder / "failure").decode(errors="replace").strip("\0") or "unknown"
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"unknown ({error.strerror}: {folder}/failure)"


def claims(folder: Path) -> dict[Path, bytes]:
    """Who has begun or taken over which trial last: changes whenever a worker gets to work."""
    return {path: read_bytes(path) for path in folder.glob("trials/*/owner.json") if path.is_file()}


def _newest_step(folder: Path) -> int:
    """Step of the newest checkpoint, without loading torch."""
    names = sorted(path.stem for path in (folder / "checkpoints").glob("step-*.pt"))
    return int(names[-1].removeprefix("step-")) if names else 0
