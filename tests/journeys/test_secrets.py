"""A password in the store's address, through all commands: in no file and no line, and yet it reaches the server."""

import base64
import http.server
import json
import sys
import threading

import pytest

from dist_calo.__main__ import main as dist_calo
from dist_calo.sweeping.definition import read_sweep
from dist_calo.sweeping.mlflow_record import SweepRecord
from dist_calo.sweeping.study import Study
from dist_calo.train import main as train
from tests.support.small_runs import train_command, write_showers
from tests.support.sweeps import RANGE, RATE, TRAIN

PASSWORD = "s3cr3t@PW:x"
TOKEN = "AbCdEf0123456789wxyz"
QUOTED = PASSWORD.replace("@", "%40").replace(":", "%3A")
BASIC = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
FORMS = (PASSWORD, QUOTED, BASIC, TOKEN, base64.b64encode(PASSWORD.encode()).decode())


@pytest.fixture(scope="module")
def server():
    """A server that lets nobody in, and what it was told of users."""
    heard = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.headers.get("Authorization"))
            self.send_error(401)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{running.server_address[1]}", heard
    running.shutdown()
    running.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Secrets of other services, and nothing known of this one."""
    monkeypatch.setenv("DIST_CALO_ADDRESSES", "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", TOKEN)
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    for name in ("URI", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


def require_clean(folder, capfd, said=""):
    """No form of a secret is in any file or line."""
    captured = capfd.readouterr()
    text = captured.out + captured.err + said
    for form in FORMS:
        assert form not in text
        for path in folder.rglob("*"):
            assert not path.is_file() or form.encode() not in path.read_bytes(), path
    return text


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_command_writes_a_password_and_the_server_hears_it(server, folder, capfd, caplog, monkeypatch):
    where, heard = server
    uri = f"http://alice:{QUOTED}@{where}"
    data = write_showers(folder / "data")
    settings = train_command(
        data, folder, "--train.max_steps=2", f"--tracking.uri={uri}", "--comm.threads=1"
    )[3:]
    monkeypatch.setattr(sys, "argv", ["train", *settings, f"--api-key={TOKEN}"])
    assert train(settings) == 0
    assert f"Basic {BASIC}" in heard
    text = require_clean(folder, capfd, caplog.text)
    assert f"http://***@{where}" in text
    stored = json.loads(next((folder / "checkpoints").glob("step-*.json")).read_text())
    assert stored["config"]["tracking"]["uri"] == f"http://***@{where}"

    checkpoints = str(folder / "checkpoints")
    evaluated = ["--checkpoint", checkpoints, "--no-report", "--real", data, "--showers", "40"]
    sweep = folder / "sweep.yaml"
    commands = [
        (["status", checkpoints], 0),
        (["runs", "list", "--spool", "spool"], 0),
        (["runs", "sync", "--spool", "spool"], 1),
        (["evaluate", *evaluated, "--tracking-uri", uri], 0),
        (["register", "--checkpoint", checkpoints, "--name", "x", "--tracking-uri", uri], 2),
        (["generate", "--checkpoint", "models:/x/1", "--n", "1", "--tracking-uri", uri, "--out", "x.h5"], 2),
        (["scale", "plan", "plan", f"--data.path={data}", f"--tracking.uri={uri}", "--batch=4"], 2),
        (["train", f"--tracking.uri=ftp://alice:{QUOTED}@{where}", f"--data.path={data}"], 2),
        (["train", f"--tracking.ury={uri}"], 2),
        (["train", "--train.seed", uri], 2),
        (["sweep", "run", str(sweep), "--", f"--tracking.uri={uri}", "--train.seed=x"], 2),
    ]
    for command, code in commands:
        if command[0] == "sweep":  # not before, as it holds the password
            require_clean(folder, capfd)
            sweep.write_text(
                json.dumps({"trials": 1, "parameters": {RATE: RANGE}, "settings": {"tracking.uri": uri}})
            )
            continue
        heard.clear()
        assert dist_calo(command) == code, command
        if command[0] in ("register", "scale") or "sync" in command:
            assert f"Basic {BASIC}" in heard, command
    with pytest.raises(SystemExit):
        train([f"--tracking.uri={uri}", "--print_config"])
    assert f"uri: http://***@{where}" in require_clean(folder / "plan", capfd)
    study = Study.join(folder / "study", read_sweep(sweep, overrides=[f"--tracking.experiment={uri}"]), TRAIN)
    SweepRecord.open(study, read_settings(uri))
    require_clean(folder / "study", capfd)


def read_settings(uri):
    from dist_calo.config import RunConfig, TrackingConfig

    return RunConfig(tracking=TrackingConfig(uri=uri))


@pytest.mark.parametrize("told", ["option", "address", "user", None])
def test_a_spool_is_sent_later_by_whoever_gives_the_password_again(told, server, folder, capfd, monkeypatch):
    where, heard = server
    uri = f"http://alice:{QUOTED}@{where}"
    from dist_calo.tracking.spool import Spool

    spool = Spool.open(
        folder / "spool", None, {"uri": f"http://***@{where}", "experiment": "x", "run_name": None}
    )
    spool.journal.append([{"kind": "start", "time_ms": 1, "parameters": {}, "tags": {}, "datasets": {}}])
    if told == "address":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    if told == "user":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    heard.clear()
    assert dist_calo(["runs", "sync", *(["--tracking.uri", uri] if told == "option" else [])]) == 1
    assert (f"Basic {BASIC}" in heard) is (told is not None)
    said = require_clean(folder, capfd)
    if told is None:
        assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in said
