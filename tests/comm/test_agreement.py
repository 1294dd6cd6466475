"""Ranks that differ in anything that matters are refused at the start, on all ranks, with both values."""

import shutil
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dist_calo.comm import agreement
from dist_calo.comm.agreement import NUMBER, Door, Party, difference, leave_word, require_agreement
from dist_calo.comm.liveness.leaving import CommunicationError
from dist_calo.config import CommConfig, DataConfig, RunConfig, TrackingConfig, TrainConfig
from dist_calo.data.manifest import build_manifest
from dist_calo.diagnostics.facts import facts_of
from dist_calo.errors import EXIT_FAILURE, EXIT_USER, DataError, LaunchError
from dist_calo.launching.environment import World
from dist_calo.training.dataset import require_same_everywhere
from tests.support.ranks import free_port, launcher_params, run_ranks
from tests.support.small_runs import write_showers

Rank = Callable[[World, Mapping[str, str]], None]
doors: list[Door] = []
"""Kept until all have passed, as the backend's own store keeps it."""


def at_the_door(ranks: Sequence[tuple[World, Rank]]) -> list[str]:
    """What each rank is told at the door; threads stand for the ranks."""
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def rank_main(world: World, act: Rank) -> str:
        try:
            act(world, environ)
        except (LaunchError, CommunicationError) as error:
            return f"{type(error).__name__}: {error}"
        return "agreed"

    with ThreadPoolExecutor(len(ranks)) as pool:
        told = list(pool.map(lambda rank: rank_main(*rank), ranks))
    doors.clear()
    return told


def world_of(rank: int, size: int) -> World:
    return World(rank=rank, size=size, local_rank=rank, local_size=size, node=f"node{rank}", launcher="local")


def comes(facts: Mapping[str, str], timeout_s: float = 20.0, **variables: str) -> Rank:
    def act(world: World, environ: Mapping[str, str]) -> None:
        door = Door(world, timeout_s, {**environ, **variables})
        doors.append(door)
        door.agree({NUMBER: str(world.size), **facts})

    return act


def test_ranks_of_the_same_facts_pass() -> None:
    assert at_the_door([(world_of(rank, 4), comes({"a": "1"})) for rank in range(4)]) == ["agreed"] * 4


def test_ranks_of_a_node_that_joined_pass_whatever_torch_counts() -> None:
    ranks = [
        (
            world_of(rank, 2),
            comes({}, TORCHELASTIC_RESTART_COUNT=str(1 - rank), DIST_CALO_RESTART_COUNT="2"),
        )
        for rank in range(2)
    ]
    assert at_the_door(ranks) == ["agreed"] * 2


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_the_rank_that_differs_is_named_to_all(odd: int) -> None:
    ranks = [(world_of(rank, 3), comes({"train.seed": "7" if rank == odd else "3"})) for rank in range(3)]
    expected = (
        f"LaunchError: the ranks do not agree: rank {odd} (node{odd}): train.seed=7, others 3. "
        "Start all of them with the same settings, code and versions"
    )
    assert at_the_door(ranks) == [expected] * 3


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2), (2, 5), (5, 2)])
def test_ranks_that_expect_other_numbers_of_ranks_do_not_wait(
    sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "_HEARD_S", 0.2)
    told = at_the_door([(world_of(rank, size), comes({})) for rank, size in enumerate(sizes)])
    assert told[0] == told[1]
    assert f"rank 1 (node1): number of ranks={sizes[1]}, rank 0 (node0) {sizes[0]}" in told[0]


def test_two_processes_of_one_number_are_told() -> None:
    told = at_the_door([(world_of(rank, 3), comes({})) for rank in (0, 1, 1)])
    assert all("two processes are rank 1: give each a number of its own" in text for text in told)


def test_a_port_that_is_taken_is_told_with_what_to_set() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        with pytest.raises(LaunchError, match="MASTER_PORT to a free port"):
            Door(world_of(0, 2), 1.0, environ)
    environ |= {"MASTER_PORT": str(free_port())}
    with pytest.raises(
        CommunicationError, match=r"rank 0 does not answer at 127.0.0.1:.* MASTER_ADDR and MASTER_PORT"
    ):
        Door(world_of(1, 2), 0.3, environ)
    keeper = Door(world_of(0, 2), 1.0, environ)
    Door(world_of(1, 2), 1.0, environ)
    del keeper


def test_ranks_that_do_not_come_are_named() -> None:
    told = at_the_door(
        [(world_of(0, 4), comes({}, timeout_s=0.5)), (world_of(2, 4), comes({}, timeout_s=1.0))]
    )
    assert told[0].startswith(
        "CommunicationError: 2 of 4 ranks have not come within comm.timeout_s: ranks 1, 3; see"
    )


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(("code", "kind"), [(EXIT_USER, "LaunchError"), (EXIT_FAILURE, "CommunicationError")])
def test_a_rank_that_fails_on_its_way_leaves_word(failing: int, code: int, kind: str) -> None:
    def fails(world: World, environ: Mapping[str, str]) -> None:
        leave_word(world, "train.seed=-1: must not be negative", code, environ)

    begun = time.monotonic()
    ranks = [(world_of(rank, 2), fails if rank == failing else comes({})) for rank in range(2)]
    told = at_the_door(ranks)
    assert (
        told[1 - failing]
        == f"{kind}: rank {failing} of 2 on node{failing}: train.seed=-1: must not be negative"
    )
    assert time.monotonic() - begun < 10


def test_ranks_that_all_fail_wait_for_nobody() -> None:
    def fails(world: World, environ: Mapping[str, str]) -> None:
        leave_word(world, "train.seed=-1: must not be negative", EXIT_USER, environ)

    begun = time.monotonic()
    assert at_the_door([(world_of(rank, 3), fails) for rank in range(3)]) == ["agreed"] * 3
    assert time.monotonic() - begun < 10


def test_nobody_listens_to_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "WORD_S", 0.5)
    begun = time.monotonic()
    for rank in (0, 1):
        leave_word(
            world_of(rank, 2), "no", EXIT_USER, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        )
    leave_word(world_of(1, 2), "no", EXIT_USER, {"MASTER_PORT": "x"})
    assert time.monotonic() - begun < 10


class Gathering:
    """Ranks as threads that exchange objects."""

    def __init__(self, size: int) -> None:
        self.barrier, self.values, self.cards = threading.Barrier(size, timeout=20), [None] * size, 0

    def rank(self, number: int) -> Any:
        gathering = self

        class Communicator:
            world = world_of(number, len(gathering.values))

            def all_gather_object(self, value: Any) -> list[Any]:
                gathering.values[number] = value
                gathering.barrier.wait()
                found = list(gathering.values)
                gathering.barrier.wait()
                return found

            def broadcast_object(self, value: Any, root: int = 0) -> Any:
                gathering.cards += number == root
                return self.all_gather_object(value)[root]

        return Communicator()


def test_connected_ranks_gather_digests_and_the_facts_of_few() -> None:
    gathering, told = Gathering(8), []

    def rank_main(number: int) -> None:
        facts = {"train.seed": str(max(0, number - 2)), "same": "x" * 10_000}
        try:
            require_agreement(gathering.rank(number), facts)
        except LaunchError as error:
            told.append(str(error))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(rank_main, range(8)))
    assert len(told) == 8
    assert len(set(told)) == 1
    assert "rank 3 (node3): train.seed=1, most ranks 0 | rank 4 (node4): train.seed=2" in told[0]
    assert gathering.cards == 4
    assert len(told[0]) < 600


def test_what_differs_is_told_in_short() -> None:
    assert difference([Party(range(4096), "a", {"x": "1"})]) is None
    usual = Party(
        [rank for rank in range(4096) if rank % 2], "a", {f"s{number}": "0" for number in range(20)}
    )
    odd = Party(range(0, 4096, 2), "b", {f"s{number}": "1" * 1000 for number in range(20)} | {"more": "2"})
    text = difference([usual, odd]) or ""
    assert "and 15 more" in text
    assert len(text) < 1500
    assert "x=1, rank 0 (a) (not set)" in (
        difference([Party([0], "a", {}), Party([1], "b", {"x": "1"})]) or ""
    )


@pytest.mark.parametrize("many", [False, True])
def test_other_files_of_the_same_name_on_another_node_are_refused_on_all_ranks(
    many: bool, tmp_path: Path
) -> None:
    """Rank 1 gets rank 0's manifest, and finds a copy and another file in its places."""
    views = [tmp_path / str(number) for number in range(2)]
    rows = (9,) * (20 if many else 3)
    for view in views:
        write_showers(view, rows=rows)
    manifest = build_manifest(DataConfig(path=f"{views[0]}/*.h5"))
    there = replace(
        manifest,
        files=tuple(
            replace(entry, path=entry.path.replace(f"{views[0]}/", f"{views[1]}/"))
            for entry in manifest.files
        ),
    )

    def check(gathering: Gathering, number: int) -> str:
        try:
            require_same_everywhere((manifest, there)[number], gathering.rank(number))
        except DataError as error:
            return str(error)
        return "same"

    def told() -> list[str]:
        gathering = Gathering(2)
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda number: check(gathering, number), range(2)))

    assert told() == ["same"] * 2
    odd = views[1] / "EleEscan_1.h5"
    shutil.copy(views[1] / "EleEscan_2.h5", odd)
    first, second = told()
    assert first == second
    assert first.startswith(f"rank 1 (node1): {odd}: ")
    assert first.endswith("so on 1 of 2 ranks: give all nodes the same files as rank 0's")
    odd.unlink()
    assert f"{odd}: the file has changed since it was first read: it is gone" in told()[0]


@dataclass(frozen=True)
class Options:
    """Settings of a command, and something that is its own."""

    config: RunConfig
    own: object = field(compare=False)
    more: tuple[RunConfig, ...] = ()


def changed(facts: Mapping[str, str], others: Mapping[str, str]) -> set[str]:
    return {name for name in facts.keys() | others.keys() if facts.get(name) != others.get(name)}


def test_facts_are_settings_code_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = facts_of(RunConfig())
    assert {
        "code of dist_calo",
        "python",
        "torch",
        "numpy",
        "h5py",
        "data.path",
        "checkpoint.dir",
    } <= usual.keys()
    other = RunConfig(train=TrainConfig(seed=7), data=DataConfig(path="b/*.h5"), comm=CommConfig(threads=3))
    assert changed(usual, facts_of(other)) == {"train.seed", "data.path"}
    assert (
        changed(facts_of(Options(RunConfig(), object())), facts_of(Options(RunConfig(), object()))) == set()
    )
    several = [facts_of(Options(RunConfig(), None, (RunConfig(), config))) for config in (RunConfig(), other)]
    assert changed(*several) == {"more.1.train.seed", "more.1.data.path"}
    assert changed(facts_of(Namespace(rows=1, launch=1)), facts_of(Namespace(rows=2, launch=2))) == {"rows"}
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert changed(usual, facts_of(RunConfig())) == {"NVIDIA_TF32_OVERRIDE"}


def test_facts_hold_no_password() -> None:
    config = replace(RunConfig(), tracking=TrackingConfig(uri="http://me:secret@server:5000"))
    assert facts_of(config)["tracking.uri"] == "http://***@server:5000"


@pytest.mark.parametrize("launcher", launcher_params("local", "mpirun"))
def test_every_command_refuses_ranks_with_other_settings(launcher: str, tmp_path: Any) -> None:
    number = "$RANK" if launcher == "local" else "$OMPI_COMM_WORLD_RANK"
    if launcher == "local":
        data = write_showers(tmp_path / "data", rows=(20,))
        command = f"-m dist_calo.train --data.path={data} --train.seed={number} --tracking.uri=none"
    else:
        command = f"-m dist_calo.cli.generate --checkpoint=nowhere --out=o.h5 --seed={number}"
    run = run_ranks(["sh", "-c", f"exec {sys.executable} {command}"], 2, launcher, cwd=tmp_path)
    assert run.returncode == EXIT_USER
    name = "train.seed" if launcher == "local" else "seed"
    assert f": {name}=1, rank 0 (" in run.ranks[0]
    assert run.seconds < 60
    assert not [path for path in tmp_path.iterdir() if path.name != "data"]
