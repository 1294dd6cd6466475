"""Nodes that vanish in the middle of a step: an elastic job goes on without them, any other ends and names them."""

import itertools
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dist_calo.config import DataConfig
from dist_calo.data.loader import training_loader
from dist_calo.data.order import Position
from dist_calo.data.shards import build_manifest
from tests.cluster.slurm import Cluster
from tests.mlflow_store import sqlite_uri
from tests.small_runs import ledger_sets, logged_metrics, train_command, write_showers

STEPS = 130


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_showers(tmp_path_factory.mktemp("data"))


def settings(data: str, folder: Path, *overrides: str) -> list[str]:
    return train_command(data, folder, *overrides)[3:]


def uninterrupted(data: str, steps: int) -> dict[tuple[int, int], list[int]]:
    """What the ledger of a run holds that was never interrupted, on one rank."""
    config = DataConfig(path=data, test_fraction=0.0)
    start = Position(epoch=0, samples_seen=0)
    loader = training_loader(
        build_manifest(config),
        config,
        seed=3,
        global_batch_size=6,
        rank=0,
        size=1,
        accumulation=1,
        start=start,
    )
    with loader:
        batches = itertools.islice(loader, steps)
        return {
            (batch.epoch, step): sorted(batch.ids.tolist()) for step, batch in enumerate(batches, start=1)
        }


@pytest.mark.timeout(900)
def test_a_lost_node_leaves_an_elastic_job_and_comes_back(
    cluster: Cluster, checkout: Path, showers: str, tmp_path: Path
) -> None:
    # MLflow does not survive a crash while it makes its data base.
    MlflowClient(sqlite_uri(tmp_path)).search_experiments()
    name = f"{cluster.prefix}3"
    arguments = settings(showers, tmp_path, f"--train.max_steps={STEPS}", "--checkpoint.every_steps=5")
    nodes = ",".join(f"{cluster.prefix}{number}" for number in (1, 2, 3))
    job = cluster.submit(
        checkout, "slurm/train_elastic.sh", *arguments, options=(f"--nodelist={nodes}", "--nodes=3")
    )
    job.wait_for("step  12/", seconds=180)
    cluster.node("crash", 3)
    job.wait_for(f"node {name} (ranks 4-5) no longer answers")
    job.wait_for("4 rank(s), launcher elastic", seconds=180)
    cluster.node("up", 3)
    joins = cluster.submit(
        checkout,
        "slurm/train_elastic.sh",
        f"--join={job.number}",
        options=("--nodes=1", f"--nodelist={name}"),
    )
    job.wait_for("6 rank(s), launcher elastic", times=2, seconds=180)
    log = job.finish(seconds=180)
    joins.finish()
    assert job.facts()["Restarts"] == "0"
    assert f"{STEPS} of {STEPS}, epoch" in log
    assert ledger_sets(tmp_path) == uninterrupted(showers, STEPS)
    points, runs = logged_metrics(tmp_path)
    assert runs == 1
    assert {step for key, step in points if key == "epoch"} == set(range(1, STEPS + 1))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]


def test_any_other_job_ends_and_names_the_lost_node(
    cluster: Cluster, checkout: Path, showers: str, tmp_path: Path
) -> None:
    arguments = settings(showers, tmp_path, "--train.max_steps=400")
    options = ("--nodes=2", "--no-requeue", "--export=ALL,LAUNCHER=srun,MPI=pmix")
    job = cluster.submit(checkout, "slurm/train_cpu.sh", *arguments, options=options)
    job.wait_for("step   3/", seconds=180)
    lost = int(cluster.run("scontrol", "show", "hostnames", job.facts()["NodeList"]).split()[1][-1])
    cluster.node("crash", lost)
    assert job.wait(seconds=60) in ("FAILED", "NODE_FAIL")
    assert f"node {cluster.prefix}{lost} (ranks 2-3) no longer answers" in job.text
    assert job.facts()["Restarts"] == "0"
