"""Writing of the trials in Optuna's study: their beginning, their values and their end."""

from random import Random
from typing import Any

from dist_calo.sweeping.definition import Sweep
from dist_calo.sweeping.study_journal import load_optuna


class TrialWriter:
    """The writer of the trials of a study.

    Args:
        study: Optuna's study.
        storage: its storage.
    """

    def __init__(self, study: Any, storage: Any) -> None:
        self._optuna = study
        self._storage = storage
        self._id = storage.get_study_id_from_name(study.study_name)

    def ask(self, sweep: Sweep, number: int) -> Any:
        """Begin the next trial, which is to have this number, with a sampler of its own."""
        self._optuna.sampler = _sampler(sweep, number)
        return self._optuna.ask()

    def again(self, sweep: Sweep, number: int) -> Any:
        """Return a running trial in the form that chooses settings."""
        self._optuna.sampler = _sampler(sweep, number)
        return load_optuna().trial.Trial(self._optuna, self._trial_id(number))

    def note_value(self, number: int, step: int, value: float) -> None:
        """Write what a validation of a trial gave."""
        self._storage.set_trial_intermediate_value(self._trial_id(number), step, value)

    def should_prune(self, number: int) -> bool:
        """Return whether the pruner stops the trial at its newest value."""
        return bool(self._optuna.pruner.prune(self._optuna, self._optuna.get_trials(deepcopy=False)[number]))

    def finish(self, number: int, state: Any, value: float | None = None) -> None:
        """Write the final state of a trial, and its value if it has one."""
        self._optuna.tell(number, value, state=state, skip_if_finished=True)

    def fail(self, number: int, reason: str) -> None:
        """Write that a trial failed, and why."""
        self._storage.set_trial_user_attr(self._trial_id(number), "reason", reason)
        self.finish(number, load_optuna().trial.TrialState.FAIL)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)


def _sampler(sweep: Sweep, number: int) -> Any:
    """Return a sampler of this trial alone, so that workers who ask at the same time choose different settings."""
    samplers = load_optuna().samplers
    seed = Random(f"{sweep.seed} {number}").getrandbits(31)
    if sweep.sampler == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=True)
    return samplers.RandomSampler(seed=seed)
