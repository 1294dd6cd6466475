"""How ranks hear of ranks and nodes that are lost."""

import os
import queue
import resource
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from torch._C._distributed_c10d import TCPStore

from dist_calo import comm
from dist_calo.comm.liveness import leaving, node_watch
from dist_calo.comm.liveness.alarm import Alarm, poll_interval
from dist_calo.comm.liveness.node_watch import NodeWatch, keep_alive, name_ranks, unacknowledged
from dist_calo.launching.environment import World
from tests.support.ranks import wait_until

TWO_NODES = World(rank=3, size=4, local_rank=1, local_size=2, node="node2", launcher="srun")
ONE_NODE = World(rank=1, size=2, local_rank=1, local_size=2, node="node1", launcher="mpirun")


def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def alarm_at(keeper: TCPStore, silence_s: float = 30.0) -> Alarm:
    return Alarm(TWO_NODES, "127.0.0.1", keeper.port, "key", "rank 0 on node1", silence_s)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> "queue.Queue[str]":
    """The last words of ranks that the alarm ended."""
    words: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(
        "dist_calo.comm.liveness.alarm.leave", lambda _world, message, _code: words.put(message)
    )
    monkeypatch.setattr("dist_calo.comm.liveness.alarm.ECHO_DELAY_S", 0.0)
    monkeypatch.setattr("dist_calo.comm.liveness.alarm._POLL_S", 0.05)
    return words


def test_the_first_word_of_an_alarm_is_what_all_ranks_say(left: "queue.Queue[str]") -> None:
    keeper = store()
    alarms = [alarm_at(keeper) for _ in range(2)]
    alarms[0].ring("node node2 (ranks 2-3) no longer answers")
    alarms[1].ring()
    assert [left.get(timeout=10) for _ in alarms] == ["error: node node2 (ranks 2-3) no longer answers"] * 2
    assert alarms[1].cause == "node node2 (ranks 2-3) no longer answers"
    for alarm in alarms:
        alarm.switch_off()


def test_a_rank_that_fails_with_a_message_is_pointed_at(left: "queue.Queue[str]") -> None:
    keeper = store()
    alarm = alarm_at(keeper)
    alarm.ring()
    assert "another rank has failed" in left.get(timeout=10)
    assert alarm.cause is None
    alarm.switch_off()


def test_a_store_that_stays_silent_is_a_lost_node(
    left: "queue.Queue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = store()
    silence = threading.Event()
    monkeypatch.setattr(Alarm, "_heard", lambda _alarm: silence.wait())
    alarm = alarm_at(keeper, silence_s=0.5)
    assert "rank 0 on node1 no longer answers" in left.get(timeout=10)
    silence.set()
    alarm.switch_off()


@pytest.mark.parametrize(
    ("size", "silence_s", "every_s"), [(2, 30.0, 1.0), (512, 30.0, 1.0), (4096, 30.0, 8.0), (4096, 6.0, 2.0)]
)
def test_many_ranks_ask_the_store_less_often(size: int, silence_s: float, every_s: float) -> None:
    assert poll_interval(size, silence_s) == every_s


def test_a_rank_that_asks_for_the_cause_hears_what_was_said_since_it_last_looked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dist_calo.comm.liveness.alarm._POLL_S", 3600.0)
    keeper = store()
    alarm = alarm_at(keeper, silence_s=10800.0)
    causes = [alarm.cause]
    alarm.ring("node node2 (ranks 2-3) no longer answers")
    assert [*causes, alarm.cause] == [None, "node node2 (ranks 2-3) no longer answers"]
    alarm.switch_off()


def test_ranks_that_end_are_no_news_once_one_has_said_that_it_fails(
    left: "queue.Queue[str]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, lost = store(), tmp_path / "lost"
    monkeypatch.setitem(os.environ, "DIST_CALO_LOST", str(lost))
    alarm = alarm_at(keeper)
    alarm.ring()
    alarm.ring_for_node("rank 2 has ended", "node2")
    assert not lost.exists()
    alarm.ring_for_node("node node2 no longer answers", None)
    assert lost.read_text() == "node node2 no longer answers\n\n"
    alarm.switch_off()


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> list[NodeWatch]:
    """Those of two ranks on each of two nodes, which do not wait before they name a lost one."""
    monkeypatch.setattr(node_watch, "LOSS_DELAY_S", 0.0)
    monkeypatch.setattr(leaving, "_farewells", [])
    return [
        NodeWatch(
            World(rank=r, size=4, local_rank=r % 2, local_size=2, node=f"node{r // 2}"),
            30.0,
            toward="127.0.0.1",
        )
        for r in range(4)
    ]


def test_a_node_whose_first_rank_is_gone_is_named(watches: list[NodeWatch]) -> None:
    cards = [watch.card for watch in watches]
    lost: queue.Queue[tuple[str, str | None]] = queue.Queue()
    for number in (0, 2):
        watches[number].start(cards, lambda *loss: lost.put(loss))
    watches[0].switch_off()
    watches[3].start(cards, lambda text, _: pytest.fail(f"not the first rank of its node: {text}"))
    close(watches[0])
    text, suspect = lost.get(timeout=10)
    # Between the two it says how far the rank had come, if this process has trained or generated before.
    assert text.startswith("rank 0 has ended without a message")
    assert ": it or its node node0 (ranks 0-1) crashed" in text
    assert suspect == "node0"
    # Rank 0 takes the end of others for granted by now.
    close(watches[2])
    wait_for_watch_of(2)
    assert lost.empty()


def test_a_rank_that_leaves_in_any_way_of_its_own_is_not_lost(watches: list[NodeWatch]) -> None:
    lost: queue.Queue[str] = queue.Queue()
    watches[2].start([watch.card for watch in watches], lambda text, _: lost.put(text))
    close(watches[0], lambda: leaving.leave(World(size=2), "a message", 1, lambda _: None))
    wait_for_watch_of(0)
    assert lost.empty()


def close(watch: NodeWatch, before: Callable[[], None] = lambda: None) -> None:
    """End the connections of a rank's watchers, as the end of its process does, once there are some."""
    wait_until(lambda: watch._watchers, what="a watcher")
    before()
    for connection in watch._watchers:
        connection.shutdown(socket.SHUT_RDWR)


def wait_for_watch_of(rank: int) -> None:
    for thread in threading.enumerate():
        if thread.name == f"node-watch of rank {rank}":
            thread.join(10)


def test_on_one_node_nothing_is_watched() -> None:
    assert NodeWatch(ONE_NODE, 30.0).card.port == 0


@pytest.mark.parametrize("silence_s", [6.0, 30.0, 300.0])
def test_a_silent_connection_ends_within_the_time_allowed(silence_s: float) -> None:
    with socket.socket() as connection:
        keep_alive(connection, silence_s)
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        idle, every, probes = (connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, n)) for n in names)
        unacknowledged_ms = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert idle + every * probes == silence_s
    assert unacknowledged_ms == 1000 * silence_s


def test_a_stopped_process_has_a_kernel_that_answers_until_it_has_no_room() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as connection:
        connection.connect(listener.getsockname())
        connection.setblocking(False)
        other, _ = listener.accept()
        with other:
            connection.send(b"?")
            wait_until(lambda: unacknowledged(connection) == 0, 10, "the kernel to answer")
            with suppress(BlockingIOError):
                while True:
                    connection.send(bytes(1 << 16))
            assert unacknowledged(connection) > 0


@pytest.mark.parametrize(
    ("soft", "hard", "set_to"),
    [
        (1024, 524288, 65536),
        (1024, 4096, 4096),
        (1024, resource.RLIM_INFINITY, 65536),
        (100000, 524288, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_ranks_may_open_as_many_sockets_as_many_others_need(
    soft: int, hard: int, set_to: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    comm._allow_files(65536)
    assert limits == ([] if set_to is None else [(set_to, hard)])


@pytest.mark.parametrize(
    ("ranks", "name"), [([3], "rank 3"), ([0, 1, 2], "ranks 0-2"), ([0, 2, 3, 9], "ranks 0, 2-3, 9")]
)
def test_ranks_are_named_in_short(ranks: list[int], name: str) -> None:
    assert name_ranks(ranks) == name
