"""SLURM's facts, from its variables and from programs that stand in for its own."""

from typing import Any

import pytest

from dist_calo.errors import LaunchError
from dist_calo.launching import slurm

JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_ON_NODE": "48",
}
OF_A_JOB = (
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_ARRAY_TASK_ID",
    "RANKS_PER_NODE",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPUS_ON_NODE",
    "SLURM_JOB_CPUS_PER_NODE",
)


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What SLURM's programs say, by their last but one word."""
    said = {"hostnames": "n1\nn2", "job": ""}
    monkeypatch.setattr(slurm, "output", lambda *command, **_: said.get(command[-2], ""))
    return said


@pytest.mark.parametrize(
    "text", ["BASH_VERSINFO[$(touch ran)]", "4.0", " 4", "-1", "08", "4x", "\u0664", "9" * 30]
)
@pytest.mark.parametrize("name", OF_A_JOB)
def test_a_variable_that_is_no_number_is_named(name: str, text: str) -> None:
    with pytest.raises(LaunchError, match=f"^{name}=.* must be .*; correct it, or unset {name}$"):
        slurm.find_allocation({**JOB, name: text})


@pytest.mark.parametrize(
    ("environ", "ranks_per_node", "cores"),
    [
        ({}, 4, 12),
        ({"RANKS_PER_NODE": "2"}, 2, 24),
        ({"SLURM_CPUS_PER_TASK": "3"}, 4, 3),
        ({"SLURM_JOB_CPUS_PER_NODE": "128(x3),48,64(x2)"}, 4, 12),
        ({"SLURM_NTASKS_PER_NODE": "", "SLURM_NTASKS": "16"}, 8, 6),
        ({"SLURM_NTASKS_PER_NODE": ""}, 1, 48),
        ({"SLURM_CPUS_ON_NODE": ""}, 4, 1),
    ],
)
def test_an_allocation_holds_equally_many_ranks_a_node(
    environ: dict[str, str], ranks_per_node: int, cores: int
) -> None:
    found = slurm.find_allocation({**JOB, **environ})
    assert (found.ranks_per_node, found.cores, found.ranks) == (ranks_per_node, cores, 2 * ranks_per_node)
    assert found.as_variables()["HOSTS"] == f"n1:{ranks_per_node},n2:{ranks_per_node}"


def test_tasks_that_cannot_be_spread_evenly_are_refused() -> None:
    with pytest.raises(LaunchError, match="7 tasks on 2 nodes"):
        slurm.find_allocation({**JOB, "SLURM_NTASKS_PER_NODE": "", "SLURM_NTASKS": "7"})


def test_a_task_of_an_array_has_a_name_of_its_own() -> None:
    task = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    assert slurm.find_allocation({**JOB, **task}).job == "7_2"
    assert slurm.find_allocation(JOB).job == "7"


def test_a_job_meets_elsewhere_each_time_it_starts() -> None:
    ports = [slurm.find_allocation({**JOB, "SLURM_RESTART_COUNT": str(n)}).port for n in range(3)]
    assert len(set(ports)) == 3
    assert all(28000 <= port < 32000 for port in ports)


@pytest.mark.parametrize(
    ("facts", "may"),
    [
        ("JobState=RUNNING Reason=None Requeue=1 Command=/a.sh --x.Requeue=0", True),
        ("JobState=SIGNALING Reason=None Requeue=1", True),
        ("JobState=RUNNING Reason=None Requeue=0", False),
        ("JobState=CANCELLED Reason=None Requeue=1", False),
        ("", False),
    ],
)
def test_only_a_running_job_that_may_be_requeued_is(facts: str, may: bool, programs: dict[str, Any]) -> None:
    programs["job"] = f"JobId=7 JobName=a {facts}"
    assert slurm.may_be_requeued("7") == may
