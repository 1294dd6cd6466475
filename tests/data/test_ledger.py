import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.data.ledger import Ledger, LedgerRun, claim_ledger, read_ledger, truncate_after
from dist_calo.errors import DataError


def write_steps(folder, rank, steps):
    ledger = Ledger(folder, rank)
    for step in steps:
        ledger.write(step // 4, step, np.arange(rank, 10, 2) + 10 * step)
    ledger.close()


RUN = LedgerRun(uid="a", checkpoints="/runs/a")
OTHER = LedgerRun(uid="b", checkpoints="/runs/b")


def resumed(folder, step, ranks=1, rows=None):
    """What all ranks of a start do with a ledger."""
    starts = claim_ledger(folder, RUN, step, ranks)
    for rank in range(ranks):
        truncate_after(folder, step, starts, rank=rank, ranks=ranks, rows=rows)


def test_lines_are_as_promised(tmp_path):
    claim_ledger(tmp_path / "deep" / "ledger", RUN, 0, 4)
    ledger = Ledger(tmp_path / "deep" / "ledger", 3)
    ledger.write(0, 1, np.array([7, 5, 123456789012]))
    ledger.write(2, 9, np.array([], dtype=np.int64))
    text = (tmp_path / "deep" / "ledger" / "rank-00003.tsv").read_text()
    assert text == "0\t1\t7,5,123456789012\n2\t9\t\n", "flushed before it is closed"
    ledger.close()


def test_ranks_are_read_together(tmp_path):
    for rank in (0, 1):
        write_steps(tmp_path, rank, range(1, 6))
    found = read_ledger(tmp_path)
    assert list(found) == [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]
    assert found[1, 4].tolist() == [40, 42, 44, 46, 48, 41, 43, 45, 47, 49]
    (tmp_path / "rank-00001.tsv").write_text("0\t1\t5\n0 2 6\n")
    with pytest.raises(DataError, match=r"rank-00001.tsv, line 2: not epoch, step and ids"):
        read_ledger(tmp_path)


def test_a_ledger_is_one_runs(tmp_path):
    resumed(tmp_path, 0)
    write_steps(tmp_path, 0, [1])
    for step in (0, 1):
        with pytest.raises(
            DataError, match=r"of run a \(.*/runs/a\), and this is run b \(.*/runs/b\): name anoth"
        ):
            claim_ledger(tmp_path, OTHER, step, 1)
    resumed(tmp_path, 1)
    assert list(read_ledger(tmp_path)) == [(0, 1)]
    (tmp_path / "run.json").unlink()
    with pytest.raises(DataError, match="holds the ledger of another run, and this is run b"):
        claim_ledger(tmp_path, OTHER, 0, 1)
    claim_ledger(tmp_path, OTHER, 1, 1)  # of a version that named no run


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data.ledger=.*file: cannot be read \(Not a directory\)"):
        claim_ledger(tmp_path / "file", RUN, 0, 1)
    with pytest.raises(DataError, match=r"rank-00000.tsv cannot be written to"):
        Ledger(tmp_path / "none", 0)


@settings(deadline=None)
@given(
    last=st.integers(1, 60),
    after=st.integers(0, 61),
    tail=st.sampled_from(
        ["", "9", "9\t61", "9\t61\t1,2", "9\t99\t5", "\0\0\0\n", "\n0\t1\t5\n", "9\t62\t" + "9" * 400]
    ),
)
def test_later_steps_are_dropped_whole_or_not(tmp_path_factory, last, after, tail):
    folder = tmp_path_factory.mktemp("ledger")
    resumed(folder, 0)
    write_steps(folder, 0, range(1, last + 1))
    path = folder / "rank-00000.tsv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines) + tail)
    if after <= last:
        resumed(folder, after)
        assert path.read_text() == "".join(lines[:after])
    else:
        with pytest.raises(DataError, match=rf"rank-00000.tsv(, line {last + 1})?: "):
            resumed(folder, after)
        assert path.read_text() == "".join(lines) + tail


DAMAGE = {
    "NUL bytes": (lambda lines: [*lines[:3], b"\x00" * 20 + b"\n", *lines[4:]], "line 4: not epoch"),
    "not UTF-8": (lambda lines: [*lines[:1], b"0\t2\t\xff\n", *lines[2:]], "line 2: not epoch"),
    "half a line": (lambda lines: [*lines[:5], lines[5][:-4]], "line 6: not epoch"),
    "a line lost": (lambda lines: lines[:2] + lines[3:], "line 3: step 4 where step 3 must be"),
    "a line twice": (
        lambda lines: lines[:2] + lines[1:],
        "line 3: step 2 of epoch 0 after step 2 of epoch 0",
    ),
    "wrong order": (
        lambda lines: [*lines[:1], lines[2], lines[1], *lines[3:]],
        "line 2: step 3 where step 2",
    ),
    "an epoch back": (
        lambda lines: [*lines[:4], b"0\t5\t1\n", *lines[5:]],
        "line 5: step 5 of epoch 0 after step 4",
    ),
    "an id too large": (
        lambda lines: [*lines[:1], b"0\t2\t100\n", *lines[2:]],
        "line 2: sample 100 of 100 showers",
    ),
    "a long number": (
        lambda lines: [b"0\t1\t" + b"7" * 400 + b"\n", *lines[1:]],
        "line 1: an id has more than",
    ),
    "no number": (lambda lines: [b"0\t1\t3,,4\n", *lines[1:]], "line 1: not all ids are numbers"),
    "empty": (lambda lines: [], "ends with step 0, before step 6 of the checkpoint"),
    "too short": (lambda lines: lines[:5], "ends with step 5, before step 6 of the checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("rank", [0, 1])
def test_damage_before_the_checkpoint_is_named(tmp_path, damage, rank):
    spoil, words = DAMAGE[damage]
    resumed(tmp_path, 0, ranks=2)
    for each in (0, 1):
        write_steps(tmp_path, each, range(1, 7))
    path = tmp_path / f"rank-{rank:05d}.tsv"
    path.write_bytes(b"".join(spoil(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(DataError, match=rf"{path}.*{words}.*; restore it, or name another folder"):
        resumed(tmp_path, 6, ranks=2, rows=100)


def test_a_ledger_may_begin_in_the_middle_of_a_run(tmp_path):
    """As the message about a damaged one advises."""
    resumed(tmp_path / "another", 6, ranks=2)
    for rank in (0, 1):
        write_steps(tmp_path / "another", rank, range(7, 10))
    resumed(tmp_path / "another", 8)
    assert [step for _, step in read_ledger(tmp_path / "another")] == [7, 8]
    (tmp_path / "another" / "rank-00001.tsv").unlink()
    with pytest.raises(DataError, match=r"rank-00001.tsv: is missing"):
        resumed(tmp_path / "another", 8)


def test_files_that_are_none(tmp_path):
    resumed(tmp_path, 0, ranks=3)
    for rank in range(3):
        write_steps(tmp_path, rank, range(1, 7))
    path = tmp_path / "rank-00001.tsv"
    path.unlink()
    for ranks in (1, 3, 8):
        with pytest.raises(DataError, match=r"rank-00001.tsv: is missing, of 3 ranks"):
            resumed(tmp_path, 6, ranks)
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        make()
        with pytest.raises(DataError, match=r"rank-00001.tsv: (Is a directory|is not an ordinary file)"):
            resumed(tmp_path, 6, 3)
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "run.json").write_text('{"uid": 1}')
    with pytest.raises(DataError, match=r"run.json: uid=1: must be a text"):
        resumed(tmp_path, 6, 3)


def test_ranks_come_and_go(tmp_path):
    step = 0
    for ranks, last in ((3, 4), (2, 8), (2, 9), (4, 12), (1, 15)):
        resumed(tmp_path, step, ranks)
        for rank in range(ranks):
            write_steps(tmp_path, rank, range(step + 1, last + 3))
        step = last
    resumed(tmp_path, 15)
    assert [at for _, at in read_ledger(tmp_path)] == list(range(1, 16))
    steps = {
        rank: [
            int(line.split("\t")[1]) for line in (tmp_path / f"rank-{rank:05d}.tsv").read_text().splitlines()
        ]
        for rank in range(4)
    }
    assert steps[1] == list(range(1, 13))
    assert steps[2] == [1, 2, 3, 4, 10, 11, 12]
    assert steps[3] == [10, 11, 12]
    (tmp_path / "rank-00003.tsv").write_text("0\t10\t1\n0\t12\t1\n")
    with pytest.raises(DataError, match="line 2: step 12 where step 11 must be"):
        resumed(tmp_path, 15)


def test_what_was_written_survives_kill_9(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from dist_calo.data.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1], 0)\n"
        "for step in range(1, 4):\n"
        "    ledger.write(0, step, [step, step + 1])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60, env={**os.environ})
    assert result.returncode == -signal.SIGKILL
    assert [ids.tolist() for ids in read_ledger(tmp_path).values()] == [[1, 2], [2, 3], [3, 4]]
