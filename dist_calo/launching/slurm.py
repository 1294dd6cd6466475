"""SLURM's facts: nodes of a job, where its ranks go and meet, how often it was started, its state in the queue.

The ports at which ranks meet lie below those that operating systems give to outgoing connections: those of a job's own
servers, which other programs have to find (`meeting_port`), from 28000 on; those of the ranks of a step, which all of
them compute (`step_port`), below.
"""

import hashlib
import os
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dist_calo.errors import LaunchError
from dist_calo.launching.variables import whole_number
from dist_calo.masking import hidden

RUNS = ("RUNNING", "SIGNALING")
"""States of a running job; the second one while SLURM sends it a signal."""
COMES_BACK = ("PENDING", "REQUEUED", "COMPLETING", "SUSPENDED")
"""States of a job that will run."""
SWEEP_JOB = "DIST_CALO_SWEEP_JOB"
"""Variable that hands `job_start` to ranks whose launcher hides SLURM's variables."""
_FIRST_STEP_PORT, _STEP_PORTS = 12000, 16000
_FIRST_PORT, _PORTS, _STRIDE = 28000, 4000, 1009
_COUNT = "[1-9][0-9]{0,6}"
_GROUP = rf"{_COUNT}(\(x{_COUNT}\))?"
_RULES = (
    (
        "0|[1-9][0-9]{0,9}",
        "a whole number",
        ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"),
    ),
    (
        _COUNT,
        "a whole number from 1 to 9999999",
        (
            "RANKS_PER_NODE",
            "SLURM_JOB_NUM_NODES",
            "SLURM_NTASKS",
            "SLURM_NTASKS_PER_NODE",
            "SLURM_CPUS_PER_TASK",
        ),
    ),
    (
        f"{_GROUP}(,{_GROUP})*",
        "numbers of cores such as 64(x2),48",
        ("SLURM_JOB_CPUS_PER_NODE", "SLURM_CPUS_ON_NODE"),
    ),
)
"""Form of a variable's text, its description, and the variables."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The nodes of a batch job and the ranks that they hold, equally many each."""

    job: str
    """Its number; of a task of a job array ``ARRAY_TASK``, as the bare number of one task means the whole array."""
    nodes: int
    hosts: tuple[str, ...]
    """Names of the nodes."""
    ranks_per_node: int
    cores: int
    """Cores of a rank: of the smallest node, as ranks are alike on all."""
    port: int
    """Where the job's own server listens on the first node."""

    @property
    def ranks(self) -> int:
        """Number of ranks in all."""
        return self.nodes * self.ranks_per_node

    def as_variables(self) -> dict[str, str]:
        """Return the variables that the scripts in ``launch/`` place ranks by."""
        return {
            "NODES": str(self.nodes),
            "RANKS": str(self.ranks),
            "RANKS_PER_NODE": str(self.ranks_per_node),
            "CORES": str(self.cores),
            "HOSTS": ",".join(f"{host}:{self.ranks_per_node}" for host in self.hosts),
            "FIRST_HOST": self.hosts[0],
            "PORT": str(self.port),
        }


def find_allocation(environ: Mapping[str, str]) -> Allocation:
    """Return the nodes and ranks of the batch job that an environment belongs to.

    Raises:
        LaunchError: if there is none, a variable is no number, or the tasks cannot be spread evenly over the nodes.
    """
    if not environ.get("SLURM_JOB_ID"):
        raise LaunchError("SLURM_JOB_ID is not set: call this in a SLURM job (sbatch slurm/train_cpu.sh ...)")
    for form, rule, names in _RULES:
        for name in names:
            text = environ.get(name, "")
            if text and not re.fullmatch(form, text, re.ASCII):
                raise LaunchError(f"{name}={text[:80]!r}: must be {rule}; correct it, or unset {name}")
    nodes = whole_number(environ, "SLURM_JOB_NUM_NODES", 1)
    tasks = whole_number(environ, "SLURM_NTASKS", nodes)
    per_node = whole_number(environ, "SLURM_NTASKS_PER_NODE", 0)
    if not per_node and tasks % nodes:
        raise LaunchError(
            f"{tasks} tasks on {nodes} nodes: all nodes hold equally many ranks, use --ntasks-per-node"
        )
    ranks_per_node = whole_number(environ, "RANKS_PER_NODE", per_node or tasks // nodes) or 1
    cores = environ.get("SLURM_JOB_CPUS_PER_NODE") or environ.get("SLURM_CPUS_ON_NODE") or "1"
    fewest = min(int(group.partition("(")[0]) for group in cores.split(","))
    listed = environ.get("SLURM_JOB_NODELIST") or socket.gethostname().partition(".")[0]
    hosts = host_names(listed)
    if not hosts:
        raise LaunchError(f"`scontrol show hostnames {listed}` tells no nodes: is scontrol on PATH?")
    array = environ.get("SLURM_ARRAY_JOB_ID")
    return Allocation(
        job=f"{array}_{environ.get('SLURM_ARRAY_TASK_ID', '')}" if array else environ["SLURM_JOB_ID"],
        nodes=nodes,
        hosts=tuple(hosts),
        ranks_per_node=ranks_per_node,
        cores=whole_number(environ, "SLURM_CPUS_PER_TASK", fewest // ranks_per_node) or 1,
        port=meeting_port(environ["SLURM_JOB_ID"], whole_number(environ, "SLURM_RESTART_COUNT", 0)),
    )


def batch_job() -> str:
    """Return the job that this process belongs to, ``-`` if to none; the nodes of an elastic run may be of several."""
    return os.environ.get("DIST_CALO_JOB") or os.environ.get("SLURM_JOB_ID") or "-"


def restarted() -> bool:
    """Return whether this job was started before: requeued by SLURM, or its ranks anew by an elastic launcher."""
    starters = ("SLURM", "TORCHELASTIC", "DIST_CALO")
    return any(whole_number(os.environ, f"{by}_RESTART_COUNT", 0) for by in starters)


def job_start(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return the name of the SLURM job and how often it was started anew; an empty name outside of one."""
    if SWEEP_JOB in environ:
        job, _, start = environ[SWEEP_JOB].rpartition(":")
        return job, whole_number({SWEEP_JOB: start}, SWEEP_JOB)
    return environ.get("SLURM_JOB_ID", ""), whole_number(environ, "SLURM_RESTART_COUNT", 0)


def meeting_port(job: str, start: int) -> int:
    """Return the port of a job's own server on its first node: another one each time the job starts again.

    >>> meeting_port("7", 0), meeting_port("8", 0), meeting_port("7", 1)
    (28007, 28008, 29016)
    """
    return _FIRST_PORT + (int(job) + _STRIDE * start) % _PORTS


def step_port(*names: str) -> int:
    """Return the port at which the ranks of a step meet, from what names the step to all of them."""
    digest = hashlib.blake2b("/".join(names).encode(), digest_size=4).digest()
    return _FIRST_STEP_PORT + int.from_bytes(digest, "little") % _STEP_PORTS


def where_to_join(job: str) -> tuple[str, str]:
    """Return where the nodes of a running job meet, as ``HOST:PORT``, empty where it does not run, and its state."""
    facts = job_facts(job)
    state, host = facts.get("JobState", ""), facts.get("BatchHost", "")
    if state not in RUNS or not host:
        return "", state
    return f"{host}:{meeting_port(job, int(facts.get('Restarts', '0')))}", state


def tasks_on_node(tasks_per_node: str, node_index: int) -> int:
    """Return the number of tasks on a node in SLURM's short notation, such as ``2(x3),1`` for 2, 2, 2 and 1.

    Raises:
        LaunchError: if the text is not of this form or has no such node.
    """
    nodes = 0
    for part in tasks_per_node.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,9})\))?", part.strip(), re.ASCII)
        if match is None:
            raise LaunchError(
                f"SLURM_TASKS_PER_NODE={tasks_per_node[:80]!r}: must read like 2(x3),1; start the ranks with srun, "
                "which sets it"
            )
        nodes += int(match[2] or 1)
        if node_index < nodes:
            return int(match[1])
    raise LaunchError(
        f"SLURM_NODEID={node_index} with SLURM_TASKS_PER_NODE={tasks_per_node}: there are only {nodes} nodes; start "
        "the ranks with srun, which sets both"
    )


def host_names(names: str) -> list[str]:
    """Return the nodes of a list such as ``n[1-3,7]``; none where SLURM does not answer."""
    return output("scontrol", "show", "hostnames", names).split()


def job_facts(job: str) -> dict[str, str]:
    """Return what SLURM knows of a job, by name: JobState, BatchHost, Restarts, Requeue, ..."""
    found = re.findall(r"(\w+)=(\S*)", output("scontrol", "--oneliner", "show", "job", job))
    # The job's own command line comes late, and may hold words of this form.
    return dict(reversed(found))


def queue(jobs: Sequence[str]) -> dict[str, str]:
    """Return state and reason of those of some jobs that wait or run, by their number."""
    command = ["squeue", "--noheader", f"--jobs={','.join(jobs)}", "--format=%A %T %R"]
    lines: list[str] = []
    # squeue fails as soon as one of the numbers is unknown.
    with suppress(OSError, subprocess.SubprocessError):
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.splitlines()
    found = [line.split(maxsplit=2) for line in lines if len(line.split()) > 1]
    return {number: ", ".join(words).strip() for number, *words in found}


def may_be_requeued(job: str) -> bool:
    """Return whether a job runs, was not cancelled, and was submitted with ``--requeue``."""
    facts = job_facts(job)
    return facts.get("JobState") in RUNS and facts.get("Requeue") == "1"


def output(*command: str) -> str:
    """Return the output of one of SLURM's programs, empty if it fails."""
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            list(command), capture_output=True, text=True, timeout=60.0, check=True
        ).stdout.strip()
    return ""


def training_settings() -> list[str]:
    """Return the settings of a training job: those given to its script come after them and override them.

    The folder is named after the job's own number, so that the run goes on there after a requeue.
    """
    job, name = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_JOB_NAME", "")
    settings = [
        f"--checkpoint.dir=runs/{job}",
        "--checkpoint.resume=auto",
        f"--tracking.run_name={name}-{job}",
    ]
    return settings + site_settings()


def site_settings() -> list[str]:
    """Return the settings for all runs of a site: the tracking store and the data."""
    settings = []
    if uri := os.environ.get("TRACKING_URI"):
        # All users of a node can read its command lines: the ranks find a password of the address in their environment.
        if hidden(uri) != uri:
            os.environ["MLFLOW_TRACKING_URI"] = uri
        settings.append(f"--tracking.uri={hidden(uri)}")
    if data := os.environ.get("DATA"):
        settings.append(f"--data.path={data}")
    return settings
