"""Pieces that both networks of `dist_calo.models.lcd_fast` are made of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_calo.randomness import Draws


def coarser(shape: tuple[int, ...], times: int) -> tuple[int, ...]:
    """Cells along each axis after a number of halvings."""
    return tuple(-(-n // 2**times) for n in shape)


def leaky(x: Tensor) -> Tensor:
    """The activation of both networks."""
    return F.leaky_relu(x, 0.2)


def oriented(showers: Tensor, draws: Draws) -> Tensor:
    """Each shower in a random one of the orientations of its cross-section.

    Args:
        showers: shape (B, X, Y, Z).
        draws: decide for each shower whether it is mirrored in x, in y and, where X = Y, has x and y swapped.
    """
    choice = (draws.uniform("orientation", 3) < 0.5).to(showers.device)[:, :, None, None, None]
    showers = torch.where(choice[:, 0], showers.flip(1), showers)
    showers = torch.where(choice[:, 1], showers.flip(2), showers)
    if showers.shape[1] == showers.shape[2]:
        showers = torch.where(choice[:, 2], showers.transpose(1, 2), showers)
    return showers


class SpectralNorm(nn.Module):
    """Weight / largest singular value, as a parametrisation; a pure function of the weight (output first)."""

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            left = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -1]
            right = F.normalize(left @ matrix, dim=0)
        return weight / (left @ matrix @ right)
