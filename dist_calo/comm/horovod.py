"""Collectives by Horovod, over Gloo, MPI or NCCL, as it was built."""

import os
from collections.abc import MutableMapping

import torch

from dist_calo.comm.liveness.leaving import leave
from dist_calo.comm.liveness.node_watch import watch_nodes
from dist_calo.comm.meter import Meter
from dist_calo.comm.mpi import set_opal_prefix
from dist_calo.comm.protocol import Reduction, Value
from dist_calo.launching.environment import World, mpi_started


def prepare(environ: MutableMapping[str, str], timeout_s: float) -> None:
    """Set what Horovod reads when it starts; what the user has set stays.

    Fusion is off: gradients come in buckets already, and which tensors Horovod fuses depends on the moment, so that
    with three or more ranks the order of summation, and the last bit of the result, would change from run to run.
    """
    environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
    environ.setdefault("HOROVOD_CYCLE_TIME", "0.5")
    environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", str(max(1, round(timeout_s))))
    environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", str(max(1, min(60, round(timeout_s / 2)))))
    environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(max(2, round(timeout_s))))
    if mpi_started(environ):
        set_opal_prefix(environ)
    elif "HOROVOD_RANK" not in environ:
        # A process on its own: Gloo needs nobody to start it.
        environ.setdefault("HOROVOD_CONTROLLER", "gloo")
        environ.setdefault("HOROVOD_CPU_OPERATIONS", "gloo")


class HorovodWork:
    """An all-reduce under way."""

    def __init__(
        self,
        communicator: "HorovodCommunicator",
        handle: int,
        name: str,
        tensor: torch.Tensor,
        sent: torch.Tensor,
    ) -> None:
        self._communicator, self._handle, self._name = communicator, handle, name
        self._tensor, self._sent = tensor, sent

    def wait(self) -> None:
        """Block until the result is in the tensor that was passed in."""
        self._communicator.synchronize(self._handle, self._name)
        if self._sent is not self._tensor:
            self._tensor.detach().copy_(self._sent)


class HorovodCommunicator(Meter):
    """Collectives of Horovod.

    Horovod does not know bfloat16: such tensors travel as float32 (and are counted so).

    Args:
        world: this process among the ranks.
        timeout_s: time after which a rank that does not answer is an error, in seconds.
        device: ``cuda`` makes this rank's GPU the current one.
        silence_s: time for which nothing is heard from a node before it is lost, in seconds.
    """

    backend = "horovod"

    def __init__(
        self,
        world: World,
        timeout_s: float,
        device: str,
        silence_s: float = 30.0,
    ) -> None:
        super().__init__()
        prepare(os.environ, timeout_s)
        import horovod.torch as hvd

        self.world = world
        self._hvd = hvd
        self._reductions = {"sum": hvd.Sum, "max": hvd.Max, "min": hvd.Min}
        self._names_in_use: set[str] = set()
        if device.startswith("cuda"):
            torch.cuda.set_device(torch.device(device))
        with self.blocked("starting Horovod"):
            hvd.init()
        self.rank_and_size = hvd.rank(), hvd.size()
        self._nodes = watch_nodes(self, silence_s, timeout_s)

    def all_reduce(self, tensor: torch.Tensor, reduction: Reduction = "sum") -> None:
        """Reduce a contiguous tensor over all ranks, in place."""
        self.all_reduce_async(tensor, reduction).wait()

    def all_reduce_async(self, tensor: torch.Tensor, reduction: Reduction = "sum") -> HorovodWork:
        """Start reducing a contiguous tensor in place."""
        sent = tensor.detach()
        if tensor.dtype == torch.bfloat16:
            sent = sent.float()
        self.count(sent)
        name = self._name(f"{reduction}.{sent.dtype}.{sent.numel()}")
        with self.blocked("all-reduce"):
            handle = self._hvd.allreduce_async_(sent, op=self._reductions[reduction], name=name)
        return HorovodWork(self, handle, name, tensor, sent)

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Copy the root's tensor to all ranks, in place."""
        self.count(tensor)
        as_bytes = tensor.detach().reshape(-1).view(torch.uint8)
        with self.blocked("broadcast"):
            self._hvd.broadcast_(as_bytes, root, name=f"broadcast.{as_bytes.numel()}")

    def broadcast_object(self, value: Value | None, root: int = 0) -> Value:
        """Return the root's picklable value on every rank."""
        with self.blocked("broadcast"):
            found: Value = self._hvd.broadcast_object(value, root, name="object")
            return found

    def all_gather_object(self, value: Value) -> list[Value]:
        """Return every rank's picklable value, in rank order, on every rank."""
        with self.blocked("all-gather"):
            return list(self._hvd.allgather_object(value, name="objects"))

    def barrier(self) -> None:
        """Wait for all ranks."""
        with self.blocked("barrier"):
            self._hvd.barrier()

    def abort(self, message: str, code: int) -> None:
        """Print the message and leave; the launcher ends the other ranks."""
        leave(self.world, message, code)

    def close(self) -> None:
        """Leave Horovod once all ranks are done with it."""
        self._nodes.switch_off()
        self.barrier()
        self._nodes.leave()
        self._hvd.shutdown()

    def synchronize(self, handle: int, name: str) -> None:
        """Wait for a handle; its name may be used again."""
        with self.blocked("all-reduce"):
            self._hvd.synchronize(handle)
        self._names_in_use.discard(name)

    def _name(self, kind: str) -> str:
        """Return a free name, the same on every rank and used again: Horovod remembers what it knows by name."""
        number = 0
        while (name := f"{kind}.{number}") in self._names_in_use:
            number += 1
        self._names_in_use.add(name)
        return name
