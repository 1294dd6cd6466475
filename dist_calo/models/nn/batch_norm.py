"""Layers of the published networks that torch lacks, or lacks for other communicators.

Its communication is a function that sums a tensor over all ranks.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Reduce = Callable[[Tensor], None]
"""Sums a contiguous tensor over all ranks, in place. Every rank calls it equally often and in the same order."""


class SumOverRanks(torch.autograd.Function):
    """Sum of a tensor over all ranks. Its gradient is the sum of theirs, as every rank's loss may depend on it.

    The gradient is again such a sum, hence differentiable itself: gradient penalties go through it.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor, reduce: Reduce) -> Tensor:
        ctx.reduce = reduce  # type: ignore[attr-defined]
        total = values.detach().clone(memory_format=torch.contiguous_format)
        reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return SumOverRanks.apply(gradient, ctx.reduce), None  # type: ignore[attr-defined, no-untyped-call]


class SyncBatchNorm(nn.Module):
    """Batch normalisation of (B, channels, ...) over the batches of all ranks (Ioffe and Szegedy, arXiv:1502.03167).

    With ``reduce`` None the batch is that of this rank alone. Otherwise it is those of all ranks together: one sum over
    ranks of 2 x channels + 1 numbers forward and one backward. Shares may be uneven or empty; a rank with an empty one
    takes part in both sums. Running statistics follow torch's convention, ``running = (1 - momentum) * running +
    momentum * batch`` with the unbiased variance (Keras' momentum is 1 minus this one); they normalise in evaluation
    mode. A batch without any sample leaves them as they are.

    Args:
        channels: size of dimension 1.
        eps: added to the variance.
        momentum: weight of a batch in the running statistics.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.reduce: Reduce | None = None
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, values: Tensor) -> Tensor:
        """Normalise values of shape (B, channels, ...); the result has the same shape, type and memory format."""
        if not self.training:
            mean, var, weight, bias = self.running_mean, self.running_var, self.weight, self.bias
            return F.batch_norm(values, mean, var, weight, bias, eps=self.eps)
        # Not torch's own: on CPUs and channels-last its float32 sums are off by 1e-4 at the size of a shower.
        x = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        shape = [1, -1, *[1] * (x.dim() - 2)]
        mean, var = self._statistics(x, shape)
        scale = self.weight * torch.rsqrt(var + self.eps).to(x.dtype)
        normal = (x - mean.to(x.dtype).view(shape)) * scale.view(shape) + self.bias.view(shape)
        return normal.to(values.dtype)

    def _statistics(self, x: Tensor, shape: list[int]) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each channel over the batch, float64, and update the running ones."""
        dims = [0, *range(2, x.dim())]
        channels = x.shape[1]
        local = x.numel() // channels
        # Mean and sum of squares about it are accurate in float32, the plain sum of squares is not; in float64
        # they combine to the variance over all ranks without cancellation.
        center = x.sum(dims) / max(local, 1)
        spread = (x - center.view(shape)).square().sum(dims)
        center64 = center.double()
        sums = [local * center64, spread.double() + local * center64.square(), center64.new_full((1,), local)]
        total = torch.cat(sums)
        if self.reduce is not None:
            total = SumOverRanks.apply(total, self.reduce)  # type: ignore[no-untyped-call]
        first, second, number = total.split([channels, channels, 1])
        number = number.detach()
        count = number.clamp(min=1)
        mean = first / count
        var = (second / count - mean.square()).clamp(min=0)
        with torch.no_grad():
            unbiased = var * count / (count - 1).clamp(min=1)
            weight = (self.momentum * (number > 0)).to(self.running_mean)
            # A batch that is not finite is skipped by the trainer and must not change the statistics either.
            finite = torch.isfinite(mean).all() & torch.isfinite(unbiased).all()
            for running, found in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.copy_(torch.where(finite, running.lerp(found.to(running), weight), running))
        return mean, var

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps:g}, momentum={self.momentum:g}"


def synchronise_batch_norm(model: nn.Module, all_reduce: Reduce | None) -> int:
    """Make every `SyncBatchNorm` of a model use the batches of all ranks, or of this rank alone if given None.

    Args:
        model: the networks.
        all_reduce: sums a contiguous tensor over all ranks, in place.

    Returns:
        The number of such layers.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, SyncBatchNorm)]
    for layer in layers:
        layer.reduce = all_reduce
    return len(layers)
