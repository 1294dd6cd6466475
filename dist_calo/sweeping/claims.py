"""Trials that a worker owns: the next one to work on is new, or one whose worker died.

All workers claim trials under the study's lock, so that the study ends with exactly as many trials as it was to have.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.files import read_bytes
from dist_calo.leases.signs_of_life import Process, last_beat
from dist_calo.sweeping.space import Value
from dist_calo.sweeping.study import Study
from dist_calo.sweeping.trial_folder import Claim, is_locked, newest_step, noted_failure

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

ATTEMPTS = 3
"""Number of times that a trial whose worker dies is begun without getting further, before it counts as failed."""
POLL_S = 0.5
HELD_S = 40.0
"""Time that a worker with nothing else to do waits for a trial whose silent owner still holds a lock, in seconds."""


@dataclass(frozen=True)
class Task:
    """A trial that this worker owns."""

    number: int
    chosen: dict[str, Value]
    folder: Path
    resumed: bool
    owner: Claim
    """This worker."""


class Claims:
    """The claims of a worker on trials of its study.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._here = Process.here()
        self._beats: dict[int, float] = {}
        self._held_until: dict[int, float] = {}

    def next(self, stop: Callable[[], bool] = lambda: False) -> Task | None:
        """Return a trial to work on: one whose worker died, or a new one; None if there is nothing left to do.

        Waits until it is known of each trial that others work on whether they are alive.

        Args:
            stop: asked now and then; True ends the waiting.
        """
        study = self._study
        self._beats, self._held_until = {}, {}
        while not stop():
            with study.locked():
                study.reread()
                task, unsure = self._orphan()
                if task is None and len(study.trials) < study.sweep.total:
                    task = self._new()
            if task is not None or not unsure:
                return task
            time.sleep(POLL_S)
        return None

    def release(self, task: Task) -> bool:
        """Leave the trial to whoever comes next, and return whether it was still ours."""
        left = replace(task.owner, released=True, attempt=task.owner.attempt - 1)
        with self._study.locked():
            ours = task.owner.holds(task.folder)
            if ours:
                left.write(task.folder)
        return ours

    def _orphan(self) -> tuple[Task | None, bool]:
        """Claim a running trial whose worker died; return it, and whether it is not known yet of others."""
        study, unsure = self._study, False
        for trial in study.trials:
            if trial.state != study.states.RUNNING:
                continue
            folder = study.trial_folder(trial.number)
            owner = Claim.of(folder)
            if owner is not None and not owner.is_known_dead(self._here):
                stamp, silence = last_beat(folder / "beat", study.folder)
                if silence <= study.sweep.abandoned_after_s:
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
        """Return whether a process that gives no other sign of life holds the trial, or writes its run."""
        from dist_calo.tracking.spool import Spool

        study = self._study
        if is_locked(study.trial_folder(number)):
            return True
        with suppress(FileNotFoundError):  # sent meanwhile
            spools = [
                spool
                for spool in Spool.all(study.folder / "spool")
                if spool.identity.run_name == study.run_name(number)
            ]
            return any(spool.lock.is_busy() for spool in spools)
        return False

    def _claimed(self, trial: "FrozenTrial", owner: Claim | None) -> Task | None:
        """Take the trial over; return None, and have it fail, if that has not helped before."""
        study = self._study
        folder = study.trial_folder(trial.number)
        noted = noted_failure(folder)
        step = newest_step(folder)
        attempt = 1 if owner is None or step > owner.step else owner.attempt + 1
        if noted is not None or attempt > ATTEMPTS:
            lost = f"its worker died {ATTEMPTS} times at step {step}, the last time on {owner.host if owner else '?'}"
            study.writer.fail(trial.number, noted or lost)
            return None
        claim = Claim.make(folder, attempt=attempt, step=step)
        # Its worker may have died before all settings were chosen; those that were are given again.
        chosen = study.sweep.parameters.suggested(study.writer.again(study.sweep, trial.number))
        return Task(trial.number, chosen, folder, resumed=owner is not None, owner=claim)

    def _new(self) -> Task | None:
        """Begin a new trial; called under the lock, so that the number is known before settings are chosen."""
        study = self._study
        number = len(study.trials)
        folder = study.trial_folder(number)
        # The claim comes first: it could not be told whether a trial without one is being begun.
        claim = Claim.make(folder)
        trial = study.writer.ask(study.sweep, number)
        if trial.number != number:
            # Halted for so long that another worker took the lock as abandoned, and this number.
            if claim.holds(folder):
                replace(claim, released=True, attempt=claim.attempt - 1).write(folder)
            return self._claimed(study.trial(trial.number), None)
        return Task(trial.number, study.sweep.parameters.suggested(trial), folder, resumed=False, owner=claim)


def claims_in(folder: Path) -> dict[Path, bytes]:
    """Return who has begun or taken over which trial last: it changes whenever a worker begins a trial."""
    return {path: read_bytes(path) for path in folder.glob("trials/*/owner.json") if path.is_file()}
