"""Nodes that vanish in the middle of a step: an elastic job goes on without them, any other ends and names them."""

import itertools
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from dist_calo.config import DataConfig
from dist_calo.data.loader import training_loader
from dist_calo.data.manifest import build_manifest
from dist_calo.data.order import Position
from tests.cluster.slurm import Cluster, Job
from tests.support.ranks import wait_until
from tests.support.small_runs import ledger_sets, logged_metrics, train_command, write_showers

# Enough that a node joins while the others train, however fast they are.
STEPS = 400
# Call a program with the process number of a rank of this node.
FOR_RANK = """
for task in /proc/[0-9]*; do
    tr '\\0' '\\n' <"$task/environ" | grep -qx "SLURM_PROCID=$1" && "${@:2}" "${task#/proc/}"
done
"""


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
    name = f"{cluster.prefix}3"
    arguments = settings(showers, tmp_path, f"--train.max_steps={STEPS}", "--checkpoint.every_steps=5")
    nodes = ",".join(f"{cluster.prefix}{number}" for number in (1, 2, 3))
    job = cluster.submit(
        checkout, "slurm/train_elastic.sh", *arguments, options=(f"--nodelist={nodes}", "--nodes=3")
    )
    job.wait_for("step  12/", seconds=180)
    cluster.node("crash", 3)
    # Its last step stands between the two where another rank knows it.
    job.wait_for("rank 4 has ended without a message")
    job.wait_for(f": it or its node {name} (ranks 4-5) crashed")
    job.wait_for("4 rank(s), launcher elastic", seconds=180)
    # A node that comes back before SLURM has given it up still belongs to the job that lost it.
    wait_until(
        lambda: "down" in cluster.run("sinfo", "-h", "-n", name, "-o", "%T"), 90, "the loss of the node"
    )
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
    assert f"{STEPS} of {STEPS}" in log
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
    assert f"node {cluster.prefix}{lost} (ranks 2-3) crashed" in job.text
    assert f"error: node {cluster.prefix}{lost} no longer answers" in job.text
    assert job.facts()["Restarts"] == "0"


def test_a_node_that_the_network_loses_is_named_and_the_job_goes_back_into_the_queue(
    cluster: Cluster, checkout: Path, showers: str, tmp_path: Path
) -> None:
    arguments = settings(showers, tmp_path, "--train.max_steps=4000", "--comm.silence_s=12")
    job = two_nodes(cluster, checkout, arguments)
    lost = second_node(cluster, job)
    # What is sent to the node, or by it, is from now on neither delivered nor refused.
    subprocess.run(["ip", "link", "set", f"v-{cluster.prefix}{lost}", "nomaster"], check=True)
    said = (
        f"node {cluster.prefix}{lost} (ranks 2-3) no longer answers: nothing has been heard from it for 12 s"
    )
    job.wait_for(said, seconds=60)
    # By the job itself, or by SLURM where it has noticed the loss as well.
    job.wait_for("(1 restarts)", seconds=60)


@pytest.mark.parametrize(
    ("rank", "what", "said"),
    [
        # What it writes next, to its ledger, is an OSError.
        (3, "prlimit --fsize=1 --pid", r"\[rank 3 of 4 on \S+\] .*File too large"),
        (
            2,
            "kill -9",
            r"error: rank 2 of 4 on \S+ was killed by SIGKILL after step \d+: perhaps out of memory",
        ),
    ],
    ids=["raises", "killed"],
)
def test_a_rank_that_fails_ends_the_job_for_good(
    rank: int, what: str, said: str, cluster: Cluster, checkout: Path, showers: str, tmp_path: Path
) -> None:
    job = two_nodes(cluster, checkout, settings(showers, tmp_path, "--train.max_steps=4000"))
    cluster.node("exec", second_node(cluster, job), "bash", "-c", FOR_RANK, "bash", str(rank), *what.split())
    assert job.wait(seconds=60) == "FAILED"
    assert job.facts()["Restarts"] == "0"
    assert re.search(said, job.text)
    assert "has ended without a message" not in job.text
    assert "no longer answers" not in job.text
    assert "goes back into the queue" not in job.text


def two_nodes(cluster: Cluster, checkout: Path, arguments: list[str]) -> Job:
    """A job of two ranks on each of two nodes; SLURM may put it back into the queue."""
    options = ("--nodes=2", "--export=ALL,LAUNCHER=srun,MPI=none")
    return cluster.submit(checkout, "slurm/train_cpu.sh", *arguments, options=options)


def second_node(cluster: Cluster, job: Job) -> int:
    """Number of the node that holds ranks 2 and 3 of a job, once it trains."""
    job.wait_for("step    3/", seconds=120)
    name = cluster.run("scontrol", "show", "hostnames", job.facts()["NodeList"]).split()[1]
    return int(name.removeprefix(cluster.prefix))
