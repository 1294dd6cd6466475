"""Pieces that networks of several models are made of."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn


def leaky(values: Tensor) -> Tensor:
    """The leaky rectifier with a slope of 0.2 below zero."""
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
        """Numbers (B, inputs) to (B, sizes[-1])."""
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


def fill(network: nn.Module, **values: ArrayLike) -> None:
    """Copy values into the buffers of these names."""
    for name, value in values.items():
        network.get_buffer(name).copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))
