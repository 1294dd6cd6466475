"""The job scripts as a user meets them: ``sbatch slurm/train_cpu.sh`` on real nodes."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, Job
from tests.small_runs import (
    logged_metrics,
    train_command,
    write_showers,
)

STEPS = 12


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_showers(tmp_path_factory.mktemp("data"))


def settings(data: str, folder: Path, *overrides: str) -> list[str]:
    """What stands behind the script's name on sbatch's command line."""
    return train_command(data, folder, f"--train.max_steps={STEPS}", *overrides)[3:]


def train(cluster: Cluster, checkout: Path, folder: Path, arguments: list[str], *options: str) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    given = ("--nodes=2", "--ntasks-per-node=2", *options)
    return cluster.submit(checkout, "slurm/train_cpu.sh", *arguments, options=given)


def runs(folder: Path) -> list[tuple[str, str]]:
    """Name and status of all runs in MLflow."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return store.execute("select name, status from runs").fetchall()


@pytest.mark.parametrize("launcher", ["srun", "mpirun", "torchrun", "horovodrun"])
def test_every_launcher_trains_on_two_nodes(
    launcher: str, cluster: Cluster, checkout: Path, showers: str, tmp_path: Path
) -> None:
    chosen = f"--export=ALL,LAUNCHER={launcher}"
    job = train(cluster, checkout, tmp_path, settings(showers, tmp_path), chosen)
    log = job.finish(seconds=150)
    assert f"4 rank(s), launcher {launcher}" in log
    assert "4 ranks, 2 a node, 1 core(s) each" in log
    assert f"{STEPS} of {STEPS}, epoch" in log
    logged_metrics(tmp_path)
    assert runs(tmp_path) == [(f"dist_calo-{job.number}", "FINISHED")]
