"""The agent of an elastic run: which failures it forgives, what it takes for a lost node, how it ends."""

import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import pytest
from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

from dist_calo.cli.elastic import main
from dist_calo.errors import EXIT_FAILURE, EXIT_PREEMPTED, EXIT_USER, LaunchError
from dist_calo.launching import elastic_agent
from dist_calo.launching.elastic_agent import Agent, ElasticJob, ask_for_job
from dist_calo.launching.environment import World, find_world, most_ranks
from dist_calo.launching.rank_progress import WHERE, Sign
from dist_calo.tracking.spool import Spool
from tests.support.ranks import ROOT, free_port

JOB = ElasticJob(
    name="job", nodes=(1, 3), ranks_per_node=2, restarts=2, wait_s=5, command=("true",), folder="."
)
STOPS_IN_ORDER = """
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
print("ready", flush=True)
signal.pause()
"""
# All ranks of a start leave once one of them is asked to, as in training; those of the next one have nothing to do.
STOPS_WITH_OTHERS = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
if any(folder.iterdir()):
    sys.exit(0)
stop = folder / os.environ["DIST_CALO_RESTART_COUNT"]
signal.signal(signal.SIGUSR1, lambda *_: stop.touch())
print("ready", os.environ["WORLD_SIZE"], flush=True)
while not stop.exists():
    time.sleep(0.1)
sys.exit(75)
"""
HURRIED = """
import sys
from dist_calo.launching import elastic_agent
from dist_calo.cli.elastic import main
elastic_agent.LAST_CALL_S = 1
sys.exit(main())
"""


class Node(NamedTuple):
    addr: str


A, B, C, D = (Node(f"node{number}") for number in range(1, 5))


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The first agent of three nodes; ``ranks`` of it is what torch finds when it looks at the ranks."""
    state = SimpleNamespace(participants={A: 0, B: 1, C: 2}, wait_list=set(), redundancy_list=set())
    handler = SimpleNamespace(_state_holder=SimpleNamespace(state=state), shutdown=lambda: True)
    # The agent sets it for its ranks; tests that come later have others.
    monkeypatch.setenv(WHERE, "")
    made: Any = Agent(JOB, handler)
    made._members = dict(state.participants)
    made._worker_group.group_rank = 0
    made.state, made.ranks = state, RunResult(state=WorkerState.HEALTHY)
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda self, group: self.ranks)
    return made


def failed(code: int, rank: int = 0) -> RunResult:
    failures: dict[int, Any] = {rank: SimpleNamespace(exitcode=code)}
    return RunResult(state=WorkerState.FAILED, failures=failures)


def test_a_rank_that_ends_without_a_word_is_named_with_its_last_step(
    agent: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for worker in agent._worker_group.workers:
        worker.global_rank, worker.world_size = 4 + worker.local_rank, 6
    agent._page.write(1, Sign(pid=1, step=5, unit="step"))
    agent.ranks = failed(-9, rank=5)
    looks(agent, 1)
    assert re.search(
        r"rank 5 of 6 on \S+ was killed by SIGKILL after step 5: perhaps", capsys.readouterr().out
    )
    # What has said so itself, or stopped in order, is no news.
    for left in (2, 1):
        # By itself, or because of a rank of another node.
        agent._page.write(1, Sign(pid=1, step=5, unit="step", left=left))
        agent.ranks = failed(1, rank=5)
        looks(agent, 1)
    agent.ranks = failed(EXIT_PREEMPTED, rank=4)
    looks(agent, 1)
    assert capsys.readouterr().out == ""


def looks(agent: Any, times: int) -> list[WorkerState]:
    return [agent._monitor_workers(agent._worker_group).state for _ in range(times)]


def test_ranks_that_stop_in_order_are_started_again_without_end(agent: Any) -> None:
    agent.ranks = failed(EXIT_PREEMPTED)
    looks(agent, 10)
    assert agent._remaining_restarts > 0


def test_failures_are_forgiven_so_many_times(agent: Any) -> None:
    agent.ranks = failed(1)
    looks(agent, 2)
    assert agent._remaining_restarts > 0
    looks(agent, 1)
    assert agent._remaining_restarts == 0
    assert agent.exit_code(agent.ranks) == EXIT_FAILURE


def test_an_error_of_the_user_ends_the_run_at_once(agent: Any) -> None:
    agent.ranks = failed(EXIT_USER)
    looks(agent, 1)
    assert agent._remaining_restarts == 0
    assert agent.exit_code(agent.ranks) == EXIT_USER


def test_a_node_that_stays_away_is_lost(agent: Any, capsys: pytest.CaptureFixture[str]) -> None:
    del agent.state.participants[C]
    assert looks(agent, 3) == [WorkerState.HEALTHY, WorkerState.HEALTHY, WorkerState.UNHEALTHY]
    assert "lost node3" in capsys.readouterr().out


def test_a_node_that_meets_the_others_again_is_not_lost(agent: Any) -> None:
    del agent.state.participants[C]
    looks(agent, 1)
    agent.state.wait_list.add(C)
    assert looks(agent, 5) == [WorkerState.HEALTHY] * 5


def test_a_rank_is_one_of_those_that_there_are_now_and_knows_how_many_there_may_be() -> None:
    task_of_srun = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
        "SLURM_NTASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "1(x3)", "SLURMD_NODENAME": "node1",
    }  # fmt: skip
    rank = {
        "DIST_CALO_LAUNCHER": "elastic", "DIST_CALO_MOST_RANKS": "6", "TORCHELASTIC_RUN_ID": "7",
        "GROUP_WORLD_SIZE": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    world = find_world(task_of_srun | rank)
    assert world == World(rank=1, size=2, local_rank=1, local_size=2, node="node1", launcher="elastic")
    assert most_ranks(world, rank) == 6
    assert most_ranks(World(size=4), {}) == 4


def test_ranks_that_start_again_before_the_first_checkpoint_go_on_with_the_same_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = {"uri": "http://nowhere", "experiment": "e", "run_name": "r", "job": "7 folder"}
    for starter in ("SLURM", "TORCHELASTIC", "DIST_CALO"):
        monkeypatch.delenv(f"{starter}_RESTART_COUNT", raising=False)
    first = Spool.open(tmp_path, None, identity)
    monkeypatch.setenv("DIST_CALO_RESTART_COUNT", "1")
    assert Spool.open(tmp_path, None, identity).identity.spool_id == first.identity.spool_id
    assert (
        Spool.open(tmp_path, None, {**identity, "job": "8 folder"}).identity.spool_id
        != first.identity.spool_id
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--meet", "nowhere"], "must be HOST:PORT"),
        (["--meet", "a:1", "--nodes", "3:2", "--", "true"], "--nodes 3:2"),
        (["--meet", "a:1", "--ranks-per-node", "0", "--", "true"], "--ranks-per-node 0"),
        (["--meet", "a:1", "--nodes", "2"], "the command of a rank is missing"),
    ],
)
def test_a_wrong_option_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == EXIT_USER
    assert words in capsys.readouterr().err


def test_without_a_run_nobody_can_join() -> None:
    with pytest.raises(LaunchError, match="no elastic run answers"):
        ask_for_job("127.0.0.1", free_port(), wait_s=0.1)


@pytest.mark.parametrize("fault", [OSError("no processes left"), None], ids=["fault", "end"])
def test_a_fault_of_a_node_that_joined_is_its_own(
    fault: OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        if fault:
            raise fault

    left = []
    agent = SimpleNamespace(run=run, close=lambda *, alone: left.append(alone))
    monkeypatch.setattr(elastic_agent, "Agent", lambda *_: agent)
    monkeypatch.setattr(elastic_agent, "_handler", lambda *_, **__: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in (
        "TORCHELASTIC_SIGNALS_TO_HANDLE",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE",
        "DIST_CALO_LAUNCHER",
    ):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DIST_CALO_MOST_RANKS", "")
    monkeypatch.setattr("logging.disable", lambda _: None)
    with ExitStack() as stack:
        if fault:
            stack.enter_context(pytest.raises(OSError, match="no processes left"))
        elastic_agent.run_agent(JOB, "127.0.0.1", 1, first=False, joins=True)
    assert left == [fault is not None]


@pytest.mark.parametrize("may_requeue", ["yes", "no"])
@pytest.mark.parametrize(("nodes", "asked"), [(["a,b", "b,c"], 2), (["b,c"], 1), ([], 0)])
def test_a_job_goes_back_into_the_queue_or_ends_once_slurm_has_given_up_its_first_node(
    nodes: list[str], asked: int, may_requeue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slurm(*command: str) -> str:
        calls.append(command)
        match command[:2]:
            case ("squeue", _):
                return f"{nodes[len([c for c in calls if c[0] == 'squeue']) - 1]} RUNNING" if nodes else ""
            case ("scontrol", "--oneliner"):
                return "JobId=7 BatchHost=a NumNodes=2"
            case ("scontrol", "show"):
                return command[-1].replace(",", "\n")
        return ""

    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr("dist_calo.launching.slurm.output", slurm)
    elastic_agent.requeue_without_script({"SLURM_JOB_ID": "7", "REQUEUE": may_requeue}, every_s=0.0)
    assert [c[0] for c in calls].count("squeue") == max(1, asked)
    assert (("scontrol", "requeue", "7") in calls) == (asked > 0 and may_requeue == "yes")
    assert ("scancel" in [c[0] for c in calls]) == (asked > 0)


@pytest.mark.parametrize(
    ("left", "own", "place"),
    [
        ({"a", "b", "c", "d"}, "b", 0),
        ({"a.site", "c.site", "d.site"}, "d", 1),
        (set(), "d", 2),
        ({"a", "c"}, "elsewhere", 0),
    ],
)
def test_the_lowest_node_that_is_left_acts_for_all(
    left: set[str], own: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dist_calo.launching.slurm.output", lambda *command: command[-1].replace(",", "\n"))
    environ = {"SLURM_JOB_NODELIST": "a,b,c,d", "SLURMD_NODENAME": own}
    assert elastic_agent.place_in_line(environ, left) == place


@pytest.mark.parametrize(("now", "stands"), [({A, B}, 1), ({A, B, D}, 1), ({A, B, C}, 2), ({A, B, C, D}, 2)])
def test_a_failure_that_came_with_a_lost_node_is_forgiven_even_if_a_spare_takes_its_place(
    now: set[Node], stands: int, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalElasticAgent, "_rendezvous", lambda self, group: None)
    monkeypatch.setattr("dist_calo.launching.elastic_agent.os.environ", {})
    agent._worker_group.group_rank, agent.state.round, agent.ranks = 1, 1, failed(1)
    looks(agent, 1)
    agent._rendezvous(agent._worker_group)
    looks(agent, 1)
    agent.state.participants = {node: number for number, node in enumerate(sorted(now))}
    agent._rendezvous(agent._worker_group)
    assert agent._failed == stands


def test_ranks_know_how_often_the_run_has_started(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    environ: dict[str, str] = {}
    monkeypatch.setattr("dist_calo.launching.elastic_agent.os.environ", environ)
    monkeypatch.setattr(LocalElasticAgent, "_rendezvous", lambda self, group: None)
    agent.state.round = 3
    agent._worker_group.group_rank = 1
    agent._rendezvous(agent._worker_group)
    assert environ["DIST_CALO_RESTART_COUNT"] == "3"
    assert agent.nodes() == ["node1", "node2", "node3"]


def test_a_signal_is_passed_on_and_the_ranks_are_waited_for() -> None:
    agent = [sys.executable, "-m", "dist_calo.cli.elastic", f"--meet=127.0.0.1:{free_port()}", "--first"]
    ranks = ["--ranks-per-node=2", "--", sys.executable, "-c", STOPS_IN_ORDER]
    with subprocess.Popen([*agent, *ranks], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            for _ in range(2):
                assert any("ready" in line for line in run.stdout)
            run.send_signal(signal.SIGUSR1)
            rest = run.stdout.read()
            assert run.wait(60) == EXIT_PREEMPTED
        finally:
            run.kill()
    assert "SIGUSR1: this node's ranks have been stopped" in rest


def test_a_node_that_joined_leaves_and_the_others_go_on(tmp_path: Path) -> None:
    agent = [sys.executable, "-c", HURRIED, f"--meet=127.0.0.1:{free_port()}"]
    ranks = ["--nodes=1:2", "--", sys.executable, "-c", STOPS_WITH_OTHERS, str(tmp_path)]
    with ExitStack() as at_the_end:

        def start(*arguments: str) -> "tuple[subprocess.Popen[str], IO[str]]":
            process = subprocess.Popen([*agent, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            at_the_end.enter_context(process)
            at_the_end.callback(process.kill)
            assert process.stdout is not None
            return process, process.stdout

        run, said = start("--first", *ranks)
        assert any("ready 1" in line for line in said)
        joins, said_by_it = start("--join")
        assert all(any("ready 2" in line for line in lines) for lines in (said, said_by_it))
        joins.send_signal(signal.SIGUSR1)
        assert joins.wait(60) == EXIT_PREEMPTED
        assert run.wait(60) == 0
        assert "1 ranks on 1 of 1 to 2 nodes" in said.read()
