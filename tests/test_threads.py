"""Threads of the ranks of a node add up to its cores."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.comm import connect
from dist_calo.comm.protocol import World
from dist_calo.comm.threads import available_cores, plan_threads, set_threads

NODE = frozenset(range(8))
MASKS = st.lists(st.frozensets(st.integers(0, 15), min_size=1), min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def keep_threads(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "threads", "line"),
    [
        ([NODE], 8, "8 threads: 8 cores of its own"),
        ([NODE, NODE], 4, "4 threads: 8 cores shared by 2 ranks"),
        ([NODE] * 3, 2, "2 threads: 8 cores shared by 3 ranks"),
        ([NODE] * 16, 1, "1 thread: 8 cores shared by 16 ranks"),
        ([frozenset({0, 1}), frozenset({2, 3})], 2, "2 threads: 2 cores of its own"),
        ([frozenset({0}), NODE], 1, "1 thread: 1 core shared by 2 ranks"),
    ],
)
def test_cores_are_shared(cores: list[frozenset[int]], threads: int, line: str) -> None:
    assert plan_threads(cores, 0) == (threads, line)


@given(MASKS)
def test_never_more_threads_than_cores(cores: list[frozenset[int]]) -> None:
    threads = [plan_threads(cores, index)[0] for index in range(len(cores))]
    assert min(threads) >= 1
    # Where every rank has a whole core's worth, together they use no core twice.
    more_than_one = [count for count in threads if count > 1]
    assert sum(more_than_one) <= len(frozenset().union(*cores))


@given(st.integers(1, 64), st.integers(1, 64))
def test_equal_ranks_get_equal_shares(cores: int, ranks: int) -> None:
    masks = [frozenset(range(cores))] * ranks
    assert {plan_threads(masks, index)[0] for index in range(ranks)} == {max(1, cores // ranks)}


@pytest.mark.parametrize(
    ("limits", "threads", "words"),
    [
        ({"SLURM_CPUS_PER_TASK": 3}, 3, "SLURM_CPUS_PER_TASK=3"),
        ({"comm.threads": 2, "SLURM_CPUS_PER_TASK": 3}, 2, "comm.threads=2"),
        ({"comm.threads": 64}, 8, "8 cores of its own"),
        ({"comm.threads": None}, 8, "8 cores of its own"),
    ],
)
def test_limits(limits: dict[str, int | None], threads: int, words: str) -> None:
    count, line = plan_threads([NODE], 0, limits)
    assert count == threads
    assert line.endswith(words)


def test_threads_are_set() -> None:
    communicator = connect("single", World(node="laptop"))
    threads, line = set_threads(communicator, requested=1, environ={})
    assert threads == torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"]) == 1
    assert line.startswith("1 thread: ")
    threads, _ = set_threads(communicator, environ={"SLURM_CPUS_PER_TASK": "1000"})
    assert 1 <= threads == torch.get_num_threads() <= len(available_cores())


def test_the_users_omp_num_threads_is_kept_but_not_torchruns_guess() -> None:
    class Everyone:
        def __init__(self, launcher: str) -> None:
            self.world = World(size=2, local_size=2, launcher=launcher, node="a")

        def all_gather_object(self, _: object) -> list[object]:
            return [("a", [0, 1, 2, 3]), ("a", [0, 1, 2, 3])]

    environ = {"OMP_NUM_THREADS": "1"}
    assert set_threads(Everyone("srun"), environ=environ)[0] == 1  # type: ignore[arg-type]
    assert set_threads(Everyone("torchrun"), environ=environ)[1].startswith(
        "2 threads: 4 cores shared by 2 ranks"
    )  # type: ignore[arg-type]


def test_ranks_of_other_nodes_do_not_share_cores() -> None:
    class Everyone:
        world = World(rank=1, size=2, local_size=1, launcher="srun", node="b")

        def all_gather_object(self, _: object) -> list[object]:
            return [("a", [0, 1]), ("b", [0, 1])]

    assert set_threads(Everyone(), environ={})[1].startswith("2 threads: 2 cores of its own")  # type: ignore[arg-type]


def test_cores_are_among_those_allowed() -> None:
    assert available_cores()
    assert len(available_cores()) <= len(os.sched_getaffinity(0))
