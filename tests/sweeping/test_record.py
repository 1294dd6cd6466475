"""A sweep in MLflow: one run, made once by whichever worker comes first, and the runs of its trials below it."""

from dataclasses import replace

from dist_calo.config import RunConfig, TrackingConfig
from dist_calo.sweeping.mlflow_record import SweepRecord
from tests.support.mlflow_store import Store, made_store
from tests.support.sweeps import join, train


def test_workers_record_one_sweep_with_its_trials_nested(tmp_path):
    config = replace(RunConfig(), tracking=TrackingConfig(uri=made_store(tmp_path), experiment="sweeps"))
    study = join(tmp_path / "study", trials=3)
    one, other = SweepRecord.open(study, config), SweepRecord.open(study, config)
    assert one.parent == other.parent
    for record, value in ((one, 2.0), (other, 1.0)):
        task = study.claims.next()
        assert record.tags(task)["mlflow.parentRunId"] == one.parent
        train(study, task, value)
        study.results.complete(task)
        record.catch_up()
    study.results.fail(study.claims.next(), "the loss was not finite")
    one.close()

    store = Store(made_store(tmp_path))
    runs = {run.info.run_id: run for run in store.runs("sweeps")}
    parent = runs.pop(one.parent)
    assert len(runs) == 3
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {"best": 1.0, "trials/complete": 2.0, "trials/fail": 1.0}
    assert parent.data.tags["sweep.best_trial"] == "1"
    assert store.points(one.parent, "best") == [(1, 2.0), (2, 1.0), (3, 1.0)]
    assert store.files(one.parent) == ["sweep.png"]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {one.parent}
    assert sorted(run.data.tags["sweep.state"] for run in runs.values()) == ["complete", "complete", "fail"]
    (failed,) = (run for run in runs.values() if run.data.tags["sweep.state"] == "fail")
    assert (failed.info.status, failed.data.tags["sweep.reason"]) == ("FAILED", "the loss was not finite")
    assert not list((tmp_path / "study" / "spool").iterdir())


def test_a_store_that_is_away_is_told_later(tmp_path):
    config = replace(RunConfig(), tracking=TrackingConfig(uri="http://127.0.0.1:9", experiment="sweeps"))
    study = join(tmp_path / "study", trials=1)
    record = SweepRecord.open(study, config)
    assert record.parent is None
    task = study.claims.next()
    train(study, task)
    study.results.complete(task)
    record.close()
    assert len(list((tmp_path / "study" / "spool").glob("*/journal.jsonl"))) == 1

    here = replace(config, tracking=replace(config.tracking, uri=made_store(tmp_path)))
    again = SweepRecord.open(study, here)
    again.close()
    runs = Store(here.tracking.uri).runs("sweeps")
    (nested,) = (run for run in runs if run.info.run_id != again.parent)
    assert nested.data.tags["mlflow.parentRunId"] == again.parent
    assert not list((tmp_path / "study" / "spool").iterdir())
