"""The interface of a backend of collectives."""

from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

from dist_calo.launching.environment import World

Reduction = Literal["sum", "max", "min"]
Value = TypeVar("Value")


class Work(Protocol):
    """A collective under way."""

    def wait(self) -> None:
        """Block until the result is in the tensor that was passed in."""


class Communicator(Protocol):
    """Collectives over all ranks. Every rank calls the same ones in the same order."""

    world: World
    backend: str
    """As ``comm.backend`` calls it, never ``auto``."""
    bytes_sent: int
    """Payload of this rank's tensor collectives since the start, in bytes: the size of each tensor handed over."""
    collectives: int
    """Tensors that this rank has handed over since the start."""
    wait_s: float
    """Time that this rank has spent blocked in collectives since the start, in seconds."""

    def all_reduce(self, tensor: "torch.Tensor", reduction: Reduction = "sum") -> None:
        """Reduce a contiguous tensor over all ranks, in place."""

    def all_reduce_async(self, tensor: "torch.Tensor", reduction: Reduction = "sum") -> Work:
        """Start reducing a contiguous tensor in place; it must not be touched until the work is waited for."""

    def broadcast(self, tensor: "torch.Tensor", root: int = 0) -> None:
        """Copy the root's tensor to all ranks, in place."""

    def broadcast_object(self, value: Value | None, root: int = 0) -> Value:
        """Return the root's picklable value on every rank; others may give None."""

    def all_gather_object(self, value: Value) -> list[Value]:
        """Return every rank's picklable value, in rank order, on every rank."""

    def barrier(self) -> None:
        """Wait for all ranks."""

    def abort(self, message: str, code: int) -> None:
        """End the whole job at once: print the message with this rank's number and leave without waiting for anyone."""

    def close(self) -> None:
        """Leave the job in order; collective."""
