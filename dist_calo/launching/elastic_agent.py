"""torchrun's elastic agent for one node of a run whose nodes may come and go.

The agents meet in a store that the first of them keeps. When a node is lost or another one wants to join, each agent
ends its ranks, they meet again, and each starts its ranks anew, as many as there are now. What is added here: ranks
that stopped in order are not counted as failed, an error of the user ends the run at once, a node that vanishes is
noticed even if no rank fails of it, a node that joins is told what to run, and signals are passed on to the ranks.
"""

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

from torch._C._distributed_c10d import TCPStore
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from dist_calo.errors import EXIT_FAILURE, EXIT_PREEMPTED, EXIT_USER, LaunchError
from dist_calo.launching import early_signals, slurm
from dist_calo.launching.failure_messages import ended, first_to_blame
from dist_calo.launching.meeting_point import await_listener
from dist_calo.launching.rank_progress import WHERE, open_page

KEEP_ALIVE_S, KEEP_ALIVE_MISSED = 5, 3
"""An agent says so often that it lives, and is lost after so many silent intervals."""
LAST_CALL_S = 10
"""Wait for further nodes once there are enough, in seconds."""
GRACE_S = 100
"""Time for the ranks to finish their step and save their work, in seconds."""
STORE_S = 60
"""Time after which a store that does not answer is lost, in seconds."""
TAKE_OVER_S = 600
"""Time that the next node gives the one before it to put the job back into the queue, in seconds: longer than SLURM
takes to give up a node."""

_JOB = "dist_calo/job"
_MONITOR_S = 1.0


@dataclass(frozen=True, kw_only=True)
class ElasticJob:
    """Job that all agents of a run agree on."""

    name: str
    """Of the run."""
    nodes: tuple[int, int]
    """Fewest and most nodes."""
    ranks_per_node: int
    restarts: int
    """Failures of ranks, without a node being lost, after which the run starts again."""
    wait_s: int
    """How long too few nodes wait for others, in seconds."""
    command: tuple[str, ...]
    """What a rank runs."""
    folder: str
    """Working directory."""


def ask_for_job(host: str, port: int, wait_s: float = 0.0) -> ElasticJob:
    """Return the job of a run that is under way.

    Args:
        host: where the agents meet.
        port: port of their store there.
        wait_s: how long to wait for them; a job that has just been put back into the queue starts anew.

    Raises:
        LaunchError: if no agent answers.
    """
    try:
        await_listener(host, port, wait_s)
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=STORE_S))
        job = json.loads(store.get(_JOB))
    except (OSError, RuntimeError) as error:
        raise LaunchError(
            f"no elastic run answers at {host}:{port} ({str(error).splitlines()[0]}); is it under way?"
        ) from None
    return ElasticJob(**{**job, "nodes": tuple(job["nodes"]), "command": tuple(job["command"])})


def run_agent(job: ElasticJob, host: str, port: int, *, first: bool, joins: bool = False) -> int:
    """Run this node's ranks until the run has ended.

    Args:
        job: what to run.
        host: where the agents meet.
        port: port of their store there.
        first: whether this agent keeps the store; otherwise it does if this host is the one to meet at.
        joins: whether the run is under way.

    Returns:
        0 when training is done; EXIT_PREEMPTED when it was asked to stop or too few nodes are left; else what a rank
        failed with.
    """
    for number in early_signals.stop_signals():
        signal.signal(number, _once)
    # What torch says about ranks that end is said here in other words.
    logging.disable(logging.ERROR)
    # Signals stay ours: torch's agent takes over those named here.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    # Each start has a store of its own, in which nothing is left of ranks that are gone.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ["DIST_CALO_LAUNCHER"] = "elastic"
    # Lost nodes are no reason to start the job again, and the first failure is not what ends the run.
    for name in ("DIST_CALO_LOST", "DIST_CALO_FAILURE"):
        os.environ.pop(name, None)
    if "SLURM_JOB_ID" in os.environ:
        # A node that joins belongs to another job.
        os.environ["DIST_CALO_JOB"] = job.name
    os.environ["DIST_CALO_MOST_RANKS"] = str(job.nodes[1] * job.ranks_per_node)
    agent, leaves_alone = None, joins
    try:
        agent = Agent(job, _handler(job, host, port, first=first))
        if not joins:
            store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=STORE_S))
            store.set(_JOB, json.dumps(asdict(job)))
        result = agent.run()
        leaves_alone = False
        return 0 if result is None or not result.is_failed() else agent.exit_code(result)
    except SignalException as error:
        return _leave(f"{error.sigval.name}: this node's ranks have been stopped", EXIT_PREEMPTED)
    except RendezvousTimeoutError:
        return _leave(
            f"fewer than {job.nodes[0]} nodes are left, and no other came within {job.wait_s} s: start the same "
            "command again on as many, and it goes on from the last checkpoint",
            EXIT_PREEMPTED,
        )
    except RendezvousClosedError:
        return _leave("the run has ended", 0 if joins else EXIT_FAILURE)
    except RendezvousConnectionError:
        _say(f"{host}:{port}, where the nodes meet, no longer answers")
    finally:
        if agent is not None:
            agent.close(alone=leaves_alone)
    if not joins:
        for number in early_signals.stop_signals():
            signal.signal(number, signal.SIG_DFL)
        time.sleep(TAKE_OVER_S * place_in_line(os.environ, agent.nodes() if agent else []))
        requeue_without_script(os.environ)
    return EXIT_PREEMPTED


def place_in_line(environ: Mapping[str, str], left: Collection[str]) -> int:
    """Return how many nodes come before this one where one acts for all: the lower ones left of a SLURM job.

    The lowest of all does not count: it held the batch script.

    Args:
        environ: the environment's variables.
        left: names of the nodes that took part last; none if nobody knows.
    """
    names = slurm.host_names(environ.get("SLURM_JOB_NODELIST", ""))
    known = {name.partition(".")[0] for name in left} or set(names)
    line = [name for name in names[1:] if name.partition(".")[0] in known]
    own = environ.get("SLURMD_NODENAME", "")
    return line.index(own) if own in line else 0


def requeue_without_script(environ: Mapping[str, str], every_s: float = 10.0) -> None:
    """Put a SLURM job back into the queue once the node of its batch script is lost, where agents meet.

    SLURM does so with other jobs, but one that outlives lost nodes (``--no-kill``) it leaves running with nothing in
    it. With ``REQUEUE=no`` the job ends instead. Returns when the job ends in another way.
    """
    while job := environ.get("SLURM_JOB_ID"):
        nodes, _, state = slurm.output("squeue", "--noheader", f"--jobs={job}", "--format=%N %T").partition(
            " "
        )
        if state != "RUNNING":
            return
        host = slurm.job_facts(job).get("BatchHost")
        if host and host not in slurm.host_names(nodes):
            stays = environ.get("REQUEUE") == "no"
            what = "ends" if stays else "goes back into the queue"
            _say(f"lost {host}, where the job's script ran: job {job} {what}")
            if not stays:
                slurm.output("scontrol", "requeue", job)
            # A job that may not be requeued ends.
            slurm.output("scancel", "--state=RUNNING", job)
            return
        time.sleep(every_s)


class Agent(LocalElasticAgent):
    """Agent that starts and ends the ranks of this node."""

    def __init__(self, job: ElasticJob, handler: Any) -> None:
        spec = WorkerSpec(
            role="default",
            local_world_size=job.ranks_per_node,
            entrypoint=job.command[0],
            args=job.command[1:],
            rdzv_handler=handler,
            # Those that count are counted here.
            max_restarts=2**30,
            monitor_interval=_MONITOR_S,
        )
        super().__init__(spec, DefaultLogsSpecs(log_dir=os.devnull), exit_barrier_timeout=60)
        self._job, self._handler = job, handler
        self._failed = self._failed_before = 0
        self._members: dict[Any, int] = {}
        self._missing = 0
        self._page = open_page(job.ranks_per_node)
        if self._page is not None:
            os.environ[WHERE] = self._page.path

    def exit_code(self, result: RunResult) -> int:
        """Return the exit code of a run whose ranks have failed; they have said why."""
        codes = [failure.exitcode for failure in result.failures.values()]
        if EXIT_USER in codes:
            return EXIT_USER
        return _leave(
            f"the ranks have failed {self._failed} times without a node being lost (--restarts {self._job.restarts})",
            EXIT_FAILURE,
        )

    def nodes(self) -> list[str]:
        """Return names of the nodes that took part last."""
        return [member.addr for member in self._members]

    def close(self, *, alone: bool) -> None:
        """Tell the nodes that wait to take part that the run has ended, unless this node alone leaves it.

        Then the others miss its signs of life, as they do those of a lost node, and go on without it.
        """
        if alone:
            self._handler._stop_heartbeats()
        else:
            self._handler.shutdown()

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        before = self._members.keys()
        super()._rendezvous(worker_group)
        self._members, self._missing = dict(self._participants()), 0
        # torch's own count is for failures alone, and starts at 0 on a node that joins.
        os.environ["DIST_CALO_RESTART_COUNT"] = str(self._handler._state_holder.state.round)
        nodes = len(self._members)
        # Also where others have come instead: ranks that failed when a node was lost failed because of it.
        if before - self._members.keys():
            self._failed = self._failed_before
        self._failed_before = self._failed
        if self._number() == 0:
            names = sorted(member.addr for member in self._members)
            shown = ", ".join(names[:8]) + (", ..." if nodes > 8 else "")
            ranks = worker_group.workers[0].world_size
            _say(f"{ranks} ranks on {nodes} of {self._job.nodes[0]} to {self._job.nodes[1]} nodes: {shown}")

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        if self._page is not None:
            self._page.clear()
        workers: dict[int, Any] = super()._start_workers(worker_group)
        return workers

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        self._name_dead(worker_group, result)
        codes = {failure.exitcode for failure in result.failures.values()}
        if result.state == WorkerState.FAILED and EXIT_PREEMPTED not in codes:
            self._failed += 1
            if EXIT_USER in codes or self._failed > self._job.restarts:
                self._remaining_restarts = 0
        if result.state == WorkerState.HEALTHY and self._has_lost_a_node():
            return RunResult(state=WorkerState.UNHEALTHY)
        return result

    def _name_dead(self, worker_group: WorkerGroup, result: RunResult) -> None:
        """Say which rank has ended without a word, if one of this node has."""
        codes = {
            worker.local_rank: failure.exitcode
            for worker in worker_group.workers
            if (failure := result.failures.get(worker.global_rank)) and failure.exitcode != EXIT_PREEMPTED
        }
        if found := first_to_blame(codes, self._page):
            worker = worker_group.workers[found[0]]
            name = (
                f"rank {worker.global_rank} of {worker.world_size} on {_own_name() or socket.gethostname()}"
            )
            _say(f"error: {ended(name, codes[found[0]], found[1].place)}")

    def _has_lost_a_node(self) -> bool:
        """Return whether an agent is silent though it did not leave to meet the others again."""
        state = self._handler._state_holder.state
        gone = self._members.keys() - state.participants.keys() - state.wait_list - state.redundancy_list
        self._missing = self._missing + 1 if gone else 0
        # Who meets the others again is nowhere for a moment.
        if self._missing < 3:
            return False
        left = [number for member, number in self._members.items() if member not in gone]
        if self._number() == min(left):
            names = ", ".join(sorted(member.addr for member in gone))
            _say(
                f"lost {names}: nothing heard for {KEEP_ALIVE_S * KEEP_ALIVE_MISSED} s; the other nodes go on"
            )
        return True

    def _number(self) -> int:
        """Return the number of this agent among those that take part."""
        number: Any = self._worker_group.group_rank
        return int(number)

    def _participants(self) -> dict[Any, int]:
        participants: dict[Any, int] = self._handler._state_holder.state.participants
        return participants

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = GRACE_S) -> None:
        if self._pcontext is not None:
            self._pcontext.close(death_sig, GRACE_S)
        super()._shutdown(death_sig)


def _handler(job: ElasticJob, host: str, port: int, *, first: bool) -> Any:
    options: dict[str, Any] = {"is_host": True} if first else {}
    return get_rendezvous_handler(
        RendezvousParameters(
            backend="c10d",
            endpoint=f"{host}:{port}",
            run_id=job.name,
            min_nodes=job.nodes[0],
            max_nodes=job.nodes[1],
            local_addr=_own_name(),
            join_timeout=job.wait_s,
            last_call_timeout=LAST_CALL_S,
            keep_alive_interval=KEEP_ALIVE_S,
            keep_alive_max_attempt=KEEP_ALIVE_MISSED,
            read_timeout=STORE_S,
            **options,
        )
    )


def _own_name() -> str | None:
    """Return SLURM's name of this node if it is a host's name too; torch asks the operating system otherwise."""
    name = os.environ.get("SLURMD_NODENAME")
    with suppress(OSError):
        return name if name and socket.gethostbyname(name) else None
    return None


def _once(number: int, _frame: FrameType | None) -> None:
    """End the agent in order at the first signal; further ones must not disturb that."""
    for other in early_signals.STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    name = signal.Signals(number)
    raise SignalException(f"received {name.name}", sigval=name)


def _say(text: str) -> None:
    print(f"elastic: {text}", flush=True)


def _leave(text: str, code: int) -> int:
    _say(text)
    return code
