"""SLURM's facts: nodes of a job, where its ranks go and meet, how often it was started, its state in the queue.

The port at which the ranks of a step meet lies below those that operating systems give to outgoing connections, and
below those of a job's own servers (launch/common.sh).
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from dist_calo.errors import LaunchError
from dist_calo.launching.variables import whole_number

SWEEP_JOB = "DIST_CALO_SWEEP_JOB"
"""Variable that hands `job_start` to ranks whose launcher hides SLURM's variables."""
_FIRST_STEP_PORT, _STEP_PORTS = 12000, 16000


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


def step_port(*names: str) -> int:
    """Return the port at which the ranks of a step meet, from what names the step to all of them."""
    digest = hashlib.blake2b("/".join(names).encode(), digest_size=4).digest()
    return _FIRST_STEP_PORT + int.from_bytes(digest, "little") % _STEP_PORTS


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


def output(*command: str, timeout_s: float = 60.0) -> str:
    """Return the output of one of SLURM's programs, empty if it fails."""
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            list(command), capture_output=True, text=True, timeout=timeout_s, check=True
        ).stdout.strip()
    return ""
