"""One process: every collective is done as soon as it is asked for."""

from typing import TYPE_CHECKING, cast

from dist_calo.comm.liveness.leaving import leave
from dist_calo.comm.meter import Meter
from dist_calo.comm.protocol import Reduction, Value, Work
from dist_calo.launching.environment import World

if TYPE_CHECKING:
    import torch


class Done:
    """Work that is finished already."""

    def wait(self) -> None:
        """Return at once."""


class SingleCommunicator(Meter):
    """Collectives of a world of one rank. Payload is counted as by the other backends."""

    backend = "single"

    def __init__(self, world: World, *_: object) -> None:
        super().__init__()
        self.world = world

    def all_reduce(self, tensor: "torch.Tensor", reduction: Reduction = "sum") -> None:
        """Leave the tensor as it is."""
        self.count(tensor)

    def all_reduce_async(self, tensor: "torch.Tensor", reduction: Reduction = "sum") -> Work:
        """Leave the tensor as it is."""
        self.count(tensor)
        return Done()

    def broadcast(self, tensor: "torch.Tensor", root: int = 0) -> None:
        """Leave the tensor as it is."""
        self.count(tensor)

    def broadcast_object(self, value: Value | None, root: int = 0) -> Value:
        """Return the value."""
        return cast(Value, value)

    def all_gather_object(self, value: Value) -> list[Value]:
        """Return the value in a list of one."""
        return [value]

    def barrier(self) -> None:
        """Return at once."""

    def abort(self, message: str, code: int) -> None:
        """Print the message and leave the process."""
        leave(self.world, message, code)

    def close(self) -> None:
        """Do nothing: nothing is open."""
