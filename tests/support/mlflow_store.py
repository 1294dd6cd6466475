"""A real MLflow server that a test can kill and start again, and what a tracking store holds."""

import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import suppress
from functools import cache
from pathlib import Path

from dist_calo.tracking.store import open_store, quiet_mlflow
from dist_calo.tracking.store_uri import checked_uri
from tests.support.ranks import free_port, wait_until

START_WITHIN_S = 90.0


def made_store(folder: Path) -> str:
    """The store of a folder, which is made with all its tables if it is not there.

    MLflow takes six seconds for the tables of a store. What it made once is copied: only tests of the making wait.
    """
    file = folder / "mlflow.db"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_new_store())
    return f"sqlite:///{file}"


@cache
def _new_store() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        open_store(checked_uri(f"sqlite:///{folder}/mlflow.db"))
        return (Path(folder) / "mlflow.db").read_bytes()


class Server:
    """``mlflow server`` on a port of its own, with the SQLite store and the artifacts of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server unless it runs; returns when it answers."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--workers=1"]
        command += [
            "--host=127.0.0.1",
            f"--port={self.port}",
            f"--backend-store-uri={made_store(self.folder)}",
        ]
        command += [f"--artifacts-destination={self.folder / 'artifacts'}"]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **quiet},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._answers, START_WITHIN_S, f"an answer of {self.uri}")

    def kill(self) -> None:
        """End the server and its workers without warning, whether or not it runs."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Store:
    """What a tracking store holds, as MLflow's own client tells it."""

    def __init__(self, uri: str) -> None:
        quiet_mlflow()
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)

    def runs(self, experiment: str):
        """The runs of an experiment."""
        found = self.client.get_experiment_by_name(experiment)
        return [] if found is None else list(self.client.search_runs([found.experiment_id]))

    def only_run(self, experiment: str):
        """The one run of an experiment."""
        (run,) = self.runs(experiment)
        return run

    def points(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Every recorded (step, value) of a metric, in order of the steps."""
        history = self.client.get_metric_history(run_id, key)
        return sorted((point.step, point.value) for point in history)

    def files(self, run_id: str, folder: str | None = None) -> list[str]:
        """The paths of all artifacts of a run."""
        paths: list[str] = []
        for entry in self.client.list_artifacts(run_id, folder):
            paths += self.files(run_id, entry.path) if entry.is_dir else [entry.path]
        return sorted(paths)

    def read(self, run_id: str, path: str, into: Path) -> bytes:
        """The content of an artifact."""
        return Path(self.client.download_artifacts(run_id, path, str(into))).read_bytes()
