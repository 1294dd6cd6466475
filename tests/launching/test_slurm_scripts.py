"""The job scripts and starters as text: clean, short, and alike in what every job needs."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.ranks import ROOT, program

JOBS = sorted((ROOT / "slurm").glob("*.sh"))
SHELL = [
    path
    for folder in ("slurm", "launch", "launch/in_job", "tests/cluster", "examples/onnx", ".ci")
    for path in sorted((ROOT / folder).iterdir())
    if path.is_file() and (path.suffix in (".sh", ".example") or path.name in ("ssh", "run"))
]
TRAINING = [path for path in JOBS if path.name.startswith("train_")]
of_each = pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)


@pytest.mark.requires("shellcheck")
def test_shell_scripts_are_clean() -> None:
    assert len(SHELL) > 15
    checked = subprocess.run([program("shellcheck"), *SHELL], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@of_each
def test_a_job_script_fits_on_a_page(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


@of_each
def test_a_job_script_asks_for_a_signal_and_a_requeue(path: Path) -> None:
    options = set(re.findall(r"^#SBATCH (--[\w-]+(?:=\S+)?)", path.read_text(), re.MULTILINE))
    assert {"--requeue", "--open-mode=append"} <= options
    assert any(option.startswith("--signal=B:") for option in options)


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.name)
def test_arguments_reach_the_trainer_last(path: Path) -> None:
    assert re.search(r'^run_training (--\S+ )?"\$@"\n\Z', path.read_text(), re.MULTILINE)
