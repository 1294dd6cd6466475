import itertools
import os
import time
from dataclasses import replace

import pytest

from dist_calo.launching.slurm import batch_job, job_start
from dist_calo.leases import lease, short_lock
from dist_calo.leases.lease import LEASE_S, Lease
from dist_calo.leases.short_lock import ShortLock, locked
from dist_calo.leases.signs_of_life import Beat, flocked, last_beat
from dist_calo.tracking.spool import HeldError, Spool
from tests.support.ranks import wait_until


@pytest.fixture
def machine(monkeypatch):
    """Makes this process run on another machine, in a job, with locks that hold on one machine only or nowhere."""

    monkeypatch.delenv("DIST_CALO_JOB", raising=False)

    def be(host, job, locks, restarts=0):
        monkeypatch.setattr(lease, "_host", lambda: host)
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        monkeypatch.setattr(lease, "flock", lambda handle: locks)

    return be


def let_pass(path, seconds):
    past = time.time() - seconds
    os.utime(path, (past, past))


def test_one_process_of_a_machine_holds_the_lock(tmp_path):
    first, second = Lease(tmp_path / "lock"), Lease(tmp_path / "lock")
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
    holder = Lease(path)
    assert holder.acquire()
    machine("login1", "-", locks)
    other = Lease(path)
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
    holder, other = Lease(path), Lease(path)
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
    assert (path.read_text(), other._handle) == (before, None)


def test_a_lock_given_back_is_free_at_once(tmp_path, machine):
    machine("node1", "7", None)
    holder = Lease(tmp_path / "lock")
    assert holder.acquire()
    holder.release()
    machine("node2", "8", None)
    assert Lease(tmp_path / "lock").acquire()


def test_a_requeued_job_need_not_wait_for_its_first_attempt(tmp_path, machine):
    machine("node1", "7", True)
    assert Lease(tmp_path / "lock").acquire()
    machine("node2", "7", True)
    assert Lease(tmp_path / "lock").acquire()


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
        monkeypatch.setattr(lease, "time", clock)
        return clock

    def come(clock, host, job, restarts=0):
        machine(host, job, True, restarts)
        monkeypatch.setattr(lease, "flock", clock.flock)
        return Spool.open_locked(tmp_path, "abc", {})

    return leave, come


def test_a_job_waits_until_the_file_server_gives_up_the_lock_of_a_dead_machine(left, caplog):
    leave, come = left
    clock = leave(free_after_s=90.0)
    assert come(clock, "node2", "8").lock._handle is not None
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
    assert run.lock._handle is not None
    assert (run.folder / "lock").read_text() == "node2 7\n"
    assert sorted(path.name for path in run.folder.iterdir()) == ["lock", "run.json"]
    run.lock.release()


def test_who_was_given_a_lock_that_another_has_replaced_has_nothing(tmp_path, monkeypatch):
    path = tmp_path / "lock"

    def late(handle):
        (tmp_path / "new").write_text("")
        os.replace(tmp_path / "new", path)
        return True

    monkeypatch.setattr(lease, "flock", late)
    assert not Lease(path).acquire()


def test_all_nodes_of_an_elastic_run_are_one_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("DIST_CALO_JOB", "7")
    assert batch_job() == "7"


def test_the_batch_job_is_known_behind_a_launcher():
    assert job_start({}) == ("", 0)
    assert job_start({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2"}) == ("12", 2)
    assert job_start({"DIST_CALO_SWEEP_JOB": "12:2"}) == ("12", 2)
    assert job_start({"DIST_CALO_SWEEP_JOB": ":0"}) == ("", 0)


def test_a_lease_that_is_kept_gives_signs_of_life_and_is_free_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_EVERY_S", 0.01)
    path = tmp_path / "lock"
    holder, other = Lease(path), Lease(path)
    assert holder.acquire()
    with holder.kept():
        let_pass(path, 100)
        wait_until(lambda: time.time() - path.stat().st_mtime < 50, what="a sign of life")
        assert not other.acquire()
    assert holder._handle is None
    assert path.read_text() == ""
    assert other.acquire()
    with other.kept(remove=True):
        pass
    assert not path.exists()


def test_a_file_is_locked_within_a_block_alone(tmp_path):
    path = tmp_path / "sending"
    with pytest.raises(FileNotFoundError), flocked(path):
        pass
    with flocked(path, create=True) as first, flocked(path) as second:
        assert (first, second) == (True, False)
    with flocked(path) as again:
        assert again


def test_a_beat_ends_when_another_works_in_the_folder(tmp_path):
    with Beat(tmp_path / "beat", 0.01, lambda: True) as beat:
        beat._thread.join(60)
        assert not beat._thread.is_alive()


@pytest.mark.parametrize("death", [{"created": 0.0}, {"machine": "another", "job": "7", "start": 0}])
def test_the_lock_of_a_process_known_to_be_dead_is_taken_at_once(tmp_path, monkeypatch, death):
    monkeypatch.setenv("DIST_CALO_SWEEP_JOB", "7:1")
    dead = ShortLock(tmp_path / "a.lock")
    dead._here = replace(dead._here, **death)
    dead.acquire()
    monkeypatch.setattr(short_lock, "ABANDONED_S", float("inf"))
    with locked(tmp_path / "a.lock"):
        assert not dead.is_ours()
        dead.release()
        assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]
    assert not list(tmp_path.iterdir())


def test_only_looks_that_were_answered_count_as_silence(tmp_path, monkeypatch):
    holder = ShortLock(tmp_path / "a.lock")
    holder._here = replace(holder._here, machine="another")
    holder.acquire()
    clock, looks = itertools.count(0.0, 1000.0), []
    monkeypatch.setattr(short_lock.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(short_lock.time, "sleep", looks.append)
    monkeypatch.setattr(short_lock.log, "warning", lambda *_: None)
    ShortLock(tmp_path / "a.lock").acquire()
    assert len(looks) == 1 + short_lock.ABANDONED_S / short_lock.LOOK_S


def test_a_holder_that_works_for_long_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(short_lock, "TOUCH_S", 0.01)
    with locked(tmp_path / "a.lock"):
        os.utime(tmp_path / "a.lock", (0, 0))
        wait_until(lambda: (tmp_path / "a.lock").stat().st_mtime != 0, what="a sign of life")


def test_a_lock_made_meanwhile_is_put_back(tmp_path):
    path = tmp_path / "a.lock"
    faster = ShortLock(path)
    faster.acquire()
    ShortLock(path)._remove("of one that died")
    assert faster.is_ours()
    assert list(tmp_path.iterdir()) == [path]


def test_a_beat_is_known_by_the_file_systems_clock(tmp_path):
    assert last_beat(tmp_path / "beat", tmp_path) == (0.0, float("inf"))
    with Beat(tmp_path / "beat", 100.0):
        stamp, silence = last_beat(tmp_path / "beat", tmp_path)
        assert stamp == (tmp_path / "beat").stat().st_mtime
        assert 0 <= silence < 100
    assert [path.name for path in tmp_path.iterdir()] == ["beat"]
