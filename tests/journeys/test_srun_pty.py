"""The shell of ``srun -n 4 --pty bash``: training alone, ranks started from there, and what other tasks are told."""

import subprocess
import sys
from pathlib import Path

import pytest

from dist_calo import train
from dist_calo.cli import launch
from tests.support.small_runs import write_showers

TASK = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "bash",
    "SLURM_STEP_ID": "0",
    "SLURM_STEPID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "4",
    "SLURM_TASKS_PER_NODE": "4",
    "SLURM_PTY_PORT": "40001",
    "SLURM_TASK_PID": "1",
}


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to work in, in such a shell."""
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_rank_trains_and_says_so_first(shell: Path) -> None:
    data = write_showers(shell / "data", rows=(24,))
    settings = ["--train.max_steps=1", "--train.global_batch_size=6", "--tracking.uri=none"]
    command = [sys.executable, "-m", "dist_calo.train", f"--data.path={data}", *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[:2]
    assert first.startswith("one rank: this is the shell of srun --pty, task 0 of 4")
    assert " 1 rank(s), launcher none, backend single" in second
    assert list((shell / "checkpoints").glob("step-*.pt"))


def test_ranks_start_there(shell: Path, capfd: pytest.CaptureFixture[str]) -> None:
    show = "import os; print(*sorted(name for name in os.environ if name.startswith('SLURM_')), os.environ['RANK'])"
    assert launch.main(["-n", "2", sys.executable, "-c", show]) == 0
    assert sorted(capfd.readouterr().out.split()) == ["0", "1"]


def test_another_task_than_the_shells_is_told_what_to_do(
    shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert train.main(["--train.max_steps=1"]) == 2
    assert "start the ranks without --pty" in capsys.readouterr().err
