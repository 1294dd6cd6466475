"""The helper that starts ranks: it must never hang, lose a message or leave a process behind."""

import os
import signal
import sys

import psutil
import pytest

from tests.support.ranks import MARK, RanksHung, launcher_params, run_ranks, split_by_rank

HELLO = "import sys; print('to', 'stdout'); print('to', 'stderr', file=sys.stderr)"
RANK = """
import os, sys, time
names = ("RANK", "OMPI_COMM_WORLD_RANK", "HOROVOD_RANK")
rank = int(next((os.environ[name] for name in names if name in os.environ), 0))
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def marked_processes() -> list[psutil.Process]:
    """Ranks that this process has started; another process may be running tests beside it."""
    mine, found = f"{os.getpid()}-", []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK, "").startswith(mine):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("launcher", launcher_params())
def test_every_launcher_starts_its_ranks(launcher):
    n = 1 if launcher == "single" else 2
    run = run_ranks(python(HELLO), n, launcher).check()
    assert set(run.ranks) == set(range(n))
    for said in run.ranks.values():
        assert set(said.splitlines()) == {"to stdout", "to stderr"}


@pytest.mark.parametrize(
    "launcher", launcher_params("local", "torchrun", "mpirun", "horovodrun", "horovodrun-mpi")
)
def test_a_failing_rank_is_reported_by_every_launcher(launcher):
    fail = RANK + "if rank == 1: sys.exit('rank 1 gives up')\ntime.sleep(1)"
    run = run_ranks(python(fail), 2, launcher)
    assert run.returncode != 0
    assert "rank 1 gives up" in run.ranks[1]
    with pytest.raises(pytest.fail.Exception, match="rank 1 gives up"):
        run.check()


def test_hanging_ranks_are_killed_and_quoted():
    hang = RANK + "print('rank', rank, 'waits', flush=True)\ntime.sleep(600)"
    with pytest.raises(RanksHung) as error:
        run_ranks(python(hang), 2, timeout=10)
    assert "[rank 0] rank 0 waits" in str(error.value)
    assert "[rank 1] rank 1 waits" in str(error.value)


@pytest.mark.parametrize("launcher", launcher_params("torchrun", "mpirun", "horovodrun", "horovodrun-mpi"))
def test_no_launcher_leaves_hanging_ranks_behind(launcher):
    with pytest.raises(RanksHung):
        run_ranks(python("import time; time.sleep(600)"), 2, launcher, timeout=6)
    assert marked_processes() == []


def test_detached_children_are_killed_and_counted():
    detach = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print(child.pid)"
    )
    run = run_ranks(python(detach), 1, "single")
    assert run.returncode == 0
    assert run.killed == 1
    assert not psutil.pid_exists(int(run.ranks[0]))


def test_local_ranks_that_outlive_a_failure_are_killed(monkeypatch):
    monkeypatch.setattr("tests.support.ranks.GRACE_SECONDS", 0.5)
    run = run_ranks(python(RANK + "time.sleep(600 * (rank == 0))\nsys.exit(7)"), 2)
    assert run.returncode == 7
    assert run.killed == 1


def test_signals_are_seen_in_the_exit_code():
    run = run_ranks(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), 1, "single")
    assert run.returncode == -signal.SIGKILL


def test_launcher_variables_do_not_leak(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "5")
    monkeypatch.setenv("SLURM_PROCID", "5")
    monkeypatch.setenv("RANK", "5")
    names = "sorted({'OMPI_COMM_WORLD_RANK', 'SLURM_PROCID', 'RANK', 'GIVEN'} & set(os.environ))"
    run = run_ranks(
        python(f"import os; print({names}, os.environ['OMP_NUM_THREADS'])"), 1, "single", env={"GIVEN": "1"}
    )
    assert run.ranks[0] == "['GIVEN'] 1"


def test_lines_cut_by_other_ranks_are_put_together():
    text = (
        "starting\n[1,0]<stdout>:0[1,1]<stdout>:one\n[1,0]<stdout>: zero\n"
        "[1,1]<stderr>:error\n----\nended badly\n[0]<stdout>:gloo\n[default1]:torchrun\n[1,1]<stdout>:unfinished"
    )
    launcher, ranks = split_by_rank(text)
    assert launcher == "starting\n----\nended badly"
    assert ranks == {0: "0 zero\ngloo", 1: "one\nerror\ntorchrun\nunfinished"}


def test_wrong_launchers_are_refused():
    with pytest.raises(ValueError, match="'qsub' is none of single, local"):
        run_ranks(["true"], 1, "qsub")
    with pytest.raises(ValueError, match="starts 1 rank, not 2"):
        run_ranks(["true"], 2, "single")
