"""Transverse orientations of a shower, used by both networks of `dist_calo.models.voxels.lcd_fast.model`."""

import torch
from torch import Tensor

from dist_calo.randomness import Draws


def coarser(shape: tuple[int, ...], times: int) -> tuple[int, ...]:
    """Return the cells along each axis after a number of halvings."""
    return tuple(-(-n // 2**times) for n in shape)


def oriented(showers: Tensor, draws: Draws) -> Tensor:
    """Turn each shower to a random one of the orientations of its cross-section.

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
