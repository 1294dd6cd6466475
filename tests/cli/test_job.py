"""``dist-calo job``: what each verb runs on the ranks of a batch job."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dist_calo.cli import job
from dist_calo.errors import ConfigError, LaunchError


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """Module and arguments of the ranks that a verb starts, in job 7."""
    started: list[tuple[Any, ...]] = []

    def run_job(module: str, line: list[str], _: Any) -> int:
        started.append((module, *line))
        return 0

    monkeypatch.setattr(job, "run_job", run_job)
    monkeypatch.chdir(tmp_path)
    given = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "calo", "DATA": "a.h5", "TRACKING_URI": "t.db"}
    monkeypatch.setattr(os, "environ", {**os.environ, **given, "STAGE": "/local"})
    return started


def test_training_has_a_folder_of_its_own_and_settings_of_the_script_come_last(runs: list[Any]) -> None:
    assert job.main(["train", "--train.max_steps=3"]) == 0
    assert runs == [
        (
            "dist_calo.train",
            "--checkpoint.dir=runs/7",
            "--checkpoint.resume=auto",
            "--tracking.run_name=calo-7",
            "--tracking.uri=t.db",
            "--data.path=a.h5",
            "--train.max_steps=3",
        )
    ]


@pytest.mark.parametrize(
    ("given", "line", "progress"),
    [
        (["tiny.yaml"], ["tiny.yaml", "--"], "sweeps/tiny"),
        (["tiny.yaml", "--study", "s", "--", "--x=1"], ["tiny.yaml", "--study", "s", "--", "--x=1"], "s"),
    ],
)
def test_a_sweep_reads_files_in_place_and_shows_progress_in_its_study(
    given: list[str], line: list[str], progress: str, runs: list[Any]
) -> None:
    Path("tiny.yaml").touch()
    assert job.main(["sweep", *given]) == 0
    assert runs == [("dist_calo.cli.sweep", "run", *line, "--tracking.uri=t.db", "--data.path=a.h5")]
    assert os.environ["PROGRESS"] == progress
    assert "STAGE" not in os.environ


def test_any_module_runs_on_the_ranks(runs: list[Any]) -> None:
    assert job.main(["run", "dist_calo.cli.generate", "--out=a.h5"]) == 0
    assert runs == [("dist_calo.cli.generate", "--out=a.h5")]


def test_what_is_missing_is_named(runs: list[Any]) -> None:
    with pytest.raises(LaunchError, match="usage: sbatch -N NODES --array=POINTS"):
        job.main(["scale", "results"])
    with pytest.raises(ConfigError, match="the module is missing"):
        job.main(["run"])
    with pytest.raises(ConfigError, match="the verbs are train, sweep"):
        job.main(["trian"])
    assert runs == []


def test_the_job_loads_no_library_of_the_ranks() -> None:
    code = "import sys, dist_calo.cli.job; print({'torch', 'mlflow', 'numpy', 'h5py'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
