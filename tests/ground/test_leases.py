import os
import time

import pytest

from dist_calo import leases
from dist_calo.leases import LEASE_S, RunLock
from dist_calo.tracking.spool import HeldError, Spool


@pytest.fixture
def machine(monkeypatch):
    """Makes this process run on another machine, in a job, with locks that hold on one machine only or nowhere."""

    monkeypatch.delenv("DIST_CALO_JOB", raising=False)

    def be(host, job, locks, restarts=0):
        monkeypatch.setattr(leases, "_host", lambda: host)
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        monkeypatch.setattr(leases, "flock", lambda handle: locks)

    return be


def let_pass(path, seconds):
    past = time.time() - seconds
    os.utime(path, (past, past))


def test_one_process_of_a_machine_holds_the_lock(tmp_path):
    first, second = RunLock(tmp_path / "lock"), RunLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    assert second.patience_s == 0
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
    assert other.patience_s == 30
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


class Clock:
    """Time that passes by sleeping alone, for the machine that waits as for the file server."""

    def __init__(self, lock, free_after_s=float("inf"), beats=False):
        self.now, self._lock, self._free_after_s, self._beats = 0.0, lock, free_after_s, beats
        let_pass(lock, 10)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if not self._beats:
            let_pass(self._lock, 10 + self.now)

    def flock(self, handle):
        """The lock of a machine that is gone, until the file server gives it up."""
        held = os.path.samestat(os.fstat(handle), self._held) if self._lock.exists() else False
        return not held or self.now > self._free_after_s


@pytest.fixture
def left(tmp_path, machine, monkeypatch):
    """A run of job 7 on node1, whose lock the file server keeps; what is given is how."""

    def leave(**how):
        machine("node1", "7", True)
        run = Spool.open_locked(
            tmp_path, "abc", {"uri": "http://server", "experiment": "e", "run_name": None}
        )
        clock = Clock(run.folder / "lock", **how)
        clock._held = os.stat(run.folder / "lock")
        monkeypatch.setattr(leases, "time", clock)
        return clock

    def come(clock, host, job, restarts=0):
        machine(host, job, True, restarts)
        monkeypatch.setattr(leases, "flock", clock.flock)
        return Spool.open_locked(tmp_path, "abc", {})

    return leave, come


def test_a_job_waits_until_the_file_server_gives_up_the_lock_of_a_dead_machine(left, caplog):
    leave, come = left
    clock = leave(free_after_s=90.0)
    assert come(clock, "node2", "8").is_locked
    assert 90 < clock.now < 91
    (line,) = caplog.messages
    assert "held by node1 (job 7): waiting up to 150 s" in line


@pytest.mark.parametrize(
    ("host", "job", "restarts", "beats", "waited_s"),
    [
        ("node2", "8", 1, False, LEASE_S),
        ("node2", "7", 0, False, LEASE_S),
        ("node2", "7", 1, True, 30),
        ("node2", "8", 0, True, 30),
        ("node1", "7", 1, False, 0),
    ],
    ids=["another job", "no earlier attempt", "it lives", "another job lives", "the same machine"],
)
def test_a_lock_that_is_not_given_up_is_not_taken(left, host, job, restarts, beats, waited_s):
    leave, come = left
    clock = leave(beats=beats)
    with pytest.raises(HeldError, match=r"held by node1 \(job 7\)"):
        come(clock, host, job, restarts)
    assert waited_s + 3 < clock.now < waited_s + 4


def test_a_job_started_again_takes_the_lock_of_its_earlier_attempt(left, tmp_path):
    leave, come = left
    clock = leave()
    run = come(clock, "node2", "7", restarts=1)
    assert 33 < clock.now < 34
    assert run.is_locked
    assert (run.folder / "lock").read_text() == "node2 7\n"
    assert sorted(path.name for path in run.folder.iterdir()) == ["lock", "run.json"]
    run.unlock()


def test_who_was_given_a_lock_that_another_has_replaced_has_nothing(tmp_path, monkeypatch):
    path = tmp_path / "lock"

    def late(handle):
        (tmp_path / "new").write_text("")
        os.replace(tmp_path / "new", path)
        return True

    monkeypatch.setattr(leases, "flock", late)
    assert not RunLock(path).acquire()


def test_all_nodes_of_an_elastic_run_are_one_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("DIST_CALO_JOB", "7")
    assert leases.batch_job() == "7"
