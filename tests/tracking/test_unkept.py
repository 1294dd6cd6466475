"""Disks of spools that are full or fail, threads that end: what the store takes is sent, what is lost is counted."""

import errno
import http.server
import os
import sqlite3
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from dist_calo.leases.lease import Lease
from dist_calo.tracking.sender import Sender
from dist_calo.tracking.spool import Spool
from dist_calo.tracking.tracker import Tracker
from tests.support.mlflow_store import Store, made_store
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


class Disk:
    """The disk of the spools below a folder: while ``failure`` is set, nothing new gets onto it."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder, self.failure = folder.resolve(), None
        for name in ("fsync", "mkdir"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))
        appended, opened = self._failing(open), Path.open
        monkeypatch.setattr(
            Path,
            "open",
            lambda path, mode="r", **more: (appended if mode == "a" else opened)(path, mode, **more),
        )

    def _failing(self, call):
        def called(where, *rest, **options):
            path = Path(f"/proc/self/fd/{where}").resolve() if isinstance(where, int) else Path(where)
            if self.failure and path.resolve().is_relative_to(self.folder):
                raise OSError(self.failure, os.strerror(self.failure))
            return call(where, *rest, **options)

        return called


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """The spools' disk; files for which it has no room go to a folder of the test's own."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return Disk(tmp_path / "spool", monkeypatch)


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_takes_nothing_costs_nothing_while_the_store_is_well(
    disk, failure, uri, store, tmp_path, request, caplog
):
    config = make_config(uri, tmp_path, request.node.name)
    (tmp_path / "generator.pt").write_bytes(b"generator")
    tracker = Tracker(config)
    tracker.start({"train.seed": 7})
    log_losses(tracker, 1, 10)
    tracker.secure()
    disk.failure = failure
    log_losses(tracker, 11, 2500)
    tracker.secure()
    tracker.figure(drawing, "pictures/profiles.png")
    tracker.model(tmp_path / "generator.pt", {"network": "ä"})
    (tmp_path / "generator.pt").unlink()
    assert tracker.finish("FINISHED")

    run = store.only_run(config.experiment)
    assert run.info.status == "FINISHED"
    assert store.points(run.info.run_id, "loss") == losses(1, 2500)
    files = ["model/generator.pt", "model/model.json", "pictures/profiles.png"]
    assert store.files(run.info.run_id) == files
    assert store.read(run.info.run_id, files[2], tmp_path).startswith(PNG)
    assert caplog.text.count("takes nothing") == 1
    assert "nothing was lost" in caplog.text
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_disk_that_is_full_when_the_job_starts_is_done_without(disk, uri, store, tmp_path, request, caplog):
    config = make_config(uri, tmp_path, request.node.name)
    disk.failure = errno.ENOSPC
    tracker = Tracker(config)
    tracker.start({})
    log_losses(tracker, 1, 10)
    assert tracker.finish("FINISHED")
    assert f"{config.spool}: No space left on device; this job uses" in caplog.text
    assert store.points(store.only_run(config.experiment).info.run_id, "loss") == losses(1, 10)


def test_what_neither_disk_nor_store_takes_is_counted(disk, tmp_path, caplog):
    config = make_config(f"http://127.0.0.1:{free_port()}", tmp_path, "any")
    tracker = Tracker(config)
    tracker.start({})
    log_losses(tracker, 1, 10)
    tracker.secure()
    disk.failure = errno.ENOSPC
    log_losses(tracker, 11, 40)
    tracker.secure()
    wait_until(lambda: "does not answer" in caplog.text, what="the word that the store is away")
    assert not tracker.finish("FINISHED")
    assert "31 records of run" in caplog.text  # 30 points and the end
    assert len(spooled(config)) == 11


def test_a_disk_that_has_room_again_is_used_again(disk, uri, store, tmp_path, request, caplog, monkeypatch):
    away = make_config(f"http://127.0.0.1:{free_port()}", tmp_path, request.node.name)
    tracker = Tracker(away)
    tracker.start({})
    for first in range(1, 100, 20):
        log_losses(tracker, first, first + 9)
        tracker.secure()
        disk.failure = errno.ENOSPC
        log_losses(tracker, first + 10, first + 19)
        tracker.secure()
        disk.failure = None
        tracker.secure()
    assert not tracker.finish("FINISHED")
    assert "lost" not in caplog.text.replace("is lost if", "")
    assert caplog.text.count("takes the record again") == 5
    assert [record.get("step") for record in spooled(away)] == [None, *range(1, 101), None]
    assert sync(away, "--tracking.uri", uri) == 0
    assert store.points(store.only_run(away.experiment).info.run_id, "loss") == losses(1, 100)


def test_the_spool_of_a_killed_job_is_sent_from_a_full_disk(disk, uri, store, tmp_path, request):
    identity = {"uri": uri, "experiment": request.node.name, "run_name": None}
    config = make_config(uri, tmp_path, request.node.name)
    spool = Spool.open(Path(config.spool), None, identity)
    spool.journal.append(
        {"kind": "metrics", "time_ms": 1, "step": s, "values": {"loss": v}} for s, v in losses(1, 10)
    )
    disk.failure = errno.ENOSPC
    assert sync(config) == 0
    run = store.only_run(config.experiment)
    assert (run.info.status, store.points(run.info.run_id, "loss")) == ("KILLED", losses(1, 10))


def test_files_that_the_store_refuses_hold_no_point_up_even_on_a_full_disk(
    disk, uri, store, tmp_path, request, caplog, monkeypatch
):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left for artifacts")

    config = make_config(uri, tmp_path, request.node.name)
    tracker = Tracker(config)
    tracker.start({})
    monkeypatch.setattr("mlflow.MlflowClient.log_artifact", refuse)
    disk.failure = errno.ENOSPC
    tracker.text("text", "notes.txt")
    log_losses(tracker, 1, 10)
    assert not tracker.finish("FINISHED")
    run = store.only_run(config.experiment)
    assert (run.info.status, store.points(run.info.run_id, "loss")) == ("FINISHED", losses(1, 10))
    assert "1 records of run" in caplog.text


@pytest.mark.parametrize(("owner", "name", "thread"), [(Lease, "beat", "writer"), (Sender, "send", "sender")])
def test_a_thread_that_ends_is_told_and_costs_no_record(
    owner, name, thread, uri, tmp_path, caplog, monkeypatch
):
    def end(*_):
        raise SystemExit("by a library")

    monkeypatch.setattr(owner, name, end)
    config = make_config(uri, tmp_path, "any")
    tracker = Tracker(config)
    tracker.start({})
    wait_until(lambda: f"the {thread} of the record of run" in caplog.text, what="the word of its end")
    log_losses(tracker, 1, 10)
    tracker.secure()
    assert not tracker.finish("FINISHED", timeout_s=10.0)
    assert "has ended: SystemExit: by a library" in caplog.text
    assert "dist-calo runs sync" in caplog.text
    assert "lost" not in caplog.text
    assert len(spooled(config)) == 12


@pytest.mark.parametrize("fault", ["locked", "read-only"])
def test_a_database_that_cannot_be_written_gets_the_record_later(fault, tmp_path, request, caplog):
    (tmp_path / "db").mkdir()
    config = make_config(made_store(tmp_path / "db"), tmp_path, request.node.name)
    with closing(sqlite3.connect(tmp_path / "db" / "mlflow.db")) as other:
        if fault == "locked":
            other.execute("begin exclusive")
        else:
            other.execute("create trigger full before insert on runs begin select raise(abort, 'full'); end")
            other.commit()
        tracker = Tracker(config)
        tracker.start({})
        log_losses(tracker, 1, 10)
        assert not tracker.finish("FINISHED", timeout_s=3.0)
        other.rollback()
        other.execute("drop trigger if exists full")
        other.commit()
    join_threads()
    assert "lost" not in caplog.text
    assert sync(config) == 0
    store = Store(config.uri)
    assert store.points(store.only_run(config.experiment).info.run_id, "loss") == losses(1, 10)


@pytest.mark.parametrize(
    ("status", "answer"),
    [(200, b""), (200, b"{}"), (200, b"<html>log in</html>"), (200, b"null"), (400, b"<html>"), (404, b"{}")],
)
def test_what_is_no_tracking_server_takes_nothing_away(status, answer, tmp_path, caplog):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = make_config(f"http://127.0.0.1:{server.server_port}", tmp_path, "any")
        tracker = Tracker(config)
        tracker.start({})
        log_losses(tracker, 1, 10)
        assert not tracker.finish("FINISHED", timeout_s=10.0)
        server.shutdown()
    assert "does not answer" in caplog.text
    (spool,) = spools(config)
    assert (len(spooled(config)), spool.refused, spool.identity.run_id) == (12, [], None)
