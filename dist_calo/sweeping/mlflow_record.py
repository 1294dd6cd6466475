"""The record of a sweep in MLflow: one run for all of it, the runs of its trials below it.

Run ids are functions of the study, in the form that spools use before the store has named a run. So all workers mean
the same runs, made once, and a trial that was killed before its first checkpoint goes on in its own run. What a store
that is away has not taken stays in the study's ``spool/`` for the next worker, or for ``dist-calo runs sync``.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_calo.config import RunConfig, TrackingConfig
from dist_calo.leases.short_lock import locked
from dist_calo.sweeping.claims import Task
from dist_calo.sweeping.study import Study
from dist_calo.tracking.provenance import describe_run
from dist_calo.tracking.records import Record, now_ms
from dist_calo.tracking.sender import Sender
from dist_calo.tracking.spool import SPOOL_PREFIX, Spool
from dist_calo.tracking.store import one_line
from dist_calo.tracking.store_uri import checked_uri
from dist_calo.values import flattened

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

log = logging.getLogger("dist_calo.sweep")


@dataclass
class SweepRecord:
    """The record of the sweep that rank 0 of a worker writes to MLflow."""

    study: Study
    tracking: TrackingConfig
    parent: str | None = None
    """Id of the sweep's run in the store, once it has answered."""

    @classmethod
    def open(cls, study: Study, config: RunConfig) -> "SweepRecord":
        """Begin the run of the sweep, or continue it."""
        record = cls(study, config.tracking)
        sweep = study.sweep
        plain = {
            name: value for name, value in sweep.to_dict().items() if name not in ("parameters", "settings")
        }
        varied = dict(
            flattened({"parameters": sweep.to_dict()["parameters"], "settings": dict(sweep.settings)})
        )
        tags = {**describe_run(), "sweep.study": str(study.folder.absolute()), "sweep.id": study.uid}
        start = {"kind": "start", "parameters": {**plain, **varied}, "tags": tags, "datasets": {}}
        record._post(record.run_id(None), [start], study.folder.name)
        return record

    def run_id(self, number: int | None) -> str:
        """Return the name of a trial's run, or of the sweep's own."""
        return f"{SPOOL_PREFIX}sweep-{self.study.uid}" + ("" if number is None else f"-{number:04d}")

    def tags(self, task: Task) -> dict[str, str]:
        """Return the tags of a trial's run at its beginning."""
        own = {"sweep.id": self.study.uid, "sweep.trial": str(task.number), "sweep.state": "running"}
        return own | {f"sweep.{name}": str(value) for name, value in task.chosen.items()} | self._nested()

    def catch_up(self) -> None:
        """Record the ends of trials that are not recorded yet, and the state of the sweep."""
        # The sweep's run comes first: without its name in the store nothing can be nested below it.
        reached = self._post(self.run_id(None), self._standing())
        for trial in self.study.finished:
            done = self.study.trial_folder(trial.number) / "recorded"
            if reached and not done.exists():
                reached = self._post(self.run_id(trial.number), self._ending(trial))
                if reached:
                    done.parent.mkdir(parents=True, exist_ok=True)
                    done.touch()

    def close(self) -> None:
        """Draw the summary, and end the sweep's run if all of its trials are finished."""
        if self.tracking.uri == "none":
            return
        self.catch_up()
        complete = self.study.is_complete
        self._post(self.run_id(None), [], picture=True, end=complete)

    def _nested(self) -> dict[str, str]:
        return {} if self.parent is None else {"mlflow.parentRunId": self.parent}

    def _ending(self, trial: "FrozenTrial") -> list[Record]:
        tags = {"sweep.state": trial.state.name.lower()} | self._nested()
        if trial.value is not None:
            tags["sweep.value"] = repr(trial.value)
        records: list[Record] = [{"kind": "tags", "tags": tags}]
        if reason := trial.user_attrs.get("reason"):
            tags["sweep.reason"] = reason
            # Its own ranks may not have lived to say so.
            records.append({"kind": "end", "status": "FAILED"})
        return records

    def _standing(self) -> list[Record]:
        trials = self.study.finished
        values: dict[str, float] = {}
        for trial in trials:
            name = f"trials/{trial.state.name.lower()}"
            values[name] = values.get(name, 0.0) + 1.0
        tags: dict[str, str] = {}
        if (best := self.study.best) is not None:
            values["best"] = float(best.value or 0.0)
            tags = {"sweep.best_trial": str(best.number)} | {
                f"sweep.best.{name}": str(value) for name, value in best.params.items()
            }
        return [{"kind": "metrics", "step": len(trials), "values": values}, {"kind": "tags", "tags": tags}]

    def _post(
        self,
        run_id: str,
        records: list[Record],
        name: str | None = None,
        *,
        picture: bool = False,
        end: bool = False,
    ) -> bool:
        """Send records of a run; a store that is away is a warning, and they wait on disk.

        Returns:
            Whether the store has it all; not so either if another process or thread is just sending this run.
        """
        if self.tracking.uri == "none":
            return True
        identity: dict[str, Any] = {
            "uri": checked_uri(self.tracking.uri),
            "experiment": self.tracking.experiment,
            "run_name": name,
        }
        try:
            is_parent = run_id == self.run_id(None)
            with locked(self.study.folder / "record.lock"):
                spool = Spool.open(self.study.folder.absolute() / "spool", run_id, identity)
                if not spool.lock.acquire():
                    return False
                spool.identify(uri=identity["uri"])
                if picture:
                    records = [*records, *self._picture(spool)]
                if end:
                    records = [*records, {"kind": "end", "status": "FINISHED"}]
                for record in records:
                    spool.outbox.put({"time_ms": now_ms(), **record})
                spool.outbox.flush()
                try:
                    Sender(spool).send_all()
                except Exception as error:
                    away = f"{spool.identity.uri} does not answer ({one_line(error)})"
                    log.warning("%s; the record waits in %s", away, spool.folder)
                if is_parent:
                    self.parent = spool.identity.run_id
                sent = spool.is_complete and not spool.outbox
                spool.close(done=sent and (end or not is_parent))
        except OSError as error:  # the trials go on without their record
            log.warning("the record of %s is not written: %s", self.study.folder, one_line(error))
            return False
        return sent

    def _picture(self, spool: Spool) -> list[Record]:
        from dist_calo.sweeping.picture import draw

        drawn = False

        def write(path: Path) -> None:
            nonlocal drawn
            drawn = draw(self.study, path)

        file = spool.keep_file("sweep.png", write)
        return [{"kind": "artifact", "file": file, "folder": None}] if drawn else []
