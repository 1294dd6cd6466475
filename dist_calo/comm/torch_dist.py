"""Collectives by torch.distributed: Gloo on CPUs, NCCL on GPUs."""

import os
import secrets
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from dist_calo.comm.liveness.alarm import Alarm
from dist_calo.comm.liveness.leaving import leave
from dist_calo.comm.liveness.node_watch import NodeWatch
from dist_calo.comm.meter import Meter
from dist_calo.comm.protocol import Reduction, Value
from dist_calo.launching.environment import World
from dist_calo.launching.meeting_point import meeting_point

_REDUCTIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}


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
        silence_s: time for which nothing is heard from a node before it is lost, in seconds.

    Raises:
        LaunchError: if the ranks cannot find each other.
    """

    backend = "torch"

    def __init__(
        self,
        world: World,
        timeout_s: float,
        device: str,
        silence_s: float = 30.0,
    ) -> None:
        super().__init__()
        self.world = world
        if world.local_size == world.size:
            # Gloo resolves the host's name otherwise, which laptops often cannot.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if os.uname().sysname == "Darwin" else "lo")
        self._alarm: Alarm | None = None
        address, port = "", 0
        where: dict[str, Any] = {"store": HashStore(), "rank": 0, "world_size": 1}
        if world.size > 1:
            address, port = meeting_point(world, os.environ)
            where = {"init_method": f"tcp://{address}:{port}", "rank": world.rank, "world_size": world.size}
        if "TORCHELASTIC_RUN_ID" in os.environ:
            # torchrun listens at the meeting point itself.
            where = {"init_method": "env://"}
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        if backend != "gloo":
            torch.cuda.set_device(torch.device(device))
        limit = timedelta(seconds=timeout_s)
        with self.blocked("meeting the other ranks"):
            dist.init_process_group(backend, timeout=limit, **where)
            # Buckets of gradients have connections of their own, so that they may overtake, or be overtaken by, the
            # blocking collectives of a backward pass (batch norm) on some ranks and not on others.
            self._async_group = (
                dist.new_group(backend="gloo", timeout=limit) if backend == "gloo" else dist.group.WORLD
            )
            if world.size > 1:
                self._alarm = self._watch_others(address, port, silence_s, timeout_s)
        self.rank_and_size = dist.get_rank(), dist.get_world_size()

    def _watch_others(self, address: str, port: int, silence_s: float, timeout_s: float) -> Alarm:
        """Hear of ranks that fail or stop and of nodes that vanish."""
        self._nodes = NodeWatch(self.world, silence_s, timeout_s, address)
        cards: list[Any] = [None] * self.world.size
        dist.all_gather_object(cards, (self._nodes.card, secrets.token_hex(8)))
        keeper = f"rank 0 on {cards[0][0].node}"
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            keeper = f"torchrun on {address}"
        alarm = Alarm(self.world, address, port, f"dist_calo/failed/{cards[0][1]}", keeper, silence_s)
        self._nodes.start([card for card, _ in cards], alarm.ring_for_node)
        return alarm

    @property
    def cause(self) -> str | None:
        """The node that is lost, as far as this rank has heard."""
        return self._alarm.cause if self._alarm else None

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

    def broadcast_object(self, value: Value | None, root: int = 0) -> Value:
        """Return the root's picklable value on every rank."""
        values = [value]
        with self.blocked("broadcast"):
            dist.broadcast_object_list(values, root, device=torch.device("cpu"))
        return cast(Value, values[0])

    def all_gather_object(self, value: Value) -> list[Value]:
        """Return every rank's picklable value, in rank order, on every rank."""
        values: list[Value | None] = [None] * self.world.size
        with self.blocked("all-gather"):
            dist.all_gather_object(values, value)
        return cast(list[Value], values)

    def barrier(self) -> None:
        """Wait for all ranks; the host waits even where tensors live on GPUs."""
        with self.blocked("barrier"):
            dist.all_reduce(torch.zeros(1))

    def abort(self, message: str, code: int) -> None:
        """Print the message, tell the other ranks and leave; the launcher ends those that do not by themselves."""
        if self._alarm is not None:
            self._alarm.ring()
        leave(self.world, message, code)

    def close(self) -> None:
        """Leave the process group once all ranks are done with it."""
        if self._alarm is not None:
            self._nodes.switch_off()
            self._alarm.switch_off()
        self.barrier()
        if self._alarm is not None:
            self._nodes.leave()
        dist.destroy_process_group()
