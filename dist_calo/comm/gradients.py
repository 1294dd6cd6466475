"""Averaging of gradients in flat buckets that travel while the backward pass still runs.

Every rank's loss is a sum over its own samples divided by the size of the global batch, so the sum of the ranks'
gradients is the gradient of the mean over the global batch, whatever each rank's share is. Buckets hold the
gradients themselves (``p.grad`` are views into them), so nothing is copied in float32. Those of the last layers are
ready first and are sent first, always in the same order, as in Li et al., VLDB 2020 (doi:10.14778/3415478.3415530).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from dist_calo.comm.protocol import Communicator, Work
from dist_calo.errors import ConfigError

WIRES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Number formats in which gradients may travel."""


class _Bucket:
    """The gradients of some parameters, one after the other in one float32 tensor."""

    def __init__(self, parameters: list[nn.Parameter], wire: torch.dtype) -> None:
        size = sum(parameter.numel() for parameter in parameters)
        self.flat = torch.zeros(size, device=parameters[0].device)
        self.sent = self.flat if wire == torch.float32 else torch.empty_like(self.flat, dtype=wire)
        self.views: list[tuple[nn.Parameter, Tensor]] = []
        self.awaited = 0
        self.work: Work | None = None
        start = 0
        for parameter in parameters:
            # Gradients in the layout of their parameters keep channels-last weights and fused optimizers fast.
            stride = torch.empty_like(parameter, memory_format=torch.preserve_format).stride()
            part = self.flat[start : start + parameter.numel()]
            self.views.append((parameter, part.as_strided(parameter.shape, stride)))
            start += parameter.numel()
        self.attach()

    def attach(self) -> None:
        """Make the bucket's memory the parameters' gradients, also after somebody has replaced them."""
        for parameter, view in self.views:
            if parameter.grad is not view:
                if parameter.grad is not None:
                    view.copy_(parameter.grad)
                parameter.grad = view

    def send(self, communicator: Communicator) -> None:
        self.attach()
        if self.sent is not self.flat:
            self.sent.copy_(self.flat)
        self.work = communicator.all_reduce_async(self.sent, "sum")

    def receive(self) -> None:
        assert self.work is not None
        self.work.wait()
        self.work = None
        if self.sent is not self.flat:
            self.flat.copy_(self.sent)


class GradientAverager:
    """Sum of the gradients of one network over all ranks.

        with averager.accumulating():       # all micro-batches but the last: nothing is sent
            loss.backward()
        with averager.reducing():           # the last one: buckets leave as they become ready
            loss.backward()
        averager.finish()                   # p.grad are the sums over all ranks, in float32
        optimizer.step()
        averager.zero()                     # instead of optimizer.zero_grad()

    A network without any of its own gradients (a rank without samples) takes part by `finish` alone. Several averagers
    live side by side, one a network; the others' networks are frozen during an update and send nothing.

    With the wire formats bf16 and fp16 gradients are rounded before they are sent and summed in that format. They are
    divided by the size of the global batch already, so that in fp16 (largest number 65,504, smallest 6e-8) small
    gradients may vanish; an overflow makes `squared_norm` infinite on all ranks. bf16 has the range of float32.

    Args:
        module: the network; its parameters are float32, all of them trainable ones take part.
        communicator: how the ranks talk.
        wire: number format of gradients on the network, a key of WIRES.
        bucket_mb: size of a bucket in float32, in MiB; a larger parameter has a bucket of its own.
        overlap: send buckets while the backward pass runs; otherwise all of them in `finish`, in the same order.

    Raises:
        ConfigError: if the wire format is not known or a parameter is not float32.
    """

    def __init__(
        self,
        module: nn.Module,
        communicator: Communicator,
        wire: str = "fp32",
        bucket_mb: float = 4.0,
        overlap: bool = True,
    ) -> None:
        if wire not in WIRES:
            raise ConfigError(f"comm.wire={wire}: choose from {', '.join(WIRES)}")
        self._communicator = communicator
        self._overlap = overlap
        self._mode: Literal["idle", "accumulating", "reducing"] = "idle"
        self._next = 0
        self._names: dict[nn.Parameter, str] = {}
        parameters = []
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.dtype != torch.float32:
                raise ConfigError(
                    f"parameter {name} is {parameter.dtype}: gradients are averaged in float32; keep the "
                    "parameters float32 and lower the precision by autocast (train.precision)"
                )
            self._names[parameter] = name
            parameters.append(parameter)
        self._buckets = [
            _Bucket(group, WIRES[wire]) for group in _groups(parameters[::-1], bucket_mb * 2**20 / 4)
        ]
        for bucket in self._buckets:
            for parameter, _ in bucket.views:
                parameter.register_post_accumulate_grad_hook(self._hook(bucket))

    @property
    def bytes_per_update(self) -> int:
        """Payload of one update, in bytes: every trainable parameter once in the wire format."""
        return sum(bucket.sent.numel() * bucket.sent.element_size() for bucket in self._buckets)

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Add up the gradients of a backward pass; nothing is sent."""
        yield from self._during("accumulating")

    @contextmanager
    def reducing(self) -> Iterator[None]:
        """Send each bucket as soon as this backward pass, the last of the update, has filled it."""
        if self._next:
            raise RuntimeError(
                "reducing() was entered again before finish(): the gradients are under way already"
            )
        for bucket in self._buckets:
            bucket.awaited = len(bucket.views)
        yield from self._during("reducing")

    def finish(self) -> None:
        """Send what has not been sent, such as buckets with unused parameters, and wait for all of it."""
        for bucket in self._buckets[self._next :]:
            bucket.send(self._communicator)
        for bucket in self._buckets:
            bucket.receive()
        self._next = 0

    def zero(self) -> None:
        """Set all gradients to zero; they stay views into the buckets."""
        for bucket in self._buckets:
            bucket.attach()
            bucket.flat.zero_()

    def squared_norm(self) -> Tensor:
        """Return the squared Euclidean norm of the gradient, a 0-d float32 tensor; not finite if any element is not.

        Added up in float64 and rounded once, so that ranks with other numbers of threads find the same value.
        """
        if not self._buckets:
            return torch.zeros(())
        norms = [torch.linalg.vector_norm(bucket.flat, dtype=torch.float64) for bucket in self._buckets]
        return torch.stack(norms).square().sum().float()

    def scale(self, factor: float | Tensor) -> None:
        """Multiply all gradients by a number."""
        for bucket in self._buckets:
            bucket.flat.mul_(factor)

    def _during(self, mode: Literal["accumulating", "reducing"]) -> Iterator[None]:
        self._mode = mode
        try:
            yield
        finally:
            self._mode = "idle"

    def _hook(self, bucket: _Bucket):  # type: ignore[no-untyped-def]
        def ready(parameter: Tensor) -> None:
            if self._mode == "reducing":
                self._ready(bucket, parameter)
            elif self._mode == "idle":
                raise RuntimeError(
                    f"a gradient of {self._names[parameter]} was computed outside of accumulating() and "  # type: ignore[index]
                    "reducing(): freeze this network (requires_grad_(False)) while another one is trained"
                )

        return ready

    def _ready(self, bucket: _Bucket, parameter: Tensor) -> None:
        if bucket.awaited == 0:
            raise RuntimeError(
                f"{self._names[parameter]} got a second gradient inside reducing(): its bucket is under way; "  # type: ignore[index]
                "only the last backward pass of an update belongs there"
            )
        bucket.awaited -= 1
        # Always the same order, so that every rank's n-th collective is the same bucket.
        while self._overlap and self._next < len(self._buckets) and self._buckets[self._next].awaited == 0:
            self._buckets[self._next].send(self._communicator)
            self._next += 1


def _groups(parameters: list[nn.Parameter], elements: float) -> Iterator[list[nn.Parameter]]:
    """Split parameters, in order, into groups of about so many elements on one device."""
    group: list[nn.Parameter] = []
    for parameter in parameters:
        if group and (
            sum(p.numel() for p in group) + parameter.numel() > elements
            or group[0].device != parameter.device
        ):
            yield group
            group = []
        group.append(parameter)
    if group:
        yield group
