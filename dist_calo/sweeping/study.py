"""A study: the trials of a sweep in one folder of a shared file system, which any number of workers join.

    sweep.json     the sweep: what is varied, and the number of trials
    journal.log    Optuna's journal of all trials
    trials/0007/   checkpoints of a trial, and whose it is
    spool/         records that MLflow does not have yet

A trial that is begun belongs to its worker. If the worker dies, another one takes the trial over and goes on from its
checkpoint, so that the study ends with exactly as many trials as it was to have.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Self

from dist_calo.config import TrainConfig
from dist_calo.errors import ConfigError
from dist_calo.leases.short_lock import locked
from dist_calo.sweeping.definition import Sweep
from dist_calo.sweeping.stored_sweep import store, stored_sweep
from dist_calo.sweeping.study_journal import StudyJournal, load_optuna
from dist_calo.sweeping.trial_writer import TrialWriter

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

NAME = "sweep"


class Study:
    """The study in a folder, opened by `Study.join` or `Study.read`."""

    def __init__(self, folder: Path, sweep: Sweep, uid: str, train: TrainConfig | None = None) -> None:
        optuna = load_optuna()
        self.folder = folder
        self.sweep = sweep
        self.uid = uid
        """Name that no other study has, in MLflow too."""
        self.states = optuna.trial.TrialState
        self._journal = StudyJournal(folder / "journal.log")
        self._storage = self._journal.storage()
        if train is not None:
            self._make(optuna)
        pruner = _pruner(sweep, train) if train else None
        try:
            self.optuna = optuna.load_study(study_name=NAME, storage=self._storage, pruner=pruner)
        except KeyError:
            raise ConfigError(f"{folder}/journal.log: holds no study; name another folder") from None
        self.writer = TrialWriter(self.optuna, self._storage)

    @classmethod
    def join(cls, folder: Path, sweep: Sweep, train: TrainConfig) -> Self:
        """Open the study in this folder, made if there is none, and made longer if this sweep asks for more trials.

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
    def read(cls, folder: Path) -> Self:
        """Open the study in a folder; nothing is written.

        Raises:
            ConfigError: if there is none.
        """
        if not (folder / "journal.log").exists():
            raise ConfigError(
                f"{folder}: holds no study; dist-calo sweep run SWEEP.yaml --study FOLDER makes one"
            )
        return cls(folder, *stored_sweep(folder))

    def _make(self, optuna: Any) -> None:
        """Make the study in the journal, and queue every combination of a grid, also where a worker died halfway."""
        with self.locked():
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
        """Return all trials that were begun, by number."""
        return [
            trial for trial in self.optuna.get_trials(deepcopy=False) if trial.state != self.states.WAITING
        ]

    @property
    def finished(self) -> "list[FrozenTrial]":
        """Return the trials that are complete, pruned or failed."""
        return [trial for trial in self.trials if trial.state.is_finished()]

    @property
    def best(self) -> "FrozenTrial | None":
        """Return the best complete trial."""
        complete = [trial for trial in self.finished if trial.state == self.states.COMPLETE]
        sign = 1.0 if self.sweep.direction == "minimize" else -1.0
        return min(complete, key=lambda trial: sign * float(trial.value or 0.0), default=None)

    @property
    def is_complete(self) -> bool:
        """Return whether all trials of the sweep are finished."""
        self.reread()
        return len(self.finished) >= self.sweep.total

    def trial_folder(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def run_name(self, number: int) -> str:
        """Return the name of a trial's run."""
        return f"{self.folder.name}-{number:04d}"

    def reread(self) -> None:
        """Follow the workers that joined after this one and made the study longer."""
        known, _ = stored_sweep(self.folder)
        self.sweep = replace(self.sweep, trials=known.trials, abandoned_after_s=known.abandoned_after_s)

    def locked(self) -> AbstractContextManager[None]:
        """Keep other workers out of the study within a block."""
        return locked(self.folder / "study.lock")

    def trial(self, number: int) -> "FrozenTrial":
        """Return a trial by its number."""
        return self.optuna.get_trials(deepcopy=False)[number]


def _pruner(sweep: Sweep, train: TrainConfig) -> Any:
    pruners = load_optuna().pruners
    if sweep.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=5)
    if sweep.pruner == "hyperband":
        return pruners.HyperbandPruner(train.validate_every_steps, train.max_steps, reduction_factor=3)
    return pruners.NopPruner()
