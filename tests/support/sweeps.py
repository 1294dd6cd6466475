"""Sweeps for tests: a definition, a study without any training, and the sweep file of a tiny network."""

import sqlite3
from contextlib import closing
from pathlib import Path

import yaml

from dist_calo.config import TrainConfig
from dist_calo.sweeping.claims import Claims, Task
from dist_calo.sweeping.definition import Sweep, read_definition
from dist_calo.sweeping.study import Study
from dist_calo.sweeping.trial_results import Results
from tests.support.mlflow_store import made_store

RATE = "optimizer.learning_rate"
RANGE = {"low": 1e-4, "high": 1e-2, "log": True}
TRAIN = TrainConfig(max_steps=30, validate_every_steps=10)


def sweep(**entries) -> Sweep:
    """A sweep of one parameter and four trials at random; entries replace these."""
    return read_definition({"trials": 4, "sampler": "random", "parameters": {RATE: RANGE}} | entries)


class WorkedStudy(Study):
    """A study and what one worker does with its trials."""

    def __init__(self, *of) -> None:
        super().__init__(*of)
        self.claims = Claims(self)
        self.results = Results(self)


def join(folder: Path, **entries) -> WorkedStudy:
    """A worker's view of the study in a folder."""
    return WorkedStudy.join(folder, sweep(**entries), TRAIN)


def train(
    study: WorkedStudy, task: Task, value: float = 1.0, steps: tuple[int, ...] = (10, 20, 30)
) -> str | None:
    """What a trial says whose validations all give this value: why it was stopped, or None."""
    for step in steps:
        reason = study.results.report(task, step, value, last=step == TRAIN.max_steps)
        if reason is not None:
            return reason
    return None


def write_tiny(path: Path, data: str, **entries) -> Path:
    """A sweep file of small, quick trials on these waveforms, recorded beside the file."""
    settings = {
        "data.path": data,
        "tracking.uri": made_store(path.parent),
        "tracking.system_metrics": False,
        "tracking.log_checkpoints": False,
        "tracking.log_pictures": False,
        "train.global_batch_size": 8,
        "train.validate_every_steps": 2,
        "train.log_every_steps": 2,
        "checkpoint.every_steps": 2,
        "checkpoint.keep": 1,
    } | entries.pop("settings", {})
    values = {
        "config": str(Path(__file__).parents[2] / "configs" / "signals_simplified.yaml"),
        "settings": settings,
        "steps": 4,
        "trials": 2,
        "sampler": "random",
        "parameters": {RATE: RANGE, "model.options.latent": [4, 8]},
    }
    path.write_text(yaml.safe_dump(values | entries))
    return path


def recorded(folder: Path) -> tuple[list[str], list[str]]:
    """Status of the runs in MLflow that have no parent, and of those that are nested in the one that has none."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        runs = dict(store.execute("select run_uuid, status from runs").fetchall())
        nested = dict(
            store.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'").fetchall()
        )
    parents = [run for run in runs if run not in nested]
    assert set(nested.values()) == set(parents[:1])
    return [runs[run] for run in parents], [runs[run] for run in nested]
