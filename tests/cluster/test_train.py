"""The job scripts as a user meets them: ``sbatch slurm/train_cpu.sh`` on real nodes."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, Job
from tests.support.ranks import ROOT
from tests.support.small_runs import (
    ledger_sets,
    logged_metrics,
    train_command,
    training_ids,
    write_part,
)

STEPS = 12
LONG = 400


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_part(ROOT / "data" / "layers" / "layers_electrons.h5", tmp_path_factory.mktemp("data"))


def settings(data: str, folder: Path, *overrides: str) -> list[str]:
    """What stands behind the script's name on sbatch's command line."""
    shortest = (f"--train.max_steps={STEPS}", "--data.validation_fraction=0")
    return train_command(data, folder, *shortest, *overrides, model="layers_vae")[3:]


def train(cluster: Cluster, checkout: Path, arguments: list[str], *options: str) -> Job:
    """`sbatch slurm/train_cpu.sh` on two nodes with two ranks each."""
    given = ("--nodes=2", "--ntasks-per-node=2", *options)
    return cluster.submit(checkout, "slurm/train_cpu.sh", *arguments, options=given)


def long(data: str, folder: Path) -> list[str]:
    """A run of some 15 seconds of steps, so that there is time to disturb it."""
    given = {"train.max_steps": LONG, "train.log_every_steps": 20, "checkpoint.every_steps": 50}
    return settings(data, folder, *(f"--{name}={value}" for name, value in given.items()))


@pytest.fixture(scope="module")
def undisturbed(showers: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on one rank without SLURM: batches and points do not depend on the number of ranks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "dist_calo.train", *long(showers, folder)]
    subprocess.run(command, check=True, timeout=280, capture_output=True)
    return folder


def require_the_same_run(folder: Path, undisturbed: Path) -> None:
    """Every step used its samples once, and MLflow holds one finished run with one curve."""
    assert ledger_sets(folder) == ledger_sets(undisturbed)
    points, number = logged_metrics(folder)
    assert points.keys() == logged_metrics(undisturbed)[0].keys()
    assert number == 1
    assert [status for _, status in runs(folder)] == ["FINISHED"]


def require_whole_epochs(folder: Path, data: str) -> None:
    """Steps follow each other, and each epoch but the last, which the job did not finish, used every sample once."""
    sets = ledger_sets(folder)
    assert sorted(step for _, step in sets) == list(range(1, len(sets) + 1))
    last = max(epoch for epoch, _ in sets)
    assert last > 1
    for number in range(last):
        used = sorted(sample for (epoch, _), ids in sets.items() if epoch == number for sample in ids)
        assert used == training_ids(data, validation_fraction=0.0)


def runs(folder: Path) -> list[tuple[str, str]]:
    """Name and status of all runs in MLflow."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return store.execute("select name, status from runs").fetchall()


@pytest.mark.parametrize("launcher", ["srun", "mpirun", "torchrun", "horovodrun"])
def test_every_launcher_trains_on_two_nodes(
    launcher: str, cluster: Cluster, checkout: Path, showers: str, tmp_path: Path
) -> None:
    chosen = f"--export=ALL,LAUNCHER={launcher},STAGE={cluster.disk}"
    job = train(cluster, checkout, settings(showers, tmp_path), chosen)
    log = job.finish(seconds=200)
    assert f"4 rank(s), launcher {launcher}" in log
    assert "4 rank(s), 2 a node, 1 core(s) each" in log
    assert f"{STEPS} of {STEPS} at the last checkpoint" in log
    assert f"showers in 2 file(s), {cluster.disk}/dist_calo-{job.number}/" in log
    assert "dist_calo" not in cluster.node("exec", 1, "ls", str(cluster.disk)).stdout
    logged_metrics(tmp_path)
    assert runs(tmp_path) == [(f"dist_calo-{job.number}", "FINISHED")]


def test_a_run_survives_signal_and_requeue(
    cluster: Cluster, checkout: Path, showers: str, undisturbed: Path, tmp_path: Path
) -> None:
    job = train(cluster, checkout, long(showers, tmp_path))
    job.wait_for("step  40/")
    job.signal("USR1", "--batch")  # what SLURM does before the time is up
    job.wait_for("continuing after step")
    job.wait_for("step ", times=job.text.count("step ") + 2)
    cluster.run("scontrol", "requeue", job.number)
    job.wait_for("continuing after step", times=2)
    log = job.finish(seconds=240)
    assert int(job.facts()["Restarts"]) == 2
    assert "SIGUSR1: stopped after step" in log
    assert f"{LONG} of {LONG} at the last checkpoint" in log
    require_the_same_run(tmp_path, undisturbed)


def test_a_job_out_of_time_goes_back_into_the_queue(
    cluster: Cluster, checkout: Path, showers: str, tmp_path: Path
) -> None:
    endless = settings(showers, tmp_path, "--train.max_steps=100000", "--train.log_every_steps=100")
    # SLURM counts in whole minutes and looks every half: it tells the job after one minute to one and a half. torchrun
    # does not pass signals on.
    limits = ("--time=2", "--signal=B:USR1@60", "--export=ALL,LAUNCHER=torchrun")
    job = train(cluster, checkout, endless, *limits)
    job.wait_for("SIGUSR1: stopped after step", seconds=120)
    job.wait_for("continuing after step")
    job.wait_for("step ", times=job.text.count("step ") + 2)
    cluster.run("scancel", job.number)
    assert job.wait() == "CANCELLED"
    assert job.text.count("goes back into the queue") == 1
    require_whole_epochs(tmp_path, showers)
    # What was cancelled must not come back: its script has ended once the nodes are free.
    cluster.idle()
    assert job.state == "CANCELLED"


def test_a_job_that_loses_a_node_finishes_on_others(
    cluster: Cluster, checkout: Path, showers: str, undisturbed: Path, tmp_path: Path
) -> None:
    job = train(cluster, checkout, long(showers, tmp_path))
    job.wait_for("step 100/")
    cluster.node("crash", 2)
    job.wait_for("continuing after step")
    nodes = cluster.run("scontrol", "show", "hostnames", job.facts()["NodeList"]).split()
    assert len(nodes) == 2
    assert f"{cluster.prefix}2" not in nodes
    job.finish(seconds=200)
    require_the_same_run(tmp_path, undisturbed)


def test_the_gpu_script_starts_a_rank_a_gpu(
    cluster: Cluster, checkout: Path, showers: str, tmp_path: Path
) -> None:
    # SLURM counts GPUs that are not there: the ranks find none and take the processor.
    given = ("--nodes=2", "--gpus-per-node=2", "--ntasks-per-node=2")
    job = cluster.submit(checkout, "slurm/train_gpu.sh", *settings(showers, tmp_path), options=given)
    log = job.finish(seconds=200)
    assert "srun --mpi=none" in log
    assert "4 rank(s), launcher srun" in log


def test_a_wrong_setting_is_one_line_and_no_requeue(cluster: Cluster, checkout: Path) -> None:
    job = train(cluster, checkout, ["--train.max_stepz=3", f"--checkpoint.dir={os.devnull}"])
    assert job.wait() == "FAILED"
    assert job.facts()["ExitCode"] == "2:0"
    assert job.text.count("the nearest is train.max_steps") >= 1
    assert "Traceback" not in job.text
