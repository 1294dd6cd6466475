"""Scaling experiments from the command line: plan, run on spawned ranks, run again, report, and what MLflow has."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from dist_calo.__main__ import main
from tests.support.small_runs import train_command, write_showers

PLAN = ("--ranks=1,2", "--batch=2", "--overlap=on", "--repeats=2", "--warmup=1", "--steps=2")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A measured plan of two points, and what its commands printed."""
    folder = tmp_path_factory.mktemp("scaling")
    settings = train_command(write_showers(folder / "data"), folder)[3:]
    settings = [word for word in settings if "global_batch" not in word]
    results = str(folder / "results")
    assert main(["scale", "plan", results, *PLAN, *settings, "--train.validation_showers=4"]) == 0
    command = [sys.executable, "-m", "dist_calo", "scale", "run", results]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert main(["scale", "report", results]) == 0
    return folder, done.stdout


def test_every_point_and_repeat_has_a_whole_result(experiment):
    folder, told = experiment
    results = {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("results/points/*/*.json")
    }
    assert len(list(folder.glob("results/points/*/*.json"))) == 4
    assert {name: (values["ranks"], values["launcher"]) for name, values in results.items()} == {
        "0000": (1, "local"),
        "0001": (2, "local"),
    }
    for values in results.values():
        assert len(values["steps_s"]) == 2
        waits = values["wait_comm_s"] + values["wait_data_s"]
        assert 0 < values["compute_s"] + waits <= values["step_s"] * 1.001
        assert values["bytes_per_step"] > 1e5
        assert values["end_to_end_s"] > values["startup_s"] + values["build_s"] + values["validation_s"]
    assert not list(folder.glob("results/points/*/scratch"))
    assert told.count("repeat 1:") == 2


def test_mlflow_has_one_parent_and_a_run_for_each_point(experiment):
    folder, _ = experiment
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        parents = store.execute("select value from tags where key = 'mlflow.parentRunId'").fetchall()
        status = store.execute("select run_uuid, status from runs").fetchall()
        steps = store.execute("select run_uuid, step from metrics where key = 'step_s'").fetchall()
    assert len(status) == 3
    assert {state for _, state in status} == {"FINISHED"}
    assert len(parents) == 2
    assert {name for (name,) in parents} == {run for run, _ in status} - {run for run, _ in steps}
    assert sorted(step for _, step in steps) == [0, 0, 1, 1]
    assert list(folder.glob("mlartifacts/**/report.html"))


def test_what_is_measured_is_not_measured_again(experiment, capsys):
    folder, _ = experiment
    assert main(["scale", "run", str(folder / "results")]) == 0
    assert capsys.readouterr().out.count("is done already") == 2


def test_other_ranks_than_the_point_asks_for_are_refused(experiment):
    folder, _ = experiment
    started = {
        "DIST_CALO_LAUNCHER": "local",
        "RANK": 0,
        "WORLD_SIZE": 2,
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": 2,
    }
    environ = {**os.environ, **{name: str(value) for name, value in started.items()}}
    command = [
        sys.executable,
        "-m",
        "dist_calo",
        "scale",
        "run",
        str(folder / "results"),
        "--point=0",
        "--again",
    ]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "is 1 x 1 ranks, but local started 2" in done.stderr
    assert len(list(folder.glob("results/points/0000/*.json"))) == 2
