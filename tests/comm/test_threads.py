"""Threads of the ranks of a node add up to its cores."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.comm import connect
from dist_calo.comm.single import SingleCommunicator
from dist_calo.comm.threads import available_cores, plan_threads, processor_quota, set_threads, share_of_node
from dist_calo.launching.environment import World

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


class Everyone(SingleCommunicator):
    """Answers for two ranks that may use four cores each."""

    def __init__(self, launcher: str, nodes: tuple[str, str]) -> None:
        local = nodes.count(nodes[0])
        super().__init__(World(size=2, local_size=local, launcher=launcher, node=nodes[0]))
        self.nodes = nodes

    def all_gather_object(self, value: Any) -> list[Any]:
        return [(node, [0, 1, 2, 3]) for node in self.nodes]


def test_the_users_omp_num_threads_is_kept_but_not_torchruns_guess() -> None:
    environ = {"OMP_NUM_THREADS": "1"}
    assert set_threads(Everyone("srun", ("a", "a")), environ=environ)[0] == 1
    _, line = set_threads(Everyone("torchrun", ("a", "a")), environ=environ)
    assert line.startswith("2 threads: 4 cores shared by 2 ranks")


def test_ranks_of_other_nodes_do_not_share_cores() -> None:
    assert set_threads(Everyone("srun", ("a", "b")), environ={})[1].startswith(
        "4 threads: 4 cores of its own"
    )


def test_cores_that_mpirun_leaves_unused_are_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert "--bind-to none" in set_threads(Everyone("mpirun", ("a", "a")), environ={})[1]
    assert "--bind-to none" not in set_threads(Everyone("srun", ("a", "a")), environ={})[1]


def test_cores_are_among_those_allowed() -> None:
    assert available_cores()
    assert len(available_cores()) <= len(os.sched_getaffinity(0))


@given(st.integers(1, 64), st.integers(1, 64))
def test_ranks_of_a_job_share_a_node_without_overlap(cores: int, ranks: int) -> None:
    shares = share_of_node([frozenset(range(cores))] * ranks)
    assert len({len(share) for share in shares}) == 1
    if cores >= ranks:
        assert sum(map(len, shares)) == len(frozenset().union(*shares))
        assert all(max(share) - min(share) == len(share) - 1 for share in shares)


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text + "\n")


@pytest.mark.parametrize(
    ("groups", "quota"),
    [
        ("0::/docker/run\n", 2.5),
        ("0::/docker/free\n", 4.0),
        ("0::/free\n", None),
        # Seen from within a container: the path is the host's, and the group is mounted at the top.
        ("0::/nowhere/run\n", None),
        ("5:cpu,cpuacct:/node\n4:cpuset:/node\n0::/free\n", 0.25),
        ("5:cpu,cpuacct:/free\n0::/\n", None),
        ("4:cpuset:/node\n", None),
    ],
)
def test_the_quota_of_processor_time_is_the_least_of_all_groups(
    groups: str, quota: float | None, tmp_path: Path
) -> None:
    group(tmp_path / "docker", cpu_max="400000 100000")
    group(tmp_path / "docker" / "run", cpu_max="250000 100000")
    group(tmp_path / "docker" / "free", cpu_max="max 100000")
    group(tmp_path / "free")
    group(tmp_path / "cpu,cpuacct" / "node", cpu_cfs_quota_us="2500", cpu_cfs_period_us="10000")
    group(tmp_path / "cpu,cpuacct" / "free", cpu_cfs_quota_us="-1", cpu_cfs_period_us="10000")
    group(tmp_path / "cpuset" / "node", cpu_cfs_quota_us="1", cpu_cfs_period_us="10000")
    own = tmp_path / "groups"
    own.write_text(groups)
    assert processor_quota(tmp_path, own) == quota
    assert processor_quota(tmp_path, tmp_path / "none") is None


def test_a_quota_limits_the_threads_of_the_ranks_that_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_calo.comm.threads.processor_quota", lambda: 2.5)
    assert set_threads(Everyone("srun", ("a", "b")), environ={})[0] == 2
    assert set_threads(Everyone("srun", ("a", "a")), environ={})[1].endswith("processor quota=1")


def test_ranks_that_the_launcher_has_bound_keep_their_cores() -> None:
    bound = [frozenset({0, 1}), frozenset({2, 3})]
    assert share_of_node(bound) == bound


def test_a_rank_of_a_job_is_bound_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks on this machine: each is told that the other may use the same cores."""
    before = os.sched_getaffinity(0)
    monkeypatch.delenv("OMP_NUM_THREADS")
    communicator = SingleCommunicator(World(node="here"))
    mine = ("here", sorted(available_cores()))
    monkeypatch.setattr(communicator, "all_gather_object", lambda _: [mine, mine])
    try:
        _, reason = set_threads(communicator, environ={"SLURM_JOB_ID": "7"})
        assert available_cores() == share_of_node([frozenset(mine[1])] * 2)[0]
        assert "of its own" in reason
    finally:
        os.sched_setaffinity(0, before)
