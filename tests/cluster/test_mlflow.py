"""The tracking server as a job: training follows it where it moves, and does without it where no route leads there."""

import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, Job
from tests.support.mlflow_store import Store
from tests.support.small_runs import train_command, write_showers

STEPS = 60


@pytest.mark.timeout(600)  # a minute and a half on two idle cores
def test_training_follows_a_server_that_moves_and_does_without_one_out_of_reach(
    cluster: Cluster, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "mlflow"
    server = cluster.submit(
        checkout, "slurm/mlflow_server.sh", options=(on(cluster, 1), f"--export=ALL,MLFLOW_HOME={home}")
    )
    server.wait_for("MLflow serves", seconds=200)
    assert_closed_to_strangers(server, home)

    cut(cluster, server=1, client=4)
    data = write_showers(tmp_path / "data")
    connected = train(cluster, checkout, tmp_path / "connected", data, on(cluster, 2, 3), "--nodes=2")
    alone = train(cluster, checkout, tmp_path / "alone", data, on(cluster, 4), "--nodes=1")
    connected.wait_for("MLflow run", seconds=150)
    connected.wait_for("step  5/", seconds=90)
    server.signal("USR1", "--batch")  # as two minutes before its time is up
    server.wait_for("MLflow has ended (exit code 0)", seconds=60)
    connected.wait_for(f"{home}/server.env does not answer", seconds=60)
    server.wait_for("MLflow serves", seconds=200, times=2)
    for job in (connected, alone):
        job.finish(seconds=180)
    assert "training goes on" in alone.text
    assert (tmp_path / "alone" / "spool").is_dir()

    for name, value in settings(home).items():
        monkeypatch.setenv(name, value)
    store = Store(settings(home)["MLFLOW_TRACKING_URI"])
    assert [run.info.run_name for run in store.runs("alone")] == []
    for name, job in (("connected", connected), ("alone", alone)):
        sync = [sys.executable, "-m", "dist_calo", "runs", "sync", "--spool", str(tmp_path / name / "spool")]
        subprocess.run(sync, check=True, timeout=120, env=os.environ)
        run = store.only_run(name)
        assert (run.info.run_name, run.info.status) == (f"dist_calo-{job.number}", "FINISHED")
        points = store.points(run.info.run_id, "generator/0/total")
        assert [step for step, _ in points] == list(range(1, STEPS + 1))
        kept = {f"checkpoints/step-{step:08d}.pt" for step in (30, 60)}
        assert kept < set(store.files(run.info.run_id))
    assert server.facts()["Restarts"] == "1"


def on(cluster: Cluster, *numbers: int) -> str:
    return "--nodelist=" + ",".join(f"{cluster.prefix}{number}" for number in numbers)


def train(cluster: Cluster, checkout: Path, folder: Path, data: str, *options: str) -> Job:
    folder.mkdir()
    overrides = {
        "train.max_steps": STEPS,
        "checkpoint.every_steps": 30,
        "comm.threads": 1,
        "tracking.uri": folder.parent / "mlflow" / "server.env",
        "tracking.experiment": folder.name,
    }
    given = train_command(data, folder, *(f"--{name}={value}" for name, value in overrides.items()))[3:]
    return cluster.submit(checkout, "slurm/train_cpu.sh", *given, options=("--ntasks-per-node=1", *options))


def settings(home: Path) -> dict[str, str]:
    lines = (home / "server.env").read_text().splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def assert_closed_to_strangers(server: Job, home: Path) -> None:
    found = settings(home)
    password = found["MLFLOW_TRACKING_PASSWORD"]
    assert answer(found, None) == answer(found, "wrong password") == 401
    assert answer(found, password) == 200
    secret = [
        path for path in home.rglob("*") if path.is_file() and stat.S_IMODE(path.stat().st_mode) != 0o600
    ]
    assert secret == []
    command_lines = subprocess.run(
        ["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True
    ).stdout
    assert "mlflow server" in command_lines
    assert password not in command_lines + server.text


def answer(found: dict[str, str], password: str | None) -> int:
    """The status that the server answers to a user with this password, or to nobody."""
    uri = f"{found['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1"
    request = urllib.request.Request(uri)
    if password is not None:
        user = b64encode(f"{found['MLFLOW_TRACKING_USERNAME']}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {user}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answered:
            return int(answered.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def cut(cluster: Cluster, server: int, client: int) -> None:
    """Drop what one node sends to another, whose connections then neither come about nor fail."""
    route = f"10.77.{cluster.subnet}.{10 + client}/32"
    name = f"{cluster.prefix}{server}"
    subprocess.run(["ip", "-n", name, "route", "add", "blackhole", route], check=True)
