"""Building blocks of several models."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from dist_calo.errors import ConfigError
from dist_calo.randomness import Draws


def leaky(values: Tensor) -> Tensor:
    """Apply the leaky rectifier with a slope of 0.2 below zero."""
    return F.leaky_relu(values, 0.2)


class Dense(nn.Module):
    """Dense layers, each followed by a leaky rectifier.

    Args:
        inputs: numbers of a sample.
        sizes: width of each layer.
    """

    def __init__(self, inputs: int, sizes: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip([inputs, *sizes[:-1]], sizes, strict=True)
        )

    def forward(self, values: Tensor) -> Tensor:
        """Map numbers (B, inputs) to (B, sizes[-1])."""
        for layer in self.layers:
            values = leaky(layer(values))
        return values


class SpectralNorm(nn.Module):
    """Weight / largest singular value, as a parametrisation; a pure function of the weight (output first).

    Of weights that are not finite, or whose squares are not, it makes NaN, so that training sees losses that are not.
    """

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            squares = matrix @ matrix.T
            finite = squares.isfinite().all()
            # eigh raises where a value is not finite.
            left = torch.linalg.eigh(torch.where(finite, squares, 0.0)).eigenvectors[:, -1]
            left = torch.where(finite, left, torch.nan)
            right = F.normalize(left @ matrix, dim=0)
        return weight / (left @ matrix @ right)


class Dropout(nn.Module):
    """Dropout whose choices belong to the samples, so that they do not depend on how a batch is shared among ranks.

    Args:
        probability: chance of an element to be set to zero while training.
        name: unique within the network.
    """

    def __init__(self, probability: float, name: str) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ConfigError(f"dropout={probability}: a probability must be at least 0 and below 1")
        self.probability, self.name = probability, name

    def forward(self, values: Tensor, draws: Draws) -> Tensor:
        """Map numbers (B, inputs) to (B, sizes[-1])."""
        return draws.dropout(values, self.probability, self.name) if self.training else values

    def extra_repr(self) -> str:
        return f"{self.probability:g}, {self.name!r}"


def same_padding(kernel: tuple[int, int, int]) -> nn.ConstantPad3d:
    """Pad (B, C, X, Y, Z) with zeros so that a convolution keeps the shape.

    Of the k - 1 zeros of an even kernel the odd one stands behind, as in Keras.
    """
    sides = [side for k in reversed(kernel) for side in ((k - 1) // 2, k // 2)]
    return nn.ConstantPad3d((sides[0], sides[1], sides[2], sides[3], sides[4], sides[5]), 0.0)


def glorot_uniform(layer: nn.Module) -> None:
    """Initialise a layer as Keras does: uniform with variance 2 / (fan in + fan out); bias 0."""
    if isinstance(layer, nn.Conv3d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def he_uniform(layer: nn.Module) -> None:
    """Initialise a layer before a rectifier (He et al., arXiv:1502.01852): uniform, variance 2 / fan in, bias 0."""
    if isinstance(layer, nn.Conv3d | nn.Linear):
        fan_in = layer.weight[0].numel()
        bound = math.sqrt(6.0 / fan_in)
        nn.init.uniform_(layer.weight, -bound, bound)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def fill(network: nn.Module, **values: ArrayLike) -> None:
    """Copy values into the buffers of these names."""
    for name, value in values.items():
        network.get_buffer(name).copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))
