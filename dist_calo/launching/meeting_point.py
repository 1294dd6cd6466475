"""Meeting point of ranks without MPI or Horovod: an address and a port that all of them know."""

import socket
import time
from collections.abc import Mapping

from dist_calo.errors import LaunchError
from dist_calo.launching.environment import World
from dist_calo.launching.slurm import host_names, step_port
from dist_calo.launching.variables import whole_number

_ATTEMPT_S = 5.0
_RETRY_S = 0.2


def meeting_point(world: World, environ: Mapping[str, str]) -> tuple[str, int]:
    """Return address and port where the ranks meet: MASTER_ADDR and MASTER_PORT, or else the launcher's facts.

    Under srun the address is the first node of the job; on a single node it is this host. The port follows from the
    number of the job and step, so that all ranks arrive at the same one without talking.

    Raises:
        LaunchError: if the ranks are on several nodes and nothing tells which node holds rank 0.
    """
    address = environ.get("MASTER_ADDR")
    if address is None and world.local_size == world.size:
        address = "127.0.0.1"
    elif address is None and world.launcher == "srun":
        address = _first_host(environ)
    if address is None:
        raise LaunchError(
            f"{world.launcher} started {world.size} ranks on several nodes, and the torch backend needs the address of "
            "rank 0: set MASTER_ADDR (and MASTER_PORT) on all ranks, or choose comm.backend=mpi or horovod"
        )
    if "MASTER_PORT" in environ:
        port = whole_number(environ, "MASTER_PORT")
        if not 1 <= port <= 65535:
            raise LaunchError(
                f"MASTER_PORT={port}: must be a port, from 1 to 65535; set it to a free one on all ranks"
            )
        return address, port
    job = [
        environ.get(name, "")
        for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri")
    ]
    if not any(job) and world.size > 1:
        raise LaunchError(
            f"{world.launcher} tells neither MASTER_PORT nor a job number: set MASTER_PORT to a free port on all ranks"
        )
    return address, step_port(*job)


def _first_host(environ: Mapping[str, str]) -> str:
    nodes = (
        environ.get("SLURM_STEP_NODELIST")
        or environ.get("SLURM_JOB_NODELIST")
        or environ.get("SLURM_NODELIST")
    )
    if not nodes:
        raise LaunchError(
            "SLURM_JOB_NODELIST is not set: start the ranks with srun, or set MASTER_ADDR and MASTER_PORT"
        )
    hosts = host_names(nodes)
    if not hosts:
        raise LaunchError(
            f"`scontrol show hostnames {nodes}` failed: "
            "set MASTER_ADDR to the node of rank 0, and MASTER_PORT, on all ranks"
        )
    return hosts[0]


def await_listener(address: str, port: int, timeout_s: float) -> None:
    """Return once something listens there: torch's own clients try for long, without heeding signals, and print pages.

    Raises:
        OSError: what keeps it from that when the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return socket.create_connection((address, port), timeout=_ATTEMPT_S).close()
        except OSError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)
