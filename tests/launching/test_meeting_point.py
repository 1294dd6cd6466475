"""Where ranks meet, from the launcher's variables."""

import subprocess
from typing import Any

import pytest

from dist_calo.errors import LaunchError
from dist_calo.launching.environment import World
from dist_calo.launching.meeting_point import meeting_point

TWO_NODES = World(rank=3, size=4, local_rank=1, local_size=2, node="node2", launcher="srun")
ONE_NODE = World(rank=1, size=2, local_rank=1, local_size=2, node="node1", launcher="mpirun")
JOB = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "node[1-2]"}


def hostnames(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
    assert command == ["scontrol", "show", "hostnames", "node[1-2]"]
    return subprocess.CompletedProcess(command, 0, stdout="node1\nnode2\n")


def test_the_launchers_own_address_is_used() -> None:
    assert meeting_point(TWO_NODES, {"MASTER_ADDR": "node9", "MASTER_PORT": "1234"}) == ("node9", 1234)


def test_under_srun_it_is_the_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", hostnames)
    address, port = meeting_point(TWO_NODES, JOB)
    assert address == "node1"
    assert 12000 <= port < 28000
    assert meeting_point(TWO_NODES, JOB) == (address, port)
    assert meeting_point(TWO_NODES, {**JOB, "SLURM_STEP_ID": "1"})[1] != port


def test_on_one_node_it_is_this_host() -> None:
    assert meeting_point(ONE_NODE, {"PMIX_NAMESPACE": "1932722177"})[0] == "127.0.0.1"


def test_a_missing_scontrol_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(2, "No such file", "scontrol")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(LaunchError, match=r"scontrol show hostnames.*set MASTER_ADDR"):
        meeting_point(TWO_NODES, JOB)


@pytest.mark.parametrize(
    ("world", "environ", "words"),
    [
        (
            World(rank=0, size=4, local_rank=0, local_size=2, launcher="mpirun"),
            {"PMIX_NAMESPACE": "1"},
            "MASTER_ADDR",
        ),
        (TWO_NODES, {"SLURM_JOB_ID": "7"}, "SLURM_JOB_NODELIST"),
        (ONE_NODE, {}, "MASTER_PORT"),
        (ONE_NODE, {"MASTER_PORT": "http"}, "MASTER_PORT='http'"),
        (ONE_NODE, {"MASTER_PORT": "0"}, "from 1 to 65535"),
        (ONE_NODE, {"MASTER_PORT": "70000"}, "from 1 to 65535"),
    ],
)
def test_what_is_missing_is_named(world: World, environ: dict[str, str], words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        meeting_point(world, environ)
    # What the messages advise.
    set_by_hand = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    assert meeting_point(world, {**environ, **set_by_hand}) == ("node1", 29500)
