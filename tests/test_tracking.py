import http.server
import json
import socket
import threading
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dist_calo import runs
from dist_calo.config import TrackingConfig
from dist_calo.errors import TrackingError
from dist_calo.training.spool import SPOOL_PREFIX, Spool
from dist_calo.training.tracking import NullTracker, Tracker, make_tracker
from tests.mlflow_store import Server, Store, sqlite_uri, wait_until
from tests.ranks import free_port

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """An SQLite store; every test has an experiment of its own in it, as making the tables takes seconds."""
    return sqlite_uri(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def store(uri):
    return Store(uri)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that a test starts and kills as it needs."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def config(uri, tmp_path, request):
    return make_config(uri, tmp_path, request.node.name)


def make_config(uri, folder, experiment, **settings):
    return TrackingConfig(
        uri=uri, experiment=experiment, spool=str(folder / "spool"), **{"system_metrics": False, **settings}
    )


def drawing():
    figure = Figure()
    figure.subplots().plot([1.0, 2.0, 3.0], [1.0, 4.0, 9.0])
    return figure


def losses(first, last):
    """The points of a metric in the steps of a range, ends included."""
    return [(step, step / 8) for step in range(first, last + 1)]


def log_losses(tracker, first, last):
    for step, value in losses(first, last):
        tracker.metrics({"loss": value}, step)


def sync(config, *arguments):
    return runs.main(["sync", "--spool", config.spool, *arguments])


def spooled(config):
    (spool,) = spools(config)
    return [record for record, _ in spool.unsent()]


def spools(config):
    return Spool.all(Path(config.spool))


def join_threads():
    """Let the threads of a tracker that gave up waiting come to their end."""
    for thread in threading.enumerate():
        if thread.name.startswith("tracking-"):
            thread.join(60)
            assert not thread.is_alive()


def test_a_run_is_recorded_whole(config, store, tmp_path):
    checkpoint = tmp_path / "step_3.pt"
    checkpoint.write_bytes(b"weights")
    checkpoint.with_suffix(".json").write_text("{}")
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "notes" / "deep" / "a.txt").write_text("a")
    generator = tmp_path / "generator.pt"
    generator.write_bytes(b"generator")

    tracker = Tracker(config)
    tracker.start(
        {"train.seed": 7, "data.files": ["a.h5", "b.h5"]},
        {"host": "node01"},
        {"training": {"name": "EleEscan", "digest": "0123abcd", "source": "/data", "rows": 200}},
    )
    tracker.metrics({"loss": 0.5, "rate": 10}, 1)
    tracker.metrics({"loss": 0.25}, 2)
    tracker.figure(drawing(), "pictures/drawn", step=2)
    tracker.figure(drawing, "pictures/later.png")
    tracker.artifact(tmp_path / "notes", "notes")
    tracker.checkpoint(checkpoint)
    tracker.model(generator, {"network": "generator"})
    for path in (checkpoint, generator):
        path.unlink()  # the record has its own copy
    assert tracker.finish("FINISHED")

    run = store.only_run(config.experiment)
    run_id = run.info.run_id
    assert run_id == tracker.run_id
    assert run.info.status == "FINISHED"
    assert run.info.start_time <= run.info.end_time
    assert run.data.params == {"train.seed": "7", "data.files": "['a.h5', 'b.h5']"}
    assert run.data.tags["host"] == "node01"
    assert store.points(run_id, "loss") == [(1, 0.5), (2, 0.25)]
    assert store.points(run_id, "rate") == [(1, 10.0)]
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("EleEscan", "0123abcd")
    assert json.loads(used.dataset.profile) == {"rows": 200}
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert store.files(run_id) == [
        "checkpoints/step_3.json",
        "checkpoints/step_3.pt",
        "model/generator.pt",
        "model/model.json",
        "notes/deep/a.txt",
        "pictures/drawn_step000002.png",
        "pictures/later.png",
    ]
    assert store.read(run_id, "checkpoints/step_3.pt", tmp_path) == b"weights"
    assert store.read(run_id, "pictures/drawn_step000002.png", tmp_path).startswith(PNG)
    assert json.loads(store.read(run_id, "model/model.json", tmp_path)) == {
        "network": "generator",
        "file": "generator.pt",
    }
    assert spools(config) == []


def test_checkpoints_stay_out_if_the_configuration_says_so(uri, store, tmp_path, request):
    config = make_config(uri, tmp_path, request.node.name, log_checkpoints=False)
    (tmp_path / "step_1.pt").write_bytes(b"weights")
    tracker = Tracker(config)
    tracker.start({})
    tracker.checkpoint(tmp_path / "step_1.pt")
    assert tracker.finish("FINISHED")
    assert store.files(tracker.run_id) == []


def test_system_load_is_recorded(uri, store, tmp_path, request):
    config = make_config(uri, tmp_path, request.node.name, system_metrics=True)
    tracker = Tracker(config)
    tracker.start({})
    run_id = tracker.named_run_id()
    wait_until(lambda: "system/cpu_utilization_percentage" in store.client.get_run(run_id).data.metrics)
    assert tracker.finish("FINISHED")


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_the_end_of_a_run_is_recorded(config, store, status):
    tracker = Tracker(config)
    tracker.start({})
    assert tracker.finish(status)
    assert store.only_run(config.experiment).info.status == status


def test_a_resumed_run_is_the_same_run(config, store):
    first = Tracker(config)
    first.start({"train.seed": 7, "train.max_steps": 10})
    log_losses(first, 1, 10)
    assert first.finish("KILLED")

    second = Tracker(config, first.run_id)
    second.start({"train.seed": 7, "train.max_steps": 20})
    wait_until(lambda: store.only_run(config.experiment).info.status == "RUNNING", what="status RUNNING")
    log_losses(second, 6, 20)  # from the checkpoint of step 5
    assert second.finish("FINISHED")

    run = store.only_run(config.experiment)
    assert run.info.run_id == first.run_id == second.run_id
    assert run.info.status == "FINISHED"
    assert store.points(run.info.run_id, "loss") == losses(1, 20)
    assert run.data.params["train.max_steps"] == "10"
    assert run.data.tags["changed.train.max_steps"] == "20"
    assert "changed.train.seed" not in run.data.tags


def test_values_that_are_no_numbers_are_points_too(config, store):
    tracker = Tracker(config)
    tracker.start({})
    tracker.metrics({"loss": float("nan"), "norm": float("inf")}, 1)
    tracker.metrics({"loss": 1.0}, 2)
    assert tracker.finish("FINISHED")
    (first, second) = store.points(tracker.run_id, "loss")
    assert first[0] == 1
    assert second == (2, 1.0)
    assert len(store.points(tracker.run_id, "norm")) == 1


def test_a_name_that_mlflow_refuses_costs_only_its_own_points(config, store):
    tracker = Tracker(config)
    tracker.start({})
    tracker.metrics({"loss": 1.0, "bad;name?*": 2.0}, 1)
    tracker.metrics({"loss": 0.5}, 2)
    assert not tracker.finish("FINISHED")
    run = store.only_run(config.experiment)
    assert store.points(run.info.run_id, "loss") == [(1, 1.0), (2, 0.5)]
    assert run.info.status == "FINISHED"
    (spool,) = spools(config)
    assert [entry["record"]["key"] for entry in spool.refused] == ["bad;name?*"]


def test_a_picture_that_cannot_be_drawn_does_not_end_the_run(config, store):
    def broken():
        raise ValueError("no showers")

    tracker = Tracker(config)
    tracker.start({})
    tracker.figure(broken, "pictures/broken.png")
    tracker.artifact("no/such/file")
    tracker.text("after", "after.txt")
    assert tracker.finish("FINISHED")
    assert store.files(tracker.run_id) == ["after.txt"]


@pytest.mark.parametrize(
    "uri", ["nonsense://somewhere", "file:///tmp/mlruns", "mlruns", "http://", "sqlite://"]
)
def test_an_impossible_store_is_an_error_at_once(uri, tmp_path):
    with pytest.raises(TrackingError, match=r"tracking\.uri="):
        make_tracker(make_config(uri, tmp_path, "any"))
    assert not (tmp_path / "spool").exists()


def test_a_file_that_is_no_database_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("this is a text file, not a database")
    with pytest.raises(TrackingError, match="not an SQLite database"):
        make_tracker(make_config(f"sqlite:///{tmp_path}/notes.txt", tmp_path, "any"))


def test_a_spool_that_cannot_be_written_is_an_error(uri, tmp_path):
    (tmp_path / "spool").write_text("a file where the folder should be")
    with pytest.raises(TrackingError, match=r"tracking\.spool="):
        Tracker(make_config(uri, tmp_path, "any"))


def test_one_run_has_one_writer(config):
    tracker = Tracker(config)
    with pytest.raises(TrackingError, match="another process"):
        Tracker(config, tracker.run_id)
    tracker.finish("FAILED")


def test_a_run_that_never_started_leaves_nothing(config, store):
    tracker = Tracker(config)
    assert tracker.run_id.startswith(SPOOL_PREFIX)
    assert tracker.finish("FAILED")
    assert spools(config) == []
    assert store.runs(config.experiment) == []


@pytest.mark.parametrize(("uri", "rank"), [("none", 0), ("sqlite:///mlflow.db", 1)])
def test_null_tracker(uri, rank, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = make_tracker(make_config(uri, tmp_path, "any"), rank=rank)
    assert isinstance(tracker, NullTracker)
    tracker.start({"a": 1})
    tracker.metrics({"loss": 1.0}, 1)
    tracker.figure(drawing, "pictures/a")
    tracker.artifact("no/such/file")
    tracker.checkpoint("no/such/file")
    tracker.text("text", "a.txt")
    tracker.json({}, "a.json")
    tracker.model("no/such/file", {})
    assert tracker.named_run_id() is None
    assert tracker.run_id is None
    assert tracker.finish("FINISHED")
    assert list(tmp_path.iterdir()) == []


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
    monkeypatch.setattr("dist_calo.training.server.CONNECT_WITHIN_S", 0.5)
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


def test_what_a_checkpoint_has_behind_it_is_on_disk(tmp_path):
    config = TrackingConfig(uri=sqlite_uri(tmp_path), spool=str(tmp_path / "spool"), system_metrics=False)
    tracker = Tracker(config)
    tracker.start({})
    tracker.metrics({"loss": 0.125}, 7)
    tracker.secure()
    (journal,) = (tmp_path / "spool").glob("*/journal.jsonl")
    assert '"loss": 0.125' in journal.read_text()
    assert tracker.finish("FINISHED")
