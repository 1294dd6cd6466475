"""Passwords and tokens: masked where they enter and on their way out, known where a connection is made."""

import base64
import os
import sys
import time

import pytest

from dist_calo import masking
from dist_calo.config import RunConfig, TrackingConfig
from dist_calo.errors import ConfigError
from dist_calo.launching.early_signals import guard_output
from dist_calo.launching.local import run_local
from dist_calo.launching.slurm import training_settings
from dist_calo.masking import hidden, mask, revealed
from dist_calo.sweeping.definition import read_definition
from dist_calo.tracking.provenance import describe_run
from dist_calo.tracking.server import address_of
from dist_calo.tracking.store_uri import checked_uri

LOGINS = [
    ("http://alice:s3cr3tPW@127.0.0.1:9", "http://***@127.0.0.1:9"),
    ("https://tok_123456@host:5000/a?b=c", "https://***@host:5000/a?b=c"),
    ("postgresql+psycopg://u:p@h/db", "postgresql+psycopg://***@h/db"),
    ("mysql://u:p%40%3Ax@h:3306/db", "mysql://***@h:3306/db"),
    ("http://alice:p@ss:word@host/x", "http://***@host/x"),
    ("http://alice:pa/ss?w#rd@host", "http://***@host"),
    ("http://alice:a b@host", "http://***@host"),
    ("http://alice:12345@host", "http://***@host"),
    ("s3://AKIA:secret@bucket/x", "s3://***@bucket/x"),
    ("https://h/path?token=abc&x=1", "https://h/path?token=***&x=1"),
    ("https://h/path?x=1&X-Amz-Signature=abc", "https://h/path?x=1&X-Amz-Signature=***"),
    ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dy", "mssql+pyodbc:///?odbc_connect=***"),
]
PLAIN = [
    *(
        "none",
        "databricks",
        "sqlite:///mlflow.db",
        "sqlite:////home/a@b/mlflow.db?timeout=5",
        "mlflow/server.env",
    ),
    *(
        "http://host:8080/a@b",
        "http://host/users/@me",
        "http://[::1]:5000",
        "file:///x",
        "data/*.h5",
    ),
]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Nothing is known of addresses, and nothing is left behind."""
    monkeypatch.setenv("DIST_CALO_ADDRESSES", "")
    for name in ("URI", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.mark.parametrize(("uri", "masked"), LOGINS)
def test_an_address_is_masked_and_known_again(uri, masked, monkeypatch):
    assert hidden(uri) == masked == hidden(masked) == checked_uri_or_same(masked)
    assert revealed(masked) == address_of(masked) == uri
    assert hidden(f"--tracking.uri={uri}").endswith(masked.rpartition("***")[2])
    monkeypatch.setenv("DIST_CALO_ADDRESSES", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert revealed(masked) == uri


def checked_uri_or_same(uri):
    return uri if uri.startswith("s3:") else checked_uri(uri)


@pytest.mark.parametrize("uri", PLAIN)
def test_other_addresses_stay_as_they_are(uri):
    assert hidden(uri) == mask(uri) == revealed(uri) == uri


def test_an_address_without_its_password_takes_that_of_the_environment(monkeypatch):
    assert revealed("http://***@host:5000") == "http://host:5000"  # its client says user and password
    with pytest.raises(ConnectionError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        revealed("postgresql://***@host/db")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p@/ss")
    assert revealed("postgresql://***@host/db") == "postgresql://ada:p%40%2Fss@host/db"
    with pytest.raises(ConnectionError, match="give the whole address again"):
        revealed("https://host/?token=***")


def test_texts_lose_what_the_process_knows_as_secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2x")
    hidden("http://bob:q%2Fwerty@host")
    basic = base64.b64encode(b"ada:hunter2x").decode()
    text = f"x hunter2x, wJalrXUtnFEMI/K7MDENG q/werty q%2Fwerty {basic} http://u:pw@h "
    text += "Authorization: Bearer abc --password=abc"
    assert mask(text) == "x ***, *** *** *** *** http://***@h Authorization: Bearer *** --password=***"
    assert mask("tracking.uri=alice:s3cr3t@host: no store") == "tracking.uri=***@host: no store"
    for kept in (
        "set MLFLOW_TRACKING_PASSWORD and go on",
        "--model.options.tokens=8",
        "hunter2xy",
        "a token: 5",
        "git@github.com:a/b",
        "12:30 @ 5",
    ):
        assert mask(kept) == kept


def test_settings_errors_and_tags_hold_no_password():
    uri, masked = LOGINS[0]
    config = RunConfig(tracking=TrackingConfig(uri=uri))
    assert config.to_dict()["tracking"]["uri"] == masked
    assert str(ConfigError(f"tracking.uri={uri}: no")) == f"tracking.uri={masked}: no"
    assert "s3cr3tPW" not in str(describe_run(command=["train", f"--tracking.uri={uri}"]))
    parameters = {"optimizer.learning_rate": [0.1, 0.2]}
    entries = {"parameters": parameters, "trials": 1, "overrides": [f"--tracking.uri={uri}"]}
    assert "s3cr3tPW" not in str(
        read_definition({**entries, "settings": {"tracking": {"uri": uri}}}).to_dict()
    )


def test_ranks_started_here_know_the_address_that_their_command_line_hides(capfd, tmp_path):
    uri, masked = LOGINS[0]
    script = tmp_path / "dist_calo.py"
    script.write_text(
        "import sys\nfrom importlib import import_module\nsys.path.pop(0)\n"
        "revealed = import_module('dist_calo.masking').revealed\n"
        "print(sys.argv[1], revealed(sys.argv[1]) == sys.argv[2][::-1])\n"
    )
    assert run_local([sys.executable, str(script), uri, uri[::-1]], 1) == 0
    assert capfd.readouterr().out == f"{masked} True\n"
    assert run_local(["echo", uri], 1) == 0  # another program needs the address
    assert capfd.readouterr().out == f"{uri}\n"


def test_what_is_printed_is_masked(capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    guard_output()
    print("in http://u:pw@host now", flush=True)
    assert capfd.readouterr().out == "in http://***@host now\n"


def test_long_texts_are_masked_in_bounded_time():
    began = time.monotonic()
    for text in (
        "a" * 10**5,
        "a." * 10**5,
        "http://" + "a:" * 10**5,
        "://" * 10**5,
        "token" * 10**5,
        "x=?&;" * 10**5,
    ):
        masking.mask(text)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("uri", ["http://alice:s3cr3t@PW@host:5000/x", "postgresql+psycopg://u:p%2Fx@h/db"])
def test_job_scripts_give_ranks_the_password_by_their_environment(uri, monkeypatch):
    for name in ("DIST_CALO_ADDRESSES", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("TRACKING_URI", uri)
    setting, known = training_settings()[-1], os.environ["MLFLOW_TRACKING_URI"]
    assert setting == f"--tracking.uri={hidden(uri)}"
    monkeypatch.setenv("DIST_CALO_ADDRESSES", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", known)
    assert revealed(hidden(uri)) == uri
