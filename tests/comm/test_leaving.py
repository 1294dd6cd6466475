"""A rank that fails ends the whole job, soon, with its own message, under every launcher."""

import io
import re
import sys
import time
from pathlib import Path

import pytest

from dist_calo.comm import CommunicationError, connect, report_failure
from dist_calo.comm.liveness.leaving import LOSS_DELAY_S, leave
from dist_calo.errors import EXIT_FAILURE, EXIT_USER, ConfigError
from dist_calo.launching.environment import World
from tests.support.ranks import LAUNCHERS, RankRun, run_ranks

LIMIT_S = 15.0
STARTED_BY = [
    ("local", "torch"),
    ("torchrun", "torch"),
    ("mpirun", "mpi"),
    ("mpirun", "torch"),
    ("mpirun", "horovod"),
    ("horovodrun", "horovod"),
    ("horovodrun-mpi", "horovod"),
]
# Each rank is on a node of its own, as far as it knows.
ON_NODE = 'export LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 SLURMD_NODENAME=node$RANK; exec "$@"'
ON_NODES = ["bash", "-c", ON_NODE, "rank"]
KEEPS_CODE = ("local", "mpirun", "horovodrun-mpi")


def cases(*started_by: tuple[str, str]) -> list[object]:
    return [
        pytest.param(
            launcher,
            backend,
            id=f"{backend}-by-{launcher}",
            marks=[pytest.mark.requires(name) for name in {*LAUNCHERS[launcher], *_needed(backend)}],
        )
        for launcher, backend in started_by
    ]


def _needed(backend: str) -> list[str]:
    return [backend] if backend in ("mpi", "horovod") else []


def run(launcher: str, backend: str, what: str) -> RankRun:
    """The run, after checking that it ended soon after the failure; the time is that of the last process."""
    started = time.time()
    ended = run_ranks(
        [sys.executable, "-m", "tests.support.failing_rank", backend, what], 2, launcher, timeout=90
    )
    failed = re.search(r"failing at ([\d.]+)", ended.output)
    if failed:
        assert started + ended.seconds - float(failed[1]) < LIMIT_S
    assert ended.returncode != 0
    return ended


@pytest.mark.parametrize(("launcher", "backend"), cases(*STARTED_BY))
def test_a_rank_that_raises_ends_the_job_with_its_message(launcher: str, backend: str) -> None:
    ended = run(launcher, backend, "user")
    assert re.search(r"\[rank 1 of 2 on \S+\] error: e\.h5: row 7 is NaN", ended.output)
    assert "Traceback" not in ended.ranks.get(1, "")
    if launcher in KEEPS_CODE:
        assert ended.returncode == EXIT_USER


@pytest.mark.parametrize(
    ("launcher", "backend"),
    cases(("local", "torch"), ("torchrun", "torch"), ("mpirun", "mpi"), ("horovodrun", "horovod")),
)
def test_ranks_that_compute_are_ended_too(launcher: str, backend: str) -> None:
    ended = run(launcher, backend, "busy")
    assert re.search(r"\[rank 1 of 2 on \S+\] ValueError: a bug", ended.output)
    assert ended.killed == 0 or launcher == "local"


@pytest.mark.parametrize(
    ("launcher", "backend"),
    cases(("local", "torch"), ("torchrun", "torch"), ("mpirun", "mpi"), ("horovodrun", "horovod")),
)
@pytest.mark.parametrize("what", ["killed", "stopped"])
def test_a_killed_or_stopped_rank_is_named_and_leaves_nobody_waiting(
    launcher: str, backend: str, what: str
) -> None:
    ended = run(launcher, backend, what)
    words = {
        "killed": r"was killed by SIGKILL",
        "stopped": r"\(process \d+\) has made no progress for \d+ s",
    }[what]
    named = re.findall(rf"error: rank (\d) of 2 on \S+ {words} after step 3: (.*)", ended.output)
    assert {rank for rank, _ in named} == {"1"}
    assert {"killed": "perhaps out of memory", "stopped": "it is stopped (SIGSTOP)"}[what] in named[0][1]
    # The stopped one is ended as well.
    assert ended.killed == 0


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("stopped-0", "rank 0 of 2 on {} has made no progress for .* after step 3: it is stopped (SIGSTOP)"),
        ("endless", "rank 1 of 2 on {} has made no progress for .* after step 3: it computes"),
        (
            "reads",
            "rank 1 of 2 on {} has made no progress for .* after step 3: it waits for something, such as a file",
        ),
        ("exits", "rank 1 of 2 on {} has ended without a message after step 3: exit code 7"),
        ("crashed-0", "rank 0 of 2 on {} was killed by SIGSEGV after step 3: a crash in compiled code"),
    ],
)
def test_a_rank_that_is_silent_in_any_way_is_named(what: str, words: str) -> None:
    ended = run("local", "torch", what)
    pattern = re.escape(words).replace(r"\{\}", r"\S+( \(process \d+\))?").replace(r"\.\*", ".*")
    assert re.search(rf"error: {pattern}", ended.output)
    assert ended.killed == 0
    # It gets a second chance where it may only be slow.
    assert bool(re.search(rf"warning: {pattern}", ended.output)) == (what in ("endless", "reads"))


def test_a_rank_alone_on_its_node_that_is_stopped_is_named_by_the_next_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.support.ranks.GRACE_SECONDS", 1.0)
    ranks = [sys.executable, "-m", "tests.support.failing_rank", "torch", "stopped"]
    ended = run_ranks(ON_NODES + ranks, 2, "local", env={"GLOO_SOCKET_IFNAME": "lo"}, timeout=90)
    assert re.search(r"error: rank 1 of 2 on node1 has not answered for 2 s after step 3, ", ended.output)


@pytest.mark.parametrize(
    ("what", "told"),
    [("user", ""), ("killed", r"rank 1 has ended without a message after step 3: .*\nnode1\n")],
)
def test_only_a_rank_that_says_nothing_casts_suspicion_on_its_node(
    what: str, told: str, tmp_path: Path
) -> None:
    lost = tmp_path / "lost"
    environ = {"DIST_CALO_LOST": str(lost), "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [sys.executable, "-m", "tests.support.failing_rank", "torch", what]
    run_ranks(ON_NODES + ranks, 2, "local", env=environ, timeout=90)
    assert re.fullmatch(told, lost.read_text() if lost.exists() else "")


@pytest.mark.parametrize(("launcher", "backend"), cases(("torchrun", "torch"), ("mpirun", "mpi")))
def test_an_error_of_all_ranks_is_shown_once(launcher: str, backend: str) -> None:
    ended = run(launcher, backend, "config")
    assert ended.output.count("train.seed=-1") == 1
    assert "[rank 0 of 2" in ended.output


def test_alone_a_user_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_failure(ConfigError("a=1:\n must be 2"), World(), None) == EXIT_USER
    assert capsys.readouterr().err == "error: a=1: must be 2\n"


def test_alone_any_other_error_has_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="a bug") as raised:
        raise ValueError("a bug")
    assert report_failure(raised.value, World(), connect("single", World())) == EXIT_FAILURE
    assert "Traceback" in (shown := capsys.readouterr().err)
    assert shown.endswith("ValueError: a bug\n")


def test_those_that_fail_because_of_others_speak_later(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    left: list[int] = []
    monkeypatch.setattr("dist_calo.comm.liveness.leaving.signal.signal", lambda *_: None)
    monkeypatch.setattr("dist_calo.comm.liveness.leaving.time.sleep", naps.append)
    monkeypatch.setattr(
        "dist_calo.comm.liveness.leaving.leave", lambda world, message, code: left.append(code)
    )
    report_failure(CommunicationError("lost"), World(size=2))
    report_failure(ConfigError("bad"), World(size=2))
    report_failure(ConfigError("bad"), World(rank=1, size=2))
    report_failure(ValueError("bug"), World(rank=1, size=2))
    assert left == [EXIT_FAILURE, EXIT_USER, EXIT_USER, EXIT_FAILURE]
    # Who has lost another rank waits until the node is known that went with it.
    assert len(naps) == 2
    assert naps[0] > LOSS_DELAY_S > naps[1]


def test_a_rank_leaves_even_if_nobody_reads_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    codes: list[int] = []
    for stream in ("stdout", "stderr"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, stream, Gone())
            leave(World(size=2), "message", 7, codes.append)
            getattr(sys, stream).close()
            leave(World(size=2), "message", 7, codes.append)
    assert codes == [7] * 4


def test_every_line_names_the_rank(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    leave(World(rank=3, size=8, node="node42"), "first\nsecond", 7, codes.append)
    assert capsys.readouterr().err == "[rank 3 of 8 on node42] first\n[rank 3 of 8 on node42] second\n"
    assert codes == [7]
