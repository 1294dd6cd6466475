"""Launchers are recognised by the variables that they really set."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_calo.errors import LaunchError
from dist_calo.launching.environment import (
    RanksNotStartedError,
    World,
    find_world,
    mpi_started,
)
from dist_calo.launching.slurm import tasks_on_node
from dist_calo.launching.variables import whole_number

# Taken from Open MPI 4.1.8, Horovod 0.28.1, torch 2.13 and SLURM 22.05, without what does not concern ranks.
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_pmix": "^s1,s2,cray,isolated",
    "PMIX_RANK": "3",
    "PMIX_HOSTNAME": "node2",
}
HOROVODRUN_MPI = {
    **MPIRUN,
    "OMPI_MCA_btl": "^openib",
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl_tcp_if_include": "lo",
}
HOROVODRUN = {
    "HOROVOD_CONTROLLER": "gloo",
    "HOROVOD_CPU_OPERATIONS": "gloo",
    "HOROVOD_RANK": "3",
    "HOROVOD_SIZE": "4",
    "HOROVOD_LOCAL_RANK": "1",
    "HOROVOD_LOCAL_SIZE": "2",
    "HOROVOD_CROSS_RANK": "1",
    "HOROVOD_CROSS_SIZE": "2",
    "HOROVOD_HOSTNAME": "node2",
}
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
LOCAL = {
    "DIST_CALO_LAUNCHER": "local",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "3",
    "LOCAL_WORLD_SIZE": "4",
}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
PALS = {"PMI_RANK": "3", "PMI_SIZE": "4", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "2"}
ALLOCATION = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "4",
    "SLURM_TASKS_PER_NODE": "2(x2)",
}
BATCH_SCRIPT = {**ALLOCATION, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
SRUN = {
    **ALLOCATION,
    "SLURM_STEP_ID": "0",
    "SLURM_STEPID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURMD_NODENAME": "node2",
}
# Hydra starts its agents by srun, and the ranks inherit the agents' variables.
ONE_AGENT_A_NODE = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
PTY_SHELL = {
    **SRUN,
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_PTY_PORT": "40001",
    "SLURM_TASK_PID": "7",
}
FOURTH: dict[str, Any] = {"rank": 3, "size": 4, "local_rank": 1, "local_size": 2}


@pytest.mark.parametrize(
    ("environ", "launcher"),
    [
        (MPIRUN, "mpirun"),
        (HOROVODRUN_MPI, "horovodrun"),
        ({**MPIRUN, "HOROVOD_FUSION_THRESHOLD": "0"}, "horovodrun"),
        (HOROVODRUN, "horovodrun"),
        (TORCHRUN, "torchrun"),
        (HYDRA, "mpirun"),
        (PALS, "mpirun"),
        (SRUN, "srun"),
        ({**SRUN, "PMIX_RANK": "3"}, "srun"),
        ({**SRUN, "PMI_RANK": "3", "PMI_SIZE": "4"}, "srun"),
    ],
)
def test_each_launcher(environ: dict[str, str], launcher: str) -> None:
    world = find_world(environ, node="node2")
    assert world == World(**FOURTH, node="node2", launcher=launcher)


def test_our_own_launcher() -> None:
    assert find_world(LOCAL, "laptop") == World(
        rank=3, size=4, local_rank=3, local_size=4, node="laptop", launcher="local"
    )


def test_open_mpi_5_sets_pmix_variables_besides() -> None:
    environ = {
        **MPIRUN,
        "PMIX_NAMESPACE": "prterun-node1-17@1",
        "PRTE_LAUNCHED": "1",
        "PMIX_VERSION": "5.0.8",
    }
    assert find_world(environ).launcher == "mpirun"


def test_no_launcher() -> None:
    assert find_world({}, node="laptop") == World(node="laptop")
    assert find_world({"HOROVOD_TIMELINE": "trace.json", "MASTER_ADDR": "localhost"}).size == 1


def test_the_node_comes_from_the_launcher_or_the_system() -> None:
    import socket

    assert find_world(MPIRUN).node == find_world(SRUN).node == find_world(HOROVODRUN).node == "node2"
    assert find_world(TORCHRUN).node == socket.gethostname()


def test_plain_torch_variables_of_one_process_a_node() -> None:
    world = find_world({"RANK": "1", "WORLD_SIZE": "2"}, "pod-1")
    assert world == World(rank=1, size=2, local_rank=0, local_size=1, node="pod-1", launcher="torchrun")


@pytest.mark.parametrize(
    ("environ", "launcher"),
    [
        ({**BATCH_SCRIPT, **MPIRUN}, "mpirun"),
        ({**SRUN, **MPIRUN, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, "mpirun"),
        ({**SRUN, **HYDRA, "SLURM_PROCID": "1", "SLURM_LOCALID": "0", **ONE_AGENT_A_NODE}, "mpirun"),
        ({**BATCH_SCRIPT, **HYDRA}, "mpirun"),
        ({**BATCH_SCRIPT, **HOROVODRUN}, "horovodrun"),
        ({**BATCH_SCRIPT, **TORCHRUN}, "torchrun"),
        ({**SRUN, **TORCHRUN, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, "torchrun"),
        ({**MPIRUN, **TORCHRUN, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "torchrun"),
        ({**SRUN, "WORLD_SIZE": "4", "MASTER_ADDR": "node1"}, "srun"),
        ({**SRUN, "RANK": "3", "WORLD_SIZE": "4"}, "srun"),
        ({**MPIRUN, "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "mpirun"),
    ],
)
def test_the_inner_most_launcher_decides(environ: dict[str, str], launcher: str) -> None:
    world = find_world(environ)
    assert (world.rank, world.size, world.launcher) == (3, 4, launcher)


def test_every_rank_of_hydra_in_a_slurm_job_is_found_once() -> None:
    found = []
    for rank in range(4):
        agent = {"SLURM_PROCID": str(rank // 2), "SLURM_LOCALID": "0", "SLURM_NODEID": str(rank // 2)}
        own = {"PMI_RANK": str(rank), "MPI_LOCALRANKID": str(rank % 2)}
        found.append(find_world({**SRUN, **ONE_AGENT_A_NODE, **agent, **HYDRA, **own}))
    assert [(world.rank, world.size) for world in found] == [(rank, 4) for rank in range(4)]
    assert [(world.local_rank, world.local_size) for world in found] == [(0, 2), (1, 2), (0, 2), (1, 2)]


@pytest.mark.parametrize(
    "environ", [BATCH_SCRIPT, ALLOCATION, {**BATCH_SCRIPT, "SLURM_STEP_ID": "4294967290"}]
)
def test_ranks_that_were_asked_for_but_not_started(environ: dict[str, str]) -> None:
    with pytest.raises(LaunchError, match=r"SLURM_NTASKS=4 in job 7.*put srun before"):
        find_world(environ)
    assert find_world({**environ, "DIST_CALO_LAUNCHER": "none"}).size == 1


@pytest.mark.parametrize(
    "inherited",
    [
        {},
        {"PMIX_RANK": "0"},
        {"PMI_RANK": "0", "PMI_SIZE": "4"},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"MASTER_PORT": "1"},
    ],
)
def test_the_shell_of_srun_pty_is_one_rank_and_says_so(inherited: dict[str, str]) -> None:
    world = find_world({**PTY_SHELL, **inherited}, process=8)
    assert (world.rank, world.size, world.local_size) == (0, 1, 1)
    assert ("task 0 of 4" in world.remark) == ("RANK" not in inherited)


@pytest.mark.parametrize("started", [MPIRUN, TORCHRUN, HOROVODRUN, HYDRA, LOCAL])
def test_ranks_started_within_the_shell_of_srun_pty_are_found(started: dict[str, str]) -> None:
    first = {name: "0" if name.endswith(("RANK", "RANKID")) else value for name, value in started.items()}
    assert [find_world({**PTY_SHELL, **its}, process=8).rank for its in (first, started)] == [0, 3]


def test_a_trainer_that_srun_pty_starts_without_a_shell_is_a_rank() -> None:
    assert find_world(PTY_SHELL, process=7).size == 4
    fourth = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
    assert find_world({**PTY_SHELL, **fourth}, process=7).rank == 3
    one = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
    assert find_world({**PTY_SHELL, **one}, process=8).launcher == "srun"


@pytest.mark.parametrize("step", ["batch", "extern", "interactive", "4294967291", "4294967290"])
def test_steps_that_are_not_of_srun_start_no_ranks(step: str) -> None:
    environ = {**BATCH_SCRIPT, "SLURM_STEP_ID": step}
    with pytest.raises(RanksNotStartedError):
        find_world(environ)
    assert find_world({**environ, **MPIRUN}).size == 4


# Digits of other scripts, a second reading of leading zeros, and a number that no counter holds.
NO_NUMBERS = [
    "",
    " ",
    "four",
    "-1",
    "+4",
    "4.0",
    "4e2",
    "4_0",
    "0x4",
    "08",
    "\u0664",
    "\uff14",
    "\u00b2",
    "4(x2)",
    "9" * 11,
    "9" * 5000,
]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_is_named_and_shown(text: str) -> None:
    with pytest.raises(LaunchError) as raised:
        whole_number({"N": text}, "N")
    assert f"N={text[:80]!r}: must be a whole number" in str(raised.value)
    assert len(str(raised.value)) < 400
    with pytest.raises(LaunchError, match="WORLD_SIZE="):
        find_world({**TORCHRUN, "WORLD_SIZE": text})


@given(st.integers(0, 9_999_999_999))
def test_numbers_are_read(number: int) -> None:
    assert whole_number({"N": f" {number} "}, "N") == number
    assert whole_number({"N": ""}, "N", 3) == whole_number({}, "N", 3) == 3


# Following its advice by word removes the fault; what it proposes to start is played by what that would set.
ADVICE = [
    (ALLOCATION, r"put srun before", SRUN, ()),
    (ALLOCATION, r"--launch N", LOCAL, ()),
    (ALLOCATION, r"set DIST_CALO_LAUNCHER=none", {"DIST_CALO_LAUNCHER": "none"}, ()),
    ({"RANK": "1"}, r"unset RANK$", {}, ("RANK",)),
    ({"RANK": "1"}, r"start the ranks with torchrun", TORCHRUN, ()),
    ({**SRUN, "WORLD_SIZE": "8"}, r"unset RANK and WORLD_SIZE", {}, ("RANK", "WORLD_SIZE")),
    ({"PMIX_RANK": "0"}, r"start the ranks with mpirun", MPIRUN, ()),
    ({"PALS_RANKID": "1"}, r"start the ranks with .*srun", SRUN, ()),
    ({"FLUX_TASK_RANK": "1"}, r"set DIST_CALO_LAUNCHER=none", {"DIST_CALO_LAUNCHER": "none"}, ()),
    ({"PMI_RANK": "0", "PMI_SIZE": "2"}, r"start the ranks with mpirun", HYDRA, ()),
    ({**TORCHRUN, "RANK": "x"}, r"unset RANK and start the ranks with a launcher", TORCHRUN, ("RANK",)),
    ({**PTY_SHELL, "SLURM_PROCID": "1"}, r"unset SLURM_PTY_PORT", SRUN, ("SLURM_PTY_PORT",)),
    ({**MPIRUN, "OMPI_COMM_WORLD_RANK": "4"}, r"start the ranks with mpirun", MPIRUN, ()),
    ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "x"}, r"start the ranks with srun", SRUN, ()),
    ({**SRUN, "SLURM_NODEID": "9"}, r"start the ranks with srun", SRUN, ()),
    ({"DIST_CALO_LAUNCHER": "yes"}, r"must be none", {"DIST_CALO_LAUNCHER": "none"}, ()),
    ({"TORCHELASTIC_RUN_ID": "1"}, r"start the ranks with torchrun", TORCHRUN, ()),
    ({**SRUN, **TORCHRUN, "GROUP_WORLD_SIZE": "1", "WORLD_SIZE": "5"}, r"--nnodes=4", TORCHRUN, ()),
]


@pytest.mark.parametrize(("environ", "advice", "added", "taken"), ADVICE)
def test_the_advice_of_each_message_helps(
    environ: dict[str, str], advice: str, added: dict[str, str], taken: tuple[str, ...]
) -> None:
    with pytest.raises(LaunchError, match=advice):
        find_world(environ, process=8)
    kept = {name: value for name, value in environ.items() if name not in taken}
    assert find_world({**kept, **added}, process=8).size in (1, 4)


def test_a_batch_script_of_one_task_is_a_process_of_its_own() -> None:
    assert find_world({**BATCH_SCRIPT, "SLURM_NTASKS": "1"}).launcher == "none"
    assert find_world({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}).launcher == "none"


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"RANK": "1"}, ["RANK=1", "WORLD_SIZE=(not set)"]),
        ({"WORLD_SIZE": "4"}, ["RANK=(not set)", "WORLD_SIZE=4"]),
        ({"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, ["LOCAL_WORLD_SIZE=(not set)"]),
        ({"TORCHELASTIC_RUN_ID": "none"}, ["TORCHELASTIC_RUN_ID=none"]),
        ({"DIST_CALO_LAUNCHER": "local"}, ["DIST_CALO_LAUNCHER=local"]),
        ({"DIST_CALO_LAUNCHER": "yes"}, ["DIST_CALO_LAUNCHER=yes"]),
        ({"OMPI_COMM_WORLD_RANK": "0"}, ["OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=(not set)"]),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}, ["HOROVOD_LOCAL_RANK=(not set)"]),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, ["MPI_LOCALRANKID=(not set)"]),
        ({"PMIX_RANK": "0"}, ["PMIX_RANK=0"]),
        ({"PALS_RANKID": "0", "PALS_NODEID": "0"}, ["PALS_RANKID=0"]),
        ({"FLUX_TASK_RANK": "0", "FLUX_JOB_SIZE": "2"}, ["FLUX_TASK_RANK=0"]),
        (
            {**PTY_SHELL, "SLURM_PROCID": "1", "SLURM_LOCALID": "1"},
            ["SLURM_PTY_PORT=40001", "SLURM_PROCID=1"],
        ),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "1(x99999999999999)"}, ["1(x99999999999999)"]),
        ({**SRUN, "SLURM_PROCID": "x"}, ["SLURM_PROCID='x'"]),
        ({**MPIRUN, "OMPI_COMM_WORLD_RANK": "4"}, ["OMPI_COMM_WORLD_RANK=4", "OMPI_COMM_WORLD_SIZE=4"]),
        ({**MPIRUN, "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, ["OMPI_COMM_WORLD_LOCAL_RANK=2"]),
        ({**TORCHRUN, "RANK": "-1"}, ["RANK='-1'"]),
        ({**TORCHRUN, "WORLD_SIZE": "four"}, ["WORLD_SIZE='four'"]),
        ({**SRUN, "SLURM_NODEID": "2"}, ["SLURM_NODEID=2", "2(x2)"]),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "two"}, ["two"]),
        ({**MPIRUN, "RANK": "0", "WORLD_SIZE": "2"}, ["RANK=0", "WORLD_SIZE=2", "mpirun", "rank 3 of 4"]),
        ({**SRUN, "WORLD_SIZE": "8"}, ["WORLD_SIZE=8", "rank 3 of 4"]),
        (
            {**SRUN, **TORCHRUN, "GROUP_WORLD_SIZE": "1", "WORLD_SIZE": "5"},
            ["srun started 4 tasks", "WORLD_SIZE=5"],
        ),
    ],
)
def test_contradictions_name_the_variables(environ: dict[str, str], names: list[str]) -> None:
    with pytest.raises(LaunchError) as raised:
        find_world(environ)
    for name in names:
        assert name in str(raised.value)


def test_whether_mpi_was_started() -> None:
    assert all(mpi_started(environ) for environ in (MPIRUN, HYDRA, PALS, {**SRUN, "PMIX_RANK": "3"}))
    assert not any(mpi_started(environ) for environ in (SRUN, BATCH_SCRIPT, TORCHRUN, HOROVODRUN, LOCAL, {}))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_slurm_notation_of_tasks_per_node(counts: list[int]) -> None:
    parts: list[list[int]] = []
    for count in counts:
        if parts and parts[-1][0] == count:
            parts[-1][1] += 1
        else:
            parts.append([count, 1])
    text = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in parts)
    assert [tasks_on_node(text, node) for node in range(len(counts))] == counts


@given(ranks=st.integers(1, 64), per_node=st.integers(1, 8))
def test_every_rank_of_a_slurm_step_is_found_once(ranks: int, per_node: int) -> None:
    nodes = -(-ranks // per_node)
    tasks = ",".join(str(min(per_node, ranks - node * per_node)) for node in range(nodes))
    worlds = [
        find_world(
            {
                "SLURM_STEP_ID": "0",
                "SLURM_PROCID": str(rank),
                "SLURM_NTASKS": str(ranks),
                "SLURM_LOCALID": str(rank % per_node),
                "SLURM_NODEID": str(rank // per_node),
                "SLURM_TASKS_PER_NODE": tasks,
                "SLURMD_NODENAME": f"node{rank // per_node}",
            }
        )
        for rank in range(ranks)
    ]
    assert [world.rank for world in worlds] == list(range(ranks))
    for world in worlds:
        assert world.local_size == sum(other.node == world.node for other in worlds)
