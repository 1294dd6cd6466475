"""Who is named as silent or dead, from what the ranks of a node leave in memory that they share."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from dist_calo.comm.liveness.rank_watch import _exit_code
from dist_calo.launching import failure_messages
from dist_calo.launching.rank_progress import WHERE, Judge, Page, Sign, Signs, open_page, process_state

RUNS = Sign(pid=1, step=5, unit="step", usual_s=0.1)
WAITS = Sign(pid=2, step=5, unit="step", usual_s=0.1, waits=True)


def found(
    judge: Judge, signs: list[Sign], seconds: int, state: str = "R", asked: bool = False
) -> list[object]:
    """Numbers of the ranks that are silent after so many looks, one a second, and whether the job ends."""
    silent = [
        judge.look(signs, lambda pid: state if pid == 1 else "S", 1.0, asked) for _ in range(seconds + 1)
    ]
    return [(one.number, one.over) for one in silent[-1]]


@pytest.mark.parametrize(
    ("signs", "state", "asked", "named_after", "ended_after"),
    [
        # A stopped rank needs no second chance, wherever it is.
        ([WAITS, RUNS], "T", False, 12, 12),
        ([Sign(pid=2), Sign(pid=1, waits=True)], "T", False, 12, 12),
        ([Sign(pid=2), Sign(pid=1, phase="in validation")], "T", False, 12, 12),
        # One that computes or reads gets one; 20 times its usual time, if that is longer.
        ([WAITS, RUNS], "R", False, 12, 24),
        ([WAITS, RUNS], "D", False, 12, 24),
        ([WAITS, Sign(pid=1, usual_s=1.0)], "R", False, 20, 40),
        # It may be alone on its node.
        ([RUNS], "R", True, 12, 24),
        # What was never done before may take as long as the others wait at most.
        ([WAITS, Sign(pid=1, usual_s=inf)], "R", False, 90, 90),
        ([WAITS, Sign(pid=1, usual_s=4.0)], "R", False, 80, 90),
    ],
)
def test_a_rank_that_keeps_others_waiting_is_named_in_time(
    signs: list[Sign], state: str, asked: bool, named_after: int, ended_after: int
) -> None:
    judge, culprit = Judge(12.0, 100.0), len(signs) - 1
    assert not found(judge, signs, named_after - 1, state, asked)
    assert found(judge, signs, 0, state, asked) == [(culprit, named_after == ended_after)]
    if ended_after > named_after:
        assert found(judge, signs, ended_after - named_after - 1, state, asked) == [(culprit, True)]


@pytest.mark.parametrize(
    "signs",
    [
        [WAITS, WAITS],  # for another node
        [RUNS, RUNS],  # all compute
        [WAITS, Sign(pid=1, left=1)],  # it has left
        [WAITS, Sign()],  # it has not come yet
    ],
)
def test_nobody_is_named_where_nobody_keeps_others_waiting(signs: list[Sign]) -> None:
    assert not found(Judge(12.0, 100.0), signs, 1000)


def test_a_slow_rank_that_gets_on_is_not_named() -> None:
    judge = Judge(12.0, 100.0)
    for beats in range(20):
        assert not found(judge, [WAITS, Sign(pid=1, beats=beats, usual_s=11.0)], 11, "T")


def test_what_slept_with_all_others_has_missed_nothing() -> None:
    # The watcher counts the seconds in which it ran itself; once awake it finds the others at work again.
    judge = Judge(12.0, 100.0)
    assert not judge.look([WAITS, RUNS], lambda _: "T", 2.0, asked=False)
    assert not judge.look([WAITS, RUNS], lambda _: "R", 2.0, asked=False)
    assert not found(judge, [WAITS, Sign(pid=1, beats=1)], 11)


def written(steps: Callable[[Signs], object]) -> Sign:
    page = open_page(3)
    assert page is not None
    environ = {WHERE: page.path, "LOCAL_RANK": "2"}
    signs = Signs(environ)
    # What a rank starts in turn does not write in its place.
    assert WHERE not in environ
    assert signs.launcher_looks
    steps(signs)
    assert page.read(1) == Sign()
    return Page(page.path).read(2)


def test_memory_of_other_ranks_and_files_of_others_are_left_alone(tmp_path: Path) -> None:
    page = open_page(2)
    assert page is not None
    other = tmp_path / "file"
    other.write_bytes(b"x" * 1024)
    for path in (page.path, str(other), "", "/proc/1/fd/99"):
        signs = Signs({WHERE: path, "LOCAL_RANK": "2"})
        signs.begin("in set-up", "step")
        assert signs.page is None
    assert other.read_bytes() == b"x" * 1024


def test_a_rank_says_where_it_is() -> None:
    def train(signs: Signs) -> None:
        signs.begin("in set-up", unit="step")
        assert signs.sign.place == " before its first step, in set-up"
        for step in range(4):
            signs.reached(step)
        assert signs.sign.usual_s < 1.0
        with signs.phase("in validation"):
            assert signs.sign.place == " after step 3, in validation"
            assert signs.sign.usual_s == inf
        with signs.phase("in validation"):
            assert signs.sign.usual_s < 1.0
        assert signs.sign.usual_s < 1.0
        signs.wait(True)

    def train_twice(signs: Signs) -> None:
        train(signs)
        train(signs)

    sign = written(train)
    assert (sign.pid, sign.step, sign.waits, sign.left) == (os.getpid(), 3, True, 0)
    assert sign.place == " after step 3"
    # A second run of the process begins anew.
    assert written(train_twice).step == 3
    assert written(lambda signs: signs.leave(told=True)).left == 2
    assert written(lambda signs: signs.leave()).left == 1
    # A program that counts nothing, and one that has not come so far as to write.
    assert written(lambda signs: signs.wait(False)).place == ""
    assert Sign().place == " before its first step"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "rank 1 was killed by SIGKILL after step 5: perhaps out of memory (look at dmesg, "),
        (137, "rank 1 was killed by SIGKILL after step 5: perhaps out of memory (look at dmesg, "),
        (-11, "rank 1 was killed by SIGSEGV after step 5: a crash in compiled code"),
        (-7, "rank 1 was killed by SIGBUS after step 5: a mapped file was cut short"),
        (-15, "rank 1 was killed by SIGTERM after step 5"),
        (7, "rank 1 has ended without a message after step 5: exit code 7"),
        (255, "rank 1 has ended without a message after step 5: exit code 255"),
        (
            None,
            "rank 1 has ended without a message after step 5: it crashed, was killed or ran out of memory",
        ),
    ],
)
def test_what_became_of_a_rank_is_told(code: int | None, words: str) -> None:
    assert failure_messages.ended("rank 1", code, RUNS.place).startswith(words)


def test_of_ranks_that_end_together_a_killed_one_is_to_blame_but_none_that_has_told() -> None:
    page = open_page(3)
    assert page is not None
    assert failure_messages.first_to_blame({0: 1, 2: -9}, page) == (2, Sign())
    page.write(2, Sign(left=2))
    assert failure_messages.first_to_blame({0: 1, 2: -9}, page) == (0, Sign())
    page.write(0, Sign(left=2))
    assert failure_messages.first_to_blame({0: 1, 2: -9}, page) is None
    # What has left because of another one, or in order, had nothing to say; a signal that ended it is news.
    page.write(1, left := Sign(left=1))
    assert failure_messages.first_to_blame({1: 1, 2: -9}, page) is None
    for code in (-15, 143):
        assert failure_messages.first_to_blame({1: code}, page) == (1, left)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_how_a_process_ended_is_seen_until_its_launcher_asks(how: signal.Signals) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert process_state(child.pid) in ("R", "S", "D")
    child.send_signal(how)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert _exit_code(child.pid, None) == -how
    child.wait()
    assert _exit_code(child.pid, None) is None
