import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_calo.data import ledger as module
from dist_calo.data.ledger import Ledger, prepare_ledger, read_ledger, truncate_after
from dist_calo.errors import DataError


def write_steps(folder, rank, steps):
    ledger = Ledger(folder, rank)
    for step in steps:
        ledger.write(step // 4, step, np.arange(rank, 10, 2) + 10 * step)
    ledger.close()


def test_lines_are_as_promised(tmp_path):
    prepare_ledger(tmp_path / "deep" / "ledger")
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


def test_a_used_folder_is_not_appended_to(tmp_path):
    prepare_ledger(tmp_path)
    write_steps(tmp_path, 0, [1])
    with pytest.raises(DataError, match=r"holds the ledger of another run: name another folder"):
        prepare_ledger(tmp_path)
    prepare_ledger(tmp_path, resume_after=1)
    assert list(read_ledger(tmp_path)) == [(0, 1)]


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the folder cannot be made"):
        prepare_ledger(tmp_path / "file")
    with pytest.raises(DataError, match=r"rank-00000.tsv cannot be written to"):
        Ledger(tmp_path / "none", 0)


@settings(deadline=None)
@given(
    steps=st.lists(st.integers(1, 60), max_size=30, unique=True).map(sorted),
    after=st.integers(0, 61),
    tail=st.sampled_from(["", "9", "9\t61", "9\t61\t1,2", "\n", "9\t99\t5"]),
    piece=st.sampled_from([1, 7, 40, 1 << 20]),
)
def test_later_steps_and_half_lines_are_dropped(tmp_path_factory, steps, after, tail, piece):
    folder = tmp_path_factory.mktemp("ledger")
    write_steps(folder, 0, steps)
    path = folder / "rank-00000.tsv"
    kept = "".join(f"{line}\n" for line in path.read_text().splitlines() if int(line.split("\t")[1]) <= after)
    if tail != "\n":
        path.write_text(path.read_text() + tail)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE_BYTES", piece)
        truncate_after(folder, after)
    assert path.read_text() == kept


def test_resume_continues_every_file(tmp_path):
    for rank in range(3):
        write_steps(tmp_path, rank, range(1, 9))
    prepare_ledger(tmp_path, resume_after=5)
    for rank in range(2):
        write_steps(tmp_path, rank, range(6, 8))
    assert [step for _, step in read_ledger(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


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
