"""An SQLite store is there whole or not at all, whoever makes it."""

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from mlflow.entities import ViewType

from dist_calo.evaluation.record import EvaluationRecord
from dist_calo.tracking.sender import Sender
from dist_calo.tracking.spool import Spool
from dist_calo.tracking.store import SPOOL_TAG, experiment_id, find_run, open_store
from dist_calo.tracking.store_uri import checked_uri, sqlite_file
from tests.support.mlflow_store import made_store

OPEN = "import sys; from dist_calo.tracking.store import open_store; open_store(sys.argv[1]).search_experiments()"


def opened(uri):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", OPEN, uri], stderr=subprocess.PIPE, text=True
    )


def test_processes_that_make_a_store_at_once_share_it(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    processes = [opened(uri) for _ in range(3)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_process_killed_while_it_makes_the_tables_leaves_no_broken_store(tmp_path):
    process = opened(f"sqlite:///{tmp_path}/mlflow.db")
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.glob(".mlflow.db.*.tmp")):
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert not (tmp_path / "mlflow.db").exists()
    again = opened(f"sqlite:///{tmp_path}/mlflow.db")
    errors = again.communicate(timeout=60)[1]
    assert again.returncode == 0, errors
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert store.execute("select count(*) from experiments").fetchone() == (1,)


@pytest.mark.parametrize("name", ["50%20off", "what?", "a b#c"])
def test_a_folder_may_have_any_name(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    uri = checked_uri("sqlite:///mlflow.db")
    assert checked_uri(uri) == uri
    assert sqlite_file(uri) == tmp_path / name / "mlflow.db"
    client = open_store(uri)
    run = client.create_run(experiment_id(client, uri, "any"))
    client.log_text(run.info.run_id, "text", "a.txt")
    files = sorted(path.relative_to(tmp_path / name).parts for path in tmp_path.rglob("*") if path.is_file())
    assert files == [("mlartifacts", "any", run.info.run_id, "artifacts", "a.txt"), ("mlflow.db",)]


def test_a_run_is_found_by_the_name_of_its_spool(tmp_path):
    uri = checked_uri(made_store(tmp_path))
    client = open_store(uri)
    for name in ("one", "other"):
        client.create_run(experiment_id(client, uri, name), tags={SPOOL_TAG: f"spool-{name}"})
    found = find_run(client, "spool-other")
    assert found.data.tags[SPOOL_TAG] == "spool-other"
    assert find_run(client, found.info.run_id).info.run_id == found.info.run_id
    assert find_run(client, "spool-none") is None
    assert find_run(client, "0" * 32) is None
    record = EvaluationRecord(uri, "spool-other")
    assert (record.run_id, record.problem) == (found.info.run_id, None)
    assert find_run(client, "spool-other", found.info.experiment_id).info.run_id == found.info.run_id
    assert find_run(client, "spool-one", found.info.experiment_id) is None
    assert f"{uri} has no run spool-none: send it with" in EvaluationRecord(uri, "spool-none").problem


@pytest.mark.parametrize("named", [True, False], ids=["by its store's name", "by its spool's name"])
@pytest.mark.parametrize("whole_experiment", [False, True])
def test_a_deleted_run_comes_back_when_it_goes_on(tmp_path, named, whole_experiment):
    uri = checked_uri(made_store(tmp_path))
    client = open_store(uri)
    experiment = experiment_id(client, uri, "e")
    run_id = client.create_run(experiment, tags={SPOOL_TAG: "spool-1"}).info.run_id
    client.delete_run(run_id)
    if whole_experiment:
        client.delete_experiment(experiment)
    assert find_run(client, run_id if named else "spool-1").info.run_id == run_id
    spool = Spool.open(tmp_path / "spool", "spool-1", {"uri": uri, "experiment": "e", "run_name": None})
    if named:
        spool.identify(run_id=run_id)
    spool.journal.append([{"kind": "metrics", "time_ms": 1, "step": 1, "values": {"loss": 2.0}}])
    assert Sender(spool).send()
    run = client.get_run(run_id)
    assert (run.info.lifecycle_stage, run.data.metrics) == ("active", {"loss": 2.0})
    assert len(client.search_runs([experiment], run_view_type=ViewType.ALL)) == 1
