"""Stores that hang, refuse, move, die or were never there: nothing is held up, lost or sent twice."""

import http.server
import socket
import threading
import time
from contextlib import ExitStack

import pytest

from dist_calo.config import TrackingConfig
from dist_calo.tracking.spool import SPOOL_PREFIX
from dist_calo.tracking.tracker import Tracker, make_tracker
from tests.support.mlflow_store import Server, Store, made_store
from tests.support.ranks import free_port, wait_until
from tests.support.tracked import (
    PNG,
    drawing,
    join_threads,
    log_losses,
    losses,
    make_config,
    spooled,
    spools,
    sync,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that a test starts and kills as it needs."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def test_a_store_that_hangs_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are taken, requests never answered
        config = make_config(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, "any")
        tracker = Tracker(config)
        began = time.monotonic()
        tracker.start({"train.seed": 7})
        log_losses(tracker, 1, 5000)
        assert time.monotonic() - began < 2.0
        began = time.monotonic()
        assert not tracker.finish("FINISHED", timeout_s=1.0)
        assert time.monotonic() - began < 5.0
    join_threads()
    records = spooled(config)
    assert [record["kind"] for record in records] == ["start", *["metrics"] * 5000, "end"]
    assert [(record["step"], record["values"]["loss"]) for record in records[1:-1]] == losses(1, 5000)


@pytest.fixture
def unreachable(monkeypatch):
    """The address of a server whose connections never come about, as if packets were dropped on the way."""
    monkeypatch.setattr("dist_calo.tracking.server.CONNECT_WITHIN_S", 0.5)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"
        for one in waiting:
            one.close()


def test_jobs_without_a_route_share_a_spool_and_all_is_sent_later(unreachable, uri, store, tmp_path, request):
    config = make_config(unreachable, tmp_path, request.node.name)
    trackers = [Tracker(config) for _ in range(2)]
    for tracker in trackers:
        tracker.start({"train.seed": 7})
    for tracker in trackers:
        assert tracker.named_run_id(timeout_s=60).startswith(SPOOL_PREFIX)  # not after 60 s
        log_losses(tracker, 1, 300)
        assert not tracker.finish("FINISHED")
    join_threads()
    assert sync(config, "--tracking.uri", uri) == 0
    runs = store.runs(config.experiment)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert [store.points(run.info.run_id, "loss") for run in runs] == [losses(1, 300)] * 2


@pytest.mark.parametrize(
    ("status", "user", "advice"),
    [
        (401, None, "wants a user and a password (401): set MLFLOW_TRACKING_USERNAME"),
        (401, "ada", "does not accept the password of user ada (401): set MLFLOW_TRACKING_USERNAME"),
        (403, "ada", "does not let user ada do this (403): ask for the permission EDIT"),
    ],
)
def test_a_server_that_lets_nobody_in_gets_the_record_later(
    refusing, status, user, advice, tmp_path, monkeypatch, caplog
):
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
        if user:
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", user)
    config = make_config(refusing(status), tmp_path, "any")
    tracker = Tracker(config)
    tracker.start({"train.seed": 7})
    tracker.metrics({"loss": 1.0}, 1)
    assert not tracker.finish("FINISHED")
    assert f"{config.uri} {advice}" in caplog.text
    assert [record["kind"] for record in spooled(config)] == ["start", "metrics", "end"]


@pytest.fixture
def refusing():
    """Starts a server that answers everything with one status."""
    servers = []

    def start(status):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_error(status)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_job_requeued_before_its_first_checkpoint_is_the_same_run(
    uri, store, tmp_path, request, monkeypatch
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    away = make_config(f"http://127.0.0.1:{free_port()}", tmp_path, request.node.name)
    for last, config in enumerate((away, away, make_config(uri, tmp_path, request.node.name)), start=1):
        others = make_tracker(config, folder=str(tmp_path / "another"))
        others.finish("FAILED")
        tracker = make_tracker(config, folder=str(tmp_path / "checkpoints"))
        tracker.start({})
        log_losses(tracker, 1, 10 * last)
        tracker.finish("KILLED")
        join_threads()
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(last))
    run = store.only_run(request.node.name)
    assert store.points(run.info.run_id, "loss") == losses(1, 30)


def test_a_server_that_moves_is_followed(server, tmp_path, request, caplog):
    server.start()
    file = tmp_path / "server.env"
    config = make_config(str(file), tmp_path, request.node.name)
    tracker = Tracker(config)
    tracker.start({})
    wait_until(lambda: "start slurm/mlflow_server.sh" in caplog.text, what="the word that there is no server")
    tracker.metrics({"loss": 1.0}, 1)
    file.write_text(f"export MLFLOW_TRACKING_URI={server.uri}\n")
    assert tracker.finish("FINISHED")
    run = Store(server.uri).only_run(config.experiment)
    assert Store(server.uri).points(run.info.run_id, "loss") == [(1, 1.0)]


def test_a_store_away_from_start_to_end_gets_everything_once(server, tmp_path, capsys, request, caplog):
    server.kill()
    config = make_config(server.uri, tmp_path, request.node.name)
    tracker = Tracker(config)
    tracker.start({"train.seed": 7}, {"host": "node01"})
    log_losses(tracker, 1, 300)
    tracker.figure(drawing, "pictures/profiles.png")
    assert tracker.named_run_id().startswith(SPOOL_PREFIX)
    wait_until(lambda: said_last(config) == "artifact", what="the picture")
    assert not tracker.finish("FINISHED")
    assert "dist-calo runs sync" in caplog.text

    assert sync(config) == 1
    assert "does not answer" in capsys.readouterr().out
    assert len(spooled(config)) == 303

    server.start()
    for expected in ("303 records sent", "nothing to send"):
        assert sync(config) == 0
        assert expected in capsys.readouterr().out
        store = Store(server.uri)
        run = store.only_run(config.experiment)
        assert run.info.status == "FINISHED"
        assert run.data.params == {"train.seed": "7"}
        assert run.data.tags["host"] == "node01"
        assert store.points(run.info.run_id, "loss") == losses(1, 300)
        assert store.files(run.info.run_id) == ["pictures/profiles.png"]
        assert store.read(run.info.run_id, "pictures/profiles.png", tmp_path).startswith(PNG)


def test_a_run_resumes_before_its_store_ever_answered(uri, store, tmp_path, request):
    """The job is resumed under the name that its checkpoint has: that of the spool, not the store's."""
    away = make_config(f"http://127.0.0.1:{free_port()}", tmp_path, request.node.name)
    first = Tracker(away)
    first.start({})
    log_losses(first, 1, 10)
    assert not first.finish("KILLED", timeout_s=15.0)
    join_threads()

    second = Tracker(make_config(uri, tmp_path, request.node.name), first.run_id)
    second.start({})
    log_losses(second, 6, 20)
    assert second.finish("FINISHED")
    run = store.only_run(request.node.name)
    assert run.info.status == "FINISHED"
    assert store.points(run.info.run_id, "loss") == losses(1, 20)


def test_a_server_killed_in_mid_run_loses_and_doubles_nothing(server, tmp_path, request, caplog):
    server.start()
    config = make_config(server.uri, tmp_path, request.node.name)
    tracker = Tracker(config)
    tracker.start({"train.seed": 7})
    log_losses(tracker, 1, 100)
    run_id = tracker.named_run_id()
    assert not run_id.startswith(SPOOL_PREFIX)
    log_losses(tracker, 101, 1500)
    server.kill()  # at whatever point the sender is
    log_losses(tracker, 1501, 1600)
    tracker.figure(drawing, "pictures/profiles.png")
    wait_until(lambda: "does not answer" in caplog.text, what="the tracker's word that the server is away")
    server.start()
    log_losses(tracker, 1601, 1700)
    assert tracker.finish("FINISHED")

    store = Store(server.uri)
    run = store.only_run(config.experiment)
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert store.points(run_id, "loss") == losses(1, 1700)
    assert store.files(run_id) == ["pictures/profiles.png"]


def said_last(config):
    """The kind of the last record on disk."""
    return next((record["kind"] for record in reversed(spooled(config))), None)


@pytest.fixture
def endless():
    """A drawing that comes to no end before the test does."""
    over = threading.Event()

    def draw():
        assert over.wait(60)
        return drawing()

    yield draw
    over.set()
    join_threads()


def test_pictures_that_take_too_long_cost_neither_the_end_nor_the_model(
    endless, uri, store, tmp_path, capsys, request, caplog
):
    away = make_config(f"http://127.0.0.1:{free_port()}", tmp_path, request.node.name)
    (tmp_path / "generator.pt").write_bytes(b"generator")
    tracker = Tracker(away)
    tracker.start({})
    tracker.figure(drawing, "pictures/drawn.png")
    tracker.figure(endless, "pictures/slow", step=7)
    tracker.figure(drawing, "pictures/behind.png")
    log_losses(tracker, 1, 10)
    tracker.secure()
    tracker.model(tmp_path / "generator.pt", {"network": "generator"})
    assert not tracker.finish("FINISHED", timeout_s=4.0)
    assert "are lost (2): pictures/slow_step000007.png, pictures/behind.png" in caplog.text

    assert sync(away, "--tracking.uri", uri) == 0
    assert "still running" not in capsys.readouterr().out
    run = store.only_run(away.experiment)
    assert run.info.status == "FINISHED"
    assert store.points(run.info.run_id, "loss") == losses(1, 10)
    files = store.files(run.info.run_id)
    assert [file for file in files if file.startswith("model/")] == ["model/generator.pt", "model/model.json"]
    assert "pictures/slow_step000007.png" not in files


def test_the_end_of_a_run_is_on_disk_before_its_last_picture_and_behind_it(tmp_path):
    config = make_config(f"http://127.0.0.1:{free_port()}", tmp_path, "any")
    ended = threading.Event()

    def late():
        assert ended.wait(60)
        return drawing()

    tracker = Tracker(config)
    tracker.start({})
    tracker.figure(late, "pictures/late.png")
    ending = threading.Thread(target=tracker.finish, args=("FINISHED",))
    ending.start()
    wait_until(lambda: said_last(config) == "end", what="the end of the run on disk")
    ended.set()
    ending.join()
    assert [record["kind"] for record in spooled(config)] == ["start", "end", "artifact", "end"]


def test_a_run_whose_store_hangs_is_free_once_its_job_has_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    with socket.create_server(("127.0.0.1", 0)) as silent, ExitStack() as connections:
        config = make_config(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, "any")
        tracker = Tracker(config)
        tracker.start({})
        silent.settimeout(60)
        asked = b""
        while not asked:  # the first connection only looks whether anything listens
            connection = connections.enter_context(silent.accept()[0])
            connection.settimeout(60)
            asked = connection.recv(1)
        assert not tracker.finish("FINISHED", timeout_s=0.5)
        (spool,) = spools(config)
        assert not spool.lock.is_busy()
    join_threads()


def test_what_a_checkpoint_has_behind_it_is_on_disk(tmp_path):
    config = TrackingConfig(uri=made_store(tmp_path), spool=str(tmp_path / "spool"), system_metrics=False)
    tracker = Tracker(config)
    tracker.start({})
    tracker.metrics({"loss": 0.125}, 7)
    tracker.secure()
    (journal,) = (tmp_path / "spool").glob("*/journal.jsonl")
    assert '"loss": 0.125' in journal.read_text()
    assert tracker.finish("FINISHED")
