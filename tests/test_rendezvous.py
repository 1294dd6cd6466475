"""Where ranks meet, from the launcher's variables, and how they hear of ranks and nodes that are lost."""

import queue
import socket
import subprocess
import threading
import time
from typing import Any

import pytest
from torch._C._distributed_c10d import TCPStore

from dist_calo.comm import rendezvous
from dist_calo.comm.protocol import World
from dist_calo.comm.rendezvous import Alarm, meeting_point
from dist_calo.comm.watch import SILENT_S, NodeWatch, keep_alive, name_ranks
from dist_calo.errors import LaunchError

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
    ],
)
def test_what_is_missing_is_named(world: World, environ: dict[str, str], words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        meeting_point(world, environ)


def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> "queue.Queue[str]":
    """The last words of ranks that the alarm ended."""
    words: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(rendezvous, "leave", lambda _world, message, _code: words.put(message))
    monkeypatch.setattr(rendezvous, "ECHO_DELAY_S", 0.0)
    monkeypatch.setattr(rendezvous, "_POLL_S", 0.05)
    return words


def test_the_first_word_of_an_alarm_is_what_all_ranks_say(left: "queue.Queue[str]") -> None:
    keeper = store()
    alarms = [Alarm(TWO_NODES, "127.0.0.1", keeper.port, "key", "rank 0 on node1") for _ in range(2)]
    alarms[0].ring("node node2 (ranks 2-3) no longer answers")
    alarms[1].ring()
    assert [left.get(timeout=10) for _ in alarms] == ["error: node node2 (ranks 2-3) no longer answers"] * 2
    assert alarms[1].cause == "node node2 (ranks 2-3) no longer answers"
    for alarm in alarms:
        alarm.switch_off()


def test_a_rank_that_fails_with_a_message_is_pointed_at(left: "queue.Queue[str]") -> None:
    keeper = store()
    alarm = Alarm(TWO_NODES, "127.0.0.1", keeper.port, "key", "rank 0 on node1")
    alarm.ring()
    assert "another rank has failed" in left.get(timeout=10)
    assert alarm.cause is None
    alarm.switch_off()


def test_a_store_that_stays_silent_is_a_lost_node(
    left: "queue.Queue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = store()
    monkeypatch.setattr(rendezvous, "SILENT_S", 0.5)
    silence = threading.Event()
    monkeypatch.setattr(Alarm, "_heard", lambda _alarm: silence.wait())
    alarm = Alarm(TWO_NODES, "127.0.0.1", keeper.port, "key", "rank 0 on node1")
    assert "rank 0 on node1 no longer answers" in left.get(timeout=10)
    silence.set()
    alarm.switch_off()


def test_a_node_whose_first_rank_is_gone_is_named() -> None:
    worlds = [World(rank=r, size=4, local_rank=r % 2, local_size=2, node=f"node{r // 2}") for r in range(4)]
    watches = [NodeWatch(world, "127.0.0.1") for world in worlds]
    cards = [watch.card for watch in watches]
    lost: queue.Queue[str] = queue.Queue()
    watches[0].start(cards, lost.put)
    watches[2].start(cards, lost.put)
    watches[0].switch_off()
    watches[3].start(cards, lambda text: pytest.fail(f"not the first rank of its node: {text}"))
    close(watches[0])
    assert lost.get(timeout=10).startswith("node node0 (ranks 0-1) no longer answers: its rank 0 has ended")
    # Rank 0 takes the end of others for granted by now.
    close(watches[2])
    assert lost.empty()


def test_a_rank_that_leaves_with_a_message_is_not_lost() -> None:
    worlds = [World(rank=r, size=4, local_rank=r % 2, local_size=2, node=f"node{r // 2}") for r in range(4)]
    watches = [NodeWatch(world, "127.0.0.1") for world in worlds]
    lost: queue.Queue[str] = queue.Queue()
    watches[2].start([watch.card for watch in watches], lost.put)
    close(watches[0], farewell=True)
    for thread in threading.enumerate():
        if thread.name == "node-watch of rank 0":
            thread.join(10)
    assert lost.empty()


def close(watch: NodeWatch, *, farewell: bool = False) -> None:
    """End the connections of a rank's watchers, as the end of its process does, once there are some."""
    while not watch._watchers:
        time.sleep(0.01)
    if farewell:
        watch.say_farewell()
    for connection in watch._watchers:
        connection.close()


def test_on_one_node_nothing_is_watched() -> None:
    assert NodeWatch(ONE_NODE).card.port == 0


def test_a_silent_connection_ends_within_the_time_allowed() -> None:
    with socket.socket() as connection:
        keep_alive(connection)
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        idle, every, probes = (connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, n)) for n in names)
    assert idle + every * probes == SILENT_S


@pytest.mark.parametrize(
    ("ranks", "name"), [([3], "rank 3"), ([0, 1, 2], "ranks 0-2"), ([0, 2, 3, 9], "ranks 0, 2-3, 9")]
)
def test_ranks_are_named_in_short(ranks: list[int], name: str) -> None:
    assert name_ranks(ranks) == name
