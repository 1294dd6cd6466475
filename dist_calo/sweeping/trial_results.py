"""Results of the trials that a worker owns, written to the study.

A trial may have been taken over by another worker meanwhile. Its former owner then says nothing of it any more.
"""

import math
from collections.abc import Callable

from dist_calo.sweeping.claims import Task
from dist_calo.sweeping.study import Study

PRUNED = "pruned"
TAKEN = "taken over by another worker"


class Results:
    """The results that a worker writes to its study.

    The methods `complete`, `prune` and `fail` return whether the trial is still ours; else they write nothing.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self._study = study

    def report(self, task: Task, step: int, value: float, *, last: bool) -> str | None:
        """Write what a validation gave, and return why to stop the trial, or None; at its end it is not pruned."""
        if not task.owner.holds(task.folder):
            return TAKEN
        if not math.isfinite(value):
            return None
        self._study.writer.note_value(task.number, step, value)
        return PRUNED if not last and self._study.writer.should_prune(task.number) else None

    def complete(self, task: Task) -> bool:
        """End a trial that has trained to its end: its value is the best that a validation gave."""
        study = self._study
        values = study.trial(task.number).intermediate_values.values()
        if not values:
            return self.fail(task, f"no validation gave a finite {study.sweep.objective}")
        best = min(values) if study.sweep.direction == "minimize" else max(values)
        return self._if_ours(task, lambda: study.writer.finish(task.number, study.states.COMPLETE, best))

    def prune(self, task: Task) -> bool:
        """End a trial that was stopped early."""
        return self._if_ours(task, lambda: self._study.writer.finish(task.number, self._study.states.PRUNED))

    def fail(self, task: Task, reason: str) -> bool:
        """End a trial that cannot be trained."""
        return self._if_ours(task, lambda: self._study.writer.fail(task.number, reason))

    def _if_ours(self, task: Task, write: Callable[[], None]) -> bool:
        with self._study.locked():  # under which trials are taken over
            ours = task.owner.holds(task.folder)
            if ours:
                write()
        return ours
