"""``dist-calo doctor --cluster`` on real nodes: what is wrong with one of them is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster
from tests.support.small_runs import write_showers

SLOW, OLD, EMPTY = 3, 2, 4


def on_all_nodes(cluster: Cluster, folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script on two ranks of every node."""
    file = folder / "rank.sh"
    file.write_text(f"#!/bin/bash\n{script}\n")
    file.chmod(0o755)
    command = ["srun", f"--nodes={cluster.nodes}", "--ntasks-per-node=2", str(file)]
    environ = {**os.environ, "SLURM_CONF": str(cluster.base / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environ, cwd=folder)


def doctor(*settings: str) -> str:
    return " ".join([sys.executable, "-m", "dist_calo", "doctor", "--cluster", *settings])


@pytest.fixture
def slow_node(cluster: Cluster) -> str:
    """A node that sends 20 Mb/s."""
    shape = "tc qdisc add dev eth0 root tbf rate 20mbit burst 32kb latency 50ms"
    assert cluster.node("exec", SLOW, *shape.split()).returncode == 0
    return f"{cluster.prefix}{SLOW}"


def test_a_node_that_is_slow_and_one_of_another_version_are_named(
    cluster: Cluster, slow_node: str, tmp_path: Path
) -> None:
    packages = tmp_path / "packages" / "h5py-9.9.dist-info"
    packages.mkdir(parents=True)
    (packages / "METADATA").write_text("Metadata-Version: 2.1\nName: h5py\nVersion: 9.9\n")
    settings = (f"'--data.path={write_showers(tmp_path / 'data')}'", "--train.global_batch_size=8")
    other = f"[[ $SLURMD_NODENAME == {cluster.prefix}{OLD} ]] && export PYTHONPATH={packages.parent}"
    done = on_all_nodes(cluster, tmp_path, f"{other}\nexec {doctor(*settings, '--json=found.json')}")
    print(done.stdout, done.stderr)
    assert done.returncode == 1
    assert f"FAIL versions   h5py is 9.9 on {cluster.prefix}{OLD}, and " in done.stdout
    assert f"{slow_node} is slow: " in done.stdout.splitlines()[-1]
    found = json.loads((tmp_path / "found.json").read_text())
    assert any(reason.startswith("network bandwidth") for reason in found["slow"][slow_node])
    for name in set(found["slow"]) - {slow_node}:
        assert not any(reason.startswith("network bandwidth") for reason in found["slow"][name])
    assert [len(node["ranks"]) for node in found["nodes"]] == [2] * cluster.nodes
    # The prediction is of a ring through the slow node: 2 * 7/8 of all gradients at 2.5 MB/s.
    gradients = max(int(size) for size in found["backends"]["torch"]["all_reduce_s"])
    assert found["prediction"]["all_reduce_s"] > 0.5 * 1.75 * gradients / 2.5e6
    assert found["prediction_without_slow"]["all_reduce_s"] < 0.5 * found["prediction"]["all_reduce_s"]


def test_a_node_that_does_not_start_the_doctor_is_named(cluster: Cluster, tmp_path: Path) -> None:
    missing = f"{cluster.prefix}{EMPTY}"
    leave = f"[[ $SLURMD_NODENAME == {missing} ]] && exit 127"
    done = on_all_nodes(cluster, tmp_path, f"{leave}\nexec {doctor('--comm.timeout_s=20')}")
    print(done.stdout, done.stderr)
    assert done.returncode != 0
    assert (
        f"2 of 8 ranks have not answered within 20 s: rank 6, 7; nothing at all from {missing}" in done.stderr
    )
