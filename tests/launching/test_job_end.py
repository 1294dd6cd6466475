"""The rules by which a batch job ends, from facts alone."""

from pathlib import Path

import pytest

from dist_calo.launching.failure_messages import lose_node, tell_job
from dist_calo.launching.job_end import (
    Loss,
    achieved,
    asks_for_requeue,
    final_code,
    is_lost,
    may_hide_a_loss,
    read_failure,
    read_loss,
    stands_still,
)


@pytest.mark.parametrize(
    ("code", "told", "counts"),
    [
        (0, "", 0),
        (0, "1", 0),  # the launcher knows that all ranks have succeeded
        (137, "1", 1),
        (137, "", 137),
        (1, "2", 2),
        (75, "1", 75),
        (1, "one", 1),
        (1, "0", 1),
        (1, "1234", 1),
    ],
)
def test_the_code_of_the_first_rank_that_failed_counts(code: int, told: str, counts: int) -> None:
    assert final_code(code, told) == counts


@pytest.mark.parametrize(
    ("loss", "alive", "lost"),
    [
        (Loss("n2 no longer answers"), {"n1", "n2"}, True),
        (Loss("rank 2 has ended", "n2"), {"n1"}, True),
        (Loss("rank 2 has ended", "n2"), {"n1", "n2"}, False),
        (Loss("rank 2 has ended", "n2"), set(), False),  # srun starts nothing here
        (Loss("rank 2 has ended", "elsewhere"), {"n1"}, False),
    ],
)
def test_a_suspect_is_lost_if_it_alone_starts_nothing(loss: Loss, alive: set[str], lost: bool) -> None:
    assert is_lost(loss, ("n1", "n2"), alive.__contains__) == lost


@pytest.mark.parametrize(
    ("code", "told", "launcher", "may"),
    [
        (137, "", "srun", True),
        (1, "", "srun", True),
        (1, "1", "srun", False),
        (0, "", "srun", False),
        (2, "", "srun", False),
        (75, "", "srun", False),
        (137, "", "elastic", False),
    ],
)
def test_a_launcher_that_ends_badly_without_a_word_may_hide_a_loss(
    code: int, told: str, launcher: str, may: bool
) -> None:
    assert may_hide_a_loss(code, told, launcher) == may


@pytest.mark.parametrize("code", [0, 1, 2, 75, 137])
@pytest.mark.parametrize("was_stopped", [True, False])
@pytest.mark.parametrize("has_lost_node", [True, False])
def test_a_job_that_was_interrupted_goes_on_later(code: int, was_stopped: bool, has_lost_node: bool) -> None:
    facts = {"was_stopped": was_stopped, "has_lost_node": has_lost_node}
    expected = code == 75 or (code not in (0, 2) and (was_stopped or has_lost_node))
    assert asks_for_requeue(code, is_wanted=True, **facts) == expected
    assert not asks_for_requeue(code, is_wanted=False, **facts)


def test_two_starts_without_anything_new_are_enough(tmp_path: Path) -> None:
    folder = str(tmp_path / "runs")
    nothing = achieved(folder)
    assert stands_still(nothing, nothing, nothing)
    assert not stands_still("", nothing, nothing)  # the first start
    (tmp_path / "runs" / "deep").mkdir(parents=True)
    (tmp_path / "runs" / "deep" / "log.txt").touch()
    assert achieved(folder) == nothing
    (tmp_path / "runs" / "deep" / "step-00000001.pt").touch()
    saved = achieved(folder)
    assert not stands_still(nothing, nothing, saved)
    (tmp_path / "runs" / "repeat-0.json").touch()
    assert len({nothing, saved, achieved(folder)}) == 3


def test_the_job_reads_what_ranks_leave(tmp_path: Path) -> None:
    files = {"DIST_CALO_LOST": str(tmp_path / "lost"), "DIST_CALO_FAILURE": str(tmp_path / "failure")}
    assert read_loss(tmp_path / "lost") is None
    assert read_failure(tmp_path / "failure") == ("", "")
    lose_node("rank 2 has ended", "n2.site", files)
    tell_job("rank 2", "Traceback\nOSError: no space", 1, files)
    assert read_loss(tmp_path / "lost") == Loss("rank 2 has ended", "n2")
    assert read_failure(tmp_path / "failure") == ("1", "[rank 2] OSError: no space")
