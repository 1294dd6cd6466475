"""Runs whose output goes away: a reader that ends, a terminal that is closed, a full disk under the log."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small_runs import train_command, write_showers


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_showers(tmp_path_factory.mktemp("showers"))


def training(data: str, folder: Path, *overrides: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    return train_command(data, folder, "--tracking.uri=none", *overrides)


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*.pt"))


def in_terminal(command: list[str]) -> int:
    """Close the terminal of a command once its training has made a step, and return its exit code."""
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover
        os.execv(command[0], command)
    seen = b""
    # A terminal breaks long lines, so only the beginning of one is sure to be in one piece.
    while not re.search(rb"step +\d+/", seen):
        seen += os.read(terminal, 4096)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_a_closed_terminal_ends_all_ranks_with_a_checkpoint(data, tmp_path):
    command = training(data, tmp_path, "--train.max_steps=100000", "--launch=2")
    assert in_terminal(command) == 75
    assert len(saved(tmp_path)) == 1


def test_ctrl_c_that_ends_tee_as_well_leaves_a_checkpoint(data, tmp_path):
    command = training(data, tmp_path, "--train.max_steps=100000")
    pipe = '"$@" | { tee "$0"; exit 3; }; exit ${PIPESTATUS[0]}'
    log = tmp_path / "log"
    os.mkfifo(log)
    shell = subprocess.Popen(
        ["bash", "-c", pipe, log, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        with log.open() as lines:
            assert any(" step " in line for line in lines)
            os.killpg(shell.pid, signal.SIGINT)
            _, errors = shell.communicate(timeout=60)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
    assert len(saved(tmp_path)) == 1
    assert "Traceback" not in errors
    # bash itself ends of the same Ctrl-C once its commands have ended.
    assert shell.returncode in (75, -signal.SIGINT)


def test_a_launcher_that_is_killed_is_named_and_what_the_log_tells_of_is_saved(data, tmp_path):
    command = training(data, tmp_path, "--train.max_steps=100000", "--checkpoint.every_steps=1", "--launch=2")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        line = next(line for line in launcher.stdout if " step " in line)
        step = int(re.search(r" step +(\d+)/", line)[1])
        assert saved(tmp_path)[-1] >= f"step-{step:08d}.pt"
        launcher.kill()
        rest = launcher.stdout.read()
    assert "the launcher of the ranks (--launch) has died" in rest
    assert re.search(r"SIGTERM: stopped after step \d+, checkpoint in ", rest)


def test_a_full_disk_under_the_log_costs_the_log_alone(data, tmp_path):
    command = training(data, tmp_path, "--train.max_steps=2")
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100)
    assert (answer.returncode, saved(tmp_path)) == (0, ["step-00000002.pt"])
    assert answer.stderr.splitlines() == [
        "dist_calo: standard output: No space left on device; going on without it"
    ]

    for short in ("--help", f"status {tmp_path / 'checkpoints'}", "data --help"):
        program = f"{sys.executable} -m dist_calo {short} | head -1; echo ${{PIPESTATUS[0]}}"
        answer = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60)
        assert answer.stdout.splitlines()[1:] == ["0"], short
        assert answer.stderr == "", short
