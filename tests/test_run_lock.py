import os
import time

import pytest

from dist_calo.training import run_lock
from dist_calo.training.run_lock import RunLock


@pytest.fixture
def machine(monkeypatch):
    """Makes this process run on another machine, in a job, with locks that hold on one machine only or nowhere."""

    def be(host, job, locks):
        monkeypatch.setattr(run_lock, "_host", lambda: host)
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setattr(run_lock, "flock", lambda handle: locks)

    return be


def let_pass(path, seconds):
    past = time.time() - seconds
    os.utime(path, (past, past))


def test_one_process_of_a_machine_holds_the_lock(tmp_path):
    first, second = RunLock(tmp_path / "lock"), RunLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    assert not second.is_alive_elsewhere
    first.release()
    assert second.acquire()
    second.release()


@pytest.mark.parametrize("locks", [True, None])
def test_signs_of_life_keep_other_machines_out_where_locks_do_not(tmp_path, machine, locks):
    path = tmp_path / "lock"
    machine("node1", "7", locks)
    holder = RunLock(path)
    assert holder.acquire()
    machine("login1", "-", locks)
    other = RunLock(path)
    let_pass(path, 20)
    assert not other.acquire(silent_after_s=30)
    assert other.is_alive_elsewhere
    let_pass(path, 40)
    holder.beat()
    assert not other.acquire(silent_after_s=30)
    let_pass(path, 40)
    assert other.acquire(silent_after_s=30)


def test_a_look_at_the_lock_keeps_nobody_out(tmp_path, machine):
    path = tmp_path / "lock"
    holder, other = RunLock(path), RunLock(path)
    assert not other.is_busy()
    assert not path.exists()
    assert holder.acquire()
    assert other.is_busy()
    holder.release()
    assert not other.is_busy()
    assert holder.acquire()
    machine("node2", "8", True)
    assert other.is_busy(silent_after_s=30)
    let_pass(path, 40)
    before = path.read_text()
    assert not other.is_busy(silent_after_s=30)
    assert (path.read_text(), other.is_held) == (before, False)


def test_a_lock_given_back_is_free_at_once(tmp_path, machine):
    machine("node1", "7", None)
    holder = RunLock(tmp_path / "lock")
    assert holder.acquire()
    holder.release()
    machine("node2", "8", None)
    assert RunLock(tmp_path / "lock").acquire()


def test_a_requeued_job_need_not_wait_for_its_first_attempt(tmp_path, machine):
    machine("node1", "7", True)
    assert RunLock(tmp_path / "lock").acquire()
    machine("node2", "7", True)
    assert RunLock(tmp_path / "lock").acquire()
