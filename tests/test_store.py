"""An SQLite store is there whole or not at all, whoever makes it."""

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

OPEN = "import sys; from dist_calo.training.store import open_store; open_store(sys.argv[1]).search_experiments()"


def opened(uri):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", OPEN, uri], stderr=subprocess.PIPE, text=True
    )


def test_processes_that_make_a_store_at_once_share_it(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    processes = [opened(uri) for _ in range(3)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_process_killed_while_it_makes_the_tables_leaves_no_broken_store(tmp_path):
    process = opened(f"sqlite:///{tmp_path}/mlflow.db")
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.glob(".mlflow.db.*.tmp")):
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert not (tmp_path / "mlflow.db").exists()
    again = opened(f"sqlite:///{tmp_path}/mlflow.db")
    errors = again.communicate(timeout=60)[1]
    assert again.returncode == 0, errors
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert store.execute("select count(*) from experiments").fetchone() == (1,)
