"""Collectives by torch.distributed: Gloo on CPUs, NCCL on GPUs."""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from dist_calo.comm.failure import leave
from dist_calo.comm.meter import Meter
from dist_calo.comm.protocol import Reduction, World
from dist_calo.errors import LaunchError

_REDUCTIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
# Below the ports that operating systems give to outgoing connections.
_FIRST_PORT, _PORTS = 12000, 16000


def meeting_point(world: World, environ: Mapping[str, str]) -> tuple[str, int]:
    """Address and port at which the ranks find each other: MASTER_ADDR and MASTER_PORT, or else the launcher's facts.

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
        try:
            return address, int(environ["MASTER_PORT"])
        except ValueError:
            raise LaunchError(f"MASTER_PORT={environ['MASTER_PORT']!r}: must be a port number") from None
    job = [
        environ.get(name, "")
        for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri")
    ]
    if not any(job) and world.size > 1:
        raise LaunchError(
            f"{world.launcher} tells neither MASTER_PORT nor a job number: set MASTER_PORT to a free port on all ranks"
        )
    digest = hashlib.blake2b("/".join(job).encode(), digest_size=4).digest()
    return address, _FIRST_PORT + int.from_bytes(digest, "little") % _PORTS


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
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        hosts = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise LaunchError(
            f"`{' '.join(command)}` failed ({error}): "
            "set MASTER_ADDR to the node of rank 0, and MASTER_PORT, on all ranks"
        ) from error
    return hosts[0]


class TorchWork:
    """An all-reduce under way."""

    def __init__(self, work: dist.Work, meter: Meter) -> None:
        self._work, self._meter = work, meter

    def wait(self) -> None:
        """Block until the result is there; on a GPU make the current stream wait."""
        with self._meter.blocked("all-reduce"):
            self._work.wait()


class TorchCommunicator(Meter):
    """Collectives of torch.distributed's default process group.

    Args:
        world: this process among the ranks.
        timeout_s: time after which a rank that does not answer is an error, in seconds.
        device: ``cuda`` uses NCCL for GPU tensors besides Gloo for those in host memory.
        environ: the environment's variables.

    Raises:
        LaunchError: if the ranks cannot find each other.
    """

    def __init__(
        self, world: World, timeout_s: float, device: str, environ: Mapping[str, str] = os.environ
    ) -> None:
        super().__init__()
        self.world = world
        if world.local_size == world.size:
            # Gloo resolves the host's name otherwise, which laptops often cannot.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if os.uname().sysname == "Darwin" else "lo")
        where: dict[str, Any] = {"init_method": "env://"}
        if world.size == 1 and "MASTER_ADDR" not in environ:
            where = {"store": HashStore(), "rank": 0, "world_size": 1}
        elif "TORCHELASTIC_RUN_ID" not in environ:
            # torchrun listens at the meeting point itself; elsewhere rank 0 has to.
            address, port = meeting_point(world, environ)
            where = {"init_method": f"tcp://{address}:{port}", "rank": world.rank, "world_size": world.size}
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        if backend != "gloo":
            torch.cuda.set_device(torch.device(device))
        with self.blocked("meeting the other ranks"):
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **where)
            # Buckets of gradients have connections of their own, so that they may overtake, or be overtaken by, the
            # blocking collectives of a backward pass (batch norm) on some ranks and not on others.
            self._async_group = dist.new_group(backend="gloo") if backend == "gloo" else dist.group.WORLD
        self.rank_and_size = dist.get_rank(), dist.get_world_size()

    def all_reduce(self, tensor: torch.Tensor, reduction: Reduction = "sum") -> None:
        """Reduce a contiguous tensor over all ranks, in place."""
        self.count(tensor)
        with self.blocked("all-reduce"):
            dist.all_reduce(tensor, _REDUCTIONS[reduction])

    def all_reduce_async(self, tensor: torch.Tensor, reduction: Reduction = "sum") -> TorchWork:
        """Start reducing a contiguous tensor in place."""
        self.count(tensor)
        with self.blocked("all-reduce"):
            work = dist.all_reduce(tensor, _REDUCTIONS[reduction], group=self._async_group, async_op=True)
        assert work is not None
        return TorchWork(work, self)

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Copy the root's tensor to all ranks, in place."""
        self.count(tensor)
        with self.blocked("broadcast"):
            dist.broadcast(tensor, root)

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """Return the root's picklable value on every rank."""
        values = [value]
        with self.blocked("broadcast"):
            dist.broadcast_object_list(values, root, device=torch.device("cpu"))
        return values[0]

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return every rank's picklable value, in rank order, on every rank."""
        values: list[Any] = [None] * self.world.size
        with self.blocked("all-gather"):
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks; the host waits even where tensors live on GPUs."""
        with self.blocked("barrier"):
            dist.all_reduce(torch.zeros(1))

    def abort(self, message: str, code: int) -> None:
        """Print the message and leave; the connections break, and the launcher ends the other ranks."""
        leave(self.world, message, code)

    def close(self) -> None:
        """Leave the process group once all ranks are done with it."""
        self.barrier()
        dist.destroy_process_group()
